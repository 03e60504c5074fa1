package limit

import "time"

// writeAhead is how far a limit may be charged before that must be saved. It exists
// for windows that a crash must not forget. A record says what was used at some moment,
// and an amount ahead of it; whoever recovers from the record begins with both charged.
// So what is charged within that amount may be given out at once, and the rest when
// the next record has been saved.
type writeAhead struct {
	left  int64 // may still be charged; below 0 there are charges that nobody may have yet
	since int64 // charged since the last snapshot
	ahead int64 // of the last snapshot
	dirty *bool // set when a new record is needed
}

// AheadPart is the part of a limit that is written ahead: what a crash may waste.
const AheadPart = 100

// Long reports whether a window is remembered across a crash. A shorter one is taken
// for used up instead.
func Long(window time.Duration) bool { return window > time.Minute }

// step is what is written ahead. It is 0 for a limit so low that each grant can wait
// for a save.
func (b *Bucket) step() int64 { return b.limit / AheadPart }

// KeepAhead starts the write-ahead mark of a long window with nothing ahead: every
// grant needs a save first. dirty is set whenever a new record is needed.
func (b *Bucket) KeepAhead(dirty *bool) {
	if Long(b.window) && b.ahead == nil {
		b.ahead = &writeAhead{dirty: dirty}
	}
}

// spend takes note of n that were charged or held; below 0, returned.
func (b *Bucket) spend(n int64) {
	a := b.ahead
	if a == nil {
		return
	}
	a.left = min(a.left-n, b.step()) // what a crash may waste does not grow by refunds
	a.since = max(a.since+n, 0)
	if n > 0 && a.left < b.step()/2 || a.left < 0 {
		*a.dirty = true
	}
}

// Durable reports whether all that was charged is saved or covered by the amount ahead.
func (b *Bucket) Durable() bool { return b.ahead == nil || b.ahead.left >= 0 }

// Ahead begins a new amount ahead and returns it. It is 0 for a window that is not
// long. It counts once the record has been saved; until then what is left of the last
// one does.
func (b *Bucket) Ahead() int64 {
	if b.ahead == nil {
		return 0
	}
	b.ahead.since, b.ahead.ahead = 0, max(b.step(), b.ahead.left)
	return b.ahead.ahead
}

// Saved takes note that the record of the last Ahead has been saved.
func (b *Bucket) Saved() {
	if a := b.ahead; a != nil {
		a.left = a.ahead - a.since
	}
}
