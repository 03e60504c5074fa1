package pool

// Classes of another configuration, with their accounts and buckets.

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// classes makes the classes what the configuration says. The models of a class that is not
// declared any more have classes of their own again.
func (c *reconfiguration) classes() {
	dom := c.dom
	before := dom.byModel
	dom.byModel = map[string]*class{}
	declared := map[*class]bool{}
	joins := func(m string, cl *class) {
		dom.byModel[m] = cl
		from := before[m]
		if from == nil { // it may have been among those that nobody declared
			from = dom.classes[otherModels]
			c.unheard[cl] = true // or forgotten
			if c.now < dom.unflat.Add(remembered) {
				c.mixed[cl] = true
			}
		}
		if from != nil && from != cl {
			c.mixed[cl] = true
		}
	}
	declare := func(cfg Class) {
		cl := dom.classes[cfg.Name]
		if cl == nil {
			cl = &class{name: cfg.Name, index: len(dom.inOrder), strain: strained}
			dom.classes[cfg.Name] = cl
			dom.inOrder = append(dom.inOrder, cl)
		}
		declared[cl] = true
		cl.limits, cl.models, cl.former = cfg.Limits, cfg.Models, nil
		for _, m := range cfg.Models {
			joins(m, cl)
		}
	}
	were := map[*class][]string{}
	for _, cl := range dom.inOrder {
		were[cl] = cl.models
	}
	if c.cfg.Flat {
		if all := dom.classes[formerlyAll]; all != nil && dom.classes[allModels] == nil {
			dom.rename(all, allModels)
		}
		declare(Class{Name: allModels})
	}
	for _, cfg := range c.cfg.Classes {
		declare(cfg)
	}
	for _, cl := range dom.inOrder {
		if declared[cl] {
			continue
		}
		cl.limits, cl.models = nil, nil
	}
	for _, cl := range slices.Clone(dom.inOrder) {
		for _, m := range were[cl] {
			switch own := dom.classes[m]; {
			case dom.byModel[m] != nil:
			case own == nil || !declared[own]:
				declare(Class{Name: m, Models: []string{m}})
			default: // a class has the name of a model that it did not declare
				joins(m, own)
			}
		}
	}
	c.flat()
}

// flat takes into account that limits count all models together now, or do so no more.
func (c *reconfiguration) flat() {
	dom := c.dom
	if c.was.Flat == c.cfg.Flat {
		return
	}
	all := dom.classes[allModels]
	if all == nil { // the first configuration
		return
	}
	for _, cl := range dom.inOrder {
		c.mixed[cl] = c.mixed[cl] || (cl == all) == c.cfg.Flat
	}
	dom.unflat = c.late
	if c.cfg.Flat {
		return
	}
	all.usedAt = c.now
	dom.rename(all, formerlyAll)
}

// rename gives a class another name, which no class may have.
func (dom *Domain) rename(c *class, name string) {
	delete(dom.classes, c.name)
	c.name = name
	dom.classes[name] = c
}

// partOfFlat takes into account what may have been used of a new class while limits
// counted all models together.
func (dom *Domain) partOfFlat(cl *class) {
	if dom.unflat < 0 || dom.cfg.Flat {
		return
	}
	c := &reconfiguration{dom: dom, now: dom.unflat, late: dom.unflat}
	for _, g := range dom.groups {
		c.exhaustMixed(g.accounts[cl.index], true)
	}
}

// accounts gives a group one account for each class, with the limits of both.
func (c *reconfiguration) accounts(g *group) {
	had := map[*class]*account{}
	for _, a := range g.accounts {
		had[a.class] = a
	}
	g.accounts = nil
	for _, cl := range c.dom.inOrder {
		a := had[cl]
		if a == nil {
			a = c.dom.newAccount(c.now, g, cl)
			if c.back[g] { // its models may have been of any class when it was used
				c.exhaustMixed(a, true)
			}
		} else {
			c.account(a)
		}
		g.accounts = append(g.accounts, a)
	}
}

func (c *reconfiguration) account(a *account) {
	g := a.group
	a.own = c.buckets(g, a, a.own, tightest(g.limits, a.class.limits), false)
	a.ledger = &ledger{buckets: concat(a.own, g.shared)}
	for _, k := range g.keys {
		if k.limited == nil {
			continue
		}
		own := k.limitsFor(a.class)
		own.set(c.buckets(g, own, own.each, k.limits, c.freshKey[k]), k.shared, a)
	}
	if a.findMissing(c.cfg.Dialect) {
		a.slowStart.granted, c.missing[a] = provider.Amounts{}, true
	}
}

// buckets returns the buckets of a list of limits. Those that there were already are kept, also
// those of limits that were learned. Unless nothing was used at all (fresh), a new one is taken
// for used up, since nobody knows what is used of it. u is what the buckets are recorded with.
func (c *reconfiguration) buckets(g *group, u unit, had []*bucket, limits []Limit, fresh bool) (out []*bucket) {
	if fresh {
		out = c.dom.newBuckets(c.now, u, limits...)
		if before := c.dom.before; before != nil && before.lost {
			before.forget(g, out)
		}
		return out
	}
	for _, l := range limits {
		i := slices.IndexFunc(had, func(b *bucket) bool { return b.Is(l.Dimension, l.Name, l.Window) })
		if i >= 0 {
			had[i].Reconfigure(c.now, l, c.dom.terms(l.Dimension))
			out = append(out, had[i])
			continue
		}
		b := c.dom.newBuckets(c.now, u, l)[0]
		c.exhaust(g, b, nil)
		out = append(out, b)
	}
	for _, b := range had {
		if b.Ceiling() == 0 && !slices.Contains(out, b) {
			t := c.dom.terms(b.Dimension())
			t.Learned = true
			b.Reconfigure(c.now, Limit{Dimension: b.Dimension(), Window: b.Window(), Amount: b.OwnLimit(), Kind: b.Kind()}, t)
			out = append(out, b)
		}
	}
	return out
}
