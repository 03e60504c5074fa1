package limit

import "time"

// Headroom is the part of a limit that is kept unused after the provider refused a
// call for which we saw room: it counts in some way that we do not know. It grows with
// each such refusal, up to three quarters of the limit, and wears off in steps.
const (
	headroomStep = 32              // one such part of the limit wears off
	headroomWear = 2 * time.Minute // in each such time
)

type headroom struct {
	amount int64
	at     Time // the moment as of which amount holds
}

// mostHeadroom returns how much of a limit may be kept unused.
func mostHeadroom(limit int64) int64 { return limit - limit/4 }

// left returns what is kept unused at a moment. Each step takes the same, so that it does
// not matter how often one looks. Of a limit that is lower than before it is no more than
// may be.
func (h *headroom) left(now Time, limit int64) int64 {
	h.amount = min(h.amount, mostHeadroom(limit))
	if steps := int64(now.Sub(h.at) / headroomWear); h.amount > 0 && steps > 0 {
		h.amount = max(0, h.amount-MulDiv(steps, limit/headroomStep+1, 1))
		h.at = h.at.Add(time.Duration(steps) * headroomWear)
	}
	return h.amount
}

// Headroom returns what is kept unused.
func (b *Bucket) Headroom(now Time) int64 { return b.headroom.left(now, b.limit) }

// Tighten raises the headroom to before and one part-th of the limit, if it is not
// that much already.
func (b *Bucket) Tighten(now Time, before, part int64) {
	if n := min(before+max(b.limit/part, 1), mostHeadroom(b.limit)); n > b.Headroom(now) {
		b.headroom = headroom{n, now}
		if b.stated != nil {
			b.stated.headroom = b.headroom
		}
	}
}

// withHeadroom adds the headroom to an amount that must fit, but never makes an amount
// within the limit impossible.
func (b *Bucket) withHeadroom(now Time, n int64) int64 {
	if b.headroom.amount == 0 {
		return n
	}
	return max(n, min(n+b.Headroom(now), b.limit))
}
