package pool

// Another configuration. State is keyed by ids, so what stays keeps its state: buckets
// what is used of them, keys their health, accounts their cooldowns and what they have
// learned, pools their waiters. What goes drains: nothing more is leased of it, and its
// leases settle as usual. What is new starts unused, unless something that counts there may
// have been used elsewhere.
//
// A new domain is one that is configured for the first time.

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Reconfigure puts another configuration in force. Waiters that it leaves without a place
// are returned with their Err set: ErrNoPool, ErrNoKey, ErrModelNotServed or *TooLargeError.
// The errors are those of New, and then nothing has changed. The dialect must stay the same.
func (dom *Domain) Reconfigure(now Time, cfg Config) (dropped []*Waiter, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	now = dom.tick(now)
	waiters := dom.waiters()
	dom.dropRetired(now)
	dom.configure(now, cfg)
	return dom.dropMisfits(waiters), nil
}

// change is one configuration on its way into force.
type change struct {
	dom      *Domain
	now      Time
	late     Time // leases of before count as granted by then, since their start_within may be longer
	was, cfg Config
	fresh    map[*group]bool // groups of which nothing was used
	freshKey map[*key]bool   // keys of which nothing was used
	moved    map[*group]bool // nobody knows what is used of them: they have got a key of another group
	back     map[*group]bool // groups that were not configured before, but once were
	mixed    map[*class]bool // nobody knows what is used of them: models of theirs were in another class
}

// configure makes the domain what a configuration says, of whatever it was before.
func (dom *Domain) configure(now Time, cfg Config) {
	first := dom.pools == nil
	c := &change{
		dom: dom, now: now, was: dom.cfg, cfg: cfg, fresh: map[*group]bool{}, freshKey: map[*key]bool{},
		moved: map[*group]bool{}, back: map[*group]bool{}, mixed: map[*class]bool{},
	}
	dom.cfg, dom.dirty = cfg, true
	delta := dom.delta
	dom.delta, dom.single = 0, false
	for _, r := range cfg.Pools {
		dom.delta = max(dom.delta, r.StartWithin)
		dom.single = dom.single || r.Single
	}
	c.late = now.Add(max(0, delta-dom.delta))
	c.groups()
	c.classes()
	for _, g := range dom.groups {
		c.accounts(g)
	}
	c.pools()
	if !first {
		c.exhaustUnknown()
		dom.changed = true
		dom.takeSlots(now)
	}
	for _, p := range dom.pools {
		for _, m := range p.Models { // so that their limits are there to be seen
			_, _ = dom.class(p, m) // which it serves
		}
	}
}

// groups makes groups and keys what the configuration says.
func (c *change) groups() {
	dom := c.dom
	had := slices.Concat(dom.groups, dom.retired)
	groups := map[string]*group{}
	for _, g := range had {
		groups[g.name] = g
		g.keys, g.seats = nil, nil
		for _, a := range g.accounts {
			a.candidates = nil
		}
	}
	keys := map[string]*key{}
	for _, k := range dom.keys {
		keys[k.id] = k
	}
	dom.groups, dom.keys, dom.predecessors.hashed = nil, nil, nil
	for _, g := range c.cfg.Groups {
		c.group(groups, g)
	}
	for _, k := range c.cfg.Keys {
		limits := k.Limits
		if k.Group == "" {
			c.group(groups, Group{k.ID, limits})
			limits = nil
		}
		c.key(groups[k.GroupName()], keys[k.ID], k, limits)
		delete(keys, k.ID)
		delete(dom.drained, k.ID)
	}
	for _, k := range keys { // they drain
		if k.index >= 0 {
			dom.resting.remove(k)
		}
		k.turn = -1
		dom.drained[k.id], k.goneAt = k, c.now
	}
	dom.retired = slices.DeleteFunc(had, func(g *group) bool { return slices.Contains(dom.groups, g) })
	for _, g := range dom.retired {
		g.goneAt = min(g.goneAt, c.now)
	}
	for _, g := range dom.groups {
		g.goneAt = Never
	}
}

