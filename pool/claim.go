package pool

import "github.com/keybroker/keybroker/internal/provider"

// maxClaims bounds the groups among which the first in line chooses.
const maxClaims = 64

// claim is what the first in line waits for. Others may take from it only what
// does not make the first wait longer.
type claim struct {
	account *account
	key     *key // if it is the limits of one key that the first waits for
	ask     *provider.Amounts
	until   Time
	holder  string // the first's
}

// claim chooses the account where the first in line will fit first. What a
// search remembers of smaller asks is too rough for that: a large ask would go
// from one group to the next, and each be spent before its turn. Where some are
// level, it stays with the one it had. found is where the search would have it.
func (p *Pool) claim(now Time, c *class, w *Waiter, had *claim, found *account) *claim {
	s := p.search(now, c, &w.Ask)
	best := claim{ask: s.ask, holder: s.holder, until: Never}
	look := func(a *account) {
		f := s.fit(a)
		if f.at < best.until || f.byEvent && best.account == nil {
			best.account, best.key, best.until = a, f.key, f.at
		}
	}
	if had != nil && had.ask == s.ask {
		look(had.account)
	}
	if found != nil { // it may be far down the list
		look(found)
	}
	for _, g := range p.groups[:min(len(p.groups), maxClaims)] {
		look(g.accounts[c.index])
	}
	if best.account == nil { // there is nothing to wait for
		return nil
	}
	return &best
}

// fit says when the ask will fit an account, its keys included.
func (s *search) fit(a *account) fit {
	f := a.fit(s.now, s.ask, s.holder)
	keys := fit{at: Never}
	for _, seat := range a.group.seats {
		_, best, _ := seat.pick(s, a.class)
		keys.sooner(&best)
	}
	if keys.at > f.at && !f.never {
		return keys
	}
	return f
}

func (c *claim) blocks(now Time, a *account, ask *provider.Amounts) bool {
	return c != nil && c.account == a && c.delayed(now, a.buckets, ask)
}

func (c *claim) blocksKey(now Time, k *key, class *class, ask *provider.Amounts) bool {
	return c != nil && c.key == k && c.delayed(now, k.own[class], ask)
}

// delayed reports whether an ask would make the first in line wait longer.
func (c *claim) delayed(now Time, buckets []*bucket, ask *provider.Amounts) bool {
	for _, b := range buckets {
		n, first := ask[b.dimension], c.ask[b.dimension]
		if n == 0 || first == 0 || b.hangsOn(c.holder) { // others do not wait for whose word it is
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
