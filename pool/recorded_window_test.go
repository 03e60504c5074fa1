package pool_test

// Fixed windows that may have ended while nobody looked. The clock on the wall may
// be off by anything: it lets one lease at a time try, and only the provider's own
// clock opens the window.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/internal/provider"
)

var noon = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

// dated is an answer at a moment of the provider's, whose windows end on the hour.
func dated(at time.Time, limit int64) provider.Signal {
	return provider.Signal{Date: at, Windows: []provider.Window{{
		Dimension: provider.Requests, Length: time.Hour, Kind: provider.Fixed, Limit: limit, Remaining: provider.Unknown, Rounding: 1,
		Reset: at.Truncate(time.Hour).Add(time.Hour).Sub(at),
	}}}
}

// usedUp is a story that begins at half past twelve, when an owner before had used
// all of the hour; down is for how long nobody was there.
func usedUp(t *testing.T, down, wrong time.Duration) *story {
	cfg := setup{Dialect: dialect(t, "github"), StartWithin: 2 * time.Second, Keys: one(nil)}
	before := kept(t, cfg)
	g := before.lease("h")
	first := dated(noon.Add(30*time.Minute), 200)
	first.Windows[0].Remaining = 199
	before.answers(g, "h", first)
	assert.InDelta(t, 198, before.granted("h"), 1)
	assert.EqualValues(t, 60*minute/2, before.limit(0).ResetAt-before.now-sec, "half an hour is left")
	r := after
	r.Wall = noon.Add(30*time.Minute + down + wrong)
	s := succeeds(t, cfg, before.save(), r)
	s.now += 3 * sec
	return s
}

func TestAWindowThatHasEndedOpensByTheProvidersDate(t *testing.T) {
	s := usedUp(t, time.Hour, 0)
	g := s.lease("h")
	assert.True(t, g.Probe)
	s.refused("h")
	s.answers(g, "h", dated(noon.Add(90*time.Minute), 200))
	assert.LessOrEqual(t, s.limit(0).Used, int64(5), "and what was written ahead")
	assert.InDelta(t, 195, s.granted("h"), 3)
	s.now += 31 * minute // the next is at two
	assert.InDelta(t, 200, s.granted("h"), 0)
}

// The wall says that it has ended. It has not, and a lease is all that this costs.
func TestAWallClockOpensNothing(t *testing.T) {
	for _, wrong := range []time.Duration{time.Hour, 24 * time.Hour} {
		s := usedUp(t, 0, wrong)
		g := s.lease("h")
		assert.True(t, g.Probe, "only to try")
		s.refused("h")
		refusal := dated(noon.Add(30*time.Minute), 200)
		refusal.Class, refusal.Scope, refusal.Wait, refusal.Source = provider.RateLimited, provider.ClassScope, time.Second, provider.RetryAfter
		s.ends(g, "h", refusal, unknown)
		s.now += 20 * minute
		s.refused("h")
	}
}

func TestAWallClockThatIsSlowCostsTimeOnly(t *testing.T) {
	for _, wrong := range []time.Duration{-time.Hour, -24 * time.Hour} {
		s := usedUp(t, 10*time.Minute, wrong)
		s.refused("h")
		s.now += 33 * minute // it has ended by our own clock
		s.lease("h")
	}
}

// Without an answer that tells the time, one lease at a time.
func TestWithoutADateOneLeaseTriesAtATime(t *testing.T) {
	s := usedUp(t, time.Hour, 0)
	for range 5 {
		g := s.lease("h")
		assert.True(t, g.Probe)
		s.refused("h")
		s.ends(g, "h", provider.Signal{}, unknown)
	}
	assert.GreaterOrEqual(t, s.limit(0).Used, int64(200))
}

// Later, when the window ends by the wall, and not by ours.
func TestAWindowThatEndsLaterIsTriedThen(t *testing.T) {
	s := usedUp(t, 20*time.Minute, 0)
	began := s.now - 3*sec
	_, at := s.polls("h", began+20*minute)
	assert.Equal(t, began+10*minute+2*sec, at, "and two seconds for good measure")
}
