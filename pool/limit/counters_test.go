package limit

// Step tables for the arithmetic of each kind of bucket: what fits, from which
// nanosecond on, and what is left after refunds and changes.

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/internal/provider"
)

const (
	sec = time.Second
	all = math.MaxInt64
)

// step is done or checked at a moment.
type step struct {
	at time.Duration
	do func(t assert.TestingT, b *Bucket, now Time)
}

func charge(n int64) func(assert.TestingT, *Bucket, Time) {
	return func(_ assert.TestingT, b *Bucket, now Time) { b.Charge(now, n) }
}

func refund(n int64, since time.Duration) func(assert.TestingT, *Bucket, Time) {
	return func(_ assert.TestingT, b *Bucket, now Time) { b.Refund(now, Time(since), n) }
}

func limit(n int64) func(assert.TestingT, *Bucket, Time) {
	return func(_ assert.TestingT, b *Bucket, now Time) { b.SetLimit(now, n) }
}

func used(n int64) func(assert.TestingT, *Bucket, Time) {
	return func(t assert.TestingT, b *Bucket, now Time) { assert.Equal(t, n, b.Used(now), "used") }
}

func reset(at time.Duration) func(assert.TestingT, *Bucket, Time) {
	return func(t assert.TestingT, b *Bucket, now Time) {
		assert.Equal(t, Time(at), b.Status(now).ResetAt, "ResetAt")
	}
}

func fitsNow(n int64) func(assert.TestingT, *Bucket, Time) {
	return func(t assert.TestingT, b *Bucket, now Time) { assert.True(t, b.Fits(now, n), "%d fits", n) }
}

// opens checks that n fits at a moment to come, and not one nanosecond before.
func opens(n int64, at time.Duration) func(assert.TestingT, *Bucket, Time) {
	return func(t assert.TestingT, b *Bucket, now Time) {
		got, byEvent := b.FitAt(now, n)
		assert.Equal(t, at, time.Duration(got), "moment at which %d fits", n)
		assert.False(t, byEvent)
		later := clone(b) // looking ahead would move the bucket
		assert.False(t, later.Fits(got-1, n), "%d fits a nanosecond early", n)
		assert.True(t, later.Fits(got, n), "%d does not fit at %v", n, at)
	}
}

func newTestBucket(now Time, l Limit, holds bool, delta time.Duration) *Bucket {
	b := &Bucket{}
	b.Init(now, l, Terms{Holds: holds, Delta: delta})
	return b
}

func clone(b *Bucket) *Bucket {
	c := new(Bucket)
	*c = *b
	switch w := b.counter.(type) {
	case *tokenBucket:
		c.tokens.terms = &c.terms
		c.counter = &c.tokens
	case *slidingWindow:
		s := *w
		s.terms = &c.terms
		c.counter = &s
	case *fixedWindow:
		f := *w
		f.terms = &c.terms
		c.counter = &f
	}
	return c
}

func run(t *testing.T, l Limit, delta time.Duration, steps []step) {
	t.Helper()
	l.Dimension = provider.InputTokens
	b := newTestBucket(0, l, false, delta)
	for i, s := range steps {
		s.do(named{t, fmt.Sprintf("step %d at %v: ", i, s.at)}, b, Time(s.at))
	}
}

type named struct {
	t    *testing.T
	step string
}

func (n named) Errorf(format string, args ...any) {
	n.t.Helper()
	n.t.Errorf("%s"+format, append([]any{n.step}, args...)...)
}

