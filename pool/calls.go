package pool

// What the owner calls: the grant of a lease, reports on it, and its end.

import (
	"slices"
	"sort"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// only is the one key that may be leased without pooling: the first that is
// usable and that this holder may have, and the moment at which that may be an
// earlier one. With pooling it is nil.
func (p *Pool) only(c *class, ask *Ask) (k *key, until Time) {
	until = Never
	if !p.cfg.Single {
		return nil, until
	}
	for _, k := range p.keys {
		if !k.usable() || slices.Contains(ask.Exclude, k.id) {
			continue
		}
		at := k.opens(p.now, c, ask.Holder)
		if at == p.now {
			return k, until
		}
		until = min(until, at)
	}
	return p.keys[0], until
}

// tick takes the time forward and does what is due. A moment before the last
// one counts as the last one: here, and nowhere else.
func (p *Pool) tick(now Time) Time {
	p.now = max(p.now, now)
	p.wakeKeys(p.now)
	p.exorcise(p.now)
	if p.old != nil && p.now >= max(p.oldUntil, p.oldEnd) {
		p.old = nil
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
			charged := l.charge(p.now, false)
			p.due.update(l, int64(l.nextEvent()))
			if charged {
				p.freed(p.now, l.account)
			}
		}
	}
	return p.now
}

// maxDue bounds the work of one call; what is left over is done by the next.
const maxDue = 1000

// Acquire grants a lease now, or says why not: *ExhaustedError,
// *TooLargeError, *HolderLimitError, ErrModelRequired or ErrModelNotServed. Those
// who wait and fit are served before, and the first in line is not made to wait
// longer.
func (p *Pool) Acquire(now Time, ask Ask) (Grant, error) {
	now = p.tick(now)
	if l := p.repeated(now, &ask); l != nil {
		return l.grant(p), nil
	}
	c, err := p.class(ask.Model)
	if err != nil {
		return Grant{}, err
	}
	p.expects(c, &ask)
	if c.exceeded(&ask.Amounts) {
		return Grant{}, c.tooLarge(&ask.Amounts)
	}
	if err := p.capped(&ask); err != nil {
		return Grant{}, err
	}
	l, err := p.acquire(now, c, &ask)
	if err != nil {
		return Grant{}, err
	}
	return l.grant(p), nil
}

func (p *Pool) acquire(now Time, c *class, ask *Ask) (*lease, error) {
	m, full := c.known(now, &ask.Amounts)
	if full {
		return nil, p.exhausted(c, &m, ask)
	}
	q := &c.queue
	if q.len > 0 && (q.due || q.wake <= now) { // whoever waits goes before
		p.serve(now, c)
	}
	s := p.search(now, c, ask)
	m, ok := s.run(c)
	if !ok {
		return nil, p.exhausted(c, &m, ask)
	}
	if l := q.byHolder[ask.Holder]; l != nil && l.first != nil {
		q.due = true // it moves back in line, and another may be the first
	}
	return p.lease(now, &s, ask), nil
}

// Repeated gives the lease that Acquire would give again for an ask it has
// granted before.
func (p *Pool) Repeated(now Time, ask Ask) (Grant, bool) {
	l := p.repeated(p.tick(now), &ask)
	if l == nil {
		return Grant{}, false
	}
	return l.grant(p), true
}

// repeated finds the lease that the same ask was given before, unless the time
// to use it has passed: then the answer was lost, and it gets another. So does an
// ask that is not the same after all.
func (p *Pool) repeated(now Time, ask *Ask) *lease {
	if ask.Request == "" {
		return nil
	}
	k := requestKey{ask.Holder, ask.Request}
	l := p.requests[k]
	if l == nil {
		return nil
	}
	c, err := p.class(ask.Model)
	if err != nil || c != l.account.class || slices.Contains(ask.Exclude, l.key.id) ||
		l.granted.Add(p.cfg.StartWithin) <= now {
		delete(p.requests, k)
		return nil
	}
	return l
}

