package sim

import (
	"math"
	"math/bits"
	"time"
)

// TokenBucket is a limit that refills continuously: it starts full, and what
// was used comes back at limit/window, evenly, up to the limit.
type TokenBucket struct {
	limit  int64
	window time.Duration
	last   latest

	// The level is whole + part/window, with 0 ≤ part < window. Keeping the
	// remainder of every refill instead of rounding it is what makes the
	// bucket exact.
	whole int64
	part  uint64
}

// NewTokenBucket returns a full bucket of limit units per window. It panics
// if limit is negative or window is not positive.
func NewTokenBucket(limit int64, window time.Duration) *TokenBucket {
	check(limit, window)
	return &TokenBucket{limit: limit, window: window, whole: limit}
}

// Take implements [Limiter].
func (b *TokenBucket) Take(at time.Duration, n int64) bool {
	b.refill(at)
	if n > b.whole {
		return false
	}
	b.whole -= n
	return true
}

// Charge implements [Limiter].
func (b *TokenBucket) Charge(at time.Duration, n int64) {
	b.refill(at)
	b.whole -= n
}

// Remaining implements [Limiter].
func (b *TokenBucket) Remaining(at time.Duration) int64 {
	b.refill(at)
	return b.whole
}

// Until implements [Limiter].
func (b *TokenBucket) Until(at time.Duration, n int64) time.Duration {
	b.refill(at)
	switch {
	case n <= b.whole:
		return 0
	case n > b.limit || b.limit == 0:
		return Never
	}
	// The smallest t with limit·t ≥ (n − whole)·window − part.
	hi, lo := bits.Mul64(uint64(n-b.whole), uint64(b.window))
	lo, borrow := bits.Sub64(lo, b.part, 0)
	hi -= borrow
	if hi >= uint64(b.limit) {
		return Never // further off than a Duration can say
	}
	t, rest := bits.Div64(hi, lo, uint64(b.limit))
	if t >= math.MaxInt64 {
		return Never
	}
	if rest > 0 {
		t++
	}
	return time.Duration(t)
}

// UntilFull implements [Limiter].
func (b *TokenBucket) UntilFull(at time.Duration) time.Duration {
	return b.Until(at, b.limit)
}

// SetLimit implements [Limiter].
func (b *TokenBucket) SetLimit(at time.Duration, limit int64) {
	check(limit, b.window)
	b.refill(at) // the time until now ran at the old rate
	b.whole += limit - b.limit
	b.limit = limit
}

// refill brings the level up to date.
func (b *TokenBucket) refill(at time.Duration) {
	_, elapsed := b.last.advance(at)
	if elapsed == 0 || b.whole >= b.limit {
		return
	}
	// gained = limit·elapsed/window, in 128 bits.
	hi, lo := bits.Mul64(uint64(b.limit), uint64(elapsed))
	lo, carry := bits.Add64(lo, b.part, 0)
	hi += carry
	missing := uint64(b.limit - b.whole)
	if hi >= uint64(b.window) { // gained more than 64 bits can say
		b.whole, b.part = b.limit, 0
		return
	}
	gained, part := bits.Div64(hi, lo, uint64(b.window))
	if gained >= missing {
		b.whole, b.part = b.limit, 0
		return
	}
	b.whole += int64(gained)
	b.part = part
}

// check panics on a limit or window that no account can have: a mistake in
// the program, not in its input.
func check(limit int64, window time.Duration) {
	if limit < 0 || window <= 0 {
		panic("sim: a limit must not be negative, and a window must be positive")
	}
}
