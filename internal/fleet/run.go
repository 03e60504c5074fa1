package fleet

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// run is one fleet under one strategy.
type run struct {
	clock
	scenario *Scenario
	chance   chance // of the provider, the network and the strategy
	upstream *upstream
	strategy Strategy
	members  []*member
	trail    []point
	total    tally
}

// member is one service.
type member struct {
	*Service
	name   string
	number int
	chance chance // of what it wants: the same, whatever the strategy
	tally

	idle    time.Duration // it begins no request before
	answers []Answer      // it hears these in turn; the provider's words if there are none
	heard   int           // how many it has heard
}

// request is one call that a member wants to make.
type request struct {
	service *member
	input   int64
	guess   int64 // what the service takes its input for
	output  int64
	silent  bool // after the answer, it says nothing any more
	born    time.Duration
	until   time.Duration // then it gives up
	tries   int
	key     *credential // of this try
	instead *Answer     // what this try hears in the place of the provider's words; nil if nothing
	lease   any         // the strategy's own
	done    func()      // the worker goes on
	sent    time.Duration
}

// Strategy decides when a request is sent, and with which key. A request that is begun
// is sent, or failed, by the run's methods; each try is answered, and then either
// finished or, after a refusal, begun again.
type Strategy interface {
	// Begin is asked for a key, in the service, and again after a refusal.
	Begin(q *request)
	// Answered is told what came back when the first byte has.
	Answered(q *request, a *answer)
	// Finished is told that the answer is complete, and what it used.
	Finished(q *request)
}

// Strategies makes them, by name. The first is ours.
var Strategies = []struct {
	Name string
	make func(r *run) (Strategy, error)
}{
	{"broker", newBrokered},
	{"random", newRandom},
	{"round robin", newRoundRobin},
	{"static split", newSplit},
	{"headers", newHeaders},
	{"minute counter", newCounter},
}

// Run runs a scenario under one strategy. If it has events with answers, it is run again
// without them, for Result.Kept. The only errors are those of the context, and that there is
// no such strategy.
func Run(ctx context.Context, s *Scenario, strategy string, seed uint64) (*Result, error) {
	r, err := runOnce(ctx, s, strategy, seed)
	if err != nil {
		return nil, err
	}
	res, truly := r.result(strategy, seed), *s
	truly.Events = slices.DeleteFunc(slices.Clone(s.Events), func(e Event) bool { return len(e.Answers) > 0 })
	if len(truly.Events) < len(s.Events) {
		reference, err := runOnce(ctx, &truly, strategy, seed)
		if err != nil {
			return nil, err
		}
		res.Kept = r.kept(reference)
	}
	return res, nil
}

func runOnce(ctx context.Context, s *Scenario, strategy string, seed uint64) (*run, error) {
	r := &run{scenario: s, chance: newChance(seed, 0)}
	r.upstream = newUpstream(r)
	for i := range s.Services {
		v := &s.Services[i]
		for n := range v.Count {
			r.members = append(r.members, &member{
				Service: v, name: numbered(v.Name, n, v.Count), number: len(r.members), chance: newChance(seed, len(r.members)+1),
			})
		}
	}
	for _, x := range Strategies {
		if x.Name == strategy {
			var err error
			if r.strategy, err = x.make(r); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", s.Name, strategy, err)
			}
		}
	}
	if r.strategy == nil {
		return nil, fmt.Errorf("no strategy %q", strategy)
	}
	for _, m := range r.members {
		for _, g := range r.upstream.groups {
			r.upstream.account(g, m.Model) // so that what nobody uses counts, too
		}
		r.begin(m)
	}
	for _, e := range s.Events {
		r.set(&e)
	}
	r.sample()
	r.at(s.WarmUp, func() {
		for _, b := range r.allBuckets() {
			b.count(r)
		}
	})
	if err := r.clock.run(ctx, s.Duration); err != nil {
		return nil, err
	}
	return r, nil
}

// begin has a member send requests.
func (r *run) begin(m *member) {
	for range m.Workers {
		var next func()
		next = func() { r.after(m.chance.seconds(m.Pause), func() { r.want(m, next) }) }
		r.at(m.From+seconds(m.chance.Float64()), next)
	}
	if m.Rate > 0 {
		var next func()
		next = func() {
			for range m.Burst {
				r.want(m, func() {})
			}
			r.after(m.chance.pause(m.Rate/float64(m.Burst)), next)
		}
		r.at(m.From+m.chance.pause(m.Rate/float64(m.Burst)), next)
	}
}