// 60 a minute refill at one a second; with delta = 2 s the burst is 58.
func TestTokenBucket(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64
		delta time.Duration
		steps []step
	}{
		"a burst is the limit less what refills in delta": {60, 2 * sec, []step{
			{0, fitsNow(58)}, {0, charge(58)}, {0, opens(1, 1*sec)}, {0, opens(58, 58*sec)}, {30 * sec, used(28)},
		}},
		"a larger ask waits until the bucket was full for delta": {60, 2 * sec, []step{
			{0, charge(1)}, {0, opens(58, 1*sec)}, {0, opens(59, 3*sec)}, {0, opens(60, 3*sec)},
		}},
		"one a minute works": {1, 2 * sec, []step{
			{0, fitsNow(1)}, {0, charge(1)}, {0, opens(1, 62*sec)}, {62 * sec, charge(1)}, {62 * sec, opens(1, 124*sec)},
		}},
		"what is unused does not pile up": {60, 0, []step{
			{3600 * sec, fitsNow(60)}, {3600 * sec, charge(60)}, {3600 * sec, opens(1, 3601*sec)},
		}},
		"debt delays": {60, 0, []step{
			{0, charge(90)}, {0, used(90)}, {0, opens(1, 31*sec)}, {0, reset(90 * sec)}, {31 * sec, charge(1)}, {31 * sec, opens(1, 32*sec)},
		}},
		"an ask above a learned limit waits for an empty bucket": {60, 2 * sec, []step{
			{0, charge(10)}, {0, opens(100, 12*sec)}, {0, opens(all, 12*sec)},
		}},
		"a refund at once is in full": {60, 2 * sec, []step{
			{0, charge(10)}, {0, charge(20)}, {0, refund(10, 0)}, {0, used(20)},
		}},
		"a refund brings back no more than is still there": {60, 0, []step{
			{0, charge(10)}, {30 * sec, charge(10)}, {30 * sec, refund(10, 0)}, {30 * sec, used(10)},
		}},
		"part of a refund is still there": {60, 0, []step{
			{0, charge(30)}, {10 * sec, charge(10)}, {10 * sec, refund(30, 0)}, {10 * sec, used(10)},
		}},
		"a refund is not there a second time": {60, 0, []step{
			{0, charge(10)}, {0, charge(10)}, {15 * sec, charge(20)}, {15 * sec, used(25)},
			{15 * sec, refund(10, 0)}, {15 * sec, used(20)}, {15 * sec, refund(10, 0)}, {15 * sec, used(20)},
		}},
		"a later charge comes back though an earlier one has refilled": {60, 0, []step{
			{0, charge(10)}, {30 * sec, charge(10)}, {31 * sec, charge(10)}, {31 * sec, refund(10, 31*sec)}, {31 * sec, used(9)},
		}},
		"a refund never leaves less than nothing": {60, 0, []step{
			{0, charge(10)}, {9 * sec, refund(10, 0)}, {9 * sec, used(0)}, {9 * sec, fitsNow(60)},
		}},
		"a cut keeps the amount": {1000, 0, []step{
			{0, charge(500)}, {0, limit(500)}, {0, used(500)}, {0, opens(50, 6*sec)}, {0, reset(60 * sec)},
		}},
		"a cut counts what the provider may not have refilled yet": {1000, 2 * sec, []step{
			{0, charge(500)}, {30 * sec, limit(500)}, {30 * sec, used(17)}, {30 * sec, opens(475, 31*sec)},
		}},
		"but no more than was charged": {1000, 2 * sec, []step{
			{0, charge(500)}, {0, limit(500)}, {0, used(500)}, {0, opens(50, 8*sec)},
		}},
		"a rise keeps the amount": {500, 0, []step{
			{0, charge(500)}, {0, limit(1000)}, {0, used(500)}, {0, fitsNow(500)}, {0, opens(501, 60*time.Millisecond)},
		}},
		"a refund after a cut is measured in amounts": {1000, 0, []step{
			{0, charge(500)}, {15 * sec, charge(250)}, {15 * sec, limit(500)}, {15 * sec, used(500)},
			{15 * sec, refund(500, 0)}, {15 * sec, used(250)},
		}},
		"the largest amount does not overflow": {60, 2 * sec, []step{
			{0, charge(all)}, {1, charge(all)}, {2, opens(1, Longest+1-57*sec)}, {2, limit(1)}, {2, limit(all)}, {3, refund(all, 0)}, {3, charge(1)},
		}},
		"the largest limit does not overflow": {all, 2 * sec, []step{
			{0, charge(all)}, {0, used(Longest)}, {0, opens(all, 62*sec)}, {0, limit(1)}, {0, charge(all)}, {1, refund(all, 0)}, {1, charge(1)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, Limit{Window: time.Minute, Amount: c.limit, Kind: provider.Refilling}, c.delta, c.steps)
		})
	}
}

