package pool_test

// A 429 where the model saw room shrinks that bucket's burst; quiet time restores
// it. The rate is what it was.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// headroom finds what is kept unused of a dimension's limit.
func (s *story) headroom(d provider.Dimension) int64 {
	for _, l := range s.Inspect(s.now, "").Quotas[0].Limits {
		if l.Dimension == d {
			return l.Headroom
		}
	}
	return -1
}

// turnedAway is a refusal that cools nothing down for long.
func (s *story) turnedAway(answer provider.Signal, more ...func(*pool.Ask)) {
	s.Helper()
	g := s.lease("h", more...)
	s.now += sec / 1000
	s.ends(g, "h", answer, unknown)
	s.now += minute + sec
	s.ends(s.lease("h", more...), "h", fine, unknown)
	s.now += 10 * sec
}

var (
	busy        = limited(time.Second)
	busyWithAll = about(busy, provider.Requests)
)

func TestRefusalWhereThereWasRoomKeepsSome(t *testing.T) {
	for name, c := range map[string]struct {
		answer       provider.Signal
		fill         int64
		want, wantIn int64
	}{
		"of none, where none is named":   {busy, 0, 0, 0},
		"of the one that is named":       {about(busy, provider.InputTokens), 0, 0, 100},
		"though it has been taken since": {about(busy, provider.InputTokens), 990, 0, 50},
		"and of no other":                {busyWithAll, 990, 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(limits(80, 800, plenty))})
			if c.fill > 0 {
				s.lease("x", input(c.fill-200))
			}
			s.ends(s.lease("h", input(10)), "h", c.answer, unknown)
			assert.Equal(t, c.want, s.headroom(provider.Requests))
			assert.Equal(t, c.wantIn, s.headroom(provider.InputTokens))
		})
	}
}

func TestHeadroomShrinksTheBurstAndNotTheRate(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(80))})
	s.turnedAway(busyWithAll)
	require.EqualValues(t, 10, s.headroom(provider.Requests))
	s.now += minute
	assert.InDelta(t, 72, s.granted("h"), 2) // a little has worn off
	s.now += 30 * sec
	assert.InDelta(t, 40, s.granted("h"), 3)
}

// However often, a quarter is left; and an ask of all there is still fits.
func TestHeadroomHasAFloor(t *testing.T) {
	for _, limit := range []int64{1, 2, 3, 7, 80} {
		s := begin(t, setup{Keys: one(limits(plenty, limit, plenty))})
		for range 10 {
			s.turnedAway(about(busy, provider.InputTokens), input(1))
			s.now += 2 * minute
		}
		kept := s.headroom(provider.InputTokens)
		assert.LessOrEqual(t, kept, limit-limit/4)
		g := s.lease("h", input(limit))
		s.ends(g, "h", fine, unknown)
		s.now += minute
		assert.Positive(t, s.granted("h", input(1)), limit)
	}
}

func TestQuietTimeRestoresTheBurst(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(80))})
	for range 3 {
		s.turnedAway(busyWithAll)
	}
	last := s.headroom(provider.Requests)
	require.Greater(t, last, int64(20))
	for last > 0 {
		s.now += 2 * minute
		now := s.headroom(provider.Requests)
		require.Less(t, now, last)
		last = now
		require.Less(t, s.now, pool.Time(2*time.Hour))
	}
	assert.Equal(t, 80, s.granted("h"))
}

// What is only likely, since the room was taken by then, puts off nothing.
func TestLikelyRefusalsLetItWearOff(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 800, plenty))})
	named := about(busy, provider.InputTokens)
	for range 4 {
		s.turnedAway(named, input(1))
	}
	last := s.headroom(provider.InputTokens)
	for range 80 {
		s.now += minute
		g := s.lease("h", input(10))
		s.granted("x", input(1)) // all the others
		s.ends(g, "h", named, unknown)
		s.now += 30 * sec // its cooldown ends
		s.ends(s.lease("h", input(1)), "h", fine, unknown)
		kept := s.headroom(provider.InputTokens)
		require.LessOrEqual(t, kept, max(last, 50))
		last = kept
	}
	assert.LessOrEqual(t, last, int64(50), "a sixteenth at most")
}

// Nor is it likely where another reason is known, and in a sliding window what is kept is
// lost.
func TestUnlikelyRefusalsKeepNothing(t *testing.T) {
	taken := func(s *story) pool.Grant {
		g := s.lease("h", input(10))
		s.granted("x", input(1)) // all the others
		s.now += sec / 10
		return g
	}
	s := begin(t, setup{Keys: one(limits(plenty, 800, plenty))})
	g := taken(s)
	lower := about(busy, provider.InputTokens)
	lower.Windows = []provider.Window{{Dimension: provider.InputTokens, Length: time.Minute, Kind: provider.Refilling, Limit: 400, Remaining: 0, Reset: provider.Unknown, Rounding: 1}}
	s.ends(g, "h", lower, unknown)
	assert.EqualValues(t, 400, s.limit(1).Limit)
	assert.Zero(t, s.headroom(provider.InputTokens))

	ls := limits(plenty, 800, plenty)
	ls[provider.InputTokens].Kind = provider.Sliding
	s = begin(t, setup{Keys: one(ls)})
	g = taken(s)
	s.ends(g, "h", about(busy, provider.InputTokens), unknown)
	assert.Zero(t, s.headroom(provider.InputTokens))
}

// Who tries in spite of full buckets may be refused.
func TestRefusedProbesKeepNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
	s.lies("one", shut["nothing remains"])
	s.now += 30 * sec
	g := s.lease("two")
	require.True(t, g.Probe)
	s.ends(g, "two", about(busy, provider.Requests), unknown)
	assert.Zero(t, s.limit(3).Headroom)
}

// Refusals of what was granted together are one.
func TestRefusalsOfOneMomentTightenOnce(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(80))})
	var out []pool.Grant
	for range 10 {
		out = append(out, s.lease("h"))
	}
	s.now = sec
	for _, g := range out {
		s.answers(g, "h", busyWithAll)
		s.answers(g, "h", busyWithAll)
	}
	assert.EqualValues(t, 10, s.headroom(provider.Requests))
}

// Those who wait are served when it is said, or sooner, though it wears off
// meanwhile.
func TestWaitBesideHeadroom(t *testing.T) {
	s := begin(t, setup{Keys: one(append(rpm(plenty), pool.Limit{Dimension: provider.Requests, Window: time.Hour, Amount: 32, Kind: provider.Refilling}))})
	s.turnedAway(busyWithAll)
	s.granted("h")
	e := s.refused("h")
	s.waits("h")
	var at pool.Time
	s.until(e.RetryAt, func(*pool.Waiter) { at = s.now })
	assert.Equal(t, e.RetryAt, at)
}

// What is not about capacity keeps nothing.
func TestOtherRefusalsKeepNothing(t *testing.T) {
	for _, answer := range []provider.Signal{
		invalid, refusal(provider.Overloaded, provider.ModelScope, 0), refusal(provider.QuotaExhausted, provider.GroupScope, 0),
		{Class: provider.ConcurrencyLimited, Scope: provider.ClassScope}, {Class: provider.InvalidRequest}, refusal(provider.RateLimited, provider.NoScope, 0),
	} {
		s := begin(t, setup{Keys: one(rpm(80))})
		s.ends(s.lease("h"), "h", answer, unknown)
		assert.Zero(t, s.headroom(provider.Requests), answer.Class)
	}
}
