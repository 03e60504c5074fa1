package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/fleet"
	"github.com/keybroker/keybroker/internal/fleet/report"
	"github.com/keybroker/keybroker/scenarios"
)

const simulateHelp = `keybroker simulate runs fleets of services against simulated providers, on virtual
time: hours in seconds. It compares the broker with what people do without one: what
share of the limits is used, how many 429s are met, how long requests wait.

  keybroker simulate                                   the built-in scenarios
  keybroker simulate --scenario small-limit            one of them
  keybroker simulate --scenario mine.yaml --html report.html
  keybroker simulate --config broker.yaml --services 30   what will I get from my keys?
  keybroker simulate --strategy broker,random -o json | jq '.[].results[].share'

The same seed gives the same result. If the broker misses what a scenario expects,
the exit code is 1.
`

func simulate(ctx context.Context, env *environment, args []string) error {
	f := newFlags(env, "simulate", simulateHelp)
	files := f.list("scenario", "scenario `files`, or names of built-in ones; without any, all of these")
	configPath := f.String("config", "", "make scenarios of the providers in this configuration `file`")
	strategies := f.list("strategy", "`names` of those to compare; without any, all: "+strings.Join(strategyNames(), ", "))
	seed := f.Uint64("seed", 1, "of all chance")
	output := f.String("o", "text", "output: text or json")
	page := f.String("html", "", "also write a page with plots to this `file`")
	services := fleet.Service{Name: "service"}
	f.IntVar(&services.Count, "services", 20, "with --config: how many services")
	f.IntVar(&services.Workers, "workers", 4, "with --config: requests that each has under way")
	f.StringVar(&services.Model, "model", "", "with --config: the model that they call")
	f.Float64Var(&services.Input.Mean, "input", 1000, "with --config: mean input tokens")
	f.Float64Var(&services.Output.Mean, "output", 200, "with --config: mean output tokens")
	f.Int64Var(&services.MaxTokens, "max-tokens", 0, "with --config: max_tokens; 0 is four times the output")
	if err := f.parse(args); err != nil {
		return err
	}
	if len(*strategies) == 0 {
		*strategies = strategyNames()
	}
	*strategies = unique(*strategies)
	if err := checkSimulate(f, *strategies, *output, *configPath, services); err != nil {
		return err
	}
	if *page != "" {
		if err := touch(*page); err != nil {
			return err
		}
	}
	services.Input.Dev, services.Output.Dev = 0.5, 0.5
	list, err := simulated(env, *files, *configPath, services)
	if err != nil {
		return err
	}
	all, err := runAll(ctx, env, list, *strategies, *seed)
	if err != nil {
		return err
	}
	if err := tell(env, all, *output, *page); err != nil {
		return err
	}
	return missed(all)
}

// checkSimulate refuses flags that do not go together, before anything runs.
func checkSimulate(f *flags, strategies []string, output, configPath string, services fleet.Service) (err error) {
	if output != "text" && output != "json" {
		return &usageError{fmt.Sprintf("-o: %q is neither text nor json", output)}
	}
	for _, s := range strategies {
		if !slices.Contains(strategyNames(), s) {
			return &usageError{fmt.Sprintf("--strategy: there is no %q; use some of %s", s, strings.Join(strategyNames(), ", "))}
		}
	}
	if configPath == "" {
		f.Visit(func(x *flag.Flag) {
			if strings.HasPrefix(x.Usage, "with --config") {
				err = &usageError{"--" + x.Name + " goes with --config"}
			}
		})
	}
	if err == nil && (services.Count < 1 || services.Workers < 1) {
		err = &usageError{"--services and --workers must be 1 at least"}
	}
	return err
}

// touch makes sure that a file can be written, before minutes are spent on what is to
// be in it. What is in it stays.
func touch(path string) error {
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return w.Close()
}

// missed is an error if the broker misses what some scenario expects.
func missed(all []report.Scenario) error {
	for _, s := range all {
		for _, r := range s.Results {
			if len(r.Missed) > 0 {
				return errors.New("the broker misses what is expected of it")
			}
		}
	}
	return nil
}

func unique(names []string) (once []string) {
	for _, n := range names {
		if !slices.Contains(once, n) {
			once = append(once, n)
		}
	}
	return once
}

func strategyNames() (names []string) {
	for _, s := range fleet.Strategies {
		names = append(names, s.Name)
	}
	return names
}

// simulated lists the scenarios to run.
func simulated(env *environment, files []string, configPath string, services fleet.Service) (all []*fleet.Scenario, err error) {
	switch {
	case configPath != "" && len(files) > 0:
		return nil, &usageError{"give either --scenario or --config"}
	case configPath != "":
		cfg, err := loadConfig(env, configPath, false, true)
		if err != nil {
			return nil, err
		}
		all, notes, err := app.Scenarios(cfg, services)
		for _, n := range notes {
			fmt.Fprintln(env.stderr, "note:", n)
		}
		return all, err
	case len(files) == 0:
		names, err := fs.Glob(scenarios.Files, "*.yaml")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			s, err := builtIn(name)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
		return all, nil
	}
	for _, path := range files {
		s, err := load(path)
		if err != nil {
			return nil, &configError{err}
		}
		all = append(all, s)
	}
	return all, nil
}

// load reads a scenario from a file, or one of those built in by its name.
func load(path string) (*fleet.Scenario, error) {
	s, err := fleet.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		s, inner := builtIn(path + ".yaml")
		if !errors.Is(inner, fs.ErrNotExist) {
			return s, inner
		}
		names, _ := fs.Glob(scenarios.Files, "*.yaml")
		return nil, fmt.Errorf("%w, nor is there one built in, as are %s", err, strings.ReplaceAll(strings.Join(names, ", "), ".yaml", ""))
	}
	return s, err
}

func builtIn(file string) (*fleet.Scenario, error) {
	data, err := scenarios.Files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := fleet.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// runAll runs each scenario under each strategy, as many at a time as there are cores.
func runAll(ctx context.Context, env *environment, list []*fleet.Scenario, strategies []string, seed uint64) ([]report.Scenario, error) {
	all := make([]report.Scenario, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	var done atomic.Int64
	total := len(list) * len(strategies)
	for i, s := range list {
		all[i] = report.Scenario{Scenario: s, Results: make([]*fleet.Result, len(strategies))}
		for j, strategy := range strategies {
			group.Go(func() error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				began := time.Now()
				r, err := fleet.Run(ctx, s, strategy, seed)
				if err != nil {
					return err
				}
				if strategy == fleet.Strategies[0].Name {
					r.Missed = s.Check(r)
				}
				all[i].Results[j] = r
				fmt.Fprintf(env.stderr, "%d of %d: %s, %s: %v of virtual time in %v\n", done.Add(1), total, s.Name, strategy, s.Duration, time.Since(began).Round(time.Millisecond))
				return nil
			})
		}
	}
	return all, group.Wait()
}

func tell(env *environment, all []report.Scenario, output, page string) error {
	if page != "" {
		w, err := os.Create(page)
		if err != nil {
			return err
		}
		if err := errors.Join(report.HTML(w, "What a fleet gets from its keys", all), w.Close()); err != nil {
			return err
		}
	}
	if output == "text" {
		return report.Table(env.stdout, all)
	}
	type scenario struct {
		Name    string          `json:"name"`
		About   string          `json:"about"`
		Results []*fleet.Result `json:"results"`
	}
	var out []scenario
	for _, s := range all {
		out = append(out, scenario{s.Name, s.About, s.Results})
	}
	e := json.NewEncoder(env.stdout)
	e.SetIndent("", "  ")
	return e.Encode(out)
}
