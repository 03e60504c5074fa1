package pool_test

// One holder lies: about waits, limits, keys, whatever a report can say, from
// new leases and old ones, again and again. Everybody else must go on getting
// leases.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// court is a pool with room for all, a liar, and an honest holder who keeps asking.
type court struct {
	*rapid.T
	pool    *pool.Domain
	now     pool.Time
	windows []provider.Window // what the provider states, if it does
	lies    []pool.Grant      // leases of the liar
	last    pool.Time         // when the honest holder got a lease
	waiter  *pool.Waiter
	waits   bool
	topic   int // of the lies
	trace   []string
}

// topics are what one may lie about. Lies about different things may come one after
// the other, and then keep others out for longer.
var topics = []struct {
	classes []provider.Class
	scopes  []provider.Scope
	limits  bool
	most    pool.Time // without a lease
}{
	{[]provider.Class{provider.OK}, []provider.Scope{provider.NoScope}, true, 65 * sec},
	{[]provider.Class{provider.AuthInvalid}, []provider.Scope{provider.KeyScope}, false, 65 * sec},
	{[]provider.Class{provider.RateLimited, provider.QuotaExhausted, provider.OK, provider.NoAnswer}, []provider.Scope{provider.ClassScope}, false, 65 * sec},
	{[]provider.Class{provider.QuotaExhausted, provider.Forbidden}, []provider.Scope{provider.GroupScope}, false, 65 * sec},
	{[]provider.Class{provider.Forbidden}, []provider.Scope{provider.KeyModelScope}, false, 65 * sec},
	{[]provider.Class{provider.Overloaded}, []provider.Scope{provider.ModelScope, provider.ProviderScope}, false, 65 * sec},
	{[]provider.Class{provider.ConcurrencyLimited}, []provider.Scope{provider.ClassScope}, false, 65 * sec},
	{[]provider.Class{
		provider.OK, provider.OK, provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted, provider.AuthInvalid,
		provider.Forbidden, provider.Overloaded, provider.InvalidRequest, provider.NoAnswer,
	}, []provider.Scope{
		provider.NoScope, provider.KeyScope, provider.KeyModelScope, provider.GroupScope, provider.ClassScope, provider.ModelScope, provider.ProviderScope,
	}, true, 5 * minute},
}

const day = 24 * time.Hour

func newCourt(t *rapid.T) *court {
	d := pool.Exact(rapid.SampledFrom([]string{"anthropic", "openai", "generic"}).Draw(t, "dialect"))
	c := &court{T: t, waits: rapid.Bool().Draw(t, "waits"), topic: rapid.IntRange(0, len(topics)-1).Draw(t, "topic")}
	kind := rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind")
	states := rapid.Bool().Draw(t, "states")
	var ls []pool.Limit
	for _, x := range d.Limited {
		for _, w := range []time.Duration{time.Minute, day} {
			l := pool.Limit{Dimension: x, Window: w, Amount: 1_000_000, Kind: kind, Reset: pool.Time(w)}
			ls = append(ls, l)
			if states {
				c.windows = append(c.windows, provider.Window{
					Dimension: x, Length: w, Kind: kind, Limit: l.Amount, Remaining: l.Amount * 9 / 10, Rounding: 1, Reset: provider.Unknown,
				})
			}
		}
	}
	if !rapid.Bool().Draw(t, "configured") {
		ls = nil
	}
	cfg := setup{
		Dialect: d, Flat: true, StartWithin: 2 * time.Second, Single: rapid.IntRange(0, 3).Draw(t, "single") == 0,
		Groups: []pool.Group{{Name: "g", Limits: ls}},
		Keys:   []pool.Key{{ID: "a", Group: "g"}},
	}
	if rapid.Bool().Draw(t, "two keys") {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: "b", Group: "g"})
	}
	p, err := newPool(cfg)
	require.NoError(t, err)
	c.pool = p
	return c
}

