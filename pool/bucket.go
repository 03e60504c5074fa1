package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Limit is a limit as it is configured.
type Limit struct {
	Dimension provider.Dimension
	Name      string        // tells limits on the same thing apart; mostly empty
	Window    time.Duration // 0 for concurrency
	Amount    int64         // over 0
	Kind      provider.Kind // how the provider counts it
	Reset     Time          // the next reset of a Fixed window; 0 if not known
	Shared    bool          // of a group or key: for all models together, not for each class
}

// meter counts what was charged against one limit in its own way. Amounts are
// 0 or more and moments do not go back.
type meter interface {
	// used is what is charged now; more than the limit is debt.
	used(now Time) int64
	// fitAt is the earliest moment at which n fits if nothing else is charged.
	// An n above the limit fits when nothing is charged at all.
	fitAt(now Time, n int64) Time
	// charge counts n, whether it fits or not.
	charge(now Time, n int64)
	// refund gives back n of a charge made at since, as far as it still counts.
	refund(now, since Time, n int64)
	// setLimit changes the limit; the amount used stays what it was.
	setLimit(now Time, limit int64)
	// resetAt is when nothing will be charged any more.
	resetAt(now Time) Time
	// fuse takes in a reading, and gives what others have used beside us, and
	// whether it gave room back.
	fuse(now Time, r *reading, h *history) (foreign int64, freed bool)
	// kind is how it counts, and amounts what is charged, as others may restore it.
	// limit is what theirs was.
	kind() provider.Kind
	amounts(now Time) Amounts
	restore(now Time, a *Amounts, limit int64)
	// empty takes all of the limit for used, by grants until a moment.
	empty(until Time)
}

// bucket is the account of one limit. Beside what its meter has charged it
// holds amounts that are set aside and do not drain: calls that are open, and
// tokens that the provider counts at a moment not known yet.
type bucket struct {
	// What every ask touches comes first, and lies together.
	meter
	dimension  provider.Dimension
	holds      bool // amounts are held until they are known
	bends      bool // an ask above the limit is for all there is
	window     time.Duration
	limit      int64 // in force
	ceiling    int64 // configured: no header lifts the limit above it; 0 if none
	held       int64
	spare      int64     // kept unused since the provider refused where we saw room
	loosenedAt Time      // when a header last gave room back: what was granted before has been accounted for
	history    *history  // since a header first spoke of it: nobody else needs one
	escrow     *escrow   // of a long window, once somebody keeps states
	refilling  refilling // the usual meter, in the same piece of memory

	name        string  // tells limits on the same thing apart
	spareAt     Time    // as of then is spare; it wears off
	raise       int64   // a higher limit that one lease has reported
	raiseBy     LeaseID // that lease
	raiseHolder string
	loweredAt   Time   // what was granted before says nothing of a higher limit
	lowered     int64  // the limit before, if it is lower on the word of one holder; else 0
	loweredBy   string // that holder
	loweredSeen Time   // what it says was so at this moment or later
	unsure      doubt  // on the limit
	unseen      doubt  // on what others use
	claimed     int64  // what one holder says that others use, and nobody else has spoken of since
	claimedBy   string // that holder

	foreign int64 // used by others, as far as headers have shown
	drift   int64 // what the last header said is used, less what we thought
	readAt  Time  // when that was

	clock time.Time  // the provider's at our time 0, if it has told when a fixed window ends
	old   *oldWindow // of a fixed one, when it resets is not known
}

// newBucket makes a bucket that is full. delta is the time that a request may
// take from its grant to the provider; what is held until it is known needs no
// such margin.
func newBucket(now Time, l Limit, holds bool, delta time.Duration) *bucket {
	b := &bucket{}
	b.init(now, l, holds, delta)
	return b
}

