package pool

import "slices"

// seat is the keys of one group and one priority. They take turns.
type seat struct {
	priority int
	all      []*key // in the order of the configuration
	keys     []*key // the usable ones
	turn     int
	weight   int64 // of the usable ones together
}

// pick finds the next usable key that the caller may have and that, if it has limits of
// its own, has room in them. Without one, it returns when there will be one, or skipped
// if there is one for others.
func (s *seat) pick(of *search, c *class) (found *key, best fit, skipped bool) {
	best = fit{at: Never, by: unconditional, never: len(s.keys) == len(s.all)}
	tried := false
	for i := range s.keys {
		k := s.keys[(s.turn+i)%len(s.keys)]
		if !of.allows(k) || of.keyReserved(k, c) {
			skipped, best.never = true, false
			continue
		}
		f := fit{at: of.now, by: unconditional, key: k}
		if k.cooldown.on() || k.barred[c] != nil {
			mine, others := of.dom.keyOpens(k, c, &of.ask, of.eye), of.dom.keyOpens(k, c, &of.ask, anybody)
			f.later(mine.at, unconditional, mine.byEvent)
			skipped = skipped || others.at < mine.at
		}
		for _, b := range k.own(c) {
			f.within(of.now, b, &of.ask)
		}
		if f.at == of.now {
			return k, f, false
		}
		tried = true
		best.sooner(&f)
	}
	if len(s.keys) < len(s.all) {
		s.resting(of, &best)
	}
	if len(s.all) > 1 && tried {
		best.by = several
	}
	return nil, best, skipped
}

// resting takes into account the keys that may be leased later.
func (s *seat) resting(of *search, best *fit) {
	for _, k := range s.all {
		if !k.usable() && !slices.Contains(of.exclude, k.id) && of.preference.allows(k) {
			f := of.dom.opensFor(&k.cooldown, &of.ask, of.eye)
			best.sooner(&fit{at: max(f.at, k.outUntil), by: unconditional, byEvent: f.byEvent}) // it has no seat before
		}
	}
}

// alive reports whether some key works for an ask, as far as is known.
func (s *seat) alive(dom *Domain, c *class, ask *Ask) bool {
	for _, k := range s.all {
		r := k.barred[c]
		if ask.allows(k) && !dom.lost(k, ask.eye()) && (r == nil || !dom.blocked(r, ask.eye())) && !slices.Contains(ask.Exclude, k.id) {
			return true
		}
	}
	return false
}

func (s *seat) add(k *key) {
	k.turn = int32(len(s.keys))
	s.keys = append(s.keys, k)
	s.weight += k.weight
}

func (s *seat) remove(k *key) {
	last := s.keys[len(s.keys)-1]
	s.keys[k.turn], last.turn = last, k.turn
	s.keys = s.keys[:len(s.keys)-1]
	k.turn = -1
	s.weight -= k.weight
}
