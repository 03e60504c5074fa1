package pool

// The engine remembers what has no room, so that it need not look. This holds
// what it decides against a search of everything, which remembers nothing: a
// wrong memory refuses what there is, or lets the first in line stand there.

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
)

// Exact is a dialect in which what an ask says counts, and not what answers have used:
// only of that can it be proved that it is never too much.
func Exact(typ string) *provider.Dialect {
	found, _ := provider.Lookup(typ)
	d := *found
	d.Counts = false
	return &d
}

// oracle is a pool of any shape, with what was leased of it.
type oracle struct {
	*rapid.T
	pool *Domain
	now  Time
	open map[LeaseID]string // by holder
}

func newOracle(t *rapid.T) *oracle {
	d := Exact(rapid.SampledFrom(provider.Types()).Draw(t, "dialect"))
	cfg := Config{
		Dialect: d, Seed: 1,
		Flat: rapid.Bool().Draw(t, "flat"),
		Pools: []Rules{{
			StartWithin: 2 * time.Second,
			Single:      rapid.IntRange(0, 3).Draw(t, "single") == 0,
			Strategy:    rapid.SampledFrom([]string{LeastLoaded, RoundRobin, Random, Weighted}).Draw(t, "strategy"),
		}},
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "groups") {
		cfg.Groups = append(cfg.Groups, Group{Name: fmt.Sprint("g", i), Limits: drawLimits(t, d)})
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "keys") {
		k := Key{ID: fmt.Sprint("k", i), Priority: rapid.IntRange(0, 2).Draw(t, "priority"), Weight: i}
		if g := rapid.IntRange(-2, len(cfg.Groups)-1).Draw(t, "group"); g >= 0 {
			k.Group = cfg.Groups[g].Name
		}
		if k.Group == "" || rapid.Bool().Draw(t, "own") {
			k.Limits = drawLimits(t, d)
		}
		cfg.Keys = append(cfg.Keys, k)
	}
	p, err := New(cfg)
	require.NoError(t, err)
	return &oracle{T: t, pool: p, open: map[LeaseID]string{}}
}

func drawLimits(t *rapid.T, d *provider.Dialect) (limits []Limit) {
	for x := range provider.NumDimensions {
		n := rapid.Int64Range(-50, 60).Draw(t, "limit")
		switch {
		case n <= 0:
		case x == provider.Concurrency:
			limits = append(limits, Limit{Dimension: x, Amount: 1 + n/8, Shared: rapid.Bool().Draw(t, "shared")})
		default:
			limits = append(limits, Limit{Dimension: x, Window: time.Minute, Amount: n, Kind: d.Kind})
		}
	}
	return limits
}

func (o *oracle) ask() Ask {
	a := Ask{
		Holder: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(o.T, "holder"),
		Model:  rapid.SampledFrom([]string{"m1", "m2"}).Draw(o.T, "model"),
		TTL:    time.Minute,
		Amounts: o.pool.cfg.Dialect.Reserve(provider.Demand{
			InputTokens:     rapid.Int64Range(0, 30).Draw(o.T, "input"),
			MaxOutputTokens: rapid.Int64Range(0, 30).Draw(o.T, "output"),
		}),
	}
	if i := rapid.IntRange(0, 15).Draw(o.T, "exclude"); i < 5 {
		a.Exclude = []string{fmt.Sprint("k", i)}
	}
	return a
}

// leasable are the keys that may be leased to an ask at all.
func (o *oracle) leasable(c *choice, ask *Ask) (keys []*key) {
	for _, k := range o.pool.keys {
		if k.usable() && !slices.Contains(ask.Exclude, k.id) && o.pool.keyOpens(k, c.class, &ask.Amounts, ask.eye()).at == o.pool.now {
			keys = append(keys, k)
		}
	}
	if o.pool.single && len(keys) > 1 {
		keys = keys[:1]
	}
	return keys
}

// fits looks everywhere whether there is room, for somebody who is first.
func (o *oracle) fits(c *choice, ask *Ask) bool {
	return slices.ContainsFunc(o.leasable(c, ask), func(k *key) bool {
		return o.pool.room(k.group.accounts[c.class.index], &ask.Amounts, ask.eye()) && fits(o.pool.now, k.own(c.class), &ask.Amounts)
	})
}

// alive looks everywhere for a key that works and is not excluded.
func (o *oracle) alive(c *choice, ask *Ask) bool {
	return slices.ContainsFunc(o.pool.keys, func(k *key) bool {
		for _, r := range []*cooldown{k.barred[c.class], &k.group.cooldown, &k.group.accounts[c.class.index].cooldown} {
			if r != nil && o.pool.blocked(r, ask.eye()) {
				return false
			}
		}
		return !o.pool.lost(k, ask.eye()) && !slices.Contains(ask.Exclude, k.id)
	})
}

func (o *oracle) advance() {
	unit := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 10 * time.Second}).Draw(o.T, "unit")
	o.now = o.now.Add(unit * time.Duration(rapid.IntRange(0, 9).Draw(o.T, "units")))
}

