package pool

// The end of leases: by their holders, by their time, by the owner.

import "github.com/keybroker/keybroker/internal/provider"

// maxDue bounds the work of one call; what is left over is done by the next.
const maxDue = 1000

// tick takes the time forward and does what is due. A moment before the last one counts
// as the last one: here, and nowhere else.
func (dom *Domain) tick(now Time) Time {
	dom.now = max(dom.now, now)
	dom.settleOrphans(dom.now)
	dom.wakeKeys(dom.now)
	if d := &dom.predecessors; d.leases != nil && dom.now >= max(d.until, d.end) {
		d.leases = nil
	}
	dom.forgetUnused()
	for range maxDue {
		if dom.due.len() == 0 {
			break
		}
		l, at := dom.due.min()
		if Time(at) > dom.now {
			break
		}
		switch {
		case l.lapsed:
			dom.forget(l)
		case l.expires <= dom.now:
			l.choice.pool.counters.Expired++
			dom.end(dom.now, l, false)
			l.lapsed = true
			dom.due.update(l, int64(l.expires.Add(l.ttl)))
		default:
			charged := l.chargeHeld(dom.now, false)
			dom.touch(l.account, l.key)
			dom.due.update(l, int64(l.nextEvent()))
			if charged {
				dom.freed(dom.now, l.account)
			}
		}
	}
	return dom.now
}

// find looks a lease up for its holder: ErrLeaseEnded, ErrNotHolder.
func (dom *Domain) find(id LeaseID, holder string) (*lease, error) {
	l := dom.leases[id]
	switch {
	case l == nil:
		return nil, ErrLeaseEnded
	case l.by.holder.name != holder:
		return nil, ErrNotHolder
	}
	return l, nil
}

// Release ends a lease. What was reserved stays charged, unless the request was never
// sent: nobody saw the traffic, so it probably happened. The errors are those of Report.
func (dom *Domain) Release(now Time, id LeaseID, holder string, unused bool) error {
	now = dom.tick(now)
	l, err := dom.find(id, holder)
	if err != nil {
		return err
	}
	if l.lapsed {
		dom.forget(l)
		return ErrLeaseEnded
	}
	freed := unused && l.settle(now, provider.Amounts{}, true, nil)
	l.choice.pool.counters.Released++
	dom.end(now, l, freed)
	dom.forget(l)
	return nil
}

// TakeBack ends a lease as unused that a call was given and did not pass on, unless
// another call with the same request id was given it, too.
func (dom *Domain) TakeBack(now Time, id LeaseID, holder string) {
	now = dom.tick(now)
	l, err := dom.find(id, holder)
	if err != nil {
		return
	}
	if l.given--; l.given == 0 {
		_ = dom.Release(now, id, holder, true)
	}
}

// NoRenewal says that no report renews a lease any more: it ends with its time.
func (dom *Domain) NoRenewal(id LeaseID) {
	if l := dom.leases[id]; l != nil {
		l.last = true
	}
}

// MarkDurable says that what a lease was charged has been saved: it may be given out, and
// again. It returns whether the lease is open.
func (dom *Domain) MarkDurable(id LeaseID) bool {
	l := dom.leases[id]
	if l == nil || l.lapsed {
		return false
	}
	l.durable = true
	return true
}

// end settles a lease and returns its slots. freed says that it has returned room
// already.
func (dom *Domain) end(now Time, l *lease, freed bool) {
	freed = l.end(now) || freed
	a, k := l.account, l.key
	dom.touch(a, k)
	if a.group.crossed { // it may hold amounts of other accounts
		dom.touchGroup(a.group)
	}
	dom.endProbes(now, l)
	l.choice.pool.open--
	a.open--
	k.open--
	l.by.holder.open--
	l.by.holder.tokens -= tokens(&l.reserved)
	l.prev.next, l.next.prev = l.next, l.prev
	if l.request != nil && dom.requests[*l.request] == l {
		delete(dom.requests, *l.request)
	}
	if freed {
		dom.freedBy(now, l)
	}
}

// freedBy takes note that a lease has returned room.
func (dom *Domain) freedBy(now Time, l *lease) {
	dom.freed(now, l.account)
	if !l.scattered {
		return
	}
	for _, g := range dom.groups {
		for _, a := range g.accounts {
			a.freed(dom)
		}
	}
}

// forget takes a lease that has ended out of the books.
func (dom *Domain) forget(l *lease) {
	dom.due.remove(l)
	l.account.class.leases--
	delete(dom.leases, l.id)
	dom.letGo(l.by)
}
