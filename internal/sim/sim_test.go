package sim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/sim"
)

var (
	_ sim.Limiter = (*sim.TokenBucket)(nil)
	_ sim.Limiter = (*sim.SlidingWindow)(nil)
	_ sim.Limiter = (*sim.FixedWindow)(nil)
)

const (
	ns  = time.Nanosecond
	ms  = time.Millisecond
	sec = time.Second
	min = time.Minute
)

// A step acts on the account at a time; then the account is checked.
type step struct {
	at   time.Duration
	do   any // take, charge or limit; nil only looks
	left int64
	full time.Duration
}

type (
	take struct {
		n  int64
		ok bool
	}
	charge int64
	limit  int64
)

func run(t *testing.T, l sim.Limiter, steps []step) {
	t.Helper()
	for i, s := range steps {
		switch do := s.do.(type) {
		case take:
			require.Equal(t, do.ok, l.Take(s.at, do.n), "step %d: take %d at %v", i, do.n, s.at)
		case charge:
			l.Charge(s.at, int64(do))
		case limit:
			l.SetLimit(s.at, int64(do))
		}
		require.Equal(t, s.left, l.Remaining(s.at), "step %d: remaining at %v", i, s.at)
		require.Equal(t, s.full, l.UntilFull(s.at), "step %d: until full at %v", i, s.at)
	}
}

func TestTokenBucketRefillsContinuously(t *testing.T) {
	run(t, sim.NewTokenBucket(60, min), []step{
		{0, nil, 60, 0},
		{0, take{61, false}, 60, 0},
		{0, take{60, true}, 0, min},
		{999 * ms, take{1, false}, 0, min - 999*ms},
		{sec, take{1, true}, 0, min},
		{31 * sec, nil, 30, 30 * sec},
		{61*sec - ns, nil, 59, ns},
		{61 * sec, nil, 60, 0},
		{time.Hour, nil, 60, 0},
	})
}

func TestTokenBucketKeepsFractions(t *testing.T) {
	// A third of a unit each second: three roundings down would lose one.
	run(t, sim.NewTokenBucket(20, min), []step{
		{0, take{20, true}, 0, min},
		{1 * sec, nil, 0, 59 * sec},
		{2 * sec, nil, 0, 58 * sec},
		{3*sec - ns, take{1, false}, 0, 57*sec + ns},
		{3 * sec, take{1, true}, 0, min},
	})
}

func TestTokenBucketDebtIsPaidBack(t *testing.T) {
	run(t, sim.NewTokenBucket(60, min), []step{
		{0, charge(90), -30, 90 * sec},
		{30 * sec, take{1, false}, 0, min},
		{31 * sec, take{1, true}, 0, min},
		{3 * time.Hour, nil, 60, 0},
	})
}

func TestTokenBucketLimitChangeKeepsUse(t *testing.T) {
	run(t, sim.NewTokenBucket(1000, min), []step{
		{0, charge(500), 500, 30 * sec},
		{0, limit(500), 0, min},
		{0, limit(400), -100, 75 * sec},
		{15 * sec, nil, 0, min},
		{15 * sec, limit(2000), 1600, 12 * sec},
		{15 * sec, limit(0), -400, sim.Never},
		{min, nil, -400, sim.Never},
		{min, limit(400), 0, min},
	})
}

func TestTokenBucketLargeNumbers(t *testing.T) {
	const month = 31 * 24 * time.Hour
	run(t, sim.NewTokenBucket(1e15, month), []step{
		{0, take{1e15, true}, 0, month},
		{month / 2, nil, 5e14, month / 2},
		{month - ns, nil, 1e15 - 1, ns}, // 0.37 units a nanosecond
		{50 * month, nil, 1e15, 0},
	})
}

func TestSlidingWindowRemembersEveryEvent(t *testing.T) {
	run(t, sim.NewSlidingWindow(60, min), []step{
		{0, take{40, true}, 20, min},
		{30 * sec, take{21, false}, 20, 30 * sec},
		{30 * sec, take{20, true}, 0, min},
		{min - ms, take{1, false}, 0, 30*sec + ms},
		{min, take{40, true}, 0, min}, // all of it returns at once
		{90 * sec, nil, 20, 30 * sec},
		{2 * min, nil, 60, 0},
	})
}

func TestSlidingWindowDebtAndLimit(t *testing.T) {
	run(t, sim.NewSlidingWindow(10, min), []step{
		{0, charge(8), 2, min},
		{10 * sec, charge(8), -6, min},
		{10 * sec, limit(20), 4, min},
		{10 * sec, limit(10), -6, min},
		{min, nil, 2, 10 * sec},
		{min, limit(0), -8, 10 * sec},
		{70 * sec, nil, 0, 0},
	})
}

func TestFixedWindowForgetsAtTheReset(t *testing.T) {
	f := sim.NewFixedWindow(60, min, 10*sec)
	run(t, f, []step{
		{0, take{60, true}, 0, 10 * sec},
		{10*sec - ms, take{1, false}, 0, ms},
		{10 * sec, take{60, true}, 0, min},
		{50 * sec, charge(30), -30, 20 * sec},
		{50 * sec, limit(100), 10, 20 * sec},
		{70 * sec, nil, 100, 0},
		{1000 * sec, take{1, true}, 99, 30 * sec}, // resets at 10 s + k·min
	})
	assert.Equal(t, 20*sec, f.Reset(1010*sec))
}

func TestJumpBackwardsIsTheLatestTime(t *testing.T) {
	for name, l := range accounts(60, min) {
		t.Run(name, func(t *testing.T) {
			run(t, l, []step{
				{90 * sec, take{60, true}, 0, min},
				{30 * sec, take{1, false}, 0, min},
				{-time.Hour, nil, 0, min},
			})
			require.False(t, l.Take(150*sec-ns, 60))
			require.True(t, l.Take(150*sec, 60))
		})
	}
}

func TestJumpBackwardsEarnsNothingTwice(t *testing.T) {
	run(t, sim.NewTokenBucket(60, min), []step{
		{0, take{60, true}, 0, min},
		{10 * sec, nil, 10, 50 * sec},
		{5 * sec, nil, 10, 50 * sec},
		{10 * sec, nil, 10, 50 * sec},
	})
}

func TestUntilMoreThanTheLimitIsNever(t *testing.T) {
	for name, l := range accounts(10, min) {
		assert.Equal(t, sim.Never, l.Until(0, 11), name)
		assert.Zero(t, l.Until(0, 10), name)
	}
}

func TestImpossibleAccountsPanic(t *testing.T) {
	assert.Panics(t, func() { sim.NewTokenBucket(-1, min) })
	assert.Panics(t, func() { sim.NewSlidingWindow(1, 0) })
	assert.Panics(t, func() { sim.NewFixedWindow(1, -min, 0) })
}

func accounts(limit int64, window time.Duration) map[string]sim.Limiter {
	return map[string]sim.Limiter{
		"bucket":  sim.NewTokenBucket(limit, window),
		"sliding": sim.NewSlidingWindow(limit, window),
		"fixed":   sim.NewFixedWindow(limit, window, 90*time.Second+window),
	}
}
