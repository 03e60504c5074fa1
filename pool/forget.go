package pool

import (
	"slices"
	"time"
)

// Classes of models that nobody declared are made when somebody asks for them, with an account
// in every group. They go again when nothing is left to be remembered of them.

const (
	// A class is forgotten only after nobody has asked for it for unusedFor.
	unusedFor = time.Hour
	// lookEvery is how often one class is looked at.
	lookEvery = time.Second
)

// forgetUnused looks at the next class that nobody has asked for in a long time, and forgets it
// if nothing of it counts any more. Where all accounts have to be looked at, one class at a time
// is enough work for one call.
func (dom *Domain) forgetUnused() {
	now := dom.now
	if now < dom.lookedAt.Add(lookEvery) {
		return
	}
	dom.lookedAt = now
	for range dom.inOrder {
		dom.lookNext = (dom.lookNext + 1) % len(dom.inOrder)
		c := dom.inOrder[dom.lookNext]
		if c.leases > 0 || c.usedAt.Add(unusedFor) > now || c.cooldown.isActive(now) {
			continue
		}
		if !dom.declared(c) && dom.unused(now, c) {
			dom.forgetClass(c)
		}
		return
	}
}

// configures reports whether the configuration names a class.
func (dom *Domain) configures(c *class) bool {
	return c.name == allModels && dom.cfg.Flat || slices.ContainsFunc(dom.cfg.Classes, func(d Class) bool { return d.Name == c.name })
}

// declared reports whether the configuration names a class or one of its models.
func (dom *Domain) declared(c *class) bool {
	if dom.configures(c) {
		return true
	}
	for _, p := range dom.pools {
		if slices.ContainsFunc(c.models, func(m string) bool { return slices.Contains(p.Models, m) }) {
			return true
		}
	}
	return false
}

// unused reports whether there is nothing to be remembered of a class: nobody waits for it,
// its accounts are unused, and the longest of their windows has passed since anybody asked.
func (dom *Domain) unused(now Time, c *class) bool {
	if dom.predecessors.leases != nil || now < dom.predecessors.until { // leases of its that we may not know
		return false
	}
	for _, p := range dom.pools {
		if p.choices[c].queue.len > 0 {
			return false
		}
	}
	for _, g := range dom.everyGroup() {
		if a := g.account(c); a != nil && (a.cooldown.isActive(now) || !allUnused(now, c.usedAt, a.own)) {
			return false
		}
	}
	for _, k := range dom.everyKey() {
		if r := k.barred[c]; r != nil && r.isActive(now) || k.limited[c] != nil && !k.limited[c].unused(now, c.usedAt) {
			return false
		}
	}
	return true
}

// account finds the group's account for a class, which a group that is not configured any more
// may not have.
func (g *group) account(c *class) *account {
	if c.index < len(g.accounts) && g.accounts[c.index].class == c {
		return g.accounts[c.index]
	}
	i := slices.IndexFunc(g.accounts, func(a *account) bool { return a.class == c })
	if i < 0 {
		return nil
	}
	return g.accounts[i]
}

func (l *keyLimits) unused(now, usedAt Time) bool { return allUnused(now, usedAt, l.each) }

// allUnused reports whether nothing is used of any of the buckets, none is lower than it is
// configured, and each one's window has passed since a moment.
func allUnused(now, since Time, bs []*bucket) bool {
	for _, b := range bs {
		if used, lower := b.Excess(now); used > 0 || lower {
			return false
		}
		if b.Used(now) > 0 || b.Held() > 0 || b.Headroom(now) > 0 || since.Add(b.Window()) > now {
			return false
		}
	}
	return true
}

// forgetClass takes a class out of the books, with its accounts and all that pools choose from.
func (dom *Domain) forgetClass(c *class) {
	c.gone, dom.forgotAt = true, dom.now
	delete(dom.classes, c.name)
	for _, m := range c.models {
		if dom.byModel[m] == c {
			delete(dom.byModel, m)
		}
	}
	dom.inOrder = slices.Delete(dom.inOrder, c.index, c.index+1)
	for _, later := range dom.inOrder[c.index:] {
		later.index--
	}
	for _, g := range dom.everyGroup() {
		g.accounts = slices.DeleteFunc(g.accounts, func(a *account) bool {
			a.gone = a.gone || a.class == c
			return a.class == c
		})
	}
	for _, k := range dom.everyKey() {
		delete(k.barred, c)
		if l := k.limited[c]; l != nil {
			l.gone = true
			delete(k.limited, c)
		}
	}
	for _, p := range dom.pools {
		delete(p.choices, c)
	}
	dom.choices = slices.DeleteFunc(dom.choices, func(ch *choice) bool { return ch.class == c })
	if dom.keeps {
		dom.changes.gone = append(dom.changes.gone, c.name)
		dom.dirty = true
	}
}
