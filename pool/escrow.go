package pool

import "time"

// escrow is how far a limit may be charged before that must be written down, for
// windows so long that a crash must not forget them. What is written down is what
// was used at some moment, and an amount ahead of that; whoever comes after us
// begins with both charged. So what is charged within that amount may be given out
// at once, and what is beyond it after the next writing.
type escrow struct {
	left  int64 // that may be charged yet; below 0 there is what nobody may have yet
	since int64 // charged since the last State
	ahead int64 // of the last State
	dirty *bool // the pool's
}

// escrowPart is the part of a limit that is written ahead, and so what may be
// lost in a crash.
const escrowPart = 100

// long reports whether a window is remembered across a crash. Of one that is not,
// it is enough to know that it may be used up.
func long(window time.Duration) bool { return window > time.Minute }

// step is nothing where the limit is so low that each grant can wait for a writing.
func (b *bucket) step() int64 { return b.limit / escrowPart }

// escrowed takes note of n that were charged or set aside; negative: given back.
func (b *bucket) escrowed(n int64) {
	e := b.escrow
	if e == nil {
		return
	}
	e.left = min(e.left-n, b.step()) // what a crash may lose does not grow with what comes back
	e.since = max(e.since+n, 0)
	if n > 0 && e.left < b.step()/2 || e.left < 0 {
		*e.dirty = true
	}
}

// covered reports whether all that was charged is written down, or may be.
func (b *bucket) covered() bool { return b.escrow == nil || b.escrow.left >= 0 }

// ahead begins a new amount, which holds once it has been written down. Until
// then what is left of the last one goes on.
func (b *bucket) ahead(dirty *bool) int64 {
	if b.escrow == nil {
		b.escrow = &escrow{dirty: dirty}
	}
	b.escrow.since, b.escrow.ahead = 0, max(b.step(), b.escrow.left)
	return b.escrow.ahead
}

// saved takes note that the amount has been written down.
func (b *bucket) saved() {
	if e := b.escrow; e != nil {
		e.left = e.ahead - e.since
	}
}
