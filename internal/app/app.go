// Package app puts a running keybroker together from a configuration. It is the
// one place beside cmd that knows everybody, so that a test can start the whole.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/server"
)

// ConfigOptions are those with which every configuration of this program is
// read.
func ConfigOptions() config.Options {
	types := map[string]string{}
	for _, name := range provider.Types() {
		d, _ := provider.Lookup(name)
		types[name] = d.BaseURL
	}
	return config.Options{Types: types}
}

// App is a broker that listens.
type App struct {
	cfg    *config.Config
	server *server.Server
	main   net.Listener
	admin  net.Listener // nil: operators are served on main
}

// New claims the pools and opens the listeners. Nothing is served before Run.
func New(ctx context.Context, cfg *config.Config, logger *slog.Logger, observe server.Observe) (*App, error) {
	pools, keys := Pools(cfg)
	for i := range pools {
		pools[i].Notify = notifier(logger.With("pool", pools[i].Name))
	}
	b, err := broker.New(ctx, &broker.Memory{}, pools)
	if err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, server: server.New(server.Options{
		Broker: b, Keys: keys, Logger: logger, Observe: observe, SplitAdmin: cfg.Server.AdminListen != "",
	})}
	if a.main, err = net.Listen("tcp", cfg.Server.Listen); err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	if cfg.Server.AdminListen != "" {
		if a.admin, err = net.Listen("tcp", cfg.Server.AdminListen); err != nil {
			_ = a.main.Close()
			return nil, fmt.Errorf("server.admin_listen: %w", err)
		}
	}
	return a, nil
}

// Addr is where the broker listens.
func (a *App) Addr() net.Addr { return a.main.Addr() }

// Run serves until the context ends, then stops: new calls are refused, waiting
// ones sent away, and those under way have the drain timeout to end. It gives
// nil after such a stop.
func (a *App) Run(ctx context.Context) error {
	failed := make(chan error, 2)
	go func() { failed <- a.server.Serve(a.main) }()
	if a.admin != nil {
		go func() { failed <- a.server.ServeAdmin(a.admin) }()
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Server.DrainTimeout)
	defer cancel()
	a.server.Stop(drain)
	return err
}
