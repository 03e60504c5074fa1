package limit

import "time"

// Snapshot is what is charged to a limit, in the terms of its counter. Moments are told
// as time left, so that whoever restores it need not know how long it has been kept.
type Snapshot struct {
	Used    int64         `json:"used,omitempty"`
	Backlog time.Duration `json:"backlog,omitempty"` // token bucket: until it is full
	Slices  []int64       `json:"slices,omitempty"`  // sliding window: newest first
	Slice   time.Duration `json:"slice,omitempty"`   // sliding window: the length of each slice
	Past    int64         `json:"past,omitempty"`    // fixed window: the part of Used that ends with this window
	Reset   time.Duration `json:"reset,omitempty"`   // fixed window: until it has certainly ended
	Ends    time.Time     `json:"ends,omitzero"`     // fixed window: its end by the provider's clock, if that is known
}

// Snapshot returns what is charged. What is held is not part of it.
func (b *Bucket) Snapshot(now Time) Snapshot { return b.counter.snapshot(now) }

// Restore begins with what was charged to a limit of the given amount, which may have
// been another one than ours, and with what may have been granted ahead of that until a
// moment. What does not fit, because the limit is counted in another way now, is
// charged anew.
func (b *Bucket) Restore(now, until Time, s *Snapshot, limit, ahead int64) {
	b.counter.restore(now, until, s, limit)
	b.counter.charge(until, ahead)
}

// Exhaust takes all of the limit for used, by grants until a moment. No refund of an older
// lease counts afterwards: what is used is not known, and may be beside what was charged.
func (b *Bucket) Exhaust(until Time) {
	b.counter.exhaust(until)
	b.loosenedAt = max(b.loosenedAt, until+1)
}

// Clear takes a long window for unused, at an operator's word. A window of a minute or
// less is not worth it. No refund of an older lease counts afterwards.
func (b *Bucket) Clear(now Time) {
	if Long(b.window) {
		b.counter.clear(now)
		b.loosenedAt = now
	}
}

// HoldOrphaned holds n for leases of a predecessor. The write-ahead mark does not move,
// since nobody is given any of it.
func (b *Bucket) HoldOrphaned(n int64) { b.held += n }

// SettleOrphaned ends the hold of n at a moment that may have passed already, and charges
// it: it may have been used at the last moment.
func (b *Bucket) SettleOrphaned(at Time, n int64) {
	b.counter.charge(at, n)
	b.held -= n
}
