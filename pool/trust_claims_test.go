package pool_test

import (
	"cmp"
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// claim is a lease with what the provider may have counted for it. Nobody knows what was
// really used. The claim takes what reports say was used, up to the reservation, and where
// no final report says it, the whole reservation.
type claim struct {
	grant          pool.Grant
	owner          int // the number of the owner that granted it
	holder, model  string
	requests       int64            // it is good for; ReportLast lowers it
	told           provider.Amounts // the most that any report said was used; Unknown if none did
	since, expires pool.Time        // since: the grant, or the last report that renewed it
	open           bool
	stakes         []*stake // one for each configured limit that counts it
}

// stake is a claim on one configured limit.
type stake struct {
	limit *counted
	held  bool  // counted while the provider answers, and not when the request arrives
	n     int64 // reserved; ReportLast lowers it
	known bool  // a final report has said what was used, and n is that

	// Of a held amount, parts are what reports have said was used while the lease was open,
	// spent is their sum, and the rest is used between from and until at the latest.
	parts       []use
	spent       int64
	closed      bool
	from, until pool.Time
}

func (s *stake) dimension() provider.Dimension { return s.limit.limit.Dimension }

func (s *stake) slots() bool { return s.limit.limit.Window == 0 }

// settle takes what a final report has said for what was used. Whoever says more later has
// made it return what others were given since.
func (s *stake) settle(said int64) {
	if !s.known && !s.slots() {
		s.known, s.n = true, min(max(said, 0), s.n)
	}
}

// uses returns what the provider may have counted, each part with its earliest and its
// latest moment.
func (s *stake) uses(c *claim, delta pool.Time) []use {
	granted := c.grant.Granted
	switch {
	case s.slots():
		until := pool.Never
		if s.closed {
			until = s.until
		}
		return append(s.parts, use{lo: granted, hi: until, n: s.n})
	case !s.held:
		return []use{{lo: granted, hi: granted + delta, n: s.n}}
	}
	from, until := s.from, s.until
	if !s.closed { // later than this is not promised
		from, until = c.since, s.latest(c)
	}
	return append(slices.Clip(s.parts), use{lo: from, hi: until, n: s.n - s.spent})
}

// latest is when a held amount of which no report speaks counts as used.
func (s *stake) latest(c *claim) pool.Time { return c.since + pool.Time(s.limit.limit.Window/2) }

// close fixes when the rest of a held amount was used at the latest, or when a slot came
// free.
func (s *stake) close(from, until pool.Time) {
	if !s.closed {
		s.closed, s.from, s.until = true, from, until
	}
}

// pass lets time go by, up to the end of the lease.
func (c *claim) pass(now pool.Time) {
	if !c.open {
		return
	}
	end := min(now, c.expires)
	for _, s := range c.stakes {
		if s.held && !s.slots() && s.latest(c) <= end {
			s.close(c.since, s.latest(c))
		}
	}
	if c.expires <= now {
		c.end(c.expires)
	}
}

// end closes what is still open.
func (c *claim) end(at pool.Time) {
	for _, s := range c.stakes {
		s.close(c.since, at)
	}
	c.open = false
}

// trim takes in that no more requests will be sent than so many.
func (c *claim) trim(now pool.Time, sent int64, used *provider.Amounts) {
	if sent < 0 || sent >= c.requests {
		return
	}
	sent = min(max(sent, c.told[provider.Requests]), c.requests)
	for _, s := range c.stakes {
		said := min(max(c.told[s.dimension()], used[s.dimension()]), s.n)
		after := max((s.n*sent+c.requests-1)/max(c.requests, 1), said)
		if s.slots() && !s.closed && after < s.n {
			s.parts = append(s.parts, use{lo: c.grant.Granted, hi: now, n: s.n - after})
		}
		if s.slots() && s.closed {
			continue
		}
		if !s.known {
			s.n = after
		}
	}
	c.requests = sent
}

// report takes in what a report says was used, which the owner has accepted. kept marks the
// dimensions in which each request that was sent counts in full.
func (c *claim) report(now, expires pool.Time, used provider.Amounts, kept *[provider.NumDimensions]bool, last, final bool) {
	if last {
		c.trim(now, used[provider.Requests], &used)
	}
	c.told[provider.Requests] = max(c.told[provider.Requests], used[provider.Requests])
	sent := c.told[provider.Requests]
	for _, s := range c.stakes {
		d := s.dimension()
		if kept[d] && used[d] >= 0 && !s.slots() {
			share := s.n
			if sent >= 0 && sent < c.requests {
				share = (s.n*sent + c.requests - 1) / c.requests
			}
			used[d] = max(used[d], share)
		}
	}
	for d, n := range used {
		c.told[d] = max(c.told[d], n)
	}
	for _, s := range c.stakes {
		if s.held && !s.slots() && !s.closed {
			if n := min(c.told[s.dimension()], s.n) - s.spent; n > 0 {
				s.parts = append(s.parts, use{lo: c.since, hi: now, n: n})
				s.spent += n
			}
		}
		if final && used[s.dimension()] >= 0 {
			s.settle(c.told[s.dimension()])
		}
	}
	switch {
	case !c.open:
	case final:
		c.end(now)
	default:
		c.since, c.expires = now, max(c.expires, expires)
	}
}

// unused takes in that the request was never sent.
func (c *claim) unused(now pool.Time) {
	for _, s := range c.stakes {
		s.settle(c.told[s.dimension()])
	}
	c.end(now)
}

// phase is what holders have said of a fixed window whose reset is not configured. What two
// of them agree on is taken for true.
type phase struct {
	stated      []statedReset
	agreed      bool
	at          pool.Time // since when they agree
	first, last pool.Time // a reset is between the two
	doubtful    bool      // they agree on different resets
}

// statedReset is a reset that an answer has stated: the answer was given between the grant
// and the report.
type statedReset struct {
	holder      string
	first, last pool.Time
}

// sameReset is how far the resets may be apart that two holders state and mean the same.
const sameReset = 2 * sec

// state takes in what a holder says.
func (p *phase) state(now pool.Time, r statedReset, window pool.Time) {
	for _, o := range p.stated {
		if o.holder == r.holder {
			continue
		}
		first, last, ok := common(r, o, window)
		switch {
		case !ok:
		case !p.agreed:
			p.agreed, p.at, p.first, p.last = true, now, first, last
		default:
			_, _, ok = common(statedReset{first: first, last: last}, statedReset{first: p.first, last: p.last}, window)
			p.doubtful = p.doubtful || !ok
		}
	}
	p.stated = append(p.stated, r)
}

// common returns where two statements of a reset overlap. The windows repeat.
func common(a, b statedReset, window pool.Time) (first, last pool.Time, ok bool) {
	if a.last-a.first+b.last-b.first >= window {
		return 0, 0, false // they exclude nothing
	}
	for shift := (a.first-b.last)/window - 1; ; shift++ {
		lo, hi := b.first+shift*window, b.last+shift*window
		if lo > a.last+sameReset {
			return 0, 0, false
		}
		if first, last = max(a.first, lo), min(a.last, hi); first <= last+sameReset {
			return min(first, last), max(first, last), true
		}
	}
}

// judge places all that the claims come to where it is worst for the limit.
func (l *counted) judgeClaims(t *rapid.T, claims []*claim, delta pool.Time, p *phase) {
	all := l.usesOf(claims, delta, pool.Never)
	a := account{limit: l.limit, uses: all}
	what := fmt.Sprintf("%v of %d in %v, kind %d, key %q, model %q", l.limit.Dimension, l.limit.Amount, l.limit.Window, l.limit.Kind, l.key, l.model)
	switch {
	case l.limit.Window == 0:
		a.judgeSlots(t)
	case l.limit.Kind != provider.Fixed:
		a.judgeAll(t, what)
	case l.limit.Reset > 0:
		if p.agreed { // on another one, perhaps, after the configuration did not say it any more
			a.uses = l.usesOf(claims, delta, p.at)
		}
		a.judgeAll(t, what)
	case !p.agreed: // any phase may be the true one
		a.limit.Kind = provider.Sliding
		a.judgeAll(t, what+", unknown phase")
	default:
		before := account{limit: l.limit, uses: l.usesOf(claims, delta, p.at)}
		before.limit.Kind = provider.Sliding
		before.judgeAll(t, what+", unknown phase")
		if p.doubtful {
			return
		}
		for _, reset := range []pool.Time{p.first, (p.first + p.last) / 2, p.last} {
			a.limit.Reset = reset % pool.Time(l.limit.Window) // the first window ends there
			a.judgeAll(t, what+", agreed phase")
		}
	}
}

// judgeAll judges every placement that can matter: all as early as possible, and as much as
// possible at each moment at which something is used at the latest.
func (a *account) judgeAll(t *rapid.T, what string) {
	a.judge(t, what, 0)
	last := pool.Time(-1)
	for _, u := range a.uses {
		if u.hi != last {
			a.judge(t, what, u.hi)
		}
		last = u.hi
	}
}

// usesOf returns what claims granted before a moment may come to, those of one time joined.
func (l *counted) usesOf(claims []*claim, delta, before pool.Time) (all []use) {
	for _, c := range claims {
		for _, s := range c.stakes {
			if s.limit == l && c.grant.Granted < before {
				all = append(all, s.uses(c, delta)...)
			}
		}
	}
	all = slices.DeleteFunc(all, func(u use) bool { return u.n <= 0 })
	slices.SortStableFunc(all, func(u, v use) int { return cmp.Or(cmp.Compare(u.hi, v.hi), cmp.Compare(u.lo, v.lo)) })
	joined := all[:0]
	for _, u := range all {
		if n := len(joined); n > 0 && joined[n-1].lo == u.lo && joined[n-1].hi == u.hi {
			joined[n-1].n += u.n
			continue
		}
		joined = append(joined, u)
	}
	return joined
}
