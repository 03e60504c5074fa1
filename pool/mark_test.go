package pool_test

// What has changed is marked: whatever looks different without time passing has a later mark.

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// shared counts each limit for all models together.
func shared(limits []pool.Limit) []pool.Limit {
	for i := range limits {
		limits[i].Shared = true
	}
	return limits
}

// changeable has all that there can be: groups, limits of keys, limits for all models, slots.
func changeable(t require.TestingT, kind provider.Kind) *pool.Domain {
	anthropic, _ := provider.Lookup("anthropic")
	cfg := setup{
		Dialect: anthropic,
		Classes: []pool.Class{{Name: "large", Models: []string{"l"}}, {Name: "small", Models: []string{"s"}}},
		Groups:  []pool.Group{{Name: "g", Limits: rpm(8)}, {Name: "h", Limits: append(shared(rpm(8)), slots(3))}},
		Keys: []pool.Key{
			{ID: "a", Limits: append(limits(6, 60, 60), slots(2))}, {ID: "b", Group: "g"}, {ID: "c", Group: "g", Limits: rpm(5)},
			{ID: "d", Group: "h"}, {ID: "e", Group: "h", Limits: shared(rpm(4))}, {ID: "f"},
		},
	}
	for _, g := range cfg.Groups {
		for i := range g.Limits {
			g.Limits[i].Kind = kind
		}
	}
	p, err := newPool(cfg)
	require.NoError(t, err)
	return p
}

// changer does anything that changes a domain.
type changer struct {
	*rapid.T
	pool   *pool.Domain
	now    pool.Time
	leases []pool.Grant
	by     map[pool.LeaseID]string
}

func (c *changer) ask() pool.Ask {
	a := ask(rapid.SampledFrom([]string{"h1", "h2", "h3"}).Draw(c.T, "holder"), input(rapid.Int64Range(0, 30).Draw(c.T, "input")))
	a.Model, a.TTL = rapid.SampledFrom([]string{"l", "s", "l", "s", "x"}).Draw(c.T, "model"), 40*time.Second
	a.Count = rapid.IntRange(1, 3).Draw(c.T, "count")
	return a
}

func (c *changer) granted(g pool.Grant, holder string) {
	c.leases = append(c.leases, g)
	c.by[g.Lease] = holder
}

// signal is any answer.
func (c *changer) signal() provider.Signal {
	s := provider.Signal{
		Class: rapid.SampledFrom([]provider.Class{
			provider.OK, provider.OK, provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted,
			provider.Forbidden, provider.AuthInvalid, provider.Overloaded, provider.NoAnswer,
		}).Draw(c.T, "class"),
		Organization: rapid.SampledFrom([]string{"", "o1", "o2"}).Draw(c.T, "organization"),
	}
	if s.Class != provider.OK {
		s.Scope = provider.Scope(rapid.IntRange(int(provider.NoScope), int(provider.ProviderScope)).Draw(c.T, "scope"))
	}
	if rapid.Bool().Draw(c.T, "wait") {
		s.Wait, s.Source = 7*time.Second, provider.RetryAfter
	}
	if rapid.Bool().Draw(c.T, "headers") {
		limit := rapid.Int64Range(1, 9).Draw(c.T, "limit")
		s.Windows = []provider.Window{{
			Dimension: provider.Requests, Length: rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(c.T, "length"),
			Limit: limit, Remaining: rapid.Int64Range(0, limit).Draw(c.T, "remaining"), Rounding: 1,
		}}
	}
	return s
}

func (c *changer) step() (what string) {
	what = rapid.SampledFrom([]string{"acquire", "acquire", "acquire", "wait", "next", "report", "report", "release", "restore", "renewed", "predecessor"}).Draw(c.T, "step")
	var g pool.Grant
	if len(c.leases) > 0 {
		g = rapid.SampledFrom(c.leases).Draw(c.T, "lease")
	}
	key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(c.T, "key")
	switch what {
	case "acquire":
		a := c.ask()
		if g, err := c.pool.Acquire(c.now, a); err == nil {
			c.granted(g, a.Holder)
		}
	case "wait":
		_, _ = c.pool.Wait(c.now, c.ask())
	case "next":
		served, _ := c.pool.Next(c.now)
		for _, w := range served {
			c.granted(w.Grant(), w.Ask.Holder)
		}
	case "report":
		used := provider.Amounts{provider.Requests: 1, provider.InputTokens: rapid.Int64Range(0, 90).Draw(c.T, "used")}
		_, _ = c.pool.Report(c.now, g.Lease, c.by[g.Lease], c.signal(), used, rapid.Bool().Draw(c.T, "final"))
	case "release":
		_ = c.pool.Release(c.now, g.Lease, c.by[g.Lease], rapid.Bool().Draw(c.T, "unused"))
	case "restore":
		c.pool.Restore(c.now, "", key)
	case "renewed":
		c.pool.Renewed(c.now, key)
	case "predecessor":
		_, _ = c.pool.ReportPredecessor(c.now, &pool.PredecessorLease{
			Epoch: 1, Lease: pool.LeaseID(rapid.IntRange(1, 4).Draw(c.T, "old")), Key: pool.Hash(key), Class: pool.Hash("large"),
			Holder: "h1", TTL: time.Minute, Count: 1, Reserved: provider.Amounts{provider.Requests: 1, provider.Concurrency: 1},
		}, c.signal(), provider.Amounts{provider.Requests: 3}, rapid.Bool().Draw(c.T, "final"))
	}
	return what
}

