package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// reading is what a header says of a bucket: how much had been used at some moment
// between the grant of the lease and now.
type reading struct {
	since       Time          // the grant
	least, most int64         // used, within what rounding leaves open
	held        int64         // what we hold; the provider may have counted a part of it
	delta       time.Duration // what was granted may have been counted so much later
	margin      time.Duration // the provider may be so far ahead of us although nobody else uses the key
	loosens     bool          // the reading may show that less is used than we thought
	tightens    bool          // it may bind by what it says that others use
	by          string        // who says so
	sole        bool          // and has nobody beside it
	claims      *claims
}

// Reconcile joins what a header says with what was granted meanwhile. granted is when
// the lease was granted to whose request the header is an answer; margin is the time
// in which its request had to be sent. With loosen false, the header can only tighten.
//
// What the provider had not counted at the header's moment was granted at most delta
// before that moment. So there is a most that can be used now, whatever the moment
// was, and a least. A figure of ours above the most comes down to it. A figure below
// the least shows that somebody else uses the key; then ours goes up to the most, since
// room that is merely not disproved may not exist. In between the header tells nothing
// new, and that is all that a late or repeated header can do.
//
// What others use stands in the stated books, and only if the speaker may state it. What is
// less than we thought takes two speakers in our own books, since room that one alone gives
// may not exist; in the stated ones it takes one.
//
// It returns how much more than our own books say is used by what the header shows, and whether
// room came free.
func (b *Bucket) Reconcile(now Time, w *provider.Window, granted Time, margin time.Duration, loosen, tighten bool, by Speaker) (foreign int64, freed bool) {
	if w.Remaining < 0 {
		return 0, false
	}
	b.remember(now)
	front := b.front()
	b.history.drift, b.history.readAt = front.limit-min(w.Remaining, front.limit)-front.counter.used(now)-b.held, now
	r := b.reading(w, granted, margin, loosen, by)
	r.claims = &b.history.claims
	foreign, freed = b.counter.reconcile(now, &r, b.history)
	b.loosened(now, freed)
	if b.stated == nil {
		if foreign > 0 && tighten {
			s := b.fork()
			r.tightens = true
			s.counter.reconcile(now, &r, b.history)
			b.history.foreign += foreign
		}
		return foreign, freed
	}
	s := b.stated
	r = s.reading(w, granted, margin, loosen, Speaker{by.Name, true})
	r.tightens, r.claims = tighten, &b.history.claims
	beyond, looser := s.counter.reconcile(now, &r, b.history)
	s.loosened(now, looser)
	if tighten {
		b.history.foreign += beyond
	}
	b.agree(now)
	return foreign, freed || looser
}

// loosened takes note that a header has returned room, even if less than 1.
func (b *Bucket) loosened(now Time, freed bool) {
	if freed {
		b.loosenedAt = now
	}
}

// reading returns what a header says of the bucket.
func (b *Bucket) reading(w *provider.Window, granted Time, margin time.Duration, loosen bool, by Speaker) reading {
	used := b.limit - min(w.Remaining, b.limit) // little that is left binds, whatever limit the header states
	r := reading{
		since: granted, held: b.held, margin: margin, by: by.Name, sole: by.Sole,
		least: max(0, used-w.Rounding/2-1), // −1: Remaining may be truncated
		most:  used + w.Rounding/2,
		// Remaining 0 may hide a debt, and another limit refills at another rate.
		loosens: loosen && w.Remaining > 0 && w.Limit == b.limit,
	}
	if loosen && w.Remaining == 0 && w.Limit == b.limit && w.Kind == provider.Refilling && w.Reset > 0 {
		// The time until the bucket is full tells the debt, too.
		r.most, r.loosens = max(r.most, MulDivUp(int64(w.Reset), b.limit, int64(b.window))), true
	}
	if !b.holds {
		r.delta = margin
	}
	return r
}

// remember begins the history that Reconcile needs. Buckets of which no header has
// spoken need none.
func (b *Bucket) remember(now Time) {
	if b.history == nil {
		b.history = &history{begun: now + 1}
	}
}

// ObserveReset takes in when a fixed window ends, as the answer to a lease granted at
// granted states it, with the provider's time if the answer has it.
func (b *Bucket) ObserveReset(now, granted Time, in time.Duration, date time.Time, by Speaker) {
	if next := b.counter.observeReset(now, granted, in, date, by); next != nil {
		b.replace(next)
	}
	if s := b.stated; s != nil {
		if next := s.counter.observeReset(now, granted, in, date, by); next != nil {
			s.replace(next)
		}
	}
}

// ObserveDate takes in the provider's time in an answer to a lease granted at granted.
// If it shows that a fixed window of a predecessor has ended, what was used in that
// window stops counting, and the next reset is known. It returns whether that is so.
func (b *Bucket) ObserveDate(now, granted Time, date time.Time, by Speaker) (freed bool) {
	next, freed := b.counter.observeDate(now, granted, date, by)
	if next != nil {
		b.replace(next)
	}
	if s := b.stated; s != nil {
		if next, _ := s.counter.observeDate(now, granted, date, by); next != nil {
			s.replace(next)
		}
	}
	return freed
}

// replace exchanges the counter; the next record must have the new one.
func (b *Bucket) replace(next counter) {
	b.counter = next
	if b.writesAhead() {
		b.kept.changed()
	}
}

// PredecessorEnds returns when a fixed window of a predecessor should have ended by the
// wall clock. ok is false if there is none, or if it ends sooner by itself. The wall
// clock may be wrong: let a probe find out, and open nothing more.
func (b *Bucket) PredecessorEnds(now Time, wall time.Time) (at Time, ok bool) {
	return b.counter.predecessorEnds(now, wall)
}