func (l *lease) grant(p *Pool) Grant {
	l.given++
	return Grant{
		Lease: l.id, Key: l.key.id, Count: l.count,
		Granted: l.granted, StartBy: l.granted.Add(p.cfg.StartWithin), Expires: l.expires, Trial: l.trial,
		Covered: l.covered, Class: l.account.class.name, Reserved: l.reserved,
	}
}

func (p *Pool) exhausted(c *class, m *memo, ask *Ask) error {
	if m.fit.never {
		return c.tooLarge(&ask.Amounts)
	}
	e := &ExhaustedError{RetryAt: m.fit.at, Dimension: provider.NumDimensions, NoUsableKey: !p.alive(c, ask)}
	switch {
	case e.NoUsableKey:
		e.RetryAt = Never
	case m.fit.byEvent: // nobody knows when; soon is likely
		e.RetryAt = min(e.RetryAt, p.now.Add(time.Second))
	}
	if m.fit.by < unconditional {
		e.Dimension = provider.Dimension(m.fit.by)
	}
	return e
}

// alive reports whether some key works for an ask, as far as is known.
func (p *Pool) alive(c *class, ask *Ask) bool {
	for _, g := range p.groups {
		a := g.accounts[c.index]
		if a.rest.blocked(p.now, ask.Holder) || g.rest.blocked(p.now, ask.Holder) {
			continue
		}
		for _, s := range g.seats {
			if s.alive(p.now, c, ask) {
				return true
			}
		}
	}
	return false
}

// lease grants what a search has found.
func (p *Pool) lease(now Time, s *search, ask *Ask) *lease {
	a, k := s.candidate.account, s.key
	count := p.grow(now, s, ask)
	p.lastID++
	l := &lease{
		id: p.lastID, holder: p.hold(ask.Holder), key: k, account: a,
		granted: now, heldFrom: now, expires: now.Add(ask.TTL), ttl: ask.TTL,
		reserved: ask.Amounts, count: count, size: sizeOf(ask.most), request: ask.Request, index: -1,
	}
	if count > 1 {
		l.reserved = times(&ask.Amounts, int64(count))
	}
	if a.doubted && (a.full() || !fits(now, a.buckets, &ask.Amounts)) {
		l.trial, a.trial, a.tried = true, l.id, now
	}
	l.covered = l.take(now) && (!p.keeps || a.class.kept)
	for _, r := range a.rests() {
		r.taken(now, l)
	}
	if r := k.barred[a.class]; r != nil {
		r.taken(now, l)
		p.turned(k.group)
	}
	if len(a.missing) > 0 {
		if a.open == 0 {
			a.since = provider.Amounts{}
		}
		for d, n := range ask.Amounts {
			a.since[d] = min(a.since[d], int64(longest)) + min(n, int64(longest))
		}
	}
	p.open++
	a.open++
	k.open++
	l.holder.open++
	l.holder.tokens += tokens(&l.reserved)
	if k.health != Healthy {
		p.rest(k, now.Add(patience))
		k.probe = l
	}
	s.candidate.tier.ready.Served(now, s.candidate)
	for _, c := range a.candidates { // the other priorities of the same group
		if c != s.candidate && !c.resting {
			c.tier.ready.Changed(now, c)
		}
	}
	a.class.queue.charge(ask.Holder, l.cost())
	p.leases[l.id] = l
	l.prev, l.next = p.order.prev, &p.order
	l.prev.next, l.next.prev = l, l
	p.due.push(l, int64(l.nextEvent()))
	if l.request != "" {
		p.requests[requestKey{ask.Holder, l.request}] = l
	}
	p.counters.Granted++
	return l
}

