package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// LeaseID numbers the leases of a pool in the order of their grants, from 1.
type LeaseID uint64

// Grant is a lease as its holder gets it.
type Grant struct {
	Lease   LeaseID
	Key     string // the id of the key
	Count   int    // requests it is good for
	Granted Time
	StartBy Time // the request must be sent before
	Expires Time // ends then, unless a report renews it
	// Trial marks a lease beyond what the buckets allow: it finds out whether what
	// one holder has said of the limits is so.
	Trial bool
	// Covered is whether nothing that it was charged need be written down before it
	// is given out. Else that is so after the next State that is saved. It is always
	// so while nobody keeps states.
	Covered  bool
	Class    string           // of models
	Reserved provider.Amounts // for all its requests
}

// lease is one key in somebody's hands. There may be a million of them, so it
// keeps only what cannot be derived.
type lease struct {
	id       LeaseID
	holder   *holder
	key      *key
	account  *account
	granted  Time
	expires  Time
	heldFrom Time // the grant, or the last report
	ttl      time.Duration
	reserved provider.Amounts
	used     provider.Amounts // as reported
	count    int              // requests it is good for
	request  string

	// Bits by the place of a bucket in account.buckets, then, from ownBit, in
	// the key's own. A limit that was learned later has no bit.
	charged, holding uint32

	size       uint8          // of the answer that was asked for; see sizeOf
	refused    provider.Class // the provider's answer, if that was a refusal; else OK
	trial      bool           // granted in spite of the buckets
	covered    bool           // as in Grant
	lapsed     bool           // its time has run out; it is kept for late reports
	last       bool           // it is not renewed any more
	given      int32          // how many calls have got it
	index      int32          // in the pool's heap of leases
	prev, next *lease         // in the order of their grants
}

func (l *lease) place() *int32 { return &l.index }

const ownBit = 16

// buckets calls f for each bucket that the lease was charged to.
func (l *lease) buckets(f func(bit uint32, b *bucket)) {
	l.list(0, l.account.buckets, f)
	if l.key.own != nil {
		l.list(ownBit, l.key.own[l.account.class], f)
	}
}

func (l *lease) list(from int, bs []*bucket, f func(uint32, *bucket)) {
	for i, b := range bs {
		if bit := uint32(1) << (from + i); l.charged&bit != 0 {
			f(bit, b)
		}
	}
}

// take charges the reservation. An ask above a limit that was learned, or
// lowered, reserves the limit: more would be debt for longer than a window, on
// nobody's word but the holder's.
func (l *lease) take(now Time) (covered bool) {
	uncovered := false
	l.charged = 1<<len(l.account.buckets) - 1
	if l.key.own != nil {
		l.charged |= (1<<len(l.key.own[l.account.class]) - 1) << ownBit
	}
	l.buckets(func(_ uint32, b *bucket) { // of all, before any is charged
		l.reserved[b.dimension] = min(l.reserved[b.dimension], b.limit)
	})
	l.buckets(func(bit uint32, b *bucket) {
		n := l.reserved[b.dimension]
		if n == 0 {
			return
		}
		if b.holds {
			l.holding |= bit
		}
		b.take(now, n)
		uncovered = uncovered || !b.covered()
	})
	return !uncovered
}

// trim gives back what was reserved for requests beyond so many that were sent. It
// reports whether room came free.
func (l *lease) trim(now Time, sent int64) (freed bool) {
	if sent < 0 || sent >= int64(l.count) {
		return false
	}
	l.buckets(func(bit uint32, b *bucket) {
		d := b.dimension
		before := l.reserved[d]
		after := max(mulDivUp(before, sent, int64(l.count)), min(l.used[d], before))
		if l.holding&bit != 0 {
			b.hold(after - before)
		} else {
			b.refund(now, l.granted, before-after)
		}
		freed = freed || after < before
	})
	before := tokens(&l.reserved)
	for d, n := range l.reserved {
		l.reserved[d] = max(mulDivUp(n, sent, int64(l.count)), min(l.used[d], n))
	}
	if !l.lapsed { // else they have been taken off
		l.holder.tokens += tokens(&l.reserved) - before
	}
	l.count = int(sent)
	return freed
}

