package pool

// Limits whose use nobody knows after a Reconfigure count as used up. Open leases hold what
// they may still use in the limits that now apply to them.

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// takeHolds lets each open lease of before hold what it may still use in every limit that it
// would be charged to now, if it does not yet: its key may be in another group, its model in
// another class. That may be more than the limit; then nothing is leased until enough have
// ended.
func (dom *Domain) takeHolds(now Time) {
	keys := map[string]*key{}
	for _, k := range dom.keys {
		keys[k.id] = k
	}
	for l := dom.order.next; l != &dom.order && l.granted <= dom.configured; l = l.next {
		groups, k := []*group{l.account.group}, keys[l.key.id]
		if k != nil && k.group != l.account.group {
			groups = append(groups, k.group)
		}
		cl := dom.classNow(l.model)
		for _, g := range groups {
			if g.goneAt != Never {
				continue
			}
			for _, a := range g.accounts {
				if cl != nil && a.class != cl {
					continue
				}
				charges := a.buckets
				if k != nil && k.group == g {
					charges = k.charges(a).buckets
				}
				for _, b := range charges {
					if a == l.account && b.Ceiling() == 0 { // what it began with includes the lease
						continue
					}
					n := l.mayUse(b)
					if n > 0 && b.Holds() && len(l.buckets) < maxBuckets && !slices.Contains(l.buckets, b) {
						l.ledger = &ledger{concat(l.buckets, []*bucket{b}), l.cut}
						l.holding.add(len(l.buckets) - 1)
						b.Take(now, n)
						g.crossed = g.crossed || a != l.account
						l.account.group.crossed = g.crossed
						l.scattered = l.scattered || g != l.account.group
					}
				}
			}
		}
		dom.due.update(l, int64(l.nextEvent()))
	}
}

// classNow is the class in which a model counts now, nil if that is not known.
func (dom *Domain) classNow(model string) *class {
	switch c := dom.byModel[model]; {
	case dom.cfg.Flat:
		return dom.classes[allModels]
	case c != nil:
		return c
	case model == provider.NoModel:
		return dom.classes[noModel]
	case model == "":
		return nil
	case dom.classes[model] != nil:
		return dom.classes[model]
	}
	return dom.classes[otherModels]
}

// exhaust takes a limit for used up: at once or, if amounts of it are held, until the last
// of them is charged. What open leases hold is beside that. Slots are known by the open
// leases, but for those of a predecessor. If the limit has been higher meanwhile, all of that
// may be used.
func (c *reconfiguration) exhaust(g *group, b *bucket, meanwhile later) {
	n := max(b.OwnLimit(), meanwhile.most(b))
	switch {
	case b.Holds():
		until := c.now.Add(b.HoldFor())
		if b.Slots() {
			until = c.dom.predecessors.until
		}
		if until <= c.dom.now { // all of it has been charged
			b.Exhaust(until, n)
			return
		}
		for _, o := range g.orphans {
			if o.bucket == b && !o.single {
				n -= o.n
				c.dom.orphans.update(o, max(int64(until), c.dom.orphans.items[o.index].key))
			}
		}
		if n > 0 {
			c.dom.holdOrphaned(g, b, n, until)
		}
	default:
		b.Exhaust(c.late, n)
	}
}

// later is the limits of a group or key, for each class, that came into force after it was first
// configured. What a class that was forgotten had used then is not known.
type later []laterLimit

type laterLimit struct {
	Limit // the most that it has been since
	at    Time
}

// note takes note of those that are new, and of what the others are now.
func (ls *later) note(at Time, before, now []Limit) {
	for _, l := range now {
		same := func(o Limit) bool { return o.Dimension == l.Dimension && o.Name == l.Name && o.Window == l.Window }
		if !slices.ContainsFunc(before, same) {
			*ls = append(slices.DeleteFunc(*ls, func(o laterLimit) bool { return o.at.Add(o.Window) <= at }), laterLimit{l, at})
			continue
		}
		for i := range *ls {
			if o := &(*ls)[i]; same(o.Limit) {
				o.Amount = max(o.Amount, l.Amount)
			}
		}
	}
}

// most is the most that the limit of a bucket has been since it came into force.
func (ls later) most(b *bucket) (n int64) {
	for _, l := range ls {
		if b.Is(l.Dimension, l.Name, l.Window) {
			n = max(n, l.Amount)
		}
	}
	return n
}

// exhaust takes those of some buckets for used up that are new in this sense, if a class was
// forgotten that may have used them.
func (ls later) exhaust(dom *Domain, g *group, buckets []*bucket) {
	for _, l := range ls {
		for _, b := range buckets {
			if b.Is(l.Dimension, l.Name, l.Window) && dom.forgotAt.Add(l.Window+unusedFor) > l.at {
				(&reconfiguration{dom: dom, now: l.at, late: l.at}).exhaust(g, b, ls)
			}
		}
	}
}

// exhaustUnknown takes the limits for used up of which nobody knows what is used.
func (c *reconfiguration) exhaustUnknown() {
	for _, g := range c.dom.groups {
		if c.moved[g] {
			for b := range g.buckets {
				c.exhaust(g, b, nil)
			}
		}
		if c.fresh[g] {
			continue
		}
		for _, a := range g.accounts {
			if c.mixed[a.class] || c.unheard[a.class] {
				c.exhaustMixed(a, c.mixed[a.class])
			}
		}
	}
}

// exhaustMixed takes the limits of an account for used up: all, or those that may count what a
// class had used that was forgotten.
func (c *reconfiguration) exhaustMixed(a *account, all bool) {
	exhaust := func(buckets []*bucket, meanwhile later) {
		for _, b := range buckets {
			if all || c.dom.forgotAt.Add(b.Window()+unusedFor) > c.now {
				c.exhaust(a.group, b, meanwhile)
			}
		}
	}
	exhaust(a.own, a.group.later)
	for _, k := range a.group.keys {
		if k.limited != nil {
			exhaust(k.limited[a.class].each, k.later)
		}
	}
}
