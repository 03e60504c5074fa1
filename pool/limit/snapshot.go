package limit

import "time"

// Snapshot is what is charged to a limit, in the terms of its counter. Moments are told
// as time left, so that whoever restores it need not know how long it has been kept.
type Snapshot struct {
	Used    int64
	Backlog time.Duration // token bucket: until it is full
	Slices  []int64       // sliding window: newest first
	Slice   time.Duration // sliding window: the length of each slice
	Past    int64         // fixed window: the part of Used that ends with this window
	Reset   time.Duration // fixed window: until it has certainly ended
	Ends    time.Time     // fixed window: its end by the provider's clock, if that is known
}

// Age makes a snapshot of one moment that of a later moment on the same clock, as if nothing
// had been charged in between.
func (s *Snapshot) Age(from, to Time) {
	d := to.Sub(from)
	switch {
	case d <= 0:
	case s.Reset > 0:
		if s.Reset -= d; s.Reset <= 0 { // what was charged for the window after it stays
			s.Used = max(0, s.Used-s.Past)
			s.Past, s.Reset, s.Ends = 0, 0, time.Time{}
		}
	case s.Backlog > 0:
		left := max(0, s.Backlog-d)
		s.Used = MulDivUp(s.Used, int64(left), int64(s.Backlog))
		s.Backlog = left
	case s.Slice > 0:
		s.slide(int64(to)/int64(s.Slice) - int64(from)/int64(s.Slice))
	}
}

// slide makes all slices older by n, and drops those that do not count any more.
func (s *Snapshot) slide(n int64) {
	keep := max(0, min(int64(len(s.Slices)), sliceCount+1-n))
	for _, gone := range s.Slices[keep:] {
		s.Used = max(0, s.Used-gone)
	}
	if keep == 0 {
		s.Slices, s.Slice = nil, 0
		return
	}
	s.Slices = append(make([]int64, n, n+keep), s.Slices[:keep]...)
}

// Snapshot returns what is charged. What is held is not part of it.
func (b *Bucket) Snapshot(now Time) Snapshot {
	b.agree(now)
	return b.front().counter.snapshot(now)
}

// Restore begins with what was charged to a limit of the given amount, which may have
// been another one than ours, and with what may have been granted ahead of that until a
// moment. What does not fit, because the limit is counted in another way now, is
// charged anew.
func (b *Bucket) Restore(now, until Time, s *Snapshot, limit, ahead int64) {
	b.counter.restore(now, until, s, limit)
	b.counter.charge(until, ahead)
}

// Exhaust takes n for used, but at least all of the limit, by grants until a moment. No refund
// of an older lease counts afterwards: what is used is not known, and may be beside what was
// charged.
func (b *Bucket) Exhaust(until Time, n int64) {
	n = max(n, b.limit)
	b.counter.exhaust(until, n)
	if b.stated != nil {
		b.stated.counter.exhaust(until, n)
	}
	b.loosenedAt = max(b.loosenedAt, until+1)
}

// Clear takes a long window for unused, at an operator's word. A window of a minute or
// less is not worth it. No refund of an older lease counts afterwards.
func (b *Bucket) Clear(now Time) {
	if Long(b.window) {
		b.counter.clear(now)
		b.stated = nil
		b.loosenedAt = now + 1
	}
}

// HoldOrphaned holds n for leases of a predecessor. The write-ahead mark does not move,
// since nobody is given any of it.
func (b *Bucket) HoldOrphaned(n int64) {
	b.hold(n)
	b.notePeak()
}

// SettleOrphaned ends the hold of n at a moment that may have passed already, and charges
// it: it may have been used at the last moment.
func (b *Bucket) SettleOrphaned(at Time, n int64) {
	b.counter.charge(at, n)
	if b.stated != nil {
		b.stated.counter.charge(at, n)
	}
	b.hold(-n)
}