// A minute and 4 s of delta make slices of 2 s: slice i covers [2i, 2i+2) and
// counts until 64 s after its end.
func TestSlidingWindow(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64
		steps []step
	}{
		"a slice counts until all of it is out of window and delta": {60, []step{
			{0, fitsNow(60)}, {1 * sec, charge(60)}, {1 * sec, opens(1, 66*sec)}, {1 * sec, reset(66 * sec)}, {66 * sec, used(0)},
		}},
		"nothing refills in between": {60, []step{
			{0, charge(60)}, {65 * sec, used(60)}, {66 * sec, used(0)},
		}},
		"slices go one by one": {60, []step{
			{0, charge(20)}, {10 * sec, charge(40)}, {10 * sec, opens(20, 66*sec)}, {10 * sec, opens(21, 76*sec)}, {10 * sec, reset(76 * sec)},
		}},
		"a refund comes out of its own slice": {60, []step{
			{0, charge(30)}, {10 * sec, charge(30)}, {10 * sec, refund(30, 0)}, {10 * sec, used(30)}, {10 * sec, opens(31, 76*sec)},
		}},
		"a refund of what is gone is nothing": {60, []step{
			{0, charge(30)}, {60 * sec, charge(30)}, {66 * sec, refund(30, 0)}, {66 * sec, used(30)},
		}},
		"debt delays": {60, []step{
			{0, charge(61)}, {10 * sec, charge(59)}, {10 * sec, opens(1, 66*sec)}, {10 * sec, opens(2, 76*sec)},
		}},
		"an ask above a learned limit waits for an empty window": {60, []step{
			{0, charge(1)}, {0, opens(100, 66*sec)}, {66 * sec, fitsNow(all)},
		}},
		"a cut keeps the amount": {1000, []step{
			{0, charge(500)}, {0, limit(500)}, {0, used(500)}, {0, opens(1, 66*sec)},
		}},
		"a long silence empties it": {60, []step{{0, charge(60)}, {1000 * sec, used(0)}, {1000 * sec, charge(60)}, {1000 * sec, opens(1, 1066*sec)}}},
		"the largest amount does not overflow": {60, []step{
			{0, charge(all)}, {0, charge(all)}, {0, opens(1, 66*sec)}, {0, refund(all, 0)}, {0, used(0)}, {0, limit(all)}, {0, charge(all)}, {0, charge(1)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, Limit{Window: time.Minute, Amount: c.limit, Kind: provider.Sliding}, 4*sec, c.steps)
		})
	}
}

