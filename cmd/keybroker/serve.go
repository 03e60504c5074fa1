package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/sandbox"
)

const serveHelp = `keybroker serve runs the broker until it gets SIGINT or SIGTERM. At SIGHUP it reads
keys' values and who may do what again, and opens the audit log anew.

  keybroker serve --config broker.yaml
  keybroker serve --config broker.yaml --listen 127.0.0.1:9000 --log-level debug
  keybroker serve --config broker.yaml --plaintext   no TLS: for this machine alone
  keybroker serve --sandbox                          simulated, nothing to set up
  keybroker serve --config broker.yaml --sandbox     my limits, but no money spent
  keybroker serve --config broker.yaml --state-lost  once, after the state was lost

Flags override the environment, which overrides the file.
`

func serve(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "serve", serveHelp)
	path := f.String("config", "", "configuration `file`")
	simulated := f.Bool("sandbox", false, "simulate every provider, on "+app.SandboxAddress+"; without --config, with keys of its own")
	listen := f.String("listen", "", "`address` for services, instead of server.listen")
	adminListen := f.String("admin-listen", "", "`address` for operators (AdminService and reflection move there), instead of server.admin_listen")
	plaintext := f.Bool("plaintext", false, "no TLS, for callers on this machine alone: as server.plaintext, unless there is server.tls")
	lost := f.Bool("state-lost", false, "the state is lost: take all limits for used, where nothing is known")
	logs := logFlags(f)
	if err := f.parse(args); err != nil {
		return err
	}
	logger, err := logs.logger(env)
	if err != nil {
		return err
	}
	if err := refuseLeaks(env.getenv); err != nil {
		return err
	}
	load := func() (*config.Config, error) {
		cfg, err := loadConfig(env, *path, *simulated, *plaintext)
		if err == nil {
			err = override(cfg, *listen, *adminListen)
		}
		if err == nil && *simulated {
			app.UseSandbox(cfg, app.SandboxAddress)
		}
		return cfg, err
	}
	hideMemory()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from now on it does not end us
	defer signal.Stop(hangups)
	cfg, err := load()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop() // the sandbox too, if the broker cannot start
	group, ctx := errgroup.WithContext(ctx)
	if *simulated {
		l, err := net.Listen("tcp", app.SandboxAddress)
		if err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
		s := sandbox.New(app.SandboxAccounts(cfg), sandboxDefaults)
		group.Go(func() error { return app.ServeSandbox(ctx, l, s) })
		logger.Info("sandbox provider listens", "address", l.Addr().String())
	}
	a, err := app.New(ctx, cfg, app.Options{Logger: logger, StateLost: *lost})
	if err != nil {
		return err
	}
	wire := "plaintext"
	if cfg.Server.TLS != nil {
		wire = "tls"
	}
	logger.Info("broker listens", "address", a.Addr().String(), "admin", cfg.Server.AdminListen, "metrics", a.MetricsAddr(),
		"wire", wire, "audit", cfg.Audit.Path, "pools", poolNames(cfg), "store", cmp.Or(cfg.Store.Path, cfg.Store.Type), "version", version())
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { reloadAt(ctx, hangups, a, load, logger); return nil })
	err = group.Wait()
	logger.Info("broker stopped")
	return err
}

// reloadAt reads the configuration again at each signal, until the context ends.
func reloadAt(ctx context.Context, hangups <-chan os.Signal, a *app.App, load func() (*config.Config, error), logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if err := a.Reload(load); err != nil {
			logger.Error("reload failed; what it is about stays as it was", "error", err)
		}
	}
}

// refuseLeaks refuses to run where a library would write keys to a log: gRPC's binary
// log has whole messages, and the frames of HTTP/2 have them, too.
func refuseLeaks(getenv func(string) (string, bool)) error {
	if v, _ := getenv("GRPC_BINARY_LOG_FILTER"); v != "" {
		return &usageError{"GRPC_BINARY_LOG_FILTER is set: gRPC would write keys to a file; unset it"}
	}
	if v, _ := getenv("GODEBUG"); strings.Contains(v, "http2debug") {
		return &usageError{"GODEBUG has http2debug: keys would be logged; remove it"}
	}
	return nil
}

// poolNames lists the pools that are served, or as many as one likes to read.
func poolNames(cfg *config.Config) string {
	const most = 10
	var names []string
	for _, p := range cfg.Providers {
		if !p.IsEnabled() {
			continue
		}
		names = append(names, p.Name)
		for _, further := range p.Pools {
			names = append(names, further.Name)
		}
	}
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// loadConfig reads the configuration; with a sandbox there is one built in.
func loadConfig(env *environment, path string, simulated, plaintext bool) (*config.Config, error) {
	options := app.ConfigOptions()
	options.Getenv, options.Plaintext = env.getenv, plaintext
	var cfg *config.Config
	var err error
	switch {
	case path != "":
		cfg, err = config.Load(path, options)
	case simulated:
		cfg, err = config.Parse("sandbox.yaml", app.SandboxConfig, options)
	default:
		return nil, &usageError{"no configuration: give --config FILE, or --sandbox to try it out"}
	}
	if err == nil {
		err = app.CheckFiles(cfg)
	}
	if err != nil {
		return nil, &configError{err}
	}
	return cfg, nil
}

// override puts the addresses of the command line in place of the file's.
func override(cfg *config.Config, listen, adminListen string) error {
	for _, o := range []struct {
		flag, value string
		field       *string
	}{{"listen", listen, &cfg.Server.Listen}, {"admin-listen", adminListen, &cfg.Server.AdminListen}} {
		if o.value == "" {
			continue
		}
		if err := cfg.Server.CheckListen(o.value); err != nil {
			return &usageError{fmt.Sprintf("--%s: %v (given by the flag or its variable in the environment)", o.flag, err)}
		}
		*o.field = o.value
	}
	return nil
}

// logs are the flags about logging.
type logs struct{ level, format *string }

func logFlags(f *flags) logs {
	return logs{
		f.String("log-level", "info", "debug, info, warn or error"),
		f.String("log-format", "text", "text or json"),
	}
}

func (l logs) logger(env *environment) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(*l.level)); err != nil {
		return nil, &usageError{fmt.Sprintf("--log-level: %q is none of debug, info, warn and error", *l.level)}
	}
	options := &slog.HandlerOptions{Level: level}
	switch *l.format {
	case "text":
		return slog.New(slog.NewTextHandler(env.stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(env.stderr, options)), nil
	}
	return nil, &usageError{fmt.Sprintf("--log-format: %q is neither text nor json", *l.format)}
}
