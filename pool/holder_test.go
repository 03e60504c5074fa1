package pool_test

// What one holder may have at one time, and that it is counted exactly.

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func capped(c pool.Caps) func(*pool.Ask) { return func(a *pool.Ask) { a.Caps = c } }

// overCap asks in vain, since the holder has all that it may have.
func (s *story) overCap(limit int64, holder string, more ...func(*pool.Ask)) {
	s.Helper()
	_, err := s.Acquire(s.now, ask(holder, more...))
	var e *pool.HolderLimitError
	require.ErrorAs(s, err, &e)
	require.ErrorIs(s, err, pool.ErrHolderLimit)
	assert.Equal(s, limit, e.Limit)
}

func TestHolderHasSoManyLeases(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(3, plenty, plenty))})
	two := capped(pool.Caps{Leases: 2})
	s.lease("h", two)
	last := s.lease("h", two)
	s.overCap(2, "h", two)
	s.lease("other", two) // each has its own
	require.NoError(t, s.Release(s.now, last.Lease, "h", false))
	w := s.waits("h", two)
	s.overCap(2, "h", two) // what is waited for counts
	_, err := s.Wait(s.now, ask("h", two))
	require.ErrorIs(t, err, pool.ErrHolderLimit)
	s.Cancel(w)
	s.waits("h", two)
}

func TestHolderHasSoManyInLine(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(1, plenty, plenty))})
	c := capped(pool.Caps{Waiters: 1})
	s.lease("h", c)
	w := s.waits("h", c)
	_, err := s.Wait(s.now, ask("h", c))
	require.ErrorIs(t, err, pool.ErrHolderLimit)
	s.waits("other", c)
	s.Cancel(w)
	s.waits("h", c)
}

func TestHolderHasSoManyTokens(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	c := capped(pool.Caps{Tokens: 100})
	s.overCap(100, "h", input(60), output(41), c)
	g := s.lease("h", input(40), output(20), c)
	s.overCap(100, "h", input(41), c)
	assert.Equal(t, 4, s.lease("h", input(10), several(9), c).Count, "no more than is left")
	s.overCap(100, "h", input(1), c)
	s.lease("h", c) // without tokens
	s.now = minute
	s.ends(g, "h", fine, provider.Amounts{1, 1, 1, 2, 1})
	s.lease("h", input(60), c)
}

// Whatever happens, a holder has no more than it may, and as much.
func TestCapsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := newPool(setup{
			Dialect: pool.Exact("anthropic"), Flat: true,
			Keys: one(append(limits(50, 10_000, 10_000), slots(6))),
		})
		require.NoError(t, err)
		caps := pool.Caps{
			Leases: rapid.IntRange(1, 8).Draw(t, "leases"), Waiters: rapid.IntRange(1, 3).Draw(t, "waiters"),
			Tokens: rapid.Int64Range(1000, 5000).Draw(t, "tokens"),
		}
		var now pool.Time
		grants, waiting := map[pool.LeaseID]string{}, []*pool.Waiter{}
		next := func() {
			served, _ := p.Next(now)
			for _, w := range served {
				waiting = slices.DeleteFunc(waiting, func(x *pool.Waiter) bool { return x == w })
				grants[w.Grant().Lease] = w.Ask.Holder
			}
		}
		oldest := func() (pool.LeaseID, string) {
			if len(grants) == 0 {
				return 0, ""
			}
			id := slices.Min(slices.Collect(maps.Keys(grants)))
			return id, grants[id]
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "pause")) * time.Second)
			next()
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				a := ask(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "holder"), capped(caps),
					input(rapid.Int64Range(0, 900).Draw(t, "input")), output(rapid.Int64Range(0, 900).Draw(t, "output")),
					several(rapid.IntRange(1, 4).Draw(t, "count")))
				a.TTL = 30 * time.Second
				if g, err := p.Acquire(now, a); err == nil {
					grants[g.Lease] = a.Holder
				} else if w, err := p.Wait(now, a); err == nil {
					waiting = append(waiting, w)
				}
			case 2:
				id, h := oldest()
				_ = p.Release(now, id, h, rapid.Bool().Draw(t, "unused"))
				delete(grants, id)
			case 3:
				id, h := oldest()
				_, _ = p.ReportLast(now, id, h, fine, provider.Amounts{1, 10, 10, 20, 1}, rapid.Bool().Draw(t, "final"))
			case 4:
				if len(waiting) > 0 {
					p.Cancel(waiting[0])
					waiting = waiting[1:]
				}
			}
			next()
			type tally struct {
				open, inLine int
				tokens       int64
			}
			has := map[string]*tally{"a": {}, "b": {}}
			for _, l := range p.Leases(now, "", 0, 100) {
				has[l.Holder].open++
				has[l.Holder].tokens += l.Reserved[provider.InputTokens] + l.Reserved[provider.OutputTokens]
			}
			for _, w := range waiting {
				x := has[w.Ask.Holder]
				x.inLine++
				x.tokens += w.Ask.Amounts[provider.InputTokens] + w.Ask.Amounts[provider.OutputTokens]
			}
			for h, x := range has {
				require.LessOrEqual(t, x.open+x.inLine, caps.Leases, h)
				require.LessOrEqual(t, x.inLine, caps.Waiters, h)
				require.LessOrEqual(t, x.tokens, caps.Tokens, h)
				_, err := p.Acquire(now, ask(h, capped(caps), input(caps.Tokens-x.tokens+1)))
				require.ErrorIs(t, err, pool.ErrHolderLimit, "as exact as can be")
				if x.open+x.inLine < caps.Leases { // what is left can be had, if there is room
					g, err := p.Acquire(now, ask(h, capped(caps), input(min(caps.Tokens-x.tokens, 1))))
					require.NotErrorIs(t, err, pool.ErrHolderLimit)
					if err == nil {
						require.NoError(t, p.Release(now, g.Lease, h, true))
					}
				}
			}
		}
	})
}

// A lease that has run out counts no more; a late report of what was sent of it takes off
// nothing again.
func TestLateReportsOfLapsedLeasesTakeOffNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	capped := func(n int64) func(*pool.Ask) {
		return func(a *pool.Ask) { a.TTL, a.Caps.Tokens = time.Minute, n }
	}
	for range 5 {
		g := s.lease("h", input(100), several(10), capped(1000))
		s.now += 90 * sec
		_, err := s.ReportLast(s.now, g.Lease, "h", fine, provider.Amounts{1, -1, -1, -1, 1}, false)
		require.NoError(t, err)
	}
	s.lease("h", input(1000), capped(1000))
	s.overCap(1000, "h", input(1), capped(1000))
}
