package pool

// Claims: what the first in line wait for, and nobody behind them may take. They are
// made anew with each pass over the line; queue.go says when, class.go asks them.

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const (
	// maxClaims and maxChoice bound how many in line have claims, and the groups among
	// which each chooses.
	maxClaims = 8
	maxChoice = 64
	// longBefore is by how much a holder's second claim must end before its first.
	longBefore = time.Minute
)

// claim is what one of the first in line waits for. Those behind it may take from
// it only what does not make it wait longer.
type claim struct {
	account *account
	key     *key // if it is the limits of one key that it waits for
	ask     *provider.Amounts
	until   Time
	holder  string // whose it is
}

// claim gives one of the first in line the account, of those not claimed yet, where
// it will fit first. A holder has one, however many it has in line; and one more that
// ends long before, if the first waits for what rests. What a search remembers of
// smaller asks is too rough for that: a large ask would go from one group to the next,
// and each be spent before its turn. Where some are level, it stays with the one it
// had. found is where the search would have it.
func (p *Pool) claim(now Time, c *class, w *Waiter, had []claim, found *account) {
	q := &c.queue
	before := Never // the holder's own claim, if there is one
	for i := range q.claims {
		if o := &q.claims[i]; o.holder == w.Ask.Holder {
			if before < Never || o.until <= now.Add(longBefore) {
				return
			}
			before = o.until.Add(-longBefore)
		}
	}
	s := p.search(now, c, &w.Ask)
	best := claim{ask: s.ask, holder: s.holder, until: Never}
	look := func(a *account) {
		if slices.ContainsFunc(q.claims, func(o claim) bool { return o.account == a }) {
			return
		}
		f := s.fit(a)
		if f.at < best.until || f.byEvent && best.account == nil {
			best.account, best.key, best.until = a, f.key, f.at
		}
	}
	for i := range had {
		if had[i].ask == s.ask {
			look(had[i].account)
		}
	}
	if found != nil { // it may be far down the list
		look(found)
	}
	for _, g := range p.groups[:min(len(p.groups), maxChoice)] {
		look(g.accounts[c.index])
	}
	if best.account != nil && (best.until < before || before == Never) { // else there is nothing to wait for
		q.claims = append(q.claims, best)
	}
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

// claimed gives the claim that keeps an ask from an account, nil if none does.
func (s *search) claimed(a *account) *claim {
	for i := range s.claims {
		if c := &s.claims[i]; c.account == a && c.delayed(s.now, a.buckets, s.ask) {
			return c
		}
	}
	return nil
}

// claimedKey reports whether a claim keeps an ask from a key.
func (s *search) claimedKey(k *key, class *class) bool {
	for i := range s.claims {
		if c := &s.claims[i]; c.key == k && c.delayed(s.now, k.own[class], s.ask) {
			return true
		}
	}
	return false
}

// delayed reports whether an ask would make the claim's wait longer.
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
