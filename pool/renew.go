package pool

import "time"

// A fixed window of which we know only from a record may have ended while nobody
// looked: no clock tells, but the provider's. Until that does, it counts as used,
// and as a sliding window.

// oldWindow is what was used of a fixed window by owners before us.
type oldWindow struct {
	at    Time // its place in the sliding window
	n     int64
	sure  Time      // until then others may have granted
	until Time      // it has surely ended
	ends  time.Time // by the provider's clock; zero if it has not told
}

// beforeUs stands for the owner before in place of a holder, as none is called.
const beforeUs = "\x00"

// hint lets leases try, one at a time, from when a fixed window should have ended
// by the clock on the wall. That clock may be wrong, so it opens no more than that.
func (a *account) hint(now Time, b *bucket, wall time.Time) {
	if b.old == nil || b.old.ends.IsZero() || wall.IsZero() {
		return
	}
	in := b.old.ends.Sub(wall)
	if in < b.old.until.Sub(now) { // else it ends by itself before
		b.unseen = doubt{by: beforeUs, since: now.Add(max(in, 0) + 2*uncertainty - secondOpinion)}
		a.doubted = true
	}
}

// renew takes in the provider's time in an answer to a lease of ours. Once it is
// past the end of the window that we were told of, what was used in that one
// counts no more, and we know again when it resets.
func (b *bucket) renew(now Time, l *lease, date time.Time) (freed bool) {
	o := b.old
	switch {
	case o == nil:
		return false
	case now >= o.until:
		b.old = nil
		return false
	case now < o.sure || o.ends.IsZero() || date.Before(o.ends.Add(2*uncertainty)):
		return false
	}
	b.meter.refund(now, o.at, o.n)
	in := b.window - date.Sub(o.ends)%b.window
	b.phased(now, l, in)
	if f, ok := b.meter.(*fixed); ok {
		b.clock = date.Add(in - f.reset.Sub(0))
	}
	if b.unseen.by == beforeUs {
		b.unseen = doubt{}
	}
	return true
}

// phased takes in when a window ends that has been counted as a sliding one. What
// counts is not known to be of the one before.
func (b *bucket) phased(now Time, l *lease, in time.Duration) {
	m, ok := b.meter.(*sliding)
	if !ok || in <= 0 || in > b.window {
		return
	}
	f := &fixed{limit: m.limit, window: b.window, delta: m.slice*sliceCount - b.window, reset: now.Add(in), early: now.Sub(l.granted) + uncertainty}
	f.charge(now, m.used(now))
	b.meter, b.old = f, nil
}

// resets takes in when the window ends, as an answer states it.
func (b *bucket) resets(now Time, l *lease, in time.Duration, date time.Time) {
	if b.old != nil && now >= b.old.until { // else this might be the end of either
		b.old = nil
		b.phased(now, l, in)
	}
	f, ok := b.meter.(*fixed)
	if !ok {
		return
	}
	f.advance(now)
	if l.granted < f.reset-Time(f.window)+Time(uncertainty) {
		return // the answer may be of the window before
	}
	f.resets(now, in)
	if !date.IsZero() {
		b.clock = date.Add(in - f.reset.Sub(0))
	}
}
