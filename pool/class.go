package pool

import (
	"math"

	"github.com/keybroker/keybroker/internal/provider"
)

// class is a class of models: those that share one limit. It has its own account with
// every group.
type class struct {
	tracked
	name   string
	limits []Limit
	models []string // with which it was declared
	former []string // that a predecessor counted in it

	changed  Mark     // the last change of its cooldown
	index    int      // in the domain's order, and in each group's accounts
	cooldown cooldown // of the provider's model, whoever calls it
	strain   float64  // the part of late answers that were overloads
	usedAt   Time     // when it was last asked for
	leases   int      // also lapsed ones
}

// mixed reports whether models that nobody declared share the class. What an answer says
// of one of them cannot loosen a limit of all.
func (c *class) mixed() bool { return c.name == otherModels }

// bounds are what the configured limits of some keys let through of one ask. A learned
// limit makes no ask too large.
type bounds struct {
	most  provider.Amounts // an ask for more never fits
	clamp provider.Amounts // an ask for more is for so much
}

// unbounded is where no limit is configured, also for want of keys.
func unbounded() (s bounds) {
	for d := range s.most {
		s.most[d], s.clamp[d] = math.MaxInt64, math.MaxInt64
	}
	return s
}

// raise takes in the configured limits of another key in an account.
func (s *bounds) raise(k *key, a *account) {
	one := unbounded()
	for _, b := range k.charges(a).buckets {
		most := &one.most[b.Dimension()]
		if b.Clamps() {
			most = &one.clamp[b.Dimension()]
		}
		if c := b.Ceiling(); c > 0 {
			*most = min(*most, c)
		}
	}
	s.most.Raise(&one.most)
	s.clamp.Raise(&one.clamp)
}

// bounds are those of the keys that an ask may have.
func (ch *choice) bounds(p *Preference) *bounds {
	if !p.demands() {
		return &ch.largest
	}
	largest := &bounds{}
	if a := ch.demanded(p); a != nil {
		for _, k := range a.group.keys {
			if p.allows(k) {
				largest.raise(k, a)
			}
		}
	}
	return largest
}

// exceeded reports whether an ask is above what any key lets through in some dimension.
func (ch *choice) exceeded(ask *Ask) bool {
	return !ch.bounds(&ask.Preference).most.Covers(&ask.Amounts)
}

// tooLarge names a dimension in which the ask is over the largest limit; if it is over a
// different one with each key, then any that has a limit.
func (ch *choice) tooLarge(ask *Ask) error {
	e := &TooLargeError{}
	most := &ch.bounds(&ask.Preference).most
	for d, n := range ask.Amounts {
		limit := most[d]
		if n > limit || e.Limit == 0 && n > 0 && limit < math.MaxInt64 {
			e.Dimension, e.Limit = provider.Dimension(d), limit
		}
	}
	return e
}

// freed takes note that an account may have more room than it had, and with it those
// that share a limit.
func (dom *Domain) freed(now Time, a *account) {
	if !a.group.shares && !a.group.crossed {
		a.freed(dom)
		return
	}
	for _, a := range a.group.accounts {
		a.freed(dom)
	}
}

func (a *account) freed(dom *Domain) {
	for _, c := range a.candidates {
		t := c.tier
		t.choice.queue.due = t.choice.queue.len > 0
		if c.full {
			t.wake(dom.now, c)
		} else {
			t.ready.Changed(dom.now, c)
		}
		t.refresh(dom, a)
	}
}
