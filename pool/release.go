package pool

// The end of leases: by their holders, by their time, by the owner.

import "github.com/keybroker/keybroker/internal/provider"

// maxDue bounds the work of one call; what is left over is done by the next.
const maxDue = 1000

// tick takes the time forward and does what is due. A moment before the last one counts
// as the last one: here, and nowhere else.
func (p *Pool) tick(now Time) Time {
	p.now = max(p.now, now)
	p.wakeKeys(p.now)
	p.settleOrphans(p.now)
	if d := &p.predecessors; d.leases != nil && p.now >= max(d.until, d.end) {
		d.leases = nil
	}
	for range maxDue {
		if p.due.len() == 0 {
			break
		}
		l, at := p.due.min()
		if Time(at) > p.now {
			break
		}
		switch {
		case l.lapsed:
			p.forget(l)
		case l.expires <= p.now:
			p.counters.Expired++
			p.end(p.now, l, false)
			l.lapsed = true
			p.due.update(l, int64(l.expires.Add(l.ttl)))
		default:
			charged := l.chargeHeld(p.now, false)
			p.due.update(l, int64(l.nextEvent()))
			if charged {
				p.freed(p.now, l.account)
			}
		}
	}
	return p.now
}

// find looks a lease up for its holder: ErrLeaseEnded, ErrNotHolder.
func (p *Pool) find(id LeaseID, holder string) (*lease, error) {
	l := p.leases[id]
	switch {
	case l == nil:
		return nil, ErrLeaseEnded
	case l.holder.name != holder:
		return nil, ErrNotHolder
	}
	return l, nil
}

// Release ends a lease. What was reserved stays charged, unless the request was never
// sent: nobody saw the traffic, so it probably happened. The errors are those of Report.
func (p *Pool) Release(now Time, id LeaseID, holder string, unused bool) error {
	now = p.tick(now)
	l, err := p.find(id, holder)
	if err != nil {
		return err
	}
	if l.lapsed {
		p.forget(l)
		return ErrLeaseEnded
	}
	freed := unused && l.settle(now, provider.Amounts{}, true)
	p.counters.Released++
	p.end(now, l, freed)
	p.forget(l)
	return nil
}

// TakeBack ends a lease as unused that a call was given and did not pass on, unless
// another call with the same request id was given it, too.
func (p *Pool) TakeBack(now Time, id LeaseID, holder string) {
	now = p.tick(now)
	l, err := p.find(id, holder)
	if err != nil {
		return
	}
	if l.given--; l.given == 0 {
		_ = p.Release(now, id, holder, true)
	}
}

// NoRenewal says that no report renews a lease any more: it ends with its time.
func (p *Pool) NoRenewal(id LeaseID) {
	if l := p.leases[id]; l != nil {
		l.last = true
	}
}

// Cover says that what a lease was charged has been saved: it may be given out, and
// again. It returns whether the lease is open.
func (p *Pool) Cover(id LeaseID) bool {
	l := p.leases[id]
	if l == nil || l.lapsed {
		return false
	}
	l.durable = true
	return true
}

// end settles a lease and returns its slots. freed says that it has returned room
// already.
func (p *Pool) end(now Time, l *lease, freed bool) {
	freed = l.end(now) || freed
	a, k := l.account, l.key
	p.endProbes(now, l)
	p.open--
	a.open--
	k.open--
	l.holder.open--
	l.holder.tokens -= tokens(&l.reserved)
	if k.probe == l {
		p.rest(k, now) // no answer: the next lease is the probe
		p.wakeKeys(now)
	}
	l.prev.next, l.next.prev = l.next, l.prev
	if k := (requestKey{l.holder.name, l.request}); p.requests[k] == l {
		delete(p.requests, k)
	}
	if freed {
		p.freed(now, a)
	}
}

// forget takes a lease that has ended out of the books.
func (p *Pool) forget(l *lease) {
	p.due.remove(l)
	delete(p.leases, l.id)
	p.letGo(l.holder)
}
