package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// uncertainty is how far the provider's clock may be from ours: a fixed window is
// taken to have reset only when that much more time has passed.
const uncertainty = time.Second

// fixedWindow counts from one reset to the next, where a reset is known. What is
// granted so close to a reset that it may arrive on either side of it counts in both
// windows.
type fixedWindow struct {
	noResets
	terms *terms
	reset Time          // the provider's next reset
	count int64         // charged in this window
	carry int64         // the part of count that may belong to the next window
	early time.Duration // the reset may come up to that much sooner, and not later
	clock time.Time     // the provider's time at our moment 0; zero if it is not known

	claims  *claims // of how much is used at most; nil while nobody says so
	claimed Time    // the reset of the window that they are about
	ends    instant // who has said that the window ends sooner
	clocks  instant // and what the provider's clock said, as of a fixed moment
}

func (*fixedWindow) kind() provider.Kind { return provider.Fixed }

// advance opens the windows whose reset has certainly passed.
func (w *fixedWindow) advance(now Time) {
	if now < w.reset.Add(uncertainty) {
		return
	}
	window := w.terms.window
	w.count, w.carry = w.carry, 0
	w.reset = w.reset.Add(window)
	if late := now.Sub(w.reset) - uncertainty; late >= 0 {
		w.count = 0
		w.reset = w.reset.Add((late/window + 1) * window)
	}
}

// begun is since when a lease was certainly granted in this window.
func (w *fixedWindow) begun() Time { return w.reset - Time(w.terms.window) + Time(uncertainty) }

func (w *fixedWindow) used(now Time) int64 {
	w.advance(now)
	return w.count
}

func (w *fixedWindow) fitAt(now Time, n int64) Time {
	w.advance(now)
	room := max(w.terms.limit-n, 0)
	switch {
	case w.count <= room:
		return now
	case w.carry <= room:
		return w.reset.Add(uncertainty)
	}
	return w.reset.Add(w.terms.window + uncertainty)
}

func (w *fixedWindow) charge(now Time, n int64) {
	w.advance(now)
	n = min(n, Longest-w.count)
	w.count += n
	if w.claims != nil {
		w.claims.charge(func(most int64) int64 { return most + n })
	}
	if now.Add(w.terms.delta+uncertainty+w.early) >= w.reset {
		w.carry += n
	}
}

// refund returns what was charged in this window. What may count in the next one as
// well stays charged.
func (w *fixedWindow) refund(now, since Time, n int64) {
	w.advance(now)
	if since >= w.begun() {
		w.count = max(w.count-n, w.carry)
	}
}

func (*fixedWindow) rescale(Time, int64, int64) {}

func (w *fixedWindow) unusedAt(now Time) Time {
	w.advance(now)
	return w.reset.Add(uncertainty)
}

func (w *fixedWindow) load(now Time, held int64) Time {
	return loadOf(now, w.used(now)+held, w.terms.limit)
}

// reconcile needs a lease that was granted in this window, since an answer to an
// older one may be about the window before.
func (w *fixedWindow) reconcile(now Time, r *reading, h *history) (foreign int64, freed bool) {
	w.advance(now)
	if r.since < w.begun() {
		return 0, false
	}
	later, ok := h.since(r.since - Time(r.delta))
	if !ok {
		later = w.count
	}
	switch most := r.most + later; {
	case r.least > w.count+r.held && most > w.count:
		foreign = r.least - w.count - r.held
		if r.tightens {
			w.charge(now, most-w.count)
		}
	case ok && r.loosens && w.count > most:
		if !r.sole && w.claimed != w.reset { // claims of another window say nothing of this one
			*r.claims, w.claimed = claims{}, w.reset
		}
		if !r.sole {
			w.claims = r.claims
		}
		if to, ok := r.claims.agreed(r, most); ok && w.count > to {
			w.count, freed = max(to, w.carry), true
		}
	}
	return foreign, freed
}

// observeReset takes the earliest stated end: an answer was given some time ago, so
// the window ends at the stated moment or before.
//
// An end that is sooner than what we know opens the window, so that it takes two who say it.
func (w *fixedWindow) observeReset(now, granted Time, in time.Duration, date time.Time, by Speaker) counter {
	w.advance(now)
	if granted < w.begun() { // the answer may be about the window before
		return nil
	}
	if at := now.Add(in); at < w.reset && at > w.reset-Time(w.terms.window/2) {
		ok := at >= w.reset-Time(w.early)
		if !ok {
			at, ok = w.ends.agrees(by.Name, by.Sole, at, 2*uncertainty)
		}
		if ok {
			w.early = max(0, w.early-w.reset.Sub(at))
			w.reset = at
		}
	}
	if !date.IsZero() {
		clock := date.Add(in - w.reset.Sub(0))
		if at, ok := w.clocks.agrees(by.Name, by.Sole, Time(clock.UnixNano()), 2*uncertainty); ok {
			w.clock = time.Unix(0, int64(at)).In(date.Location())
		}
	}
	return nil
}