func (b *bucket) init(now Time, l Limit, holds bool, delta time.Duration) {
	*b = bucket{dimension: l.Dimension, name: l.Name, window: l.Window, limit: l.Amount, ceiling: l.Amount, holds: holds}
	if holds {
		delta = 0
	}
	switch {
	case l.Dimension == provider.Concurrency:
		b.meter, b.holds = &slots{l.Amount}, true
	case l.Kind == provider.Refilling && delta < l.Window: // else it has no room for a burst
		b.refilling = refilling{limit: l.Amount, window: l.Window, delta: delta, fullAt: now - Time(delta)}
		b.meter = &b.refilling
	case l.Kind == provider.Fixed && l.Reset > 0:
		b.meter = &fixed{limit: l.Amount, window: l.Window, delta: delta, reset: l.Reset}
	default: // safe for any kind, as for a fixed window whose reset is not known
		b.meter = newSliding(l.Amount, l.Window, delta)
	}
}

// fitAt is the earliest moment at which n fits. With more held than leaves room
// for n, time alone brings none: byEvent is true, and the moment is when the
// holds have ended at the latest, Never for open calls.
func (b *bucket) fitAt(now Time, n int64) (at Time, byEvent bool) {
	if b.held > b.limit-n && b.held > 0 {
		if b.window == 0 {
			return Never, true
		}
		return b.meter.fitAt(now, min(n, b.limit)).Add(b.holdFor()), true
	}
	at = b.meter.fitAt(now, b.beside(now, b.held+n))
	if b.spare > 0 && at > now { // by then less may be kept unused
		at = max(b.meter.fitAt(now, b.held+n), min(at, b.spareAt.Add(headroomWear)))
	}
	return at, false
}

// fits reports whether n fits now.
func (b *bucket) fits(now Time, n int64) bool {
	return (b.held == 0 || b.held <= b.limit-n) && b.meter.fitAt(now, b.beside(now, b.held+n)) == now
}

// beside adds what is kept unused to an amount that must fit, but not so that it
// never would.
func (b *bucket) beside(now Time, n int64) int64 {
	if b.spare == 0 {
		return n
	}
	return max(n, min(n+b.headroom(now), b.limit))
}

// Headroom grows by an eighth of the limit with each refusal where we saw room,
// up to three quarters, and wears off in steps.
const (
	headroomPart = 8
	headroomStep = 32              // of the limit, which wears off
	headroomWear = 2 * time.Minute // in each such time
)

func (b *bucket) headroom(now Time) int64 {
	if steps := int64(now.Sub(b.spareAt) / headroomWear); b.spare > 0 && steps > 0 {
		b.spare = max(0, b.spare-mulDiv(steps, b.limit, headroomStep)-1)
		b.spareAt = b.spareAt.Add(time.Duration(steps) * headroomWear)
	}
	return b.spare
}

// reopen takes a limit of more than a minute for unused, at an operator's word.
// One of a minute is not worth it.
func (b *bucket) reopen(now Time) {
	if b.window <= time.Minute {
		return
	}
	switch m := b.meter.(type) {
	case *refilling:
		m.fullAt = now
	case *sliding:
		*m = sliding{limit: m.limit, slice: m.slice, last: m.last}
	case *fixed:
		m.count, m.carry = 0, 0
	}
	b.loosenedAt = now
}

// refund gives back n of what a lease was charged, unless a header has done so.
func (b *bucket) refund(now, granted Time, n int64) {
	if granted < b.loosenedAt {
		return
	}
	if b.escrow == nil {
		b.meter.refund(now, granted, n)
		return
	}
	used := b.meter.used(now)
	b.meter.refund(now, granted, n)
	b.escrowed(b.meter.used(now) - used)
}

// tighten takes note that the provider refused where we saw room: a part of the limit
// more than before is kept unused.
func (b *bucket) tighten(now Time, before, part int64) {
	if spare := min(before+max(b.limit/part, 1), b.limit-b.limit/4); spare > b.headroom(now) {
		b.spare, b.spareAt = spare, now
	}
}

// charge counts n, and remembers when.
func (b *bucket) charge(now Time, n int64) {
	if b.history != nil && n > 0 {
		b.history.note(now, n)
	}
	b.meter.charge(now, n)
	b.escrowed(n)
}

// hold sets n aside, or if negative takes it back.
func (b *bucket) hold(n int64) {
	b.held += n
	b.escrowed(n)
}