// want makes a request, or does so when the member is no longer idle.
func (r *run) want(m *member, done func()) {
	if r.now < m.idle {
		r.at(m.idle, func() { r.want(m, done) })
		return
	}
	q := &request{
		service: m, born: r.now, until: r.now + m.MaxWait, done: done,
		input: max(1, int64(m.chance.draw(m.Input))), output: min(max(1, int64(m.chance.draw(m.Output))), m.MaxTokens),
		silent: m.chance.hit(m.Vanish),
	}
	q.guess = max(1, int64(m.chance.draw(m.Guess)*float64(q.input)))
	r.strategy.Begin(q)
}

// reserved is what a service takes its request for.
func (r *run) reserved(q *request) provider.Amounts {
	return r.upstream.dialect.Reserve(provider.Demand{InputTokens: q.guess, MaxOutputTokens: q.service.MaxTokens})
}

// counted is what its answer turns out to have used.
func (r *run) counted(q *request) provider.Amounts { return r.usage(q.input, q.output) }

// reported is what the answer states as used, which the service reports.
func (r *run) reported(q *request) provider.Amounts {
	if a := q.instead; a != nil && a.Used > 0 {
		return r.usage(a.Used, a.Used)
	}
	return r.counted(q)
}

func (r *run) usage(input, output int64) provider.Amounts {
	return r.upstream.dialect.Count(provider.Usage{Input: input, Output: output, Reasoning: provider.Unknown, Total: provider.Unknown})
}

// hop is the time that a message of a member takes.
func (r *run) hop(m *member) time.Duration { return r.chance.seconds(m.Network) }

// send sends a request with a key.
func (r *run) send(q *request, key *credential) {
	q.key = key
	q.tries++
	r.after(r.hop(q.service), func() {
		a := r.hear(q)
		back := r.hop(q.service)
		if a.status == 200 {
			r.after(a.first+back, func() { r.strategy.Answered(q, &a) })
			r.after(a.complete+back, func() {
				r.strategy.Finished(q)
				q.done()
			})
			return
		}
		r.after(a.first+back, func() { r.strategy.Answered(q, &a) })
	})
}

// hear returns what the service hears. Only a call that reaches the provider is counted.
func (r *run) hear(q *request) answer {
	m := q.service
	q.instead = nil
	if n := len(m.answers); n > 0 {
		q.instead = &m.answers[m.heard%n]
		m.heard++
		if q.instead.Status > 0 {
			first := r.chance.seconds(r.scenario.Provider.Latency) / 10
			return answer{status: q.instead.Status, first: first, signal: q.instead.read(r.upstream.dialect)}
		}
	}
	a := r.upstream.arrive(q)
	r.attempt(q, &a)
	if a.status == http.StatusOK && q.instead != nil && q.instead.Headers != nil {
		a.signal = q.instead.read(r.upstream.dialect)
	}
	return a
}

// read gives the meaning of the answer, as a dialect reads it.
func (a *Answer) read(d *provider.Dialect) provider.Signal {
	r := provider.Response{Status: cmp.Or(a.Status, http.StatusOK), Header: http.Header{}}
	for name, value := range a.Headers {
		r.Header.Set(name, value)
	}
	return d.Read(r)
}

// fail gives a request up.
func (r *run) fail(q *request) {
	q.service.failed++
	r.total.failed++
	r.after(time.Second, q.done) // nobody asks in a tight loop
}

// set has an event happen.
func (r *run) set(e *Event) {
	during := func(begin, end func()) {
		r.at(e.At, begin)
		if e.At+e.For < r.scenario.Duration {
			r.at(e.At+e.For, end)
		}
	}
	for _, m := range r.members {
		switch {
		case m.Service.Name != e.Service:
		case e.Idle:
			r.at(e.At, func() { m.idle = e.At + e.For })
		default:
			during(func() { m.answers = e.Answers }, func() { m.answers = nil })
		}
	}
	for _, g := range r.upstream.groups {
		if e.Group != "" && e.Group != g.name {
			continue
		}
		switch {
		case e.Overload > 0:
			during(func() { g.overload = e.Overload }, func() { g.overload = 0 })
		case e.Cut > 0:
			during(func() { g.cut(r, e.Cut) }, func() { g.cut(r, 1) })
		case e.Foreign > 0:
			during(func() { g.foreign = e.Foreign; g.leak(r) }, func() { g.foreign = 0 })
		case e.Revoke > 0:
			during(func() { g.keys[e.Revoke-1].revoked = true }, func() { g.keys[e.Revoke-1].revoked = false })
		}
	}
}

// numbered names the nth of several, or the only one.
func numbered(name string, n, of int) string {
	if of == 1 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, n+1)
}
