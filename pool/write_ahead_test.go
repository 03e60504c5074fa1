package pool_test

// Long windows are charged no further ahead of what is written down than may be
// lost, and nothing that is further is given out.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// covered counts the leases that may be given out at once.
func (s *story) covered() (n int) {
	s.Helper()
	for s.lease("h").Durable {
		n++
	}
	return n
}

func TestNobodyWritesNothingWaits(t *testing.T) {
	s := begin(t, setup{Keys: one(perDay(1000, provider.Refilling))})
	for range 900 {
		require.True(t, s.lease("h").Durable)
	}
}

func TestGrantsAheadOfWhatIsWritten(t *testing.T) {
	s := kept(t, setup{Keys: one(perDay(1000, provider.Sliding))})
	assert.False(t, s.Dirty())
	assert.Equal(t, 10, s.covered())
	assert.True(t, s.Dirty())
	s.save()
	assert.Equal(t, 10, s.covered())
}

// What is charged while a state is on its way is not in it.
func TestGrantsWhileAStateIsBeingWritten(t *testing.T) {
	s := kept(t, setup{Keys: one(perDay(1000, provider.Sliding))})
	for range 6 { // of those that the record allows for, more than half
		s.lease("h")
	}
	s.state(false)
	for range 4 {
		require.True(t, s.lease("h").Durable)
	}
	require.False(t, s.lease("h").Durable)
	s.Saved()
	assert.Equal(t, 5, s.covered(), "not in the state")
}

// If nobody knows whether a state became durable, either may be read again.
func TestGrantsHoldForBothStates(t *testing.T) {
	cfg := setup{Keys: one(perDay(1000, provider.Sliding))}
	s := kept(t, cfg)
	first := s.save()
	for range 6 {
		require.True(t, s.lease("h").Durable)
	}
	second := s.state(false)
	given := int64(6 + s.covered())
	assert.EqualValues(t, 10, given)
	for _, record := range []*pool.State{first, second} {
		assert.GreaterOrEqual(t, succeeds(t, cfg, record, after).limit(3).Used, given)
	}
}

// Where a limit is low, even one grant ahead would be too much to lose.
func TestLowLimitsLoseNothing(t *testing.T) {
	cfg := setup{Keys: one(perDay(10, provider.Sliding))}
	s := kept(t, cfg)
	assert.False(t, s.lease("h").Durable)
	s = succeeds(t, cfg, s.save(), after)
	assert.EqualValues(t, 1, s.limit(3).Used)
}

// What comes back does not let more be lost.
func TestRefundsDoNotLetMoreBeLost(t *testing.T) {
	s := kept(t, setup{Keys: one(perDay(1000, provider.Sliding))})
	var gs []pool.Grant
	for range 50 {
		gs = append(gs, s.lease("h"))
	}
	s.save()
	for _, g := range gs {
		require.NoError(t, s.Release(s.now, g.Lease, "h", true))
	}
	assert.LessOrEqual(t, s.covered(), 10)
}

// What has refilled by itself was given back already.
func TestRefundsCoverWhatCameBack(t *testing.T) {
	s := kept(t, setup{Keys: one(append(limits(plenty, plenty, plenty), pool.Limit{
		Dimension: provider.InputTokens, Window: time.Hour, Amount: 1000, Kind: provider.Refilling,
	}))})
	g := s.lease("h", input(8))
	s.now += minute
	require.NoError(t, s.Release(s.now, g.Lease, "h", true))
	assert.False(t, s.lease("h", input(3)).Durable, "the record does not know that it has")
}

func TestHeldAmountsAreWrittenAheadToo(t *testing.T) {
	cfg := setup{Keys: one(append(limits(plenty, plenty, plenty), pool.Limit{
		Dimension: provider.OutputTokens, Window: 24 * time.Hour, Amount: 1000, Kind: provider.Refilling,
	}))}
	s := kept(t, cfg)
	assert.True(t, s.lease("h", output(10)).Durable)
	assert.False(t, s.lease("h", output(1)).Durable, "what is held counts")
	s = succeeds(t, cfg, s.save(), after)
	assert.EqualValues(t, 21, s.limit(3).Held)
	s.now += 2*sec + pool.Time(after.TTL) - 1
	assert.EqualValues(t, 21, s.limit(3).Held, "its leases may have lived until now")
	s.now++
	assert.EqualValues(t, 0, s.limit(3).Held)
	assert.EqualValues(t, 21, s.limit(3).Used)
}

func TestStatesAreAskedForAgainAsTimePasses(t *testing.T) {
	s := kept(t, setup{Keys: one(perDay(1000, provider.Refilling))})
	_, again := s.State(s.now, false)
	assert.Equal(t, pool.Never, again, "there is nothing that could get less")
	for range 6 {
		s.lease("h")
	}
	_, again = s.State(s.now, false)
	assert.Equal(t, s.now+pool.Time(24*time.Hour/200), again)
}

// The other half of the promise: what a crash loses. A window by the minute loses
// one burst, and half of one more if it is held; a longer one a hundredth, and what
// refilled of it since it was last written.
func TestWhatACrashLoses(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		kind := rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding}).Draw(r, "kind")
		day := rapid.Int64Range(1, 5000).Draw(r, "a day")
		ls := []pool.Limit{
			{Dimension: provider.Requests, Window: time.Minute, Amount: 60, Kind: kind},
			{Dimension: provider.InputTokens, Window: time.Minute, Amount: plenty},
			{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 500, Kind: kind},
			{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: day, Kind: kind},
		}
		cfg := setup{StartWithin: time.Second, Keys: one(ls)}
		s := kept(t, cfg)
		var record *pool.State
		var again pool.Time
		save := func() {
			var state *pool.State
			state, again = s.State(s.now, false)
			s.journal.write(state)
			s.Saved()
			record = s.journal.stored.state(r)
		}
		save()
		for range rapid.IntRange(0, 60).Draw(r, "leases") {
			s.now += pool.Time(rapid.Int64Range(0, 40).Draw(r, "seconds")) * sec
			if s.now >= again {
				save()
			}
			g, err := s.Acquire(s.now, ask("h", lasting(time.Second), output(20)))
			if err != nil {
				continue
			}
			if !g.Durable {
				save()
			}
		}
		crashed := s.now
		o := succeeds(t, cfg, record, after)
		began := o.now
		for _, l := range []int{0, 2} {
			o.now, s.now = began, crashed
			then := 2*sec + minute
			if l == 2 {
				then += minute / 2
			}
			o.now += then + minute/32 + sec // a slice, where it slides
			assert.Zero(r, o.limit(l).Used+o.limit(l).Held)
		}
		fresh := succeeds(t, cfg, record, after)
		s.now = crashed
		lost := fresh.limit(3).Used - s.limit(3).Used
		assert.GreaterOrEqual(r, lost, int64(0))
		assert.LessOrEqual(r, lost, day/100+day/200+1)
	})
}
