package pool

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// search looks for a key with room for one ask.
type search struct {
	dom          *Domain
	now          Time
	eye          eye // of whom
	ask          provider.Amounts
	exclude      []string
	preference   Preference
	only         *key // the one key that may be leased, if not nil
	until        Time // and until then
	reservations []reservation

	candidate *Candidate // with room
	key       *key       // of it, to be leased

	result   negative // what the present tier comes to, without room
	personal bool     // something was skipped that may be there for others
}

func (dom *Domain) search(now Time, ch *choice, ask *Ask) search {
	s := search{dom: dom, now: now, ask: ask.Amounts, eye: ask.eye(), exclude: ask.Exclude, preference: ask.Preference, reservations: ch.queue.reservations}
	s.only, s.until = dom.only(ch, ask)
	return s
}

// only returns the one key that may be leased without pooling: the first that is usable
// and that this holder may have; and when a key that ranks higher may become usable.
// With pooling, or without keys, it returns nil.
func (dom *Domain) only(ch *choice, ask *Ask) (k *key, until Time) {
	until = Never
	if !ch.pool.Single || len(ch.pool.keys) == 0 {
		return nil, until
	}
	for _, k := range ch.pool.keys {
		if !k.usable() || slices.Contains(ask.Exclude, k.id) || !ask.allows(k) {
			continue
		}
		f := dom.keyOpens(k, ch.class, &ask.Amounts, ask.eye())
		if f.at == dom.now {
			return k, until
		}
		until = min(until, f.at)
	}
	return ch.pool.keys[0], until
}

// allows reports whether the caller may have a key.
func (s *search) allows(k *key) bool {
	return (s.only == nil || s.only == k) && s.preference.allows(k) &&
		!slices.Contains(s.exclude, k.id)
}

// run looks for room. It returns whether there was any; if not, when there will be.
func (s *search) run(ch *choice) (n negative, ok bool) {
	if s.preference.demands() {
		n, ok = s.onlyIn(ch, ch.demanded(&s.preference))
	} else {
		n, ok = s.anywhere(ch)
	}
	if !ok && s.until < n.fit.at {
		n.fit = fit{at: s.until, by: unconditional}
	}
	return n, ok
}

// anywhere tries the group that is preferred, then the priorities from the top.
func (s *search) anywhere(ch *choice) (n negative, ok bool) {
	if a := ch.account(s.preference.Prefer); a != nil {
		if n, ok := s.onlyIn(ch, a); ok {
			return n, true
		}
	}
	for _, t := range ch.tiers {
		known := t.recall(s.now, &s.ask)
		if known == nil {
			if s.tier(t) {
				return n, true
			}
			known = &s.result
		}
		n.sooner(known)
	}
	if n.account == nil { // nobody was even asked
		n.fit = fit{at: Never, by: unconditional}
	}
	return n, false
}

// tier tries one priority, and remembers it if there is no room for anybody.
func (s *search) tier(t *tier) bool {
	t.wakeDue(s.now)
	s.result = negative{ask: s.ask, fit: fit{at: Never, by: unconditional, never: true}}
	s.personal = false
	if s.ready(t) || s.full(t) {
		return true
	}
	if !s.personal && s.only == nil {
		t.remember(s.result)
	}
	return false
}

// ready tries what the strategy offers until something has room or nothing is left. What
// has no room is set aside; what is only not for this caller comes back.
func (s *search) ready(t *tier) bool {
	aside := t.scratch[:0]
	for s.key == nil {
		c := t.ready.Select()
		if c == nil {
			break
		}
		if f, skipped := s.try(c); skipped {
			t.ready.Remove(c)
			aside = append(aside, c)
		} else if s.key == nil {
			t.setAside(c, &s.ask, &f)
		}
	}
	for _, c := range aside {
		t.ready.Add(s.now, c)
	}
	t.scratch = aside[:0]
	return s.key != nil
}

// full tries those that are set aside because of a larger ask, soonest first.
func (s *search) full(t *tier) bool {
	open := t.scratch[:0]
	for _, e := range t.full.items {
		if e.v.blocks(&s.ask) {
			s.consider(e.v, &e.v.why)
		} else {
			open = append(open, e.v)
		}
	}
	t.scratch = open[:0]
	for _, c := range open {
		f, skipped := s.try(c)
		if s.key != nil {
			t.wake(s.now, c)
			return true
		}
		if !skipped {
			t.setAside(c, &s.ask, &f)
		}
	}
	return false
}

// try asks one candidate. Without room there, it returns when there will be. There are two
// ways of having none: for anybody, and then the candidate is set aside and that is
// remembered; or skipped, just for this caller, and then neither is.
func (s *search) try(c *Candidate) (f fit, skipped bool) {
	a := c.account
	reservation := s.reserved(a)
	switch {
	case reservation != nil: // at its moment it is served, and then others may be
		f = fit{at: reservation.until, by: unconditional, byEvent: reservation.until == Never}
		s.result.reserved = true
		s.consider(c, &f)
		return f, true
	case !s.dom.room(a, &s.ask, s.eye):
		f = s.dom.fit(a, &s.ask, s.eye)
		if a.disputable() {
			others := s.dom.fit(a, &s.ask, anybody)
			if skipped = others.at < f.at; !skipped {
				f = others // what binds them may be something else
			}
		}
	default:
		if s.key, f, skipped = c.seat.pick(s, a.class); s.key != nil {
			s.candidate = c
			c.seat.turn = (int(s.key.turn) + 1) % len(c.seat.keys)
			return f, false
		}
	}
	s.personal = s.personal || skipped
	s.consider(c, &f)
	return f, skipped
}

func (s *search) consider(c *Candidate, f *fit) {
	s.result.sooner(&negative{fit: *f, account: c.account})
}
