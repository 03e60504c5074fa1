// Command keybroker leases API keys to a fleet.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes, for scripts.
const (
	exitOK     = 0
	exitFailed = 1 // it ran, and failed
	exitUsage  = 2 // the command line is wrong
	exitConfig = 3 // the configuration is wrong
)

// command is one verb of the program.
type command struct {
	name, summary string
	run           func(ctx context.Context, env *environment, args []string) error
}

var commands = []command{
	{"serve", "run the broker", serve},
	{"check", "validate a configuration and show what is in force", check},
	{"sandbox", "run a simulated provider that enforces limits", runSandbox},
	{"demo", "run broker, sandbox and a fleet of clients, and show what they got", runDemo},
	{"simulate", "what a fleet would get from some keys, with the broker and without", simulate},
	{"certs", "make certificates to try TLS with (development)", makeCerts},
	{"audit", "who held which key, from the audit log", runAudit},
	{"token", "make a bearer token for a client", makeToken},
	{"version", "print the version", printVersion},
}

// environment is what the program has around it, so that a test can run it.
type environment struct {
	getenv         func(string) (string, bool)
	stdout, stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, &environment{os.LookupEnv, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run is the program: it gives the exit code.
func run(ctx context.Context, env *environment, args []string) int {
	if len(args) == 0 {
		usage(env.stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(env.stdout)
		return exitOK
	}
	if args[0] == "--version" {
		args[0] = "version"
	}
	for _, c := range commands {
		if c.name == args[0] {
			return exitCode(env, c.name, c.run(ctx, env, args[1:]))
		}
	}
	fmt.Fprintf(env.stderr, "keybroker: there is no command %q; see keybroker help\n", args[0])
	return exitUsage
}

func exitCode(env *environment, name string, err error) int {
	var bad *usageError
	var cfg *configError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &bad):
		fmt.Fprintf(env.stderr, "keybroker %s: %v\n", name, err)
		return exitUsage
	case errors.As(err, &cfg):
		fmt.Fprintf(env.stderr, "keybroker %s: the configuration is not valid:\n%v\n", name, err)
		return exitConfig
	}
	fmt.Fprintf(env.stderr, "keybroker %s: %v\n", name, err)
	return exitFailed
}

func usage(w io.Writer) {
	fmt.Fprint(w, "keybroker leases API keys to a fleet, each with a slice of its rate limit.\n\nCommands:\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, `
Start here:
  keybroker serve --sandbox              a broker on 127.0.0.1:7070 with simulated keys
  keybroker check --config broker.yaml   what is wrong with my configuration?
  keybroker serve --config broker.yaml   the real thing

"keybroker COMMAND --help" tells more. Exit codes: 0 done, 1 failed, 2 wrong
command line, 3 wrong configuration.
`)
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// configError is a configuration that is not valid.
type configError struct{ error }

// flags is a command's flag set. A flag that is not given is taken from the
// environment: --admin-listen from KEYBROKER_ADMIN_LISTEN.
type flags struct {
	*flag.FlagSet
	env  *environment
	help string
}

func newFlags(env *environment, name, help string) *flags {
	f := &flags{flag.NewFlagSet(name, flag.ContinueOnError), env, help}
	f.SetOutput(io.Discard)
	f.Usage = func() {} // it is called for a mistake too
	return f
}

func (f *flags) printHelp() {
	fmt.Fprintf(f.env.stdout, "%s\nFlags (or KEYBROKER_… in the environment, as KEYBROKER_CONFIG for --config):\n", f.help)
	f.SetOutput(f.env.stdout)
	f.PrintDefaults()
}

// parse is for a command that takes flags and nothing else.
func (f *flags) parse(args []string) error {
	if err := f.parseFlags(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return &usageError{fmt.Sprintf("unexpected argument %q; see keybroker %s --help", f.Arg(0), f.Name())}
	}
	return nil
}

// parseFlags leaves what follows the flags in f.Args.
func (f *flags) parseFlags(args []string) error {
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.printHelp()
		return err
	} else if err != nil {
		return &usageError{err.Error() + "; see keybroker " + f.Name() + " --help"}
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	var err error
	f.VisitAll(func(x *flag.Flag) {
		name := "KEYBROKER_" + strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_"))
		if v, ok := f.env.getenv(name); ok && v != "" && !given[x.Name] && err == nil {
			if e := f.Set(x.Name, v); e != nil {
				err = &usageError{fmt.Sprintf("%s in the environment: %v", name, e)}
			}
		}
	})
	return err
}
