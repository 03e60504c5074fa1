package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// reading is what a header says of a bucket: what had been used at some moment
// from the grant of its lease until now.
type reading struct {
	since       Time
	least, most int64         // used, as far as rounding lets one know
	held        int64         // what we have set aside; the provider may have counted some of it
	delta       time.Duration // what was granted may have been counted so much later
	margin      time.Duration // so far the provider may be ahead of us with nobody else about
	loosen      bool          // it may show that less is used than we thought
}

// fuse joins what a header says with what we granted meanwhile. What the
// provider had not counted at the header's moment was granted at most delta
// before it; so there is a most that can be used now, whatever the moment was,
// and a least. Above the most we lower our figure to it. Below the least,
// somebody else uses the key, and we raise it to the most: room that is only
// not disproved may not be there. In between the header tells nothing new, which
// is all that a late or repeated one can do.
func (b *bucket) fuse(now Time, w *provider.Window, l *lease, margin time.Duration, loosen bool) (freed bool) {
	if w.Remaining < 0 {
		return false
	}
	if b.history == nil { // the next header will find out what was granted meanwhile
		b.history = &history{begun: now + 1}
	}
	used := b.limit - min(w.Remaining, b.limit) // as little as is left binds, whatever it is a part of
	r := reading{
		since: l.granted, held: b.held, margin: margin,
		least: max(0, used-w.Rounding/2-1), most: used + w.Rounding/2, // less one, for what is left in part
		// Nothing left may hide a debt, and another limit has another rate.
		loosen: loosen && w.Remaining > 0 && w.Limit == b.limit,
	}
	if loosen && w.Remaining == 0 && w.Limit == b.limit && w.Kind == provider.Refilling && w.Reset > 0 {
		// The time until it is full tells the debt, too.
		r.most, r.loosen = max(r.most, mulDivUp(int64(w.Reset), b.limit, int64(b.window))), true
	}
	if !b.holds {
		r.delta = margin
	}
	before := b.meter.used(now)
	b.drift, b.readAt = used-before-b.held, now
	foreign, freed := b.meter.fuse(now, &r, b.history)
	b.foreign += foreign
	if freed { // be it less than one
		b.loosenedAt = now
	}
	return freed
}

func (b *refilling) fuse(now Time, r *reading, h *history) (foreign int64, freed bool) {
	var top Time
	delta := Time(r.delta)
	known := h.spans(r.since-delta, now-delta, func(s span) {
		top = max(top, min(s.end+delta, now).Add(b.cost(r.most+h.total-s.before)))
	})
	if !known { // but whatever was granted since is in our figure
		top = now.Add(b.cost(r.most) + max(0, b.fullAt.Sub(r.since-delta)))
	}
	low := r.since.Add(b.cost(r.least))
	ours := max(b.fullAt, r.since).Add(b.cost(r.held))
	switch {
	case low > ours.Add(r.margin):
		foreign = mulDiv(int64(low.Sub(ours)), b.limit, int64(b.window))
		b.fullAt, b.busy = max(b.fullAt, top), int64(longest) // with what others have used
	case known && r.loosen && b.fullAt > top:
		b.fullAt, freed = top, true
	}
	return foreign, freed
}

// fuse in a sliding window takes what is too much from the oldest slices: the
// newer ones then still hold all that can have been counted since.
func (b *sliding) fuse(now Time, r *reading, h *history) (foreign int64, freed bool) {
	b.advance(now)
	later, ok := h.since(r.since - Time(r.delta))
	if !ok {
		later = b.total
	}
	top := r.most + later
	window := Time(time.Duration(sliceCount+1)*b.slice + r.delta)
	then, known := h.since(r.since - window)
	still, _ := h.since(now - window)
	ours := b.total
	if known {
		ours += then - still // with what has left the window meanwhile
	}
	switch {
	case r.least > ours+r.held && top > b.total:
		foreign = r.least - ours - r.held
		b.charge(now, top-b.total)
	case ok && r.loosen && b.total > top:
		for i := b.oldest(); b.total > top; i++ {
			n := min(*b.at(i), b.total-top)
			*b.at(i) -= n
			b.total -= n
		}
		freed = true
	}
	return foreign, freed
}

// fuse in a fixed window needs a lease granted within it: its answer cannot
// tell of the one before.
func (b *fixed) fuse(now Time, r *reading, h *history) (foreign int64, freed bool) {
	b.advance(now)
	if r.since < b.reset-Time(b.window)+Time(uncertainty) {
		return 0, false
	}
	later, ok := h.since(r.since - Time(r.delta))
	if !ok {
		later = b.count
	}
	switch top := r.most + later; {
	case r.least > b.count+r.held && top > b.count:
		foreign = r.least - b.count - r.held
		b.charge(now, top-b.count)
	case ok && r.loosen && b.count > top:
		b.count, freed = max(top, b.carry), true
	}
	return foreign, freed
}

// resets takes in when a fixed window ends, as an answer states it. It was
// stated some time ago, so the end is at or before what it says; the earliest
// such end holds.
func (b *fixed) resets(now Time, in time.Duration) {
	b.advance(now)
	if at := now.Add(in); at < b.reset && at > b.reset-Time(b.window/2) {
		b.early = max(0, b.early-b.reset.Sub(at))
		b.reset = at
	}
}

func (*slots) fuse(Time, *reading, *history) (int64, bool) { return 0, false }
