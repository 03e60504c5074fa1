package pool

import "github.com/keybroker/keybroker/internal/provider"

// class is a class of models: those that share one limit. It has its own
// account with every group, its own candidates, and its own queue.
type class struct {
	name   string
	limits []Limit
	tiers  []*tier // highest priority first
	memos  [4]memo
	oldest int // memo to overwrite next
	queue  queue
}

// tier is the candidates of one priority: those that may have room, in the
// strategy's hands, and those that had none when they were last asked.
type tier struct {
	priority int
	ready    KeySelector
	resting  heap[*Candidate] // by the moment at which they may have room
	scratch  []*Candidate
}

func (t *tier) rest(c *Candidate, ask *provider.Amounts, f *fit) {
	c.blocked, c.by = *ask, f.by
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
	switch c.by {
	case unconditional:
		return true
	case several:
		return ask.Covers(&c.blocked)
	}
	return ask[c.by] >= c.blocked[c.by]
}

// memo is a search that failed: until its moment, unless something is freed, an
// ask at least as large fails too.
type memo struct {
	ask     provider.Amounts
	fit     fit      // where there is room first
	account *account // and whose it is
	usable  bool     // some key works and is not excluded
}

// recall finds a memo for the ask.
func (c *class) recall(now Time, ask *provider.Amounts) *memo {
	for i := range c.memos {
		if m := &c.memos[i]; now < m.fit.at && ask.Covers(&m.ask) {
			return m
		}
	}
	return nil
}

func (c *class) memorize(m memo) {
	c.memos[c.oldest] = m
	c.oldest = (c.oldest + 1) % len(c.memos)
}

// freed takes note that a group may have more room than it had, in any class.
func (p *Pool) freed(now Time, g *group) {
	for _, c := range g.candidates {
		if c.resting {
			c.tier.wake(now, c)
		} else {
			c.tier.ready.Changed(now, c)
		}
	}
	for _, a := range g.accounts {
		a.class.queue.due = a.class.queue.len > 0
		for i := range a.class.memos {
			if m := &a.class.memos[i]; now < m.fit.at {
				if f := a.fit(now, &m.ask); f.at < m.fit.at {
					m.fit, m.account = f, a
				}
				m.usable = true
			}
		}
	}
}

// claim is the account that the first in line waits for. Others may take from
// it only what does not make the first wait longer.
type claim struct {
	account *account
	ask     *provider.Amounts
	until   Time
}

func (c *claim) blocks(now Time, a *account, ask *provider.Amounts) bool {
	if c == nil || c.account != a {
		return false
	}
	for _, b := range a.buckets {
		n, first := ask[b.dimension], c.ask[b.dimension]
		if n == 0 || first == 0 {
			continue
		}
		if n > b.limit-first {
			return true
		}
		if at, byEvent := b.fitAt(now, n+first); byEvent || at > c.until {
			return true
		}
	}
	return false
}

// search looks for a key with room for one ask.
type search struct {
	now     Time
	ask     *provider.Amounts
	exclude []string
	only    *key // if not nil
	claim   *claim

	candidate *Candidate // with room
	key       *key       // of it, to be leased

	first    fit      // without room: when there is some first
	account  *account // and where
	usable   bool     // some key works and is not excluded
	excluded bool     // some candidate was passed over for this caller's sake only
}

func (s *search) memo() memo { return memo{*s.ask, s.first, s.account, s.usable} }

// run tries the priorities from the top, and reports whether there was room.
func (s *search) run(c *class) bool {
	s.first = fit{at: Never, by: unconditional, never: true}
	for _, t := range c.tiers {
		for t.resting.len() > 0 {
			cand, at := t.resting.min()
			if Time(at) > s.now {
				break
			}
			t.wake(s.now, cand)
		}
		if s.ready(t) || s.resting(t) {
			return true
		}
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
			s.consider(e.v, &fit{at: Time(e.key), by: e.v.by})
			s.usable = s.usable || len(e.v.seat.keys) > 0
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
// the candidate is merely not for this caller.
func (s *search) try(c *Candidate) (f fit, passed bool) {
	a := c.account
	if s.claim.blocks(s.now, a, s.ask) {
		s.excluded = true
		return f, true
	}
	if !a.room(s.now, s.ask) {
		f = a.fit(s.now, s.ask)
		s.usable = s.usable || len(c.seat.keys) > 0
		s.consider(c, &f)
		return f, false
	}
	before := s.excluded
	s.excluded = false
	s.key, f = c.seat.pick(s, a.class)
	passed = s.excluded && s.key == nil
	s.excluded = s.excluded || before
	if s.key != nil {
		s.candidate = c
	} else {
		s.consider(c, &f)
	}
	return f, passed
}

func (s *search) consider(c *Candidate, f *fit) {
	if f.at < s.first.at || s.account == nil {
		s.first, s.account = *f, c.account
	} else if s.first.never && !f.never {
		s.first = *f
	}
}
