package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Stated books stand beside those of a limit: what answers say that nobody has confirmed, or
// that only the provider can know. Whatever is charged is charged to both, and both must
// have room. So no statement opens what the books themselves keep closed, and a statement
// that proves false is dropped without a trace.

// fork returns the stated books. They begin equal to the bucket's own.
func (b *Bucket) fork() *Bucket {
	if b.stated == nil {
		s := &Bucket{}
		*s = *b
		s.counter = b.counter.fork(&s.terms)
		s.kept, s.ceiling = nil, 0
		b.stated = s
	}
	return b.stated
}

// StateLimit states another limit than the one that is in force.
func (b *Bucket) StateLimit(now Time, limit int64) { b.fork().SetLimit(now, limit) }

// StateUse states that n more are used.
func (b *Bucket) StateUse(now Time, n int64) { b.fork().counter.charge(now, n) }

// Stands reports whether there are stated books.
func (b *Bucket) Stands() bool { return b.stated != nil }

// Withdraw drops what has been stated.
func (b *Bucket) Withdraw() { b.stated = nil }

// agree makes the stated books anew if they take less for used than the bucket's own.
func (b *Bucket) agree(now Time) {
	if s := b.stated; s != nil && s.used(now) < b.used(now) {
		b.stated = nil
		if s.limit != b.limit {
			b.StateLimit(now, s.limit)
		}
	}
}

// Excess returns how much more the stated books take for used than the bucket's own, and
// whether they have a lower limit. Books that say nothing else any more are dropped.
func (b *Bucket) Excess(now Time) (used int64, lower bool) {
	s := b.stated
	if s == nil {
		return 0, false
	}
	used, lower = max(0, s.used(now)-b.used(now)), s.limit != b.limit
	if used == 0 && !lower && s.counter.unusedAt(now) <= b.counter.unusedAt(now) { // amounts are rounded, moments are not
		b.stated = nil
	}
	return used, lower
}

// Overstated returns by how much the stated books are above all that a header leaves
// possible, with whatever was charged since its lease was granted.
func (b *Bucket) Overstated(now Time, w *provider.Window, granted Time, margin time.Duration) int64 {
	s := b.stated
	if s == nil || w.Remaining <= 0 { // nothing left may hide a debt
		return 0
	}
	later, ok := b.history.since(granted - Time(margin))
	if !ok {
		later = b.used(now)
	}
	return s.used(now) - (s.limit - min(w.Remaining, s.limit)) - w.Rounding/2 - later
}

// FitAtOwn and FitAtStated are FitAt of the bucket's own books and of the stated ones alone.
func (b *Bucket) FitAtOwn(now Time, n int64) (at Time, byEvent bool) { return b.fitAlone(now, n) }

// FitAtStated is the present moment if there are no stated books.
func (b *Bucket) FitAtStated(now Time, n int64) (at Time, byEvent bool) {
	if b.stated == nil {
		return now, false
	}
	return b.stated.fitAlone(now, n)
}

// front is what binds: the stated books, if there are some.
func (b *Bucket) front() *Bucket {
	if b.stated != nil {
		return b.stated
	}
	return b
}