func (w *fixedWindow) snapshot(now Time) Snapshot {
	w.advance(now)
	s := Snapshot{Used: w.count, Past: w.count - w.carry, Reset: w.reset.Add(uncertainty).Sub(now)}
	if !w.clock.IsZero() {
		s.Ends = w.clock.Add(w.reset.Sub(0))
	}
	return s
}

// restore: our window may end later than the predecessor's did.
func (w *fixedWindow) restore(now, _ Time, s *Snapshot, _ int64) {
	w.charge(now, s.Used)
	w.carry = max(w.carry, s.Used-s.Past)
}

func (w *fixedWindow) exhaust(until Time, n int64) { w.charge(until, max(0, n-w.used(until))) }

func (w *fixedWindow) clear(Time) { w.count, w.carry = 0, 0 }

func (w *fixedWindow) fork(t *terms) counter {
	c := *w
	c.terms, c.claims = t, nil
	return &c
}

// unphasedWindow is a fixed window whose reset is not known. It counts as a sliding
// window, which is safe wherever the reset may be, until an answer tells the reset.
//
// Of a window that a predecessor has recorded it knows the end by the provider's
// clock. No other clock is trusted to tell that this end has passed.
type unphasedWindow struct {
	slidingWindow
	before *recordedWindow
}

// recordedWindow is what a predecessor has used of a fixed window.
type recordedWindow struct {
	at    Time      // where it is charged in our sliding window
	n     int64     // what is charged there
	sure  Time      // until then the predecessor may have granted
	until Time      // the window has certainly ended
	ends  time.Time // its end by the provider's clock; zero if the provider has not told
	over  instant   // who has given a date beyond it
}

func (*unphasedWindow) kind() provider.Kind { return provider.Fixed }

// phased returns the fixed window that ends after in, with all that counts now: nobody
// knows what of it belongs to the window before.
func (w *unphasedWindow) phased(now, granted Time, in time.Duration) *fixedWindow {
	f := &fixedWindow{terms: w.terms, reset: now.Add(in), early: now.Sub(granted) + uncertainty}
	f.charge(now, w.used(now))
	return f
}

// observeReset believes a reset only after the recorded window has ended: before, the
// answer might mean the end of either window.
func (w *unphasedWindow) observeReset(now, granted Time, in time.Duration, date time.Time, by Speaker) counter {
	if w.before == nil || now < w.before.until {
		return nil
	}
	if in <= 0 || in > w.terms.window {
		return nil
	}
	at, ok := w.before.over.agrees(by.Name, by.Sole, now.Add(in), 2*uncertainty)
	if !ok {
		return nil
	}
	w.before = nil
	f := w.phased(now, granted, at.Sub(now))
	f.observeReset(now, granted, in, date, by)
	return f
}

// observeDate opens the window when the provider's own clock is past the recorded end.
func (w *unphasedWindow) observeDate(now, granted Time, date time.Time, by Speaker) (next counter, freed bool) {
	o := w.before
	switch {
	case o == nil:
		return nil, false
	case now >= o.until:
		w.before = nil
		return nil, false
	case now < o.sure || o.ends.IsZero() || date.Before(o.ends.Add(2*uncertainty)):
		return nil, false
	}
	clock := Time(date.Add(-now.Sub(0)).UnixNano()) // as of our moment 0
	if _, ok := o.over.agrees(by.Name, by.Sole, clock, 2*uncertainty); !ok {
		return nil, false
	}
	w.refund(now, o.at, o.n)
	in := w.terms.window - date.Sub(o.ends)%w.terms.window
	f := w.phased(now, granted, in)
	f.clock = date.Add(in - f.reset.Sub(0))
	return f, true
}

func (w *unphasedWindow) fork(t *terms) counter {
	c := *w
	c.terms, c.claims = t, nil
	if w.before != nil {
		before := *w.before
		c.before = &before
	}
	return &c
}

func (w *unphasedWindow) predecessorEnds(now Time, wall time.Time) (Time, bool) {
	o := w.before
	if o == nil || o.ends.IsZero() || wall.IsZero() {
		return 0, false
	}
	in := o.ends.Sub(wall)
	return now.Add(max(in, 0) + 2*uncertainty), in < o.until.Sub(now)
}

// snapshot passes on what is known of a recorded window that may not have ended yet.
func (w *unphasedWindow) snapshot(now Time) Snapshot {
	if o := w.before; o != nil && o.until > now {
		used := w.used(now)
		return Snapshot{Used: used, Past: min(o.n, used), Reset: o.until.Sub(now), Ends: o.ends}
	}
	return w.slidingWindow.snapshot(now)
}

func (w *unphasedWindow) restore(now, until Time, s *Snapshot, limit int64) {
	rest := *s
	if s.Past > 0 && s.Past <= s.Used && s.Reset > 0 {
		at := max(0, now.Add(s.Reset-w.terms.window)) // from there it leaves when the window has certainly ended
		w.charge(at, s.Past)
		w.before = &recordedWindow{at: at, n: s.Past, sure: until, until: max(until, now.Add(s.Reset)), ends: s.Ends}
		rest.Used -= s.Past
	}
	w.slidingWindow.restore(now, until, &rest, limit)
}
