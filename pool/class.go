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

	changed  Mark     // the last change of its cooldown
	index    int      // in the pool's order, and in each group's accounts
	cooldown cooldown // of the provider's model, whoever calls it
	strain   float64  // the part of late answers that were overloads
	usedAt   Time     // when it was last asked for
	leases   int      // also lapsed ones
}

// mixed reports whether models that nobody declared share the class. What an answer says
// of one of them cannot loosen a limit of all.
func (c *class) mixed() bool { return c.name == otherModels }

// raise takes in the configured limits of another account. Those that were learned bind
// nobody for ever.
func (ch *choice) raise(a *account) {
	for _, k := range a.group.keys {
		most := k.most(a)
		ch.largest.Raise(&most)
	}
}

// most is what a key lets through of one ask in an account.
func (k *key) most(a *account) (most provider.Amounts) {
	for d := range most {
		most[d] = math.MaxInt64
	}
	for _, b := range k.charges(a).buckets {
		if c := b.Ceiling(); c > 0 {
			most[b.Dimension()] = min(most[b.Dimension()], c)
		}
	}
	return most
}

// most is what some key lets through that an ask may have.
func (ch *choice) most(p *Preference) *provider.Amounts {
	if !p.demands() {
		return &ch.largest
	}
	var largest provider.Amounts
	for _, k := range ch.pool.keys {
		if p.allows(k) {
			most := k.most(k.group.accounts[ch.class.index])
			largest.Raise(&most)
		}
	}
	return &largest
}

// exceeded reports whether an ask is above what any key lets through in some dimension.
func (ch *choice) exceeded(ask *Ask) bool { return !ch.most(&ask.Preference).Covers(&ask.Amounts) }

// tooLarge names a dimension in which the ask is over the largest limit; if it is over a
// different one with each key, then any that has a limit.
func (ch *choice) tooLarge(ask *Ask) error {
	e := &TooLargeError{}
	most := ch.most(&ask.Preference)
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
		a.freed(now)
		return
	}
	for _, a := range a.group.accounts {
		a.freed(now)
	}
}

func (a *account) freed(now Time) {
	for _, c := range a.candidates {
		t := c.tier
		t.choice.queue.due = t.choice.queue.len > 0
		if c.full {
			t.wake(now, c)
		} else {
			t.ready.Changed(now, c)
		}
		t.refresh(now, a)
	}
}
