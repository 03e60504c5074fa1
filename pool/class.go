package pool

import (
	"math"
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// class is a class of models: those that share one limit. It has its own
// account with every group, its own candidates, and its own queue.
type class struct {
	name   string
	limits []Limit
	models []string // that it was declared with
	tiers  []*tier  // highest priority first
	queue  queue

	largest provider.Amounts // that some key's configured limits let through

	index  int     // in the pool's order, and in each group's accounts
	rest   rest    // of the provider's model, whoever calls it
	strain float64 // the part of late answers that were overloads

	stated, kept bool // it is in the last State, and that was saved
}

// tier is the candidates of one priority: those that may have room, in the
// strategy's hands, and those that had none when they were last asked.
type tier struct {
	priority int
	ready    KeySelector
	resting  heap[*Candidate] // by the moment at which they may have room
	memos    [4]memo
	oldest   int // memo to overwrite next
	scratch  []*Candidate
}

func (t *tier) rest(c *Candidate, ask *provider.Amounts, f *fit) {
	c.blocked, c.why = *ask, *f
	if c.resting {
		t.resting.update(c, int64(f.at))
		return
	}
	c.resting = true
	t.ready.Remove(c)
	t.resting.push(c, int64(f.at))
}

func (t *tier) wake(now Time, c *Candidate) {
	c.resting = false
	t.resting.remove(c)
	t.ready.Add(now, c)
}

// covers reports whether what blocked a resting candidate blocks this ask too.
func (c *Candidate) covers(ask *provider.Amounts) bool {
	switch c.why.by {
	case unconditional:
		return true
	case several:
		return ask.Covers(&c.blocked)
	}
	return ask[c.why.by] >= c.blocked[c.why.by]
}

// raise takes in the configured limits of another account.
func (c *class) raise(a *account) {
	for _, k := range a.group.keys {
		var most provider.Amounts
		for d := range most {
			most[d] = math.MaxInt64
		}
		for _, b := range concat([][]*bucket{a.buckets, k.own[c]}) {
			most[b.dimension] = min(most[b.dimension], b.ceiling)
		}
		c.largest.Raise(&most)
	}
}

// exceeded reports whether an ask is above what any key lets through, in some
// dimension.
func (c *class) exceeded(ask *provider.Amounts) bool { return !c.largest.Covers(ask) }

// tooLarge names a dimension in which the ask is over the largest limit; if it
// is over a different one with each key, then any that has a limit.
func (c *class) tooLarge(ask *provider.Amounts) error {
	e := &TooLargeError{}
	for d, n := range ask {
		limit := c.largest[d]
		if n > limit || e.Limit == 0 && n > 0 && limit < math.MaxInt64 {
			e.Dimension, e.Limit = provider.Dimension(d), limit
		}
	}
	return e
}

// memo is what a search that failed came to. Until its moment, unless something
// is freed, an ask at least as large fails too.
type memo struct {
	ask     provider.Amounts
	fit     fit      // where there is room first
	account *account // and whose it is
	claimed bool     // it is so while the claims are those that there are, or more
}

// sooner takes the better of two memos for the same ask.
func (m *memo) sooner(n *memo) {
	if m.account == nil || n.fit.at < m.fit.at || m.fit.never && !n.fit.never {
		m.fit, m.account = n.fit, n.account
	}
}

// known gives what is known without a search, if it is that nothing has room.
func (c *class) known(now Time, ask *provider.Amounts) (m memo, ok bool) {
	for _, t := range c.tiers {
		n := t.recall(now, ask)
		if n == nil {
			return m, false
		}
		m.sooner(n)
	}
	return m, true
}

// recall finds a memo for the ask.
func (t *tier) recall(now Time, ask *provider.Amounts) *memo {
	for i := range t.memos {
		if m := &t.memos[i]; now < m.fit.at && ask.Covers(&m.ask) {
			return m
		}
	}
	return nil
}

func (t *tier) memorize(m memo) {
	t.memos[t.oldest] = m
	t.oldest = (t.oldest + 1) % len(t.memos)
}

// unclaim ends all claims, and what is known because of them. The slice is free to be
// used again.
func (c *class) unclaim() (had []claim) {
	for _, t := range c.tiers {
		for i := range t.memos {
			if t.memos[i].claimed {
				t.memos[i] = memo{}
			}
		}
	}
	had, c.queue.claims = c.queue.claims, nil
	return had
}

// freed takes note that an account may have more room than it had, and with it
// those that share a limit.
func (p *Pool) freed(now Time, a *account) {
	if !a.group.shares {
		a.freed(now)
		return
	}
	for _, a := range a.group.accounts {
		a.freed(now)
	}
}

func (a *account) freed(now Time) {
	a.class.queue.due = a.class.queue.len > 0
	for _, c := range a.candidates {
		t := c.tier
		if c.resting {
			t.wake(now, c)
		} else {
			t.ready.Changed(now, c)
		}
		for i := range t.memos {
			m := &t.memos[i]
			if now >= m.fit.at {
				continue
			}
			if f := a.fit(now, &m.ask, ""); f.at < m.fit.at {
				m.fit, m.account = f, a
			}
		}
	}
}

// search looks for a key with room for one ask.
type search struct {
	now     Time
	ask     *provider.Amounts
	holder  string
	exclude []string
	only    *key // if not nil
	until   Time // and until then
	claims  []claim

	candidate *Candidate // with room
	key       *key       // of it, to be leased

	memo     memo // without room: what the present tier comes to
	personal bool // something was passed over that may be there for others
}

func (p *Pool) search(now Time, c *class, ask *Ask) search {
	s := search{now: now, ask: &ask.Amounts, holder: ask.Holder, exclude: ask.Exclude, claims: c.queue.claims}
	s.only, s.until = p.only(c, ask)
	return s
}

// allows reports whether the caller may have a key.
func (s *search) allows(k *key) bool {
	return (s.only == nil || s.only == k) && !slices.Contains(s.exclude, k.id) && !k.keptFrom(s.now, s.holder)
}

// run tries the priorities from the top. It reports whether there was room; if
// not, the memo says when there will be.
func (s *search) run(c *class) (m memo, ok bool) {
	for _, t := range c.tiers {
		known := t.recall(s.now, s.ask)
		if known == nil {
			if s.tier(t) {
				return m, true
			}
			known = &s.memo
		}
		m.sooner(known)
	}
	if m.account == nil { // nobody was even asked
		m.fit = fit{at: Never, by: unconditional}
	}
	if s.until < m.fit.at {
		m.fit = fit{at: s.until, by: unconditional}
	}
	return m, false
}

// tier tries one priority, and remembers it if there is no room for anybody.
func (s *search) tier(t *tier) bool {
	for t.resting.len() > 0 {
		c, at := t.resting.min()
		if Time(at) > s.now {
			break
		}
		t.wake(s.now, c)
	}
	s.memo = memo{ask: *s.ask, fit: fit{at: Never, by: unconditional, never: true}}
	s.personal = false
	if s.ready(t) || s.resting(t) {
		return true
	}
	if !s.personal && s.only == nil {
		t.memorize(s.memo)
	}
	return false
}

// ready tries what the strategy offers, until something has room or nothing is
// left. What has none goes to rest; what is only not for this caller comes back.
func (s *search) ready(t *tier) bool {
	aside := t.scratch[:0]
	for s.key == nil {
		c := t.ready.Select()
		if c == nil {
			break
		}
		if f, passed := s.try(c); passed {
			t.ready.Remove(c)
			aside = append(aside, c)
		} else if s.key == nil {
			t.rest(c, s.ask, &f)
		}
	}
	for _, c := range aside {
		t.ready.Add(s.now, c)
	}
	t.scratch = aside[:0]
	return s.key != nil
}

// resting tries those that rest because of a larger ask, soonest first.
func (s *search) resting(t *tier) bool {
	open := t.scratch[:0]
	for _, e := range t.resting.items {
		if e.v.covers(s.ask) {
			s.consider(e.v, &e.v.why)
		} else {
			open = append(open, e.v)
		}
	}
	t.scratch = open[:0]
	for _, c := range open {
		f, passed := s.try(c)
		if s.key != nil {
			t.wake(s.now, c)
			return true
		}
		if !passed {
			t.rest(c, s.ask, &f)
		}
	}
	return false
}

// try asks one candidate. Without room there, it gives the fit, or passed if
// there may be room for others.
func (s *search) try(c *Candidate) (f fit, passed bool) {
	a := c.account
	claim := s.claimed(a)
	switch {
	case claim != nil: // at its moment it is served, and others may be
		f = fit{at: claim.until, by: unconditional, byEvent: claim.until == Never}
		s.memo.claimed = true
		s.consider(c, &f)
		return f, true
	case !a.room(s.now, s.ask, s.holder):
		f = a.fit(s.now, s.ask, s.holder)
		if a.suspects(s.holder) {
			others := a.fit(s.now, s.ask, "")
			if passed = others.at < f.at; !passed {
				f = others // what binds them may be something else
			}
		}
	default:
		if s.key, f, passed = c.seat.pick(s, a.class); s.key != nil {
			s.candidate = c
			c.seat.turn = (int(s.key.turn) + 1) % len(c.seat.keys)
			return f, false
		}
	}
	s.personal = s.personal || passed
	s.consider(c, &f)
	return f, passed
}

func (s *search) consider(c *Candidate, f *fit) {
	s.memo.sooner(&memo{fit: *f, account: c.account})
}
