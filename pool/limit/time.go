package limit

import (
	"math"
	"math/bits"
	"time"
)

// Time is a moment on the owner's monotonic clock: nanoseconds since an origin of
// the owner's choosing, and not before it.
type Time int64

// Never is later than every moment.
const Never Time = math.MaxInt64

// Add returns the moment d later, or Never if that moment cannot be represented.
func (t Time) Add(d time.Duration) Time {
	if s := t + Time(d); d < 0 || s >= t {
		return s
	}
	return Never
}

// Sub returns the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Longest bounds every duration and amount that is computed here, so that a sum of
// a few cannot overflow. As a duration it is more than 70 years.
const Longest = math.MaxInt64 / 4

// MulDiv returns a·b/c for a, b ≥ 0 and c > 0, rounded down and at most Longest. The
// product is exact: a billion tokens times a day in nanoseconds exceeds 64 bits.
func MulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return div(hi, lo, c)
}

// MulDivUp is MulDiv rounded up.
func MulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	lo, carry := bits.Add64(lo, uint64(c-1), 0)
	return div(hi+carry, lo, c)
}

func div(hi, lo uint64, c int64) int64 {
	if hi >= uint64(c) {
		return Longest
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, uint64(Longest)))
}
