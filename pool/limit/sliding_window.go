package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// sliceCount is the number of slices in a window. One part in so many of the limit
// is lost to rounding.
const sliceCount = 32

// slidingWindow counts what was charged in the last window, at any moment. It keeps
// amounts by slices of time. A slice counts until all of it is older than the window,
// and for delta longer, since a request may arrive that much after its grant. It is
// safe for every way in which a provider may count.
type slidingWindow struct {
	noResets
	terms *terms
	slice time.Duration // one sliceCount-th of window and delta
	total int64
	last  int64                 // number of the newest slice
	sums  [sliceCount + 1]int64 // slice i is at i mod len

	claims *claims // of how much is used at most; nil while nobody says so
}

func newSlidingWindow(t *terms) slidingWindow {
	return slidingWindow{terms: t, slice: (t.window + t.delta + sliceCount - 1) / sliceCount}
}

func (*slidingWindow) kind() provider.Kind { return provider.Sliding }

func (w *slidingWindow) at(i int64) *int64 { return &w.sums[i%(sliceCount+1)] }

// gone is when slice i stops counting: one window after its end.
func (w *slidingWindow) gone(i int64) Time { return Time((i + 1 + sliceCount) * int64(w.slice)) }

func (w *slidingWindow) oldest() int64 { return max(0, w.last-sliceCount) }

// advance drops the slices that no longer count.
func (w *slidingWindow) advance(now Time) {
	current := int64(now) / int64(w.slice)
	if current-w.last > sliceCount {
		w.sums, w.total, w.last = [sliceCount + 1]int64{}, 0, current
		return
	}
	for w.last < current {
		w.last++
		w.total -= *w.at(w.last)
		*w.at(w.last) = 0
	}
}

func (w *slidingWindow) used(now Time) int64 {
	w.advance(now)
	return w.total
}

func (w *slidingWindow) fitAt(now Time, n int64) Time {
	w.advance(now)
	over := w.total - max(w.terms.limit-n, 0)
	if over <= 0 {
		return now
	}
	i := w.oldest()
	for over -= *w.at(i); over > 0; over -= *w.at(i) {
		i++
	}
	return w.gone(i)
}

func (w *slidingWindow) charge(now Time, n int64) {
	w.advance(now)
	n = min(n, Longest-w.total)
	*w.at(w.last) += n
	w.total += n
	if w.claims != nil {
		w.claims.charge(func(most int64) int64 { return most + n })
	}
}

// refund takes n out of the slice in which it was charged, if that still counts.
func (w *slidingWindow) refund(now, since Time, n int64) {
	w.advance(now)
	i := int64(since) / int64(w.slice)
	if i < w.oldest() {
		return
	}
	n = min(n, *w.at(i))
	*w.at(i) -= n
	w.total -= n
}

func (*slidingWindow) rescale(Time, int64, int64) {}

func (w *slidingWindow) unusedAt(now Time) Time {
	w.advance(now)
	if w.total == 0 {
		return now
	}
	i := w.last
	for *w.at(i) == 0 {
		i--
	}
	return w.gone(i)
}

func (w *slidingWindow) load(now Time, held int64) Time {
	return loadOf(now, w.used(now)+held, w.terms.limit)
}

// reconcile takes what is too much from the oldest slices: the newer ones then still
// hold everything that can have been counted since.
func (w *slidingWindow) reconcile(now Time, r *reading, h *history) (foreign int64, freed bool) {
	w.advance(now)
	later, ok := h.since(r.since - Time(r.delta))
	if !ok {
		later = w.total
	}
	most := r.most + later
	window := Time(time.Duration(sliceCount+1)*w.slice + r.delta)
	then, known := h.since(r.since - window)
	still, _ := h.since(now - window)
	ours := w.total
	if known {
		ours += then - still // with what has left the window meanwhile
	}
	switch {
	case r.least > ours+r.held && most > w.total:
		foreign = r.least - ours - r.held
		if r.tightens {
			w.charge(now, most-w.total)
		}
	case ok && r.loosens && w.total > most:
		if !r.sole {
			w.claims = r.claims
		}
		to, ok := r.claims.agreed(r, most)
		if !ok || w.total <= to {
			break
		}
		for i := w.oldest(); w.total > to; i++ {
			n := min(*w.at(i), w.total-to)
			*w.at(i) -= n
			w.total -= n
		}
		freed = true
	}
	return foreign, freed
}

func (w *slidingWindow) snapshot(now Time) Snapshot {
	s := Snapshot{Used: w.used(now)}
	if w.total == 0 {
		return s
	}
	s.Slice = w.slice
	for i := w.last; i >= w.oldest(); i-- {
		s.Slices = append(s.Slices, *w.at(i))
	}
	for s.Slices[len(s.Slices)-1] == 0 {
		s.Slices = s.Slices[:len(s.Slices)-1]
	}
	return s
}

// restore: our slices begin at other moments than the predecessor's, so each of
// theirs lasts for one slice more.
func (w *slidingWindow) restore(now, _ Time, s *Snapshot, _ int64) {
	w.advance(now)
	left := s.Used
	if s.Slice == w.slice {
		for i, n := range s.Slices {
			n = min(max(n, 0), left)
			*w.at(max(w.last-max(int64(i)-1, 0), w.oldest())) += n
			w.total += n
			left -= n
		}
	}
	w.charge(now, left)
}

func (w *slidingWindow) exhaust(until Time, n int64) {
	n = max(n, w.used(until))
	w.sums, w.total = [sliceCount + 1]int64{}, 0
	w.charge(until, n)
}

func (w *slidingWindow) clear(Time) { w.sums, w.total = [sliceCount + 1]int64{}, 0 }

func (w *slidingWindow) fork(t *terms) counter {
	c := *w
	c.terms, c.claims = t, nil
	return &c
}
