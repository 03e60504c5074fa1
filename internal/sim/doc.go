// Package sim keeps a provider's own accounts: exact reference limiters
// that say what a provider would have admitted.
//
// They are the judge of the engine and the heart of the sandbox, so they
// share no code with package pool and prefer the obvious to the fast:
//
//   - [TokenBucket] refills continuously (Anthropic, OpenAI, Groq);
//   - [SlidingWindow] remembers every event of the last window;
//   - [FixedWindow] counts until a reset (GitHub's hour, Gemini's day).
//
// Time is virtual: a [time.Duration] since an origin that the caller chose.
// Nothing here reads a clock. A time before the latest one seen is treated
// as the latest one, so an account never runs backwards. All arithmetic is
// in integers and exact to the nanosecond.
//
// A limiter is not safe for concurrent use; its owner holds the lock.
package sim

import (
	"math"
	"time"
)

// Never is the wait that does not end: the amount exceeds the limit itself.
const Never = time.Duration(math.MaxInt64)

// Limiter is one account. Amounts are whole units (requests or tokens) and
// not negative.
type Limiter interface {
	// Take charges n if n fits, and otherwise charges nothing and reports
	// false.
	Take(at time.Duration, n int64) bool

	// Charge counts n whether it fits or not; the account may fall below
	// zero.
	Charge(at time.Duration, n int64)

	// Remaining is the largest amount that fits now, or, of an overdrawn
	// account, the debt as a negative number. Fractions are rounded down.
	Remaining(at time.Duration) int64

	// Until is the time from at to the first moment at which n would fit if
	// nothing else were charged: 0 if it fits now, [Never] if n exceeds the
	// limit.
	Until(at time.Duration, n int64) time.Duration

	// UntilFull is the time from at to the first moment at which nothing is
	// counted any more, if nothing else is charged.
	UntilFull(at time.Duration) time.Duration

	// SetLimit changes the limit. The amount used stays what it was, so a
	// lower limit may leave a debt.
	SetLimit(at time.Duration, limit int64)
}

// latest is the newest time an account has seen; the one place that handles
// a clock going backwards.
type latest time.Duration

// advance moves to at, and returns the time to use and how far it moved.
func (l *latest) advance(at time.Duration) (now, elapsed time.Duration) {
	prev := time.Duration(*l)
	now = max(prev, at)
	*l = latest(now)
	return now, now - prev
}
