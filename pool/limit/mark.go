package limit

import "time"

// kept is what a bucket must know of the records that say how it stands.
//
// Of a long window, which a crash must not forget, a record says what was used at some
// moment, and an amount ahead of it; whoever recovers from the record begins with both
// charged. So what is charged within that amount may be given out at once, and the rest when
// the next record has been saved.
//
// Of a limit that holds amounts, a record says the most that was held at one time.
type kept struct {
	changed func() // called when a new record is needed

	left  int64 // may still be charged; below 0: some charges are not durable yet
	since int64 // charged since the last snapshot
	ahead int64 // of the last snapshot

	peak     int64 // the most that was held since the last snapshot that was saved
	after    int64 // the most that was held since the last snapshot
	stated   int64 // the peak in the last snapshot
	recorded int64 // the peak in the last snapshot that was saved
}

// AheadPart is the part of a limit that is written ahead: what a crash may waste.
const AheadPart = 100

// Long reports whether a window is remembered across a crash. A shorter one is taken
// for used up instead.
func Long(window time.Duration) bool { return window > time.Minute }

// step is what is written ahead. It is 0 for a limit so low that each grant can wait
// for a save.
func (b *Bucket) step() int64 { return b.limit / AheadPart }

// Keep says that records are saved from now on, none of which has the bucket yet: of a long
// window, every grant needs a save first. changed is called whenever a new record is needed.
func (b *Bucket) Keep(changed func()) {
	if b.kept == nil && (Long(b.window) || b.holds) {
		b.kept = &kept{changed: changed, peak: b.held, after: b.held}
	}
}

// writesAhead reports whether the bucket has a write-ahead mark.
func (b *Bucket) writesAhead() bool { return b.kept != nil && Long(b.window) }

// spend takes note of n that were charged or held; below 0, returned.
func (b *Bucket) spend(n int64) {
	if !b.writesAhead() {
		return
	}
	k := b.kept
	k.left = min(k.left-n, b.step()) // what a crash may waste does not grow by refunds
	k.since = max(k.since+n, 0)
	if n > 0 && k.left < b.step()/2 || k.left < 0 {
		k.changed()
	}
}

// notePeak takes note of what is held.
func (b *Bucket) notePeak() {
	k := b.kept
	if k == nil || b.held <= k.after {
		return
	}
	k.after, k.peak = b.held, max(k.peak, b.held)
	if b.held > k.recorded {
		k.changed()
	}
}

// Durable reports whether all that was charged is saved or covered by the amount ahead.
func (b *Bucket) Durable() bool { return !b.writesAhead() || b.kept.left >= 0 }

// Stated is what a record says of a bucket beside its snapshot.
type Stated struct {
	Ahead int64 // may have been charged since; 0 for a window that is not long
	Peak  int64 // the most that was held since the last record that was saved; 0 for a limit that holds nothing
}

// State begins a new amount ahead and a new peak. They count once the record has been saved;
// until then what is left of the last amount does.
func (b *Bucket) State() (s Stated) {
	k := b.kept
	if k == nil {
		return s
	}
	if Long(b.window) {
		k.since, k.ahead = 0, max(b.step(), k.left)
		s.Ahead = k.ahead
	}
	k.stated, k.after = k.peak, b.held
	s.Peak = k.stated
	return s
}

// Saved takes note that the record of the last State has been saved.
func (b *Bucket) Saved() {
	if k := b.kept; k != nil {
		k.left = k.ahead - k.since
		k.recorded, k.peak = k.stated, k.after
	}
}
