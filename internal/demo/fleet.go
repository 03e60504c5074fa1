// Package demo runs a fleet of services against a broker and a sandbox, over
// real connections, and tells what they got.
package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/internal/sandbox"
)

// Fleet is a number of services that ask for as much as they can get.
type Fleet struct {
	Broker   string // address
	Sandbox  *sandbox.Server
	Services int // shared between the pools
	Workers  int // calls at one time, in each service
	Duration time.Duration
	Progress io.Writer // a line a second
}

// Result is what the fleet got.
type Result struct {
	Seconds  float64       `json:"seconds"`
	Services int           `json:"services"`
	Pools    []PoolResult  `json:"pools"`
	Limits   []LimitResult `json:"limits"`
}

// LimitResult is how much of one of the provider's limits was used.
type LimitResult struct {
	Account string `json:"account"`
	Class   string `json:"class"`
	Limit   string `json:"limit"`
	Used    int64  `json:"used"`
	Allowed int64  `json:"allowed"` // a full bucket and what refilled meanwhile
	// Share is Used of Allowed.
	Share float64 `json:"share"`
}

var roles = []struct{ pool, model string }{
	{"anthropic", "claude-sonnet-4-5"}, {"anthropic", "claude-haiku-4-5"}, {"openai", "gpt-4o"},
}

// Run runs the fleet for its time.
func (f *Fleet) Run(ctx context.Context) (*Result, error) {
	// The end comes as a cancellation and not as a deadline, which the broker
	// would see and cut its waits to.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer time.AfterFunc(f.Duration, cancel).Stop()
	group, ctx := errgroup.WithContext(ctx)
	tallies, services := map[string]*tally{}, map[string]int{}
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: f.Services * f.Workers}}
	defer web.CloseIdleConnections()
	for i := range f.Services {
		role := roles[i%len(roles)]
		if tallies[role.pool] == nil {
			tallies[role.pool] = &tally{perService: map[string]int{}}
		}
		services[role.pool]++
		s := &service{
			name: fmt.Sprintf("service-%02d", i+1), pool: role.pool, model: role.model,
			web: web, tally: tallies[role.pool],
		}
		conn, err := s.connect(f.Broker)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		for range f.Workers {
			group.Go(func() error { return s.work(ctx) })
		}
	}
	start := time.Now()
	group.Go(func() error { return f.report(ctx, start, tallies) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	r := &Result{Seconds: time.Since(start).Seconds(), Services: f.Services}
	for _, name := range []string{"anthropic", "openai"} {
		if t := tallies[name]; t != nil {
			r.Pools = append(r.Pools, t.result(name, services[name]))
		}
	}
	r.Limits = limits(f.Sandbox.Stats(), time.Since(start))
	return r, nil
}

func (f *Fleet) report(ctx context.Context, start time.Time, tallies map[string]*tally) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var requests, limited int
		for _, t := range tallies {
			t.mu.Lock()
			requests, limited = requests+t.requests, limited+t.limited
			t.mu.Unlock()
		}
		fmt.Fprintf(f.Progress, "%3.0f s  %d requests  %d answered 429\n", time.Since(start).Seconds(), requests, limited)
	}
}

// limits tells for each class that was used how much of its tightest limit was.
func limits(s sandbox.Stats, took time.Duration) []LimitResult {
	var all []LimitResult
	for _, a := range s.Accounts {
		for _, c := range a.Classes {
			best := LimitResult{Share: -1}
			for _, l := range c.Limits {
				allowed := l.Limit + int64(float64(l.Limit)*took.Seconds()/l.Window.Seconds())
				r := LimitResult{a.Name, c.Name, l.Name, l.Charged, allowed, float64(l.Charged) / float64(allowed)}
				if r.Share > best.Share {
					best = r
				}
			}
			if c.Admitted > 0 {
				all = append(all, best)
			}
		}
	}
	return all
}

// Print writes the result for people.
func (r *Result) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d services asked for all they could get, for %.0f s.\n\n", r.Services, r.Seconds)
	fmt.Fprintln(t, "pool\tservices\trequests\t429s\tother errors\twaited in vain\twait p50\tp95\tmax\tfairness\t")
	for _, p := range r.Pools {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%.2f s\t%.2f s\t%.3f\t\n",
			p.Pool, p.Services, p.Requests, p.Limited, p.Failed, p.Exhausted, p.WaitP50, p.WaitP95, p.WaitMax, p.Fairness)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nWhat the provider allowed (a full bucket, and what refilled), and how much of it was used:\n\n")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "account\tmodels\tbinding limit\tallowed\tused\tshare\t")
	for _, l := range r.Limits {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%.1f %%\t\n", l.Account, l.Class, l.Limit, l.Allowed, l.Used, 100*l.Share)
	}
	return t.Flush()
}
