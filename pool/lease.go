package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// LeaseID numbers the leases of a domain in the order of their grants, from 1.
type LeaseID uint64

// Grant is a lease as its holder gets it.
type Grant struct {
	Lease   LeaseID
	Key     string // the id of the key
	Count   int    // requests it is good for
	Granted Time
	StartBy Time // the request must be sent before
	Expires Time // the lease ends then, unless a report renews it
	// Probe marks a lease beyond what the buckets allow: it finds out whether what one
	// holder has stated about the limits is so.
	Probe bool
	// Durable is true if the lease may be given out at once. If it is false, it may be
	// given out when the next State has been saved. It is always true while nobody saves
	// states.
	Durable  bool
	Class    string           // of models
	Reserved provider.Amounts // for all its requests
}

// lease is one key in somebody's hands. There may be a million of them, so it keeps
// only what cannot be derived.
type lease struct {
	id       LeaseID
	by       *instance // of its holder
	key      *key
	account  *account
	choice   *choice // whose pool was asked
	model    string
	granted  Time
	expires  Time
	heldFrom Time // the grant, or the last report
	ttl      time.Duration
	reserved provider.Amounts
	used     provider.Amounts // as reported

	*ledger // that it was charged to

	request    *requestKey    // by which an ask may be repeated; nil if it may not
	count      int32          // requests it is good for
	size       uint8          // of the answer that was asked for; see sizeOf
	refused    provider.Class // the provider's answer, if that was a refusal; else OK
	probe      bool           // granted in spite of the buckets
	durable    bool           // as in Grant
	lapsed     bool           // its time has run out; it is kept for late reports
	last       bool           // it is not renewed any more
	scattered  bool           // it holds amounts in other groups than its own, too
	given      int32          // how many calls were answered with it
	index      int32          // in the domain's heap of leases
	holding    places         // the buckets of the ledger that hold an amount of it
	prev, next *lease         // in the order of their grants
}

func (l *lease) place() *int32 { return &l.index }

// count returns the counters of the pool that was asked for a lease; for the lease of a
// predecessor, which does not tell, those of the first.
func (dom *Domain) count(l *lease) *Counters {
	if l.choice == nil {
		return &dom.pools[0].counters
	}
	return &l.choice.pool.counters
}

// startBy is when the request must have been sent.
func (l *lease) startBy() Time { return l.granted.Add(l.choice.pool.StartWithin) }

// places is a set of places in a list of at most maxBuckets.
type places uint32

const maxBuckets = 32

func (s places) has(i int) bool { return s&(1<<i) != 0 }
func (s *places) add(i int)     { *s |= 1 << i }
func (s *places) drop(i int)    { *s &^= 1 << i }

// take charges the reservation. An ask above a limit that was learned reserves the limit
// there: more would be debt for longer than a window. It returns whether all that it charged
// is durable.
func (l *lease) take(now Time) (durable bool) {
	l.ledger = l.key.charges(l.account)
	for i, b := range l.buckets { // in all buckets, before anything is charged
		switch d := b.Dimension(); {
		case b.Ceiling() > 0:
			l.reserved[d] = min(l.reserved[d], b.Ceiling())
		case l.reserved[d] > b.Limit():
			if l.cut == nil {
				l.ledger = &ledger{l.buckets, map[int]int64{}}
			}
			l.cut[i] = b.Limit()
		}
	}
	durable = true
	for i, b := range l.buckets {
		n := l.reservedIn(i)
		if n == 0 {
			continue
		}
		if b.Holds() {
			l.holding.add(i)
		}
		b.Take(now, n)
		durable = durable && b.Durable()
	}
	return durable
}

// reservedIn returns what was reserved in the i-th bucket.
func (l *lease) reservedIn(i int) int64 {
	n := l.reserved[l.buckets[i].Dimension()]
	if l.cut == nil {
		return n
	}
	if most, ok := l.cut[i]; ok {
		n = min(n, most)
	}
	return n
}

// part returns the largest part of any limit that amounts are, of those that the lease
// is charged to; at least least.
func (l *lease) part(least float64, amounts *provider.Amounts) float64 {
	for _, b := range l.buckets {
		if b.known() { // nobody's word makes a turn dear
			least = max(least, float64(amounts[b.Dimension()])/float64(b.OwnLimit()))
		}
	}
	return least
}

// cost is the part of a limit that a lease takes. Where nothing is limited, all cost
// the same.
func (l *lease) cost() float64 { return l.part(1.0/1024, &l.reserved) }

// overuse is the part of a limit that was used beyond the reservation.
func (l *lease) overuse() float64 {
	over := l.used
	for d, n := range l.reserved {
		over[d] -= n
	}
	return l.part(0, &over)
}