// verdicts are what an answer may mean; most are fine.
var verdicts = []provider.Signal{
	{}, {}, {}, {}, {}, {Class: provider.NoAnswer},
	{Class: provider.RateLimited, Scope: provider.ClassScope},
	{Class: provider.RateLimited, Scope: provider.ClassScope, Refused: &provider.Refusal{Dimension: provider.InputTokens, Limit: provider.Unknown}},
	{Class: provider.ConcurrencyLimited, Scope: provider.ClassScope},
	{Class: provider.QuotaExhausted, Scope: provider.GroupScope, Operator: true},
	{Class: provider.QuotaExhausted, Scope: provider.KeyScope, Operator: true},
	{Class: provider.AuthInvalid, Scope: provider.KeyScope},
	{Class: provider.AuthInvalid, Scope: provider.KeyScope},
	{Class: provider.Forbidden, Scope: provider.KeyModelScope},
	{Class: provider.Overloaded, Scope: provider.ModelScope},
	{Class: provider.Overloaded, Scope: provider.ProviderScope},
}

// settle reports or releases some lease, which may have run out of time.
func (o *oracle) settle() {
	if len(o.open) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(o.open))).Draw(o.T, "lease")
	holder, final := o.open[id], rapid.Bool().Draw(o.T, "final")
	if rapid.IntRange(0, 4).Draw(o.T, "release") == 0 {
		_ = o.pool.Release(o.now, id, holder, final) // it may have ended
		delete(o.open, id)
		return
	}
	s := rapid.SampledFrom(verdicts).Draw(o.T, "verdict")
	if s.Class == provider.RateLimited || s.Class == provider.QuotaExhausted || s.Class == provider.Overloaded {
		if s.Wait = time.Duration(rapid.IntRange(0, 3).Draw(o.T, "wait")) * 20 * time.Second; s.Wait > 0 {
			s.Source = provider.RetryAfter
		}
	}
	if rapid.IntRange(0, 3).Draw(o.T, "states") == 0 {
		s.Windows = []provider.Window{{
			Dimension: provider.Dimension(rapid.IntRange(0, 2).Draw(o.T, "dimension")), Length: time.Minute, Rounding: 1,
			Limit: rapid.Int64Range(1, 60).Draw(o.T, "limit"), Remaining: rapid.Int64Range(0, 30).Draw(o.T, "remaining"),
		}}
	}
	used := provider.Amounts{1}
	for d := range used[1:] {
		used[d+1] = rapid.Int64Range(-1, 40).Draw(o.T, "used")
	}
	_, _ = o.pool.Report(o.now, id, holder, s, used, final)
	if final {
		delete(o.open, id)
	}
}

// next serves the waiters that can be served.
func (o *oracle) next() {
	served, _ := o.pool.Next(o.now)
	for _, w := range served {
		o.open[w.Grant().Lease] = w.Ask.Holder
	}
}

func TestWhateverHasRoomIsGranted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOracle(t)
		for range rapid.SampledFrom([]int{5, 15, 40}).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1:
				o.advance()
			case 2, 3, 4, 5:
				o.acquire()
			default:
				o.settle()
			}
			o.next()
		}
	})
}

// acquire asks where nobody waits.
func (o *oracle) acquire() {
	a := o.ask()
	o.pool.tick(o.now)
	c, err := o.pool.choiceFor(&a)
	require.NoError(o, err)
	room, alive := o.fits(c, &a), o.alive(c, &a)
	g, err := o.pool.Acquire(o.now, a)
	if room != (err == nil) {
		o.Fatalf("at %v: there is room: %v, but: %v", time.Duration(o.now), room, err)
	}
	switch e := err.(type) {
	case nil:
		o.open[g.Lease] = a.Holder
	case *ExhaustedError:
		if e.NoUsableKey == alive {
			o.Fatalf("some key works: %v, but no usable key: %v", alive, e.NoUsableKey)
		}
		if e.RetryAt <= o.now {
			o.Fatalf("to be tried again at %v, which is over", time.Duration(e.RetryAt))
		}
	}
}

func TestFirstInLineIsServedWhenItFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOracle(t)
		for range rapid.SampledFrom([]int{5, 15, 40}).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				o.advance()
			case 2, 3, 4:
				a := o.ask()
				if g, err := o.pool.Acquire(o.now, a); err == nil {
					o.open[g.Lease] = a.Holder
				}
			case 5, 6:
				if o.pool.waiting < 6 {
					_, _ = o.pool.Wait(o.now, o.ask()) // if it is not too large
				}
			default:
				o.settle()
			}
			o.next()
			o.heads()
		}
	})
}

// heads looks at the first of each queue, where it is known who that is.
func (o *oracle) heads() {
	for _, c := range o.pool.choices {
		if c.queue.turns.heap.len() == 0 {
			continue
		}
		first, pass := c.queue.turns.heap.min()
		ties := 0
		for _, e := range c.queue.turns.heap.items {
			if e.v.pass == pass {
				ties++
			}
		}
		if ties == 1 && o.fits(c, &first.first.Ask) {
			o.Fatalf("at %v: %s is first and fits, but is not served", time.Duration(o.now), first.first.Ask.Holder)
		}
	}
}
