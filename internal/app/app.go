// Package app puts a running keybroker together from a configuration. It is the
// one place beside cmd that knows everybody, so that a test can start the whole.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/metrics"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/secret"
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
	cfg          *config.Config
	logger       *slog.Logger
	store        *bolt.Store // nil: nothing is kept
	broker       *broker.Broker
	server       *server.Server
	certificates *certs.Source // nil: plaintext
	audit        *audit.Log    // nil: nothing is written down
	metrics      *metrics.Metrics
	force        atomic.Pointer[inForce]
	listeners    map[string]net.Listener // by the setting that names the address

	reloads, certificateReads outcome
}

// Options are what a configuration file does not say.
type Options struct {
	Logger *slog.Logger // required
	// Observe, if set, hears of every finished call.
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
	domains := Domains(a.cfg)
	policy, err := Policy(a.cfg)
	if err != nil {
		return err
	}
	a.force.Store(&inForce{policy, Keys(a.cfg)})
	if a.certificates, err = Certificates(a.cfg); err != nil {
		return err
	}
	if a.cfg.Audit.Path != "" {
		if a.audit, err = audit.Open(a.cfg.Audit.Path); err != nil {
			return fmt.Errorf("audit.path: %w", err)
		}
	}
	for i := range domains {
		logger := a.logger.With("domain", domains[i].Name)
		domains[i].OnEvent, domains[i].OnStore, domains[i].StateLost = notifier(logger), storeNotifier(logger), o.StateLost
	}
	if a.broker, err = broker.New(context.WithoutCancel(ctx), store, domains); err != nil { // it has an end of its own
		return err
	}
	a.metrics = metrics.New(a.sources())
	a.server = server.New(server.Options{
		Broker: a.broker, Logger: a.logger, Observe: both(a.metrics.Observe, o.Observe),
		Keys:         func(pool, key string) secret.Value { return a.force.Load().keys[KeyName{pool, key}] },
		Policy:       func() *access.Policy { return a.force.Load().policy },
		Certificates: a.certificates, Audit: server.Audit{Log: a.audit, FailOpen: a.cfg.Audit.FailOpen},
		SplitAdmin: a.cfg.Server.AdminListen != "", MaxConnections: a.cfg.Server.MaxConnections, MaxUnproven: a.cfg.Server.MaxUnproven,
	})
	return a.listen()
}

func (a *App) listen() (err error) {
	s := &a.cfg.Server
	a.listeners = map[string]net.Listener{}
	for setting, addr := range map[string]string{mainListener: s.Listen, adminListener: s.AdminListen, metricsListener: s.MetricsListen} {
		if addr == "" {
			continue
		}
		l, err := net.Listen(network(addr), addr)
		if err != nil {
			return fmt.Errorf("server.%s: %w", setting, err)
		}
		a.listeners[setting] = l
		if tcp, ok := l.Addr().(*net.TCPAddr); s.TLS == nil && (!ok || !tcp.IP.IsLoopback()) { // whatever a name stands for
			return fmt.Errorf("server.%s: %v is not on this machine alone, and there is no TLS", setting, l.Addr())
		}
	}
	return nil
}

// network keeps what is written as IPv4 to that: 0.0.0.0 would listen on IPv6 as well.
func network(addr string) string {
	if ap, err := netip.ParseAddrPort(addr); err == nil && ap.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}

// The settings that name addresses to listen on.
const (
	mainListener    = "listen"
	adminListener   = "admin_listen"
	metricsListener = "metrics_listen"
)

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
	for _, l := range a.listeners {
		_ = l.Close()
	}
	if a.audit != nil {
		_ = a.audit.Close()
	}
	return err
}

// Addr is where the broker listens.
func (a *App) Addr() net.Addr { return a.listeners[mainListener].Addr() }

// MetricsAddr is where metrics are served, empty if nowhere.
func (a *App) MetricsAddr() string {
	if l := a.listeners[metricsListener]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// Run serves until the context ends, then stops: new calls are refused, waiting
// ones sent away, and those under way have the drain timeout to end. It gives
// nil after such a stop. All that Run began has ended when it returns.
func (a *App) Run(ctx context.Context) error {
	var running sync.WaitGroup
	failed := make(chan error, len(a.listeners))
	for setting, serve := range map[string]func(net.Listener) error{
		mainListener: a.server.Serve, adminListener: a.server.ServeAdmin,
		metricsListener: func(l net.Listener) error { return a.server.ServeMetrics(l, a.metrics.Write) },
	} {
		if l := a.listeners[setting]; l != nil {
			running.Go(func() { failed <- serve(l) })
		}
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	running.Go(func() { a.watch(watching) })
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	ctx = context.WithoutCancel(ctx)
	drain, cancel := context.WithTimeout(ctx, a.cfg.Server.DrainTimeout)
	defer cancel()
	a.server.Stop(drain)
	stop()
	running.Wait()
	return errors.Join(err, a.close(ctx))
}