// trim returns what was reserved for requests beyond so many that were sent. It returns
// whether room came free.
func (l *lease) trim(now Time, sent int64) (freed bool) {
	if sent < 0 || sent >= int64(l.count) {
		return false
	}
	after := l.reserved
	for d, n := range l.reserved {
		after[d] = max(limit.MulDivUp(n, sent, int64(l.count)), min(l.used[d], n))
	}
	for i, b := range l.buckets {
		less := max(0, l.reservedIn(i)-after[b.Dimension()])
		if l.holding.has(i) {
			b.Hold(-less)
		} else {
			b.Refund(now, l.granted, less)
		}
		freed = freed || less > 0
	}
	if !l.lapsed { // else they have been taken off
		l.by.holder.tokens += tokens(&after) - tokens(&l.reserved)
	}
	l.reserved, l.count = after, int32(sent)
	return freed
}

// reservedFor is what was reserved for so many requests, or for all if that number is
// not known.
func (l *lease) reservedFor(d int, requests int64) int64 {
	if requests < 0 || requests >= int64(l.count) {
		return l.reserved[d]
	}
	return limit.MulDivUp(l.reserved[d], requests, int64(l.count))
}

// left is what of the reservation has not been reported as used.
func (l *lease) left(d provider.Dimension) int64 { return max(0, l.reserved[d]-l.used[d]) }

// mayUse is what a limit that holds amounts must hold for the lease: a slot stays taken until
// the end.
func (l *lease) mayUse(b *bucket) int64 {
	if b.Slots() {
		return l.reserved[b.Dimension()]
	}
	return l.left(b.Dimension())
}

// nextEvent is when the lease needs attention: a hold becomes a charge, or the lease
// ends.
func (l *lease) nextEvent() Time {
	at := l.expires
	if l.holding == 0 {
		return at
	}
	for i, b := range l.buckets {
		if l.holding.has(i) && !b.Slots() {
			at = min(at, l.heldFrom.Add(b.HoldFor()))
		}
	}
	return at
}

// chargeHeld turns holds that have lasted long enough into charges, or all of them; but
// not slots. It returns whether there were any: what was held begins to refill then.
func (l *lease) chargeHeld(now Time, all bool) (charged bool) {
	for i, b := range l.buckets {
		if !l.holding.has(i) || b.Slots() || !all && l.heldFrom.Add(b.HoldFor()) > now {
			continue
		}
		n := max(0, l.reservedIn(i)-l.used[b.Dimension()])
		l.holding.drop(i)
		b.Charge(now, n)
		b.Hold(-n)
		charged = charged || n > 0
	}
	return charged
}

// settle replaces what was reserved by what was used, as far as that is known: used is
// cumulative, and Unknown where the report does not say. What exceeds the reservation is
// charged, as debt if need be. What falls short of it comes back with the final report,
// as far as it still counts. owe charges what exceeds it. It returns whether room came free.
func (l *lease) settle(now Time, used provider.Amounts, final bool, owe func(b *bucket, n int64)) (freed bool) {
	l.bound(now, l.buckets, &used)
	for i, b := range l.buckets {
		d := b.Dimension()
		known, before, after := used[d] >= 0, l.used[d], max(l.used[d], used[d])
		reserved := l.reservedIn(i)
		if _, cut := l.cut[i]; cut { // no more counts there than all there is
			before, after = min(before, reserved), min(after, reserved)
		}
		switch {
		case b.Slots(): // a slot is free when the lease ends, not before
		case l.holding.has(i):
			kept := max(0, reserved-after)
			if final && known {
				l.holding.drop(i)
				freed = freed || kept > 0
				kept = 0
			}
			within := max(0, min(after, reserved)-before)
			b.Charge(now, within)
			if over := after - before - within; over > 0 {
				owe(b, over)
			}
			b.Hold(kept - max(0, reserved-before))
			freed = freed || after > before // it refills from now on
		case after > reserved:
			if over := after - max(before, reserved); over > 0 {
				owe(b, over)
			}
		case final && known:
			b.Refund(now, l.granted, reserved-after)
			freed = freed || after < reserved
		}
	}
	l.used.Raise(&used)
	return freed
}

// bound cuts reported amounts to the reservation and what the provider can have let
// through beside it.
func (l *lease) bound(now Time, buckets []*bucket, used *provider.Amounts) {
	for _, b := range buckets {
		if !b.Slots() {
			d := b.Dimension()
			used[d] = min(used[d], l.reserved[d]+b.Bound(now, l.granted))
		}
	}
}

// end settles what is left: holds become charges, slots come free. It returns whether
// room came free.
func (l *lease) end(now Time) (freed bool) {
	freed = l.chargeHeld(now, true)
	for i, b := range l.buckets {
		if l.holding.has(i) { // a slot
			b.Hold(-l.reserved[b.Dimension()])
			freed = true
		}
	}
	l.holding = 0
	return freed || l.account.slowStart.active()
}
