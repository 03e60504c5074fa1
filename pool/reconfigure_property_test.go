package pool_test

// Configurations that change while leases are open and asks wait.

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// Whatever comes into force, a provider that counts by the configuration never refuses, and
// what has a place is served.
func TestProviderNeverRefusesAcrossConfigurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDomainWorld(t)
		for range rapid.SampledFrom([]int{10, 40, 100}).Draw(t, "steps") {
			w.step()
		}
		w.drain()
		w.finish()
		w.judge()
	})
}

// twins are a domain and another one to which everything happens as well, and which is
// given its own configuration again now and then.
type twins struct {
	*rapid.T
	world *domainWorld
	a, b  *pool.Domain
	now   pool.Time
	open  []pool.Grant
	of    map[pool.LeaseID]string
	lines [][2]*pool.Waiter
	// parted is true once they have given room to different asks while somebody waited: what
	// the first in line reserve is chosen anew, and it may be another group by then. Up to
	// that moment they have been alike.
	parted bool
}

// part takes note that the twins go different ways, which they may only while somebody waits.
func (x *twins) part() {
	if len(x.lines) == 0 {
		x.Fatalf("at %v: they part, though nobody has waited; %+v", time.Duration(x.now), x.world.config())
	}
	x.parted = true
}

// alike wants the twins to have used and held the same of each limit, and as many to wait.
// Every step that may part them begins with it.
func (x *twins) alike() {
	if len(x.lines) == 0 || x.parted {
		return
	}
	count := func(dom *pool.Domain) (all []string) {
		for _, p := range x.world.cfg.Pools {
			s := dom.Inspect(x.now, p.Name)
			all = append(all, fmt.Sprintf("%q: %d waiters", p.Name, s.Waiters))
			for _, q := range s.Quotas {
				for _, l := range q.Limits {
					all = append(all, fmt.Sprintf("%s %s %s, %v in %v: %d used, %d held", q.Group, q.Class, q.Key, l.Dimension, l.Window, l.Used, l.Held))
				}
			}
		}
		return all
	}
	x.same(count(x.a), count(x.b), "what is used and held, and how many wait")
}

// answersOfAllKinds are such as change what a domain knows of keys, groups and limits.
var answersOfAllKinds = []provider.Signal{
	{}, {}, {}, {}, {Class: provider.NoAnswer}, limited(0), limited(7 * time.Second), limited(time.Minute), invalid, invalid,
	{Class: provider.ConcurrencyLimited, Scope: provider.ClassScope},
	{Class: provider.QuotaExhausted, Scope: provider.GroupScope, Operator: true},
	{Class: provider.Forbidden, Scope: provider.KeyModelScope},
	{Class: provider.Overloaded, Scope: provider.ModelScope},
	states(provider.Requests, 20, 3), states(provider.Requests, 5, 0), states(provider.InputTokens, 30, 10), states(provider.OutputTokens, 80, 80),
}

func TestTheSameConfigurationChangesNothing(t *testing.T) {
	waited, parted := 0, 0 // runs
	rapid.Check(t, func(t *rapid.T) {
		w := newDomainWorld(t)
		for i := range w.cfg.Keys { // whose turn it is among equals begins anew
			w.cfg.Keys[i].Priority = i
		}
		dom, err := pool.New(w.config())
		require.NoError(t, err)
		w.dom = dom
		a, err := pool.New(w.config())
		require.NoError(t, err)
		x := &twins{T: t, world: w, a: a, b: w.dom, of: map[pool.LeaseID]string{}}
		for range rapid.SampledFrom([]int{10, 20, 40}).Draw(t, "steps") {
			x.step()
		}
		x.look()
		if len(x.lines) > 0 {
			waited++
		}
		if x.parted {
			parted++
		}
	})
	t.Logf("of %d runs in which somebody waits, %d part", waited, parted)
	assert.LessOrEqual(t, parted, waited/100, "nearly all are compared to their end")
}

// changed is the mark of a change, which another configuration is.
var changed = regexp.MustCompile(` Changed:\d+`)

// same wants the twins to be alike in what they say.
func (x *twins) same(a, b any, what string) {
	unmarked := func(v any) string { return changed.ReplaceAllString(fmt.Sprintf("%+v", v), "") }
	if sa, sb := unmarked(a), unmarked(b); sa != sb {
		x.Logf("%+v", x.world.config())
		x.Fatalf("at %v: %s:\n%s\nafter the same configuration again:\n%s", time.Duration(x.now), what, sa, sb)
	}
}

