package pool

import "slices"

// orphan is what leases of a predecessor hold: slots, and amounts that are not known yet.
// Nobody knows which of those leases have ended, so it stays until all of them have.
type orphan struct {
	group  *group
	bucket *bucket
	n      int64
	single bool // it is of one known lease
	index  int32
}

func (o *orphan) place() *int32 { return &o.index }

// holdOrphaned holds n of a group's bucket until a moment.
func (dom *Domain) holdOrphaned(g *group, b *bucket, n int64, until Time) *orphan {
	b.HoldOrphaned(n)
	o := &orphan{group: g, bucket: b, n: n, index: -1}
	dom.orphans.push(o, int64(until))
	g.orphans = append(g.orphans, o)
	return o
}

// settleOrphans ends the orphaned holds whose time has come. What they held is charged,
// for it may have been used at the last moment; a slot is free. However late it is now, each
// is charged as of its own time, so nobody looks at a bucket before all of them are.
func (dom *Domain) settleOrphans(now Time) {
	var freed []*group
	for dom.orphans.len() > 0 {
		o, until := dom.orphans.min()
		if Time(until) > now {
			break
		}
		dom.orphans.remove(o)
		o.group.drop(o)
		dom.touchGroup(o.group)
		o.bucket.SettleOrphaned(Time(until), o.n)
		if !slices.Contains(freed, o.group) {
			freed = append(freed, o.group)
		}
	}
	for _, g := range freed {
		for _, a := range g.accounts {
			dom.freed(now, a)
		}
	}
}

func (g *group) drop(o *orphan) {
	for i, other := range g.orphans {
		if o == other {
			last := len(g.orphans) - 1
			g.orphans[i], g.orphans[last] = g.orphans[last], nil
			g.orphans = g.orphans[:last]
			return
		}
	}
}

// continues takes note that a call of a predecessor is still open, for as long again at
// most: its slot stays taken, and what it has not used yet stays held.
func (dom *Domain) continues(now Time, l *predecessorLease) {
	for _, b := range l.key.charges(l.account).buckets {
		n := l.mayUse(b)
		if !b.Holds() || n == 0 {
			continue
		}
		until := now.Add(b.HeldAtMost(l.ttl))
		if o := l.orphans[b]; o != nil {
			dom.extend(o, n, now, until)
			continue
		}
		o := dom.holdOrphaned(l.account.group, b, n, max(until, dom.takeOut(l.account.group, b, n)))
		o.single = true
		if l.orphans == nil {
			l.orphans = map[*bucket]*orphan{}
		}
		l.orphans[b] = o
	}
}

// takeOut takes one lease's n out of the orphaned hold of all, since it is going to be
// held by itself. It returns until when it was held there.
func (dom *Domain) takeOut(g *group, b *bucket, n int64) (until Time) {
	for _, o := range g.orphans {
		if o.bucket == b && !o.single {
			n = min(n, o.n)
			o.n -= n
			b.HoldOrphaned(-n)
			return Time(dom.orphans.items[o.index].key)
		}
	}
	return 0
}

// extend makes the orphaned hold of one lease last longer, unless it has ended, and
// charges what it held and has used by now.
func (dom *Domain) extend(o *orphan, n int64, now, until Time) {
	if o.index < 0 {
		return
	}
	if b := o.bucket; !b.Slots() && o.n > n {
		b.Charge(now, o.n-n)
		b.Hold(n - o.n)
		o.n = n
	}
	dom.orphans.update(o, max(int64(until), dom.orphans.items[o.index].key))
}