// see tells what people see of each key and quota, by their names; of a key not its limits, which
// have marks of their own.
func see(t require.TestingT, p *pool.Domain, now pool.Time, q pool.Query) map[string]any {
	all := map[string]any{}
	for _, page := range pages(t, p, now, q) {
		for i, name := range names(page) {
			if i < len(page.Keys) {
				k := page.Keys[i]
				k.Limits, k.Changed, k.CooldownUntil = nil, 0, toCome(now, k.CooldownUntil)
				all[name] = k
			} else {
				quota := page.Quotas[i-len(page.Keys)]
				quota.Changed, quota.CooldownUntil = 0, toCome(now, quota.CooldownUntil)
				all[name] = quota
			}
		}
	}
	return all
}

// timeless leaves of what is seen what time alone does not change: if a hold or a lease ends in
// time, that is marked.
func timeless(all map[string]any) map[string]any {
	out := map[string]any{}
	for name, state := range all {
		switch state := state.(type) {
		case pool.KeyMetadata:
			out[name] = state.Open
		case pool.QuotaState:
			held := []int64{int64(state.Open)}
			for _, l := range state.Limits {
				held = append(held, l.Limit, l.Held)
			}
			out[name] = held
		}
	}
	return out
}

// toCome leaves out a moment that is over, which nobody is shown.
func toCome(now, at pool.Time) pool.Time {
	if at <= now {
		return 0
	}
	return at
}

func TestWhatChangesIsMarked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind")
		c := &changer{T: t, by: map[pool.LeaseID]string{}, now: origin, pool: changeable(t, kind)}
		if rapid.Bool().Draw(t, "after a crash") {
			before := changeable(t, kind)
			_, _ = before.Acquire(origin, ask("h1", func(a *pool.Ask) { a.Model = "l" }))
			state, _ := before.State(origin, false)
			c.pool.Recover(origin, state, pool.Recovery{Overlap: 2 * time.Second, TTL: time.Minute, Wall: time.Unix(1e9, 0)})
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			known, _ := c.pool.Mark()
			earlier := see(t, c.pool, c.now, pool.Query{})
			c.now += pool.Time(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, 8 * time.Second, time.Minute}).Draw(t, "time"))
			before := see(t, c.pool, c.now, pool.Query{})
			c.require(known, "time", timeless(earlier), timeless(before))

			known, _ = c.pool.Mark()
			what := c.step()
			c.require(known, what, before, see(t, c.pool, c.now, pool.Query{}))
		}
	})
}

// require wants all marked that is different after something was done.
func (c *changer) require(known pool.Mark, what string, before, after map[string]any) {
	changed := see(c.T, c.pool, c.now, pool.Query{Since: known})
	for name, state := range after {
		if changed[name] == nil && !reflect.DeepEqual(state, before[name]) {
			c.Fatalf("%s has changed %s:\n%+v\n%+v", what, name, before[name], state)
		}
	}
}

// A lease, its report and its end mark what they concern, and nothing else.
func TestOnlyWhatChangesIsMarked(t *testing.T) {
	p := changeable(t, provider.Refilling)
	now := pool.Time(0)
	var known pool.Mark
	told := func() []string {
		all := names(pages(t, p, now, pool.Query{Since: known})...)
		known, _ = p.Mark()
		return all
	}
	lease := func(key, model string) pool.Grant {
		a := ask("h", func(a *pool.Ask) { a.Model = model })
		for _, k := range []string{"a", "b", "c", "d", "e", "f"} {
			if k != key {
				a.Exclude = append(a.Exclude, k)
			}
		}
		g, err := p.Acquire(now, a)
		assert.NoError(t, err)
		return g
	}
	told()
	assert.Empty(t, told(), "nothing has changed")
	g := lease("a", "l")
	assert.Equal(t, []string{"a", "a/large"}, told())
	now += 10 * sec
	assert.Empty(t, told(), "time alone changes nothing")
	_, err := p.Report(now, g.Lease, "h", provider.Signal{}, provider.Amounts{provider.Requests: 1}, true)
	assert.NoError(t, err)
	assert.Equal(t, []string{"a", "a/large"}, told())
	lease("c", "l")
	assert.Equal(t, []string{"c", "g/large", "g/large/c", "g/small/c"}, told(), "with the key's own limits")
	g = lease("d", "s")
	assert.Equal(t, []string{"d", "h/large", "h/small"}, told(), "a limit that both classes share")
	_, err = p.Report(now, g.Lease, "h", limited(time.Second), unknown, true)
	assert.NoError(t, err)
	assert.Equal(t, []string{"d", "e", "h/large", "h/large/e", "h/small", "h/small/e"}, told(), "all of a group that cools down")
	assert.True(t, p.Restore(now, "", "f"))
	assert.Contains(t, told(), "f")
	now += minute
	assert.Empty(t, told())
	now += 60 * minute
	assert.Equal(t, []string{"c", "g/large", "g/large/c", "g/small/c"}, told(), "the lease has run out")
}