func (c *court) lie() (s provider.Signal) {
	about := &topics[c.topic]
	s.Class = rapid.SampledFrom(about.classes).Draw(c.T, "class")
	s.Scope = rapid.SampledFrom(about.scopes).Draw(c.T, "scope")
	if rapid.Bool().Draw(c.T, "stated") {
		s.Source = provider.RetryAfter
		s.Wait = rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour, provider.LongestWait}).Draw(c.T, "wait")
	}
	s.Operator = rapid.Bool().Draw(c.T, "operator")
	if !about.limits {
		return s
	}
	limit := rapid.SampledFrom([]int64{0, 1, 2, 10, 999_999, 1_000_000, 2_000_000, provider.Unknown})
	length := rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Minute, time.Hour, day, day})
	dimension := func() provider.Dimension {
		return provider.Dimension(rapid.IntRange(0, int(provider.Tokens)).Draw(c.T, "dimension"))
	}
	name := rapid.SampledFrom([]string{"", "", "", "odd"})
	if rapid.Bool().Draw(c.T, "names one") {
		s.Refused = &provider.Refusal{
			Dimension: dimension(), Name: name.Draw(c.T, "name"), Length: length.Draw(c.T, "length"),
			Limit: limit.Draw(c.T, "limit"), Used: limit.Draw(c.T, "used"), Requested: provider.Unknown,
		}
	}
	for range rapid.IntRange(0, 2).Draw(c.T, "windows") {
		s.Windows = append(s.Windows, provider.Window{
			Dimension: dimension(), Name: name.Draw(c.T, "name"), Length: length.Draw(c.T, "length"),
			Kind:  rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(c.T, "kind"),
			Limit: limit.Draw(c.T, "limit"), Remaining: limit.Draw(c.T, "remaining"), Rounding: 1,
			Reset: rapid.SampledFrom([]time.Duration{provider.Unknown, time.Minute, day}).Draw(c.T, "reset"),
		})
	}
	return s
}

// liar does one thing.
func (c *court) liar() {
	i := -1
	if len(c.lies) > 0 {
		i = rapid.IntRange(0, len(c.lies)-1).Draw(c.T, "which")
	}
	switch what := rapid.IntRange(0, 4).Draw(c.T, "liar"); {
	case i < 0 || what == 0:
		if len(c.lies) > 1 { // with more, slots might run out in truth
			return
		}
		a := ask("liar", input(10), output(10))
		a.Amounts[provider.Tokens] = 10
		if g, err := c.pool.Acquire(c.now, a); err == nil {
			c.lies = append(c.lies, g)
		}
	default:
		s := c.lie()
		final := what == 4
		c.trace = append(c.trace, fmt.Sprintf("\n%v: %d: %v, %v, wait %v %v operator %v windows %v refused %+v, final %v", time.Duration(c.now), c.lies[i].Lease, s.Class, s.Scope, s.Wait, s.Source, s.Operator, s.Windows, s.Refused, final))
		_, err := c.pool.Report(c.now, c.lies[i].Lease, "liar", s, unknown, final)
		if final || err != nil {
			c.lies = append(c.lies[:i], c.lies[i+1:]...)
		}
	}
}

// honest asks, and reports what it gets.
func (c *court) honest() {
	a := ask("honest", input(10), output(10))
	a.Amounts[provider.Tokens] = 10
	served, _ := c.pool.Next(c.now)
	var g pool.Grant
	switch {
	case len(served) > 0:
		g, c.waiter = served[0].Grant(), nil
	case c.waiter != nil:
		return
	default:
		var err error
		if g, err = c.pool.Acquire(c.now, a); err != nil {
			if c.waits {
				c.waiter, _ = c.pool.Wait(c.now, a)
			}
			return
		}
	}
	c.last = c.now
	_, err := c.pool.Report(c.now, g.Lease, "honest", provider.Signal{Windows: c.windows}, a.Amounts, true)
	require.NoError(c, err)
}

func TestOneLiarLocksNobodyOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCourt(t)
		for range rapid.SampledFrom([]int{30, 100, 300}).Draw(t, "steps") {
			for range rapid.IntRange(0, 2).Draw(t, "lies") {
				c.liar()
			}
			c.honest()
			if c.now > c.last+topics[c.topic].most {
				t.Fatalf("at %v: no lease since %v; lies: %+v\n%+v", time.Duration(c.now), time.Duration(c.last), c.trace, c.pool.Inspect(c.now, "").Quotas)
			}
			c.now += sec * pool.Time(rapid.SampledFrom([]int{1, 1, 1, 5}).Draw(t, "pause"))
		}
	})
}