func (c *change) group(groups map[string]*group, cfg Group) {
	dom := c.dom
	g := groups[cfg.Name]
	c.back[g] = g != nil && slices.Contains(dom.retired, g)
	if g == nil {
		g = &group{name: cfg.Name}
		groups[cfg.Name] = g
		c.fresh[g] = true
		if b := dom.before; b != nil && b.groups[cfg.Name] != nil { // a predecessor has used it
			c.moved[g] = true
		}
	}
	var shared []Limit
	g.limits, shared = split(cfg.Limits)
	g.shared = c.buckets(g, g.shared, shared, c.fresh[g])
	g.shares = len(g.shared) > 0
	dom.groups = append(dom.groups, g)
}

// key makes k, nil if it is new, what the configuration says.
func (c *change) key(g *group, k *key, cfg Key, limits []Limit) {
	dom := c.dom
	switch {
	case k == nil:
		k = &key{id: cfg.ID, group: g, index: -1}
		switch was := dom.drained[k.id]; {
		case was == nil:
			c.freshKey[k] = true
		case was.group == g:
			k.limited, k.shared = was.limited, was.shared
		default: // its open leases are of the group that it is in
			was.group = g
			c.moved[g] = true
		}
	case k.group != g:
		k.group, k.limited, k.shared = g, nil, nil
		c.moved[g] = true
	}
	k.weight = int64(max(cfg.Weight, 1))
	var shared []Limit
	k.limits, shared = split(limits)
	k.shared = c.buckets(g, k.shared, shared, c.freshKey[k])
	g.shares = g.shares || len(k.shared) > 0
	switch {
	case len(limits) == 0:
		k.limited = nil
	case k.limited == nil:
		k.limited = map[*class]*keyLimits{}
	}
	g.keys = append(g.keys, k)
	k.seat = g.seat(cfg.Priority)
	k.seat.all = append(k.seat.all, k)
	if k.index < 0 { // it is not out of use
		k.seat.add(k)
	}
	dom.keys = append(dom.keys, k)
}

// split separates the limits that count each class by itself from those that count all
// models together.
func split(limits []Limit) (each, shared []Limit) {
	for _, l := range limits {
		if l.Shared {
			shared = append(shared, l)
		} else {
			each = append(each, l)
		}
	}
	return each, shared
}

func (g *group) seat(priority int) *seat {
	for _, s := range g.seats {
		if s.priority == priority {
			return s
		}
	}
	s := &seat{priority: priority}
	g.seats = append(g.seats, s)
	return s
}

// classes makes the classes what the configuration says. The models of a class that is not
// declared any more have classes of their own again.
func (c *change) classes() {
	dom := c.dom
	before := dom.byModel
	dom.byModel = map[string]*class{}
	declared := map[*class]bool{}
	joins := func(m string, cl *class) {
		dom.byModel[m] = cl
		from := []*class{before[m]}
		if before[m] == nil { // it may have been among those that nobody declared
			from = []*class{dom.classes[otherModels]}
			if c.now < dom.unflat.Add(remembered) {
				from = append(from, dom.classes[allModels])
			}
		}
		for _, b := range from {
			if b != nil && b != cl {
				c.mixed[cl] = true
			}
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
		cl.limits, cl.models = cfg.Limits, cfg.Models
		for _, m := range cfg.Models {
			joins(m, cl)
		}
	}
	were := map[*class][]string{}
	for _, cl := range dom.inOrder {
		were[cl] = cl.models
	}
	if c.cfg.Flat {
		declare(Class{Name: allModels})
	}
	for _, cfg := range c.cfg.Classes {
		declare(cfg)
	}
	for _, cl := range slices.Clone(dom.inOrder) {
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
func (c *change) flat() {
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
}

// partOfFlat takes into account what may have been used of a new class while limits
// counted all models together.
func (dom *Domain) partOfFlat(cl *class) {
	if dom.classes[allModels] == nil || dom.cfg.Flat {
		return
	}
	c := &change{dom: dom, now: dom.unflat, late: dom.unflat}
	for _, g := range dom.groups {
		c.exhaustMixed(g.accounts[cl.index])
	}
}

// accounts gives a group one account for each class, with the limits of both.
func (c *change) accounts(g *group) {
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
				c.exhaustMixed(a)
			}
		} else {
			c.account(a)
		}
		g.accounts = append(g.accounts, a)
	}
}

