package pool

// What is out of use, and for whom.

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// cooldown keeps something out of use after refusals: an account, a quota group, a model, a
// key, or a key for one class of models. It has a dispute for each kind of refusal.
type cooldown struct{ disputes []*dispute }

// on reports whether there is anything to be looked at.
func (c *cooldown) on() bool { return len(c.disputes) > 0 }

// about returns the dispute of a kind, and begins one if there is none.
func (c *cooldown) about(now Time, k kind) *dispute {
	c.disputes = slices.DeleteFunc(c.disputes, func(d *dispute) bool { return d.gone(now) })
	for _, d := range c.disputes {
		if d.kind == k {
			return d
		}
	}
	d := &dispute{kind: k}
	c.disputes = append(c.disputes, d)
	return d
}

// active returns until when the cooldown keeps anything out of use for all, the present
// moment if it does not; and on account of which dispute.
func (c *cooldown) active(now Time) (until Time, by *dispute) {
	until = now
	for _, d := range c.disputes {
		if d.active(now) && d.until > until {
			until, by = d.until, d
		}
	}
	return until, by
}

// isActive reports whether the cooldown keeps anything out of use for all.
func (c *cooldown) isActive(now Time) bool {
	_, by := c.active(now)
	return by != nil
}

// opensFor returns when an ask may pass, what it waits for, and whether an answer that is
// waited for may bring that sooner. A nil ask is for some of everything.
func (dom *Domain) opensFor(c *cooldown, ask *provider.Amounts, e eye) (f fit) {
	f = fit{at: dom.now, by: unconditional}
	for _, d := range c.disputes {
		if ask == nil || d.concerns(ask) {
			at, byEvent := dom.opens(d, ask, e)
			f.later(at, int(d.only), byEvent)
		}
	}
	return f
}

// coolingGranted takes note of a lease of what a cooldown is about.
func (dom *Domain) coolingGranted(now Time, c *cooldown, l *lease) {
	for _, d := range c.disputes {
		if d.concerns(&l.reserved) && !d.gone(now) {
			dom.granted(now, d, l)
		}
	}
}

// coolingAnswered takes note of a good answer. It returns whether anybody may pass who might
// not.
func (dom *Domain) coolingAnswered(now Time, c *cooldown, l *lease) (opened bool) {
	for _, d := range c.disputes {
		opened = dom.answered(now, d, l) || opened
	}
	c.disputes = slices.DeleteFunc(c.disputes, func(d *dispute) bool { return d.gone(now) })
	return opened
}

// ended takes note of the end of a lease. It returns whether another may probe.
func (c *cooldown) ended(l *lease) (freed bool) {
	for _, d := range c.disputes {
		if d.probe == l.id {
			d.probe, freed = 0, true
		}
	}
	return freed
}

// probed reports whether the answer to a probe is waited for.
func (c *cooldown) probed() bool {
	return slices.ContainsFunc(c.disputes, func(d *dispute) bool { return d.probe != 0 })
}

// probes reports whether a lease finds out whether the account may be used sooner than has
// been said.
func (a *account) probes(l *lease) bool {
	for _, c := range a.cooldowns() {
		if slices.ContainsFunc(c.disputes, func(d *dispute) bool { return d.probe == l.id && d.until > l.granted }) {
			return true
		}
	}
	return false
}

// blocked reports whether the cooldown lasts for a speaker until an operator acts.
func (dom *Domain) blocked(c *cooldown, e eye) bool {
	for _, d := range c.disputes {
		if d.operator && d.active(dom.now) {
			if at, _ := dom.opens(d, nil, e); at >= d.until {
				return true
			}
		}
	}
	return false
}

// cooldowns are those that keep the account out of use: its own, its group's and its
// model's.
func (a *account) cooldowns() [3]*cooldown {
	return [3]*cooldown{&a.cooldown, &a.group.cooldown, &a.class.cooldown}
}

// coolUntil is when no cooldown keeps the account out of use any more.
func (a *account) coolUntil(now Time) (until Time) {
	for _, c := range a.cooldowns() {
		if at, by := c.active(now); by != nil {
			until = max(until, at)
		}
	}
	return until
}

// noteCooldown notes whose cooldown has changed, of those of an account.
func (dom *Domain) noteCooldown(a *account, c *cooldown) {
	switch c {
	case &a.cooldown:
		dom.note(a)
	case &a.group.cooldown:
		dom.note(a.group)
	case &a.class.cooldown:
		dom.note(a.class)
	}
}

// reopened wakes those that one of an account's cooldowns kept out of use: the account,
// all of its group, or all of its model.
func (dom *Domain) reopened(now Time, a *account, c *cooldown) {
	switch c {
	case &a.cooldown:
		dom.freed(now, a)
	case &a.group.cooldown:
		for _, a := range a.group.accounts {
			dom.freed(now, a)
		}
	case &a.class.cooldown:
		for _, g := range dom.groups {
			dom.freed(now, g.accounts[a.class.index])
		}
	}
}

// endProbes takes note that a lease has ended. If it was a probe without an answer, the
// next may probe.
func (dom *Domain) endProbes(now Time, l *lease) {
	a := l.account
	for _, c := range a.cooldowns() {
		if c.ended(l) {
			dom.reopened(now, a, c)
		}
	}
	if l.key.cooldown.ended(l) {
		dom.reseat(now, l.key)
	}
	if c := l.key.barred[a.class]; c != nil && c.ended(l) {
		dom.usableChanged(a.group)
	}
	if a.disputed && a.endProbes(l) {
		dom.freed(now, a)
	}
}
