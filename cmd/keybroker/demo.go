package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/demo"
	"github.com/keybroker/keybroker/internal/sandbox"
)

const demoHelp = `keybroker demo runs a broker, a simulated provider and a fleet of services on
loopback, each with its own connection and all of them greedy, and shows what
they got: how much of what the provider allows, how fairly, and how many 429s.

  keybroker demo
  keybroker demo --services 60 --duration 1m -o json
`

func runDemo(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "demo", demoHelp)
	fleet := demo.Fleet{Progress: env.stderr}
	f.IntVar(&fleet.Services, "services", 24, "how many services")
	f.IntVar(&fleet.Workers, "workers", 4, "calls at one time, in each service")
	f.DurationVar(&fleet.Duration, "duration", 20*time.Second, "how long")
	output := f.String("o", "text", "output: text or json")
	if err := f.parse(args); err != nil {
		return err
	}
	if fleet.Services < 1 || fleet.Workers < 1 || fleet.Duration <= 0 {
		return &usageError{"--services, --workers and --duration must be above zero"}
	}
	if *output != "text" && *output != "json" {
		return &usageError{fmt.Sprintf("-o: %q is neither text nor json", *output)}
	}
	result, err := fleetResult(ctx, env, &fleet)
	if err != nil {
		return err
	}
	if *output == "json" {
		e := json.NewEncoder(env.stdout)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	return result.Print(env.stdout)
}

// fleetResult starts everything on free ports, and stops it.
func fleetResult(ctx context.Context, env *environment, fleet *demo.Fleet) (*demo.Result, error) {
	cfg, err := loadConfig(env, "", true, false)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	cfg.Server.Listen = "127.0.0.1:0"
	app.UseSandbox(cfg, l.Addr().String())
	fleet.Sandbox = sandbox.New(app.SandboxAccounts(cfg), sandboxDefaults)
	a, err := app.New(ctx, cfg, app.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	fleet.Broker = a.Addr().String()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return app.ServeSandbox(ctx, l, fleet.Sandbox) })
	group.Go(func() error { return a.Run(ctx) })
	result, err := fleet.Run(ctx)
	stop()
	if e := group.Wait(); err == nil {
		err = e
	}
	return result, err
}