func (c *change) account(a *account) {
	g := a.group
	a.own = c.buckets(g, a.own, tightest(g.limits, a.class.limits), false)
	a.ledger = &ledger{concat(a.own, g.shared)}
	for _, k := range g.keys {
		if k.limited == nil {
			continue
		}
		var each []*bucket
		if l := k.limited[a.class]; l != nil {
			each = l.each
		}
		each = c.buckets(g, each, k.limits, c.freshKey[k])
		k.limited[a.class] = newKeyLimits(each, k.shared)
		k.limited[a.class].join(a)
	}
	a.slowStart.missing = nil
	a.findMissing(c.cfg.Dialect)
}

// buckets makes the buckets of a list of limits, of those that there are. A limit that was
// learned stays. Of a new limit nobody knows what is used, unless nothing was used at all;
// the open leases that it concerns hold their slots in it.
func (c *change) buckets(g *group, had []*bucket, limits []Limit, fresh bool) (out []*bucket) {
	if fresh {
		return c.dom.newBuckets(c.now, limits...)
	}
	for _, l := range limits {
		i := slices.IndexFunc(had, func(b *bucket) bool { return b.Is(l.Dimension, l.Name, l.Window) })
		if i >= 0 {
			had[i].Reconfigure(c.now, l, c.dom.terms(l.Dimension))
			out = append(out, had[i])
			continue
		}
		b := c.dom.newBuckets(c.now, l)[0]
		c.exhaust(g, b)
		out = append(out, b)
	}
	for _, b := range had {
		if b.Ceiling() == 0 && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// takeSlots lets each open lease hold a slot in every limit that it would be charged to
// now, if it does not yet: its key may be in another group, its model in another class. They
// may be more than the limit; then nothing is leased until enough have ended.
func (dom *Domain) takeSlots(now Time) {
	keys := map[string]*key{}
	for _, k := range dom.keys {
		keys[k.id] = k
	}
	for l := dom.order.next; l != &dom.order; l = l.next {
		n := l.reserved[provider.Concurrency]
		if n == 0 {
			continue
		}
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
					if b.Slots() && len(l.buckets) < maxBuckets && !slices.Contains(l.buckets, b) {
						l.ledger = &ledger{concat(l.buckets, []*bucket{b})}
						l.holding.add(len(l.buckets) - 1)
						b.Take(now, n)
						g.crossed = g.crossed || a != l.account
						l.account.group.crossed = g.crossed
					}
				}
			}
		}
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
// leases.
func (c *change) exhaust(g *group, b *bucket) {
	switch {
	case b.Slots():
	case b.Holds():
		until, n := c.now.Add(b.HoldFor()), b.Limit()
		if until <= c.dom.now { // all of it has been charged
			b.Exhaust(until)
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
		b.Exhaust(c.late)
	}
}

// exhaustUnknown takes the limits for used up of which nobody knows what is used.
func (c *change) exhaustUnknown() {
	for _, g := range c.dom.groups {
		if c.moved[g] {
			for b := range g.buckets {
				c.exhaust(g, b)
			}
		}
		if c.fresh[g] {
			continue
		}
		for _, a := range g.accounts {
			if c.mixed[a.class] {
				c.exhaustMixed(a)
			}
		}
	}
}

// exhaustMixed takes the limits of an account for used up.
func (c *change) exhaustMixed(a *account) {
	for _, b := range a.own {
		c.exhaust(a.group, b)
	}
	for _, k := range a.group.keys {
		if k.limited != nil {
			for _, b := range k.limited[a.class].each {
				c.exhaust(a.group, b)
			}
		}
	}
}

// pools makes the pools what the configuration says, and all that they choose from anew.
func (c *change) pools() {
	dom := c.dom
	had := dom.pools
	dom.pools = nil
	for _, r := range c.cfg.Pools {
		p := &pool{choices: map[*class]*choice{}}
		if i := slices.IndexFunc(had, func(o *pool) bool { return o.Name == r.Name }); i >= 0 {
			p = had[i]
		}
		p.Rules, p.groups, p.keys, p.byName = r, nil, nil, map[string]*group{}
		for _, g := range dom.groups {
			if p.draws(g.name) {
				p.groups = append(p.groups, g)
				p.byName[g.name] = g
			}
		}
		for _, k := range dom.keys {
			if p.draws(k.group.name) {
				p.keys = append(p.keys, k)
			}
		}
		dom.pools = append(dom.pools, p)
	}
	dom.choices = slices.DeleteFunc(dom.choices, func(ch *choice) bool { return !slices.Contains(dom.pools, ch.pool) })
	for _, cl := range dom.inOrder {
		for _, p := range dom.pools {
			dom.choose(p, cl)
			q := &p.choices[cl].queue
			q.reservations, q.had, q.due = nil, nil, q.len > 0
		}
	}
}

// waiters lists all who wait, the oldest first.
func (dom *Domain) waiters() (all []*Waiter) {
	for _, p := range dom.pools {
		for _, ch := range p.choices {
			for _, t := range ch.queue.turns.byName {
				for w := range t.all {
					all = append(all, w)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *Waiter) int { return cmp.Compare(a.number, b.number) })
	return all
}

// dropMisfits takes those waiters out of line whose pool or model is gone, or that have
// become too large for every key. A waiter whose model is in another class now joins the
// line of that class.
func (dom *Domain) dropMisfits(waiters []*Waiter) (dropped []*Waiter) {
	for _, w := range waiters {
		ch, err := dom.choiceFor(&w.Ask)
		if err == nil {
			err = ch.checkPreference(&w.Ask.Preference)
		}
		if err == nil && ch.exceeded(&w.Ask) {
			err = ch.tooLarge(&w.Ask)
		}
		if err == nil && ch == w.choice {
			continue
		}
		dom.dequeue(w)
		if err != nil {
			w.Err = err
			dropped = append(dropped, w)
			continue
		}
		w.choice = ch
		dom.enqueue(w)
		ch.queue.due = true
	}
	return dropped
}

// remembered is how long a group or key that is gone is remembered at least: if it is put
// back, limits that are new by then do not start unused.
const remembered = 24 * time.Hour

// dropRetired forgets the groups and keys that are not configured any more, once nothing
// counts there.
func (dom *Domain) dropRetired(now Time) {
	counts := func(b *bucket) bool { return b.Used(now) > 0 || b.Held() > 0 }
	dom.retired = slices.DeleteFunc(dom.retired, func(g *group) bool {
		if now < g.goneAt.Add(remembered) || slices.ContainsFunc(g.accounts, func(a *account) bool { return a.open > 0 }) {
			return false
		}
		for b := range g.buckets {
			if counts(b) {
				return false
			}
		}
		return true
	})
	maps.DeleteFunc(dom.drained, func(_ string, k *key) bool {
		if now < k.goneAt.Add(remembered) || k.open > 0 || slices.ContainsFunc(k.shared, counts) {
			return false
		}
		for _, l := range k.limited {
			if slices.ContainsFunc(l.each, counts) {
				return false
			}
		}
		return true
	})
}
