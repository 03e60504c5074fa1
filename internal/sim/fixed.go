package sim

import "time"

// FixedWindow is a limit on a count that returns to zero at every reset,
// debt included: such a provider forgets.
type FixedWindow struct {
	limit  int64
	window time.Duration
	last   latest
	reset  time.Duration
	used   int64
}

// NewFixedWindow returns an unused account of limit units per window. The
// first window ends at reset, the others a window apart; a reset in the past
// only fixes their phase. It panics if limit is negative or window is not
// positive.
func NewFixedWindow(limit int64, window, reset time.Duration) *FixedWindow {
	check(limit, window)
	return &FixedWindow{limit: limit, window: window, reset: reset}
}

// Take implements [Limiter].
func (f *FixedWindow) Take(at time.Duration, n int64) bool {
	f.roll(at)
	if n > f.limit-f.used {
		return false
	}
	f.used += n
	return true
}

// Charge implements [Limiter].
func (f *FixedWindow) Charge(at time.Duration, n int64) {
	f.roll(at)
	f.used += n
}

// Remaining implements [Limiter].
func (f *FixedWindow) Remaining(at time.Duration) int64 {
	f.roll(at)
	return f.limit - f.used
}

// Until implements [Limiter].
func (f *FixedWindow) Until(at time.Duration, n int64) time.Duration {
	now := f.roll(at)
	switch {
	case n > f.limit:
		return Never
	case n <= f.limit-f.used:
		return 0
	}
	return f.reset - now
}

// UntilFull implements [Limiter].
func (f *FixedWindow) UntilFull(at time.Duration) time.Duration {
	return f.Until(at, f.limit)
}

// Reset is the time from at to the end of the current window, whether
// anything was used in it or not.
func (f *FixedWindow) Reset(at time.Duration) time.Duration {
	return f.reset - f.roll(at)
}

// SetLimit implements [Limiter].
func (f *FixedWindow) SetLimit(at time.Duration, limit int64) {
	check(limit, f.window)
	f.roll(at)
	f.limit = limit
}

// roll enters the window that at lies in, and returns the time to use. A
// window begins with its reset.
func (f *FixedWindow) roll(at time.Duration) (now time.Duration) {
	now, _ = f.last.advance(at)
	if now >= f.reset {
		f.reset += ((now-f.reset)/f.window + 1) * f.window
		f.used = 0
	}
	return now
}
