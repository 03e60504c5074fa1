package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/sandbox"
)

const sandboxHelp = `keybroker sandbox runs a simulated provider that speaks the dialect of each
type. It accepts the keys of a configuration and enforces their limits, with
the real headers, 429s and streams; keys without limits get some, to be learned.
Point base_url at it to try a configuration without spending money.

  keybroker sandbox                                  the keys of serve --sandbox
  keybroker sandbox --config broker.yaml --latency 300ms --tokens-per-second 80
`

// sandboxDefaults are brisk, so that a first look does not wait.
var sandboxDefaults = sandbox.Options{Latency: 50 * time.Millisecond, TokensPerSecond: 400, OutputTokens: 64}

func runSandbox(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "sandbox", sandboxHelp)
	path := f.String("config", "", "configuration `file` whose keys and limits to simulate")
	address := f.String("address", app.SandboxAddress, "where to listen, on loopback")
	o := sandboxDefaults
	f.DurationVar(&o.Latency, "latency", o.Latency, "time to the first byte of an answer")
	f.IntVar(&o.TokensPerSecond, "tokens-per-second", o.TokensPerSecond, "how fast answers are written; 0 is at once")
	f.IntVar(&o.OutputTokens, "output-tokens", o.OutputTokens, "length of a typical answer")
	logs := logFlags(f)
	if err := f.parse(args); err != nil {
		return err
	}
	logger, err := logs.logger(env)
	if err != nil {
		return err
	}
	if local, err := config.Loopback(*address); err != nil {
		return &usageError{fmt.Sprintf("--address: %v", err)}
	} else if !local {
		return &usageError{"--address: must be a loopback address: anybody may call a simulated provider"}
	}
	cfg, err := loadConfig(env, *path, true, true)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *address)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	logger.Info("sandbox provider listens", "address", l.Addr().String())
	return app.ServeSandbox(ctx, l, sandbox.New(app.SandboxAccounts(cfg), o))
}