// grow gives how many requests a lease may be good for: no more than asked for,
// than a tenth of any limit, than the holder may have, and than leaves as much room for each holder who
// waits. Where it is not sure that there is room for even one, it is one.
func (p *Pool) grow(now Time, s *search, ask *Ask) int {
	a := s.candidate.account
	if ask.Count <= 1 || a.felt() || a.doubted {
		return 1
	}
	for _, r := range a.rests() {
		if r.on {
			return 1
		}
	}
	buckets := concat([][]*bucket{a.buckets, s.key.own[a.class]})
	most := int64(ask.Count)
	for _, b := range buckets {
		if n := ask.Amounts[b.dimension]; n > 0 {
			most = min(most, max(1, b.limit/10/n))
		}
	}
	if n := tokens(&ask.Amounts); n > 0 && ask.Caps.Tokens > 0 {
		most = min(most, max(1, (ask.Caps.Tokens-p.tokensOf(ask.Holder))/n))
	}
	q := &a.class.queue
	share := int64(q.holders)
	if l := q.byHolder[ask.Holder]; l == nil || l.first == nil { // it does not wait itself
		share++
	}
	fit := sort.Search(int(most), func(i int) bool { // the first that does not fit
		all := times(&ask.Amounts, int64(i+1)*share)
		return !fits(now, buckets, &all)
	})
	return max(1, fit)
}

// times multiplies amounts.
func times(a *provider.Amounts, n int64) (out provider.Amounts) {
	for d, x := range a {
		out[d] = mulDiv(x, n, 1)
	}
	return out
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

// Report takes in what the provider answered: what it means, and what was used
// since the grant, Unknown where that is not known. A final report ends the
// lease; any other renews it, and expires is the new end. A lease whose time has
// run out takes reports for as long again: debt is never dropped. The errors are
// ErrLeaseEnded and ErrNotHolder, and then nothing has changed.
func (p *Pool) Report(now Time, id LeaseID, holder string, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	return p.report(p.tick(now), id, holder, s, used, false, final)
}

// ReportLast is a Report of a lease for several requests, of which no more will
// be sent than it says: what was reserved for the others comes back.
func (p *Pool) ReportLast(now Time, id LeaseID, holder string, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	return p.report(p.tick(now), id, holder, s, used, true, final)
}

func (p *Pool) report(now Time, id LeaseID, holder string, s provider.Signal, used provider.Amounts, last, final bool) (expires Time, err error) {
	l, err := p.find(id, holder)
	if err != nil {
		return 0, err
	}
	a := l.account
	freed := last && l.trim(now, used[provider.Requests])
	for d, kept := range p.cfg.Dialect.Kept {
		if kept && used[d] >= 0 {
			used[d] = max(used[d], l.reservedFor(d, used[provider.Requests]))
		}
	}
	if final {
		p.learnOutput(l, &s, &used)
	}
	over := l.over()
	freed = l.report(now, used, final) || freed
	if over = l.over() - over; over > 0 {
		a.class.queue.owes(l, over)
	}
	p.dirty = p.dirty || !l.reserved.Covers(&l.used) // debt
	freed = a.learn(now, p, l, &s) || freed
	p.hear(now, l, &s)
	p.judge(now, l, &s, final)
	switch {
	case l.lapsed:
		if freed || final && a.felt() { // an answer widens the window
			p.freed(now, a)
		}
		if final {
			p.forget(l)
		}
		return now, nil
	case final:
		p.counters.Released++
		p.end(now, l, freed)
		p.forget(l)
		return now, nil
	}
	l.heldFrom = now
	if !l.last {
		l.expires = max(l.expires, now.Add(l.ttl))
	}
	p.due.update(l, int64(l.nextEvent()))
	if freed {
		p.freed(now, a)
	}
	return l.expires, nil
}

// Release ends a lease. What was reserved stays charged, unless the request was
// never sent. The errors are those of Report.
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
	freed := unused && l.report(now, provider.Amounts{}, true)
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

// end settles a lease and gives back its slots. freed says that it has given back
// room already.
func (p *Pool) end(now Time, l *lease, freed bool) {
	freed = l.end(now) || freed
	a, k := l.account, l.key
	p.endTrial(now, l)
	p.open--
	a.open--
	k.open--
	l.holder.open--
	l.holder.tokens -= tokens(&l.reserved)
	if k.probe == l {
		p.rest(k, now) // without a verdict: the next lease is the probe
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

// Cover says that what a lease was charged has been written down: it may be given
// out, and again. It reports whether the lease is open.
func (p *Pool) Cover(id LeaseID) bool {
	l := p.leases[id]
	if l == nil || l.lapsed {
		return false
	}
	l.covered = true
	return true
}