// reservedFor is what was reserved for so many requests, or for all if that is
// not known.
func (l *lease) reservedFor(d int, requests int64) int64 {
	if requests < 0 || requests >= int64(l.count) {
		return l.reserved[d]
	}
	return mulDivUp(l.reserved[d], requests, int64(l.count))
}

// left is what of the reservation has not been reported as used.
func (l *lease) left(d provider.Dimension) int64 { return max(0, l.reserved[d]-l.used[d]) }

// nextEvent is when the lease needs attention: a hold becomes a charge, or the
// lease ends.
func (l *lease) nextEvent() Time {
	at := l.expires
	if l.holding != 0 {
		l.buckets(func(bit uint32, b *bucket) {
			if l.holding&bit != 0 && b.window > 0 {
				at = min(at, l.heldFrom.Add(b.holdFor()))
			}
		})
	}
	return at
}

// charge turns holds that have lasted long enough into charges, or all of them,
// but for slots. It reports whether there were any: what was held begins to
// refill then.
func (l *lease) charge(now Time, all bool) (charged bool) {
	l.buckets(func(bit uint32, b *bucket) {
		if l.holding&bit == 0 || b.window == 0 || !all && l.heldFrom.Add(b.holdFor()) > now {
			return
		}
		n := l.left(b.dimension)
		l.holding &^= bit
		b.charge(now, n)
		b.hold(-n)
		charged = charged || n > 0
	})
	return charged
}

// report replaces what was reserved by what was used, as far as it is known:
// used is cumulative, and Unknown where the report does not say. What is over
// the reservation is charged, as debt if need be; what is under it comes back
// with the final report, as far as it is still there. It reports whether room
// came free.
func (l *lease) report(now Time, used provider.Amounts, final bool) (freed bool) {
	l.bound(now, &used)
	l.buckets(func(bit uint32, b *bucket) {
		d := b.dimension
		known, before, after := used[d] >= 0, l.used[d], max(l.used[d], used[d])
		reserved := l.reserved[d]
		switch {
		case b.window == 0: // a slot is free when the lease ends, not before
		case l.holding&bit != 0:
			kept := max(0, reserved-after)
			if final && known {
				l.holding &^= bit
				freed = freed || kept > 0
				kept = 0
			}
			b.charge(now, after-before)
			b.hold(kept - max(0, reserved-before))
			freed = freed || after > before // it refills from now on
		case after > reserved:
			b.charge(now, after-max(before, reserved))
		case final && known:
			b.refund(now, l.granted, reserved-after)
			freed = freed || after < reserved
		}
	})
	l.used.Raise(&used)
	return freed
}

// bound cuts reported amounts to what the provider can have let through since
// the grant, over and above the reservation. A client that reports more is
// mistaken or lies, and must not put the others in debt for ever.
func (l *lease) bound(now Time, used *provider.Amounts) {
	l.buckets(func(_ uint32, b *bucket) {
		if b.window == 0 {
			return
		}
		d := b.dimension
		refilled := mulDiv(b.limit, int64(now.Sub(l.granted)), int64(b.window))
		used[d] = min(used[d], l.reserved[d]+b.limit+refilled)
	})
}

// end settles what is left: holds become charges, slots come free. It reports
// whether room came free.
func (l *lease) end(now Time) (freed bool) {
	freed = l.charge(now, true)
	l.buckets(func(bit uint32, b *bucket) {
		if l.holding&bit != 0 { // a slot
			b.hold(-l.reserved[b.dimension])
			freed = true
		}
	})
	l.holding = 0
	return freed || l.account.felt()
}
