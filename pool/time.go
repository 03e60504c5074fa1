package pool

import (
	"math"
	"math/bits"
	"time"
)

// Time is a moment on the owner's monotonic clock: nanoseconds since an origin
// of the owner's choosing, not before it. The engine never reads a clock; every
// decision is given its moment.
type Time int64

// Never is later than any moment.
const Never Time = math.MaxInt64

// Add gives the moment d later, and Never if that is beyond all moments.
func (t Time) Add(d time.Duration) Time {
	if s := t + Time(d); d < 0 || s >= t {
		return s
	}
	return Never
}

// Sub gives the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// longest bounds every duration that is computed from amounts, so that sums of
// a few cannot overflow. It is over 70 years.
const longest = time.Duration(math.MaxInt64 / 4)

// mulDiv gives a·b/c for a, b ≥ 0 and c > 0, rounded down, and longest if it is
// more than that. The product is exact: a billion tokens times a day does not
// fit 64 bits.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return int64(longest)
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, uint64(longest)))
}

// mulDivUp is mulDiv rounded up.
func mulDivUp(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	lo, carry := bits.Add64(lo, uint64(c-1), 0)
	hi += carry
	if hi >= uint64(c) {
		return int64(longest)
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, uint64(longest)))
}