// never reports whether n is above a configured limit, so that it will never
// fit. A limit that was learned binds nobody for ever, and one that bends nobody at
// all: then n waits for all there is.
func (b *bucket) never(n int64) bool { return b.ceiling > 0 && n > b.ceiling && !b.bends }

// take counts n for a lease.
func (b *bucket) take(now Time, n int64) {
	if b.holds {
		b.hold(n)
	} else {
		b.charge(now, n)
	}
}

// holdFor is how long an amount is held at most before it is charged. Beyond
// it the provider may count what we no longer hold; that is left to its headers.
func (b *bucket) holdFor() time.Duration { return b.window / 2 }

func (b *bucket) remaining(now Time) int64 { return max(0, b.limit-b.used(now)-b.held) }

// share is the part of the limit that is used or held: 0 to 1, more in debt.
func (b *bucket) share(now Time) float64 {
	return float64(b.used(now)+b.held) / float64(b.limit)
}

// report takes the limit that an answer states. A lower one binds at once; a
// higher one, which a late, mistaken or lying report must not bring about, only
// when a second lease of another holder states it too, both were granted since
// the limit was last lowered, and never above what is configured. A sole holder
// vouches for itself. What one holder alone has lowered, any other can put back to
// what it was; one whose lease is newer, but not new enough for that, can have it
// tried at once. It reports whether the limit changed, or may be tried.
func (b *bucket) report(now Time, limit int64, l *lease, sole bool) bool {
	limit = b.capped(limit)
	holder := l.holder.name
	switch {
	case limit == b.limit:
		b.raise = 0
		if holder != b.loweredBy {
			b.lowered = 0
		}
		return false
	case limit > b.limit && l.granted < b.loweredAt:
		return limit == b.lowered && l.granted > b.loweredSeen && b.unsure.contradicted(now, holder)
	case limit > b.limit && limit == b.lowered && holder != b.loweredBy:
		b.lowered = 0
	case limit > b.limit && (b.raise != limit || b.raiseBy == l.id || b.raiseHolder == holder && !sole):
		b.raise, b.raiseBy, b.raiseHolder = limit, l.id, holder
		return false
	case limit > b.limit:
		b.lowered = 0
	default:
		if b.lowered == 0 || holder != b.loweredBy {
			b.lowered, b.loweredBy = b.limit, holder
		}
		b.loweredAt, b.loweredSeen = now, l.granted
	}
	b.raise = 0
	b.setLimit(now, limit)
	return true
}

// claims adds up what a holder says that others use, and nobody else has spoken
// of since.
func (b *bucket) claims(holder string, n int64) int64 {
	if b.claimedBy != holder {
		b.claimed, b.claimedBy = 0, holder
	}
	b.claimed += n
	return b.claimed
}

// hangsOn reports whether it is as it is on the word of that holder alone.
func (b *bucket) hangsOn(holder string) bool {
	return holder != "" && (b.unsure.by == holder || b.unseen.by == holder)
}

// refuted takes note that a lease passed where another holder had said it would
// not.
func (b *bucket) refuted(now Time, l *lease) {
	if b.unsure.of(l.holder.name) && b.lowered > 0 && b.loweredBy == b.unsure.by {
		b.setLimit(now, b.lowered)
		b.lowered = 0
	}
}

// capped is a limit that an answer states, as far as it is not above ours.
func (b *bucket) capped(limit int64) int64 {
	if b.ceiling > 0 {
		limit = min(limit, b.ceiling)
	}
	return limit
}

func (b *bucket) setLimit(now Time, limit int64) {
	b.limit = limit
	b.meter.setLimit(now, limit)
}

// slots counts calls at one time: it only holds, and charges nothing.
type slots struct{ limit int64 }

func (*slots) used(Time) int64              { return 0 }
func (*slots) fitAt(now Time, _ int64) Time { return now }
func (*slots) charge(Time, int64)           {}
func (*slots) refund(Time, Time, int64)     {}
func (s *slots) setLimit(_ Time, l int64)   { s.limit = l }
func (*slots) resetAt(now Time) Time        { return now }
