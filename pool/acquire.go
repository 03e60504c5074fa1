package pool

import (
	"math"
	"slices"
	"sort"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// Ask is what a holder asks for.
type Ask struct {
	Pool   string // its name; empty: the first of the domain
	Holder string // an identity
	// Instance tells which process of the holder asks. Instances of one holder take turns.
	Instance string
	Model    string
	Amounts  provider.Amounts // of one request; 0 or more in each dimension
	Count    int              // requests; fewer may be granted. 0 is taken as 1
	TTL      time.Duration
	Exclude  []string // keys, by id
	Request  string   // if not empty, the same ask again gets the same lease
	Caps     Caps     // of the holder
	Preference

	most int64 // output tokens as Amounts said before expects put a likely amount in their place
}

// Acquire grants a lease now, or says why not: *ExhaustedError, *TooLargeError,
// *HolderLimitError, ErrNoPool, ErrNoKey, ErrModelRequired or ErrModelNotServed. Those who wait and fit are
// served before, and the first in line is not made to wait longer.
func (dom *Domain) Acquire(now Time, ask Ask) (Grant, error) {
	now = dom.tick(now)
	if l := dom.repeated(now, &ask); l != nil {
		return l.give(), nil
	}
	ch, err := dom.admit(&ask)
	if err != nil {
		return Grant{}, err
	}
	l, err := dom.acquire(now, ch, &ask)
	if err != nil {
		return Grant{}, err
	}
	return l.give(), nil
}

// admit finds what an ask chooses from, sets aside what its answer will likely use, and
// refuses what no waiting can cure.
func (dom *Domain) admit(ask *Ask) (*choice, error) {
	ch, err := dom.choiceFor(ask)
	if err != nil {
		return nil, err
	}
	if err := ch.checkPreference(&ask.Preference); err != nil {
		return nil, err
	}
	dom.expects(ch, ask)
	if ch.exceeded(ask) {
		return nil, ch.tooLarge(ask)
	}
	if err := dom.overCaps(ch.pool, ask); err != nil {
		return nil, err
	}
	return ch, nil
}

func (dom *Domain) acquire(now Time, ch *choice, ask *Ask) (*lease, error) {
	n, full := ch.knownFull(now, &ask.Amounts)
	if full {
		return nil, dom.exhausted(ch, &n, ask)
	}
	q := &ch.queue
	if q.len > 0 && (q.due || q.wake <= now) { // whoever waits goes before
		q.until = math.MaxInt64 // all of them: the turns of lines are those of one Next
		dom.serve(now, ch)
	}
	s := dom.search(now, ch, ask)
	n, ok := s.run(ch)
	if !ok {
		return nil, dom.exhausted(ch, &n, ask)
	}
	if q.turns.waits(ask.Holder) {
		q.due = true // it moves back in line, and another may be the first
	}
	return dom.grant(now, &s, ask, dom.hold(ch.pool, ask.Holder, ask.Instance)), nil
}

// Repeated returns the lease that Acquire would return again for an ask that it has
// granted before.
func (dom *Domain) Repeated(now Time, ask Ask) (Grant, bool) {
	l := dom.repeated(dom.tick(now), &ask)
	if l == nil {
		return Grant{}, false
	}
	return l.give(), true
}

// repeated finds the lease that the same ask was given before, unless the time to use it
// has passed: then the answer was lost, and the ask gets another. So does an ask that is
// not the same after all.
func (dom *Domain) repeated(now Time, ask *Ask) *lease {
	if ask.Request == "" {
		return nil
	}
	ch, err := dom.choiceFor(ask)
	if err != nil {
		return nil
	}
	k := requestKey{ch.pool, ask.Holder, ask.Request}
	l := dom.requests[k]
	if l == nil {
		return nil
	}
	if ch != l.choice || slices.Contains(ask.Exclude, l.key.id) || l.startBy() <= now {
		delete(dom.requests, k)
		return nil
	}
	return l
}

// exhausted says why an ask has no room, and when to ask again.
func (dom *Domain) exhausted(ch *choice, n *negative, ask *Ask) error {
	if n.fit.never {
		return ch.tooLarge(ask)
	}
	e := &ExhaustedError{RetryAt: n.fit.at, Dimension: provider.NumDimensions, NoUsableKey: !dom.alive(ch, ask)}
	switch {
	case e.NoUsableKey:
		e.RetryAt = Never
	case n.fit.byEvent: // nobody knows when; soon is likely
		e.RetryAt = min(e.RetryAt, dom.now.Add(time.Second))
	}
	if n.fit.by < unconditional {
		e.Dimension = provider.Dimension(n.fit.by)
	}
	return e
}

// alive reports whether some key works for an ask, as far as is known.
func (dom *Domain) alive(ch *choice, ask *Ask) bool {
	for _, g := range ch.pool.groups {
		a := g.accounts[ch.class.index]
		if dom.blocked(&a.cooldown, ask.eye()) || dom.blocked(&g.cooldown, ask.eye()) {
			continue
		}
		for _, s := range g.seats {
			if s.alive(dom, ch.class, ask) {
				return true
			}
		}
	}
	return false
}

// grant leases what a search has found to an instance.
func (dom *Domain) grant(now Time, s *search, ask *Ask, by *instance) *lease {
	a, k, ch := s.candidate.account, s.key, s.candidate.tier.choice
	count := dom.requestsFor(now, s, ask)
	dom.lastID++
	l := &lease{
		id: dom.lastID, by: by, key: k, account: a, choice: ch, model: ask.Model,
		granted: now, heldFrom: now, expires: now.Add(ask.TTL), ttl: ask.TTL,
		reserved: ask.Amounts, count: int32(count), size: sizeOf(ask.most), index: -1, // #nosec G115 -- no more than asked for, which is an int32
	}
	if count > 1 {
		l.reserved = times(&ask.Amounts, int64(count))
	}
	if a.disputed {
		dom.probesFigures(now, l)
	}
	l.durable = l.take(now) && (!dom.keeps || a.saved && k.saved)
	for _, c := range a.cooldowns() {
		if c.on() {
			dom.coolingGranted(now, c, l)
		}
	}
	if c := k.barred[a.class]; c != nil {
		dom.coolingGranted(now, c, l)
		dom.usableChanged(k.group)
	}
	a.slowStart.note(&ask.Amounts, a.open == 0)
	ch.pool.open++
	a.open++
	a.class.leases++
	k.open++
	l.by.holder.open++
	l.by.holder.tokens += tokens(&l.reserved)
	if k.cooldown.on() {
		dom.coolingGranted(now, &k.cooldown, l)
		dom.reseat(now, k)
	}
	s.candidate.tier.ready.Served(now, s.candidate)
	for _, c := range a.candidates { // the other priorities of the same group
		if c != s.candidate && !c.full {
			c.tier.ready.Changed(now, c)
		}
	}
	ch.queue.turns.charge(ask.Holder, ask.Instance, l.cost())
	if q := &ch.queue; q.len > 0 {
		dom.given = max(dom.given, q.given)
		q.given += int64(l.cost() * virtual)
	}
	dom.leases[l.id] = l
	l.prev, l.next = dom.order.prev, &dom.order
	l.prev.next, l.next.prev = l, l
	dom.due.push(l, int64(l.nextEvent()))
	if ask.Request != "" {
		l.request = &requestKey{ch.pool, ask.Holder, ask.Request}
		dom.requests[*l.request] = l
	}
	ch.pool.counters.Granted++
	dom.touch(a, k)
	return l
}

// requestsFor returns how many requests a lease may be good for: no more than asked for,
// than a tenth of any limit, than the holder may have, and than leaves as much room for
// each holder who waits. Where it is not certain that there is room for even one, it is
// one.
func (dom *Domain) requestsFor(now Time, s *search, ask *Ask) int {
	a := s.candidate.account
	if ask.Count <= 1 || a.slowStart.active() || a.disputed {
		return 1
	}
	for _, c := range a.cooldowns() {
		if c.on() {
			return 1
		}
	}
	buckets := s.key.charges(a).buckets
	most := int64(ask.Count)
	for _, b := range buckets {
		if n := ask.Amounts[b.Dimension()]; n > 0 {
			most = min(most, max(1, b.Limit()/10/n))
		}
	}
	if n := tokens(&ask.Amounts); n > 0 && ask.Caps.Tokens > 0 {
		most = min(most, max(1, (ask.Caps.Tokens-dom.tokensOf(s.candidate.tier.choice.pool, ask.Holder))/n))
	}
	q := &s.candidate.tier.choice.queue
	share := int64(q.turns.waiting)
	if !q.turns.waits(ask.Holder) {
		share++
	}
	first := sort.Search(int(most), func(i int) bool { // that does not fit
		all := times(&ask.Amounts, int64(i+1)*share)
		return !fits(now, buckets, &all)
	})
	return max(1, first)
}

// times multiplies amounts.
func times(a *provider.Amounts, n int64) (out provider.Amounts) {
	for d, x := range a {
		out[d] = limit.MulDiv(x, n, 1)
	}
	return out
}

// give returns the lease for one more call.
func (l *lease) give() Grant {
	l.given++
	return l.grant()
}

// grant returns the lease as its holder gets it.
func (l *lease) grant() Grant {
	return Grant{
		Lease: l.id, Key: l.key.id, Count: int(l.count),
		Granted: l.granted, StartBy: l.startBy(), Expires: l.expires, Probe: l.probe,
		Durable: l.durable, Class: l.account.class.name, Reserved: l.reserved,
	}
}
