package pool

import "slices"

// Preference narrows what an ask chooses from.
type Preference struct {
	// Prefer names a quota group that is taken if it has room now, before the priorities
	// and the strategy choose; another group is as good otherwise.
	Prefer string
	// Group and Key name the only quota group and the only key that will do, since what the
	// ask is about exists only there. Empty: any will do.
	Group, Key string
}

// demands reports whether not every key will do.
func (p *Preference) demands() bool { return p.Group != "" || p.Key != "" }

// allows reports whether a key will do.
func (p *Preference) allows(k *key) bool {
	return (p.Key == "" || p.Key == k.id) && (p.Group == "" || p.Group == k.group.name)
}

// checkPreference returns ErrNoKey if an ask demands what its pool does not have.
func (ch *choice) checkPreference(p *Preference) error {
	if p.demands() && !slices.ContainsFunc(ch.pool.keys, p.allows) {
		return ErrNoKey
	}
	return nil
}

// account returns the account of a quota group that a pool draws on, by the group's name;
// nil if there is none.
func (ch *choice) account(group string) *account {
	if group == "" {
		return nil
	}
	if g := ch.pool.byName[group]; g != nil {
		return g.accounts[ch.class.index]
	}
	return nil
}

// demanded returns the account of the only group in which an ask will do.
func (ch *choice) demanded(p *Preference) *account {
	name := p.Group
	if name == "" {
		i := slices.IndexFunc(ch.pool.keys, p.allows)
		if i < 0 {
			return nil
		}
		name = ch.pool.keys[i].group.name
	}
	return ch.account(name)
}

// onlyIn tries one account, and no other. It returns whether there was room; if not, when
// there will be.
func (s *search) onlyIn(ch *choice, a *account) (n negative, ok bool) {
	n.fit = fit{at: Never, by: unconditional}
	if a == nil {
		return n, false
	}
	for _, t := range ch.tiers {
		t.wakeDue(s.now)
		for _, c := range a.candidates {
			if c.tier != t {
				continue
			}
			f, _ := s.try(c)
			if s.key == nil {
				n.sooner(&negative{fit: f, account: a})
				continue
			}
			if c.full {
				t.wake(s.now, c)
			}
			return n, true
		}
	}
	return n, false
}
