package sim

import "time"

// SlidingWindow is a limit on what happened in the last window, kept as an
// exact log: an event at t counts until, but not at, t + window.
type SlidingWindow struct {
	limit  int64
	window time.Duration
	last   latest
	used   int64
	log    []event // oldest first
}

type event struct {
	at time.Duration
	n  int64
}

// NewSlidingWindow returns an unused account of limit units in any window.
// It panics if limit is negative or window is not positive.
func NewSlidingWindow(limit int64, window time.Duration) *SlidingWindow {
	check(limit, window)
	return &SlidingWindow{limit: limit, window: window}
}

// Take implements [Limiter].
func (s *SlidingWindow) Take(at time.Duration, n int64) bool {
	if n > s.Remaining(at) {
		return false
	}
	s.Charge(at, n)
	return true
}

// Charge implements [Limiter].
func (s *SlidingWindow) Charge(at time.Duration, n int64) {
	now := s.forget(at)
	if n == 0 {
		return
	}
	s.used += n
	s.log = append(s.log, event{now, n})
}

// Remaining implements [Limiter].
func (s *SlidingWindow) Remaining(at time.Duration) int64 {
	s.forget(at)
	return s.limit - s.used
}

// Until implements [Limiter].
func (s *SlidingWindow) Until(at time.Duration, n int64) time.Duration {
	now := s.forget(at)
	if n > s.limit {
		return Never
	}
	room := s.limit - s.used
	wait := time.Duration(0)
	for _, e := range s.log {
		if room >= n {
			break
		}
		room += e.n
		wait = e.at + s.window - now
	}
	return wait
}

// UntilFull implements [Limiter].
func (s *SlidingWindow) UntilFull(at time.Duration) time.Duration {
	return s.Until(at, s.limit)
}

// SetLimit implements [Limiter].
func (s *SlidingWindow) SetLimit(at time.Duration, limit int64) {
	check(limit, s.window)
	s.forget(at)
	s.limit = limit
}

// forget drops the events that no longer count, and returns the time to use.
func (s *SlidingWindow) forget(at time.Duration) (now time.Duration) {
	now, _ = s.last.advance(at)
	for len(s.log) > 0 && now-s.log[0].at >= s.window {
		s.used -= s.log[0].n
		s.log = s.log[1:]
	}
	return now
}
