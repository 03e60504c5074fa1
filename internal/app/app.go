// Package app puts a running keybroker together from a configuration. It is the
// one place beside cmd that knows everybody, so that a test can start the whole.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/store/bolt"
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
	logger *slog.Logger
	store  *bolt.Store // nil: nothing is kept
	broker *broker.Broker
	server *server.Server
	main   net.Listener
	admin  net.Listener // nil: operators are served on main
}

// Options are what a configuration file does not say.
type Options struct {
	Logger  *slog.Logger // required
	Observe server.Observe
	// StateLost starts without what was remembered as if all had been used, for who
	// has lost it.
	StateLost bool
}

// New opens the store, goes on where the last broker left off, and opens the
// listeners. Nothing is served before Run.
func New(ctx context.Context, cfg *config.Config, o Options) (*App, error) {
	a := &App{cfg: cfg, logger: o.Logger}
	if err := a.open(ctx, &o); err != nil {
		return nil, errors.Join(err, a.close(context.WithoutCancel(ctx)))
	}
	return a, nil
}

func (a *App) open(ctx context.Context, o *Options) (err error) {
	var store broker.Store = &broker.Memory{}
	if a.cfg.Store.Type == config.StoreBolt {
		if a.store, err = bolt.Open(a.cfg.Store.Path); err != nil {
			return fmt.Errorf("store.path: %w", err)
		}
		store = a.store
	}
	pools, keys := Pools(a.cfg)
	for i := range pools {
		logger := a.logger.With("pool", pools[i].Name)
		pools[i].Notify, pools[i].Stored, pools[i].StateLost = notifier(logger), storeNotifier(logger), o.StateLost
	}
	if a.broker, err = broker.New(context.WithoutCancel(ctx), store, pools); err != nil { // it has an end of its own
		return err
	}
	a.server = server.New(server.Options{
		Broker: a.broker, Keys: keys, Logger: a.logger, Observe: o.Observe, SplitAdmin: a.cfg.Server.AdminListen != "",
	})
	if a.main, err = net.Listen("tcp", a.cfg.Server.Listen); err != nil {
		return fmt.Errorf("server.listen: %w", err)
	}
	if a.cfg.Server.AdminListen == "" {
		return nil
	}
	if a.admin, err = net.Listen("tcp", a.cfg.Server.AdminListen); err != nil {
		return fmt.Errorf("server.admin_listen: %w", err)
	}
	return nil
}

// close writes down what is to be remembered, and closes what is open.
func (a *App) close(ctx context.Context) (err error) {
	if a.broker != nil {
		if err = a.broker.Stop(ctx); err != nil {
			err = fmt.Errorf("the last state was not saved, so the next start will take more for used than is: %w", err)
		}
	}
	if a.store != nil {
		_ = a.store.Close()
	}
	for _, l := range []net.Listener{a.main, a.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
	return err
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
	ctx = context.WithoutCancel(ctx)
	drain, cancel := context.WithTimeout(ctx, a.cfg.Server.DrainTimeout)
	defer cancel()
	a.server.Stop(drain)
	return errors.Join(err, a.close(ctx))
}