// The provider resets at 30 s and then every minute, by a clock that may be a
// second from ours; a request may arrive 2 s after its grant.
func TestFixedWindow(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64
		steps []step
	}{
		"opens when the reset has surely passed": {60, []step{
			{0, fitsNow(60)}, {0, charge(60)}, {0, opens(1, 31*sec)}, {0, reset(31 * sec)}, {31 * sec, used(0)}, {31 * sec, reset(91 * sec)},
		}},
		"what may arrive after the reset counts on both sides": {60, []step{
			{27 * sec, charge(10)}, {27 * sec, opens(51, 91*sec)}, {31 * sec, used(10)}, {31 * sec, opens(51, 91*sec)}, {91 * sec, used(0)},
		}},
		"what arrives before the reset does not": {60, []step{
			{27*sec - 1, charge(10)}, {31 * sec, used(0)},
		}},
		"a full carry closes the next window too": {60, []step{{27 * sec, charge(60)}, {27 * sec, opens(1, 91*sec)}}},
		"a refund in the window comes back": {60, []step{
			{0, charge(20)}, {1 * sec, charge(10)}, {2 * sec, refund(20, 0)}, {2 * sec, used(10)},
		}},
		"a refund after the reset is nothing": {60, []step{
			{0, charge(20)}, {31 * sec, charge(10)}, {32 * sec, refund(20, 0)}, {32 * sec, used(10)},
		}},
		"a refund leaves what counts in the next window": {60, []step{
			{0, charge(20)}, {28 * sec, charge(10)}, {28 * sec, refund(30, 0)}, {28 * sec, used(10)}, {31 * sec, used(10)},
		}},
		"many windows may pass":     {60, []step{{27 * sec, charge(60)}, {1000 * sec, used(0)}, {1000 * sec, reset(1051 * sec)}}},
		"a cut keeps the amount":    {1000, []step{{0, charge(500)}, {0, limit(500)}, {0, used(500)}, {0, opens(1, 31*sec)}}},
		"debt ends with its window": {60, []step{{0, charge(90)}, {0, opens(1, 31*sec)}}},
		"an ask above a learned limit waits for an empty window": {60, []step{
			{0, charge(1)}, {0, opens(100, 31*sec)}, {31 * sec, fitsNow(all)},
		}},
		"the largest amount does not overflow": {60, []step{
			{27 * sec, charge(all)}, {28 * sec, charge(all)}, {28 * sec, opens(1, 91*sec)}, {29 * sec, refund(all, 0)}, {91 * sec, used(0)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, Limit{Window: time.Minute, Amount: c.limit, Kind: provider.Fixed, Reset: Time(30 * sec)}, 2*sec, c.steps)
		})
	}
}

// What is held does not drain, and what it leaves is all that fits.
func TestHeldAmounts(t *testing.T) {
	b := newTestBucket(0, Limit{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 60, Kind: provider.Refilling}, true, 2*sec)
	b.Take(0, 50)
	assert.True(t, b.Fits(0, 10))
	assert.False(t, b.Fits(0, 11))
	assert.False(t, b.Fits(Time(29*sec), 11), "held amounts do not drain")
	at, byEvent := b.FitAt(0, 11)
	assert.Equal(t, Time(30*sec), at, "half the window is as long as it is held")
	assert.True(t, byEvent)
	assert.Equal(t, int64(10), b.Remaining(0))
	assert.Equal(t, Time(50*sec), b.Load(0), "what is held is load, too")
}

func TestSlots(t *testing.T) {
	b := newTestBucket(0, Limit{Dimension: provider.Concurrency, Amount: 2}, false, 2*sec)
	b.Take(0, 1)
	assert.True(t, b.Fits(0, 1))
	b.Take(0, 1)
	assert.False(t, b.Fits(Time(time.Hour), 1), "time frees no slot")
	at, byEvent := b.FitAt(0, 1)
	assert.Equal(t, Never, at)
	assert.True(t, byEvent)
	b.Hold(-1)
	assert.True(t, b.Fits(0, 1))
}

// In a window shorter than delta a refilling bucket has no room for a burst, and
// would serve one ask after another. Counted as a sliding one, it serves the limit
// in each window and delta.
func TestWindowShorterThanDeltaIsUsed(t *testing.T) {
	b := newTestBucket(0, Limit{Window: time.Second, Amount: 10, Kind: provider.Refilling}, false, 2*time.Second)
	served := 0
	for now := Time(0); now < Time(60*sec); now += Time(sec / 10) {
		for b.Fits(now, 1) {
			b.Charge(now, 1)
			served++
		}
	}
	assert.InDelta(t, 10*60/3, served, 20)
}