func (x *twins) step() {
	if x.parted {
		return
	}
	w := x.world
	switch rapid.IntRange(0, 9).Draw(x.T, "step") {
	case 0, 1:
		unit := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 7 * time.Second, time.Minute}).Draw(x.T, "unit")
		x.now = x.now.Add(time.Duration(rapid.IntRange(1, 10).Draw(x.T, "units")) * unit)
	case 2, 3, 4, 5:
		x.acquire(w.ask())
	case 6, 7:
		x.report()
	case 8, 9:
		dropped, err := x.b.Reconfigure(x.now, w.config())
		require.NoError(x, err)
		require.Empty(x, dropped)
	}
	x.next()
	if rapid.IntRange(0, 4).Draw(x.T, "look") == 0 {
		x.look()
	}
}

// look compares all that can be seen.
func (x *twins) look() {
	if x.parted {
		return
	}
	for _, p := range x.world.cfg.Pools {
		a, b := x.seen(x.a, p.Name), x.seen(x.b, p.Name)
		x.same(a.Summary, b.Summary, "summary")
		for i := range a.Keys {
			x.same(a.Keys[i], b.Keys[i], "key")
		}
		for i := range a.Quotas {
			x.same(a.Quotas[i], b.Quotas[i], "quota")
		}
		x.same(a.Queues, b.Queues, "queues")
		x.same(a.Warnings, b.Warnings, "warnings")
		x.same(x.a.Leases(x.now, p.Name, 0, 100), x.b.Leases(x.now, p.Name, 0, 100), "leases")
	}
}

// seen is the state of a pool, without when cooldowns ended that are over.
func (x *twins) seen(dom *pool.Domain, name string) pool.Snapshot {
	s := dom.Inspect(x.now, name)
	for i := range s.Keys {
		if k := &s.Keys[i]; k.CooldownUntil <= x.now {
			k.CooldownUntil = 0
		}
	}
	for i := range s.Quotas {
		if q := &s.Quotas[i]; q.CooldownUntil <= x.now {
			q.CooldownUntil, q.Reason = 0, ""
		}
	}
	return s
}

func (x *twins) acquire(ask pool.Ask) {
	x.alike()
	ga, ea := x.a.Acquire(x.now, ask)
	gb, eb := x.b.Acquire(x.now, ask)
	if ((ea == nil) != (eb == nil) || ea == nil && ga.Key != gb.Key) && len(x.lines) > 0 {
		x.part()
		return
	}
	x.sameError(ea, eb)
	x.same(ga, gb, "acquire")
	if ea == nil {
		x.granted(ga, ask.Holder)
	} else if rapid.Bool().Draw(x.T, "wait") {
		wa, ea := x.a.Wait(x.now, ask)
		wb, eb := x.b.Wait(x.now, ask)
		x.sameError(ea, eb)
		if ea == nil {
			x.lines = append(x.lines, [2]*pool.Waiter{wa, wb})
		}
	}
}

// sameError compares what errors mean. What is lacking, when it will be there, and that it
// never will may be known better after another search.
func (x *twins) sameError(a, b error) {
	vain := func(err error) bool {
		return errors.Is(err, pool.ErrAllKeysExhausted) || errors.Is(err, pool.ErrTooLarge)
	}
	e, exhausted := a.(*pool.ExhaustedError)
	f, also := b.(*pool.ExhaustedError)
	switch {
	case exhausted && also:
		x.same(e.NoUsableKey, f.NoUsableKey, "no usable key")
	case !vain(a) || !vain(b):
		x.same(a, b, "error")
	}
}

func (x *twins) granted(g pool.Grant, holder string) {
	x.open = append(x.open, g)
	x.of[g.Lease] = holder
}

func (x *twins) next() {
	x.alike()
	sa, _ := x.a.Next(x.now) // when to look again may be known better after another search
	sb, _ := x.b.Next(x.now)
	if x.parted {
		return
	}
	if len(sa) != len(sb) {
		x.part()
		return
	}
	for i := range sa {
		if fmt.Sprint(sa[i].Grant()) != fmt.Sprint(sb[i].Grant()) {
			x.part()
			return
		}
		x.granted(sa[i].Grant(), sa[i].Ask.Holder)
	}
}

func (x *twins) report() {
	if len(x.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.open)-1).Draw(x.T, "lease")
	g, final := x.open[i], rapid.Bool().Draw(x.T, "final")
	s := rapid.SampledFrom(answersOfAllKinds).Draw(x.T, "answer")
	used := provider.Amounts{1}
	for d := range used[1:] {
		used[d+1] = rapid.Int64Range(-1, 8).Draw(x.T, "used")
	}
	_, ea := x.a.Report(x.now, g.Lease, x.of[g.Lease], s, used, final)
	_, eb := x.b.Report(x.now, g.Lease, x.of[g.Lease], s, used, final)
	x.sameError(ea, eb)
	if final || ea != nil {
		x.open = append(x.open[:i], x.open[i+1:]...)
	}
}
