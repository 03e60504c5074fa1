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
	"slices"
)

// Reconfigure puts another configuration in force. Waiters that it leaves without a place
// are returned with their Err set: ErrNoPool, ErrModelNotServed or *TooLargeError. The
// errors are those of New, and then nothing has changed. The dialect must stay the same.
func (dom *Domain) Reconfigure(now Time, cfg Config) (dropped []*Waiter, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	now = dom.tick(now)
	waiters := dom.waiters()
	dom.configure(now, cfg)
	return dom.dropMisfits(waiters), nil
}

// change is one configuration on its way into force.
type change struct {
	dom      *Domain
	now      Time
	was, cfg Config
	fresh    map[*group]bool // groups of which nothing was used
	freshKey map[*key]bool   // keys of which nothing was used
	moved    map[*group]bool // nobody knows what is used of them: they have got a key of another group
	mixed    map[*class]bool // nobody knows what is used of them: models of theirs were in another class
}

// configure makes the domain what a configuration says, of whatever it was before.
func (dom *Domain) configure(now Time, cfg Config) {
	first := dom.pools == nil
	c := &change{
		dom: dom, now: now, was: dom.cfg, cfg: cfg, fresh: map[*group]bool{}, freshKey: map[*key]bool{},
		moved: map[*group]bool{}, mixed: map[*class]bool{},
	}
	dom.cfg, dom.dirty, dom.changes.all = cfg, true, true
	dom.delta, dom.single = 0, false
	for _, r := range cfg.Pools {
		dom.delta = max(dom.delta, r.StartWithin)
		dom.single = dom.single || r.Single
	}
	c.groups()
	c.classes()
	for _, g := range dom.groups {
		c.accounts(g)
	}
	c.pools()
	if !first {
		c.exhaustUnknown()
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
	}
	for _, k := range keys { // they drain
		if k.index >= 0 {
			dom.resting.remove(k)
		}
		k.turn, k.gone = -1, true
		for _, l := range k.limited {
			l.gone = true
		}
	}
	dom.retired = slices.DeleteFunc(had, func(g *group) bool { return slices.Contains(dom.groups, g) })
}

func (c *change) group(groups map[string]*group, cfg Group) {
	dom := c.dom
	g := groups[cfg.Name]
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
	g.shared = c.buckets(g, g, g.shared, shared, c.fresh[g], func(l *lease) bool { return l.account.group == g })
	g.shares = len(g.shared) > 0
	dom.groups = append(dom.groups, g)
}

// key makes k, nil if it is new, what the configuration says.
func (c *change) key(g *group, k *key, cfg Key, limits []Limit) {
	dom := c.dom
	switch {
	case k == nil:
		k = &key{id: cfg.ID, group: g, index: -1}
		c.freshKey[k] = true
	case k.group != g:
		for _, l := range k.limited {
			l.gone = true
		}
		k.group, k.limited, k.shared = g, nil, nil
		c.moved[g] = true
	}
	k.weight = int64(max(cfg.Weight, 1))
	var shared []Limit
	k.limits, shared = split(limits)
	k.shared = c.buckets(g, k, k.shared, shared, c.freshKey[k], func(l *lease) bool { return l.key == k })
	g.shares = g.shares || len(k.shared) > 0
	switch {
	case len(limits) == 0:
		for _, l := range k.limited {
			l.gone = true
		}
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

// classes makes the classes what the configuration says.
func (c *change) classes() {
	dom := c.dom
	before := dom.byModel
	dom.byModel = map[string]*class{}
	declared := map[*class]bool{}
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
			dom.byModel[m] = cl
			if b := before[m]; b != nil && b != cl || b == nil && dom.classes[otherModels] != nil {
				c.mixed[cl] = true
			}
		}
	}
	if c.cfg.Flat {
		declare(Class{Name: allModels})
	}
	for _, cfg := range c.cfg.Classes {
		declare(cfg)
	}
	for _, cl := range dom.inOrder {
		if c.was.Flat != c.cfg.Flat {
			c.mixed[cl] = true
		}
		if declared[cl] {
			continue
		}
		cl.limits = nil
		for _, m := range cl.models {
			if dom.byModel[m] == nil {
				dom.byModel[m] = cl
			}
		}
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
		} else {
			c.account(a)
		}
		g.accounts = append(g.accounts, a)
	}
}

func (c *change) account(a *account) {
	g := a.group
	a.own = c.buckets(g, a, a.own, tightest(g.limits, a.class.limits), false, func(l *lease) bool { return l.account == a })
	a.buckets = concat(a.own, g.shared)
	for _, k := range g.keys {
		if k.limited == nil {
			continue
		}
		own := k.limitsFor(a.class)
		own.set(c.buckets(g, own, own.each, k.limits, c.freshKey[k], func(l *lease) bool { return l.key == k && l.account == a }), k.shared, a)
	}
	a.slowStart.missing = nil
	a.findMissing(c.cfg.Dialect)
}

// buckets makes the buckets of a list of limits of a unit, of those that there are. A limit that was
// learned stays. Of a new limit nobody knows what is used, unless nothing was used at all;
// the open leases that it concerns hold their slots in it.
func (c *change) buckets(g *group, u unit, had []*bucket, limits []Limit, fresh bool, concerns func(*lease) bool) (out []*bucket) {
	if fresh {
		return c.dom.newBuckets(c.now, u, limits...)
	}
	for _, l := range limits {
		i := slices.IndexFunc(had, func(b *bucket) bool { return b.Is(l.Dimension, l.Name, l.Window) })
		if i >= 0 {
			had[i].Reconfigure(c.now, l, c.dom.terms(l.Dimension))
			out = append(out, had[i])
			continue
		}
		b := c.dom.newBuckets(c.now, u, l)[0]
		if b.Slots() {
			c.take(b, concerns)
		} else {
			c.exhaust(g, b)
		}
		out = append(out, b)
	}
	for _, b := range had {
		if b.Ceiling() == 0 && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// take lets open leases hold their slots in a limit that is new. They may be more than the
// limit; then nothing is leased until enough have ended.
func (c *change) take(b *bucket, concerns func(*lease) bool) {
	for l := c.dom.order.next; l != &c.dom.order; l = l.next {
		if n := l.reserved[b.Dimension()]; n > 0 && concerns(l) && len(l.charged) < maxBuckets {
			l.charged = append(slices.Clip(l.charged), b)
			l.holding.add(len(l.charged) - 1)
			b.Take(c.now, n)
		}
	}
}

// exhaust takes a limit for used up: at once or, if amounts of it are held, until the last
// of them is charged. Slots are known by the open leases.
func (c *change) exhaust(g *group, b *bucket) {
	switch {
	case b.Slots():
	case b.Holds():
		if n := b.Limit() - b.Held(); n > 0 {
			c.dom.holdOrphaned(g, b, n, c.now.Add(b.HoldFor()))
		}
	default:
		b.Exhaust(c.now)
	}
}

// exhaustUnknown takes the limits for used up of which nobody knows what is used.
func (c *change) exhaustUnknown() {
	for _, g := range c.dom.groups {
		if c.moved[g] {
			for b := range g.buckets {
				c.exhaust(g, b)
			}
			continue
		}
		if c.fresh[g] {
			continue
		}
		for _, a := range g.accounts {
			if !c.mixed[a.class] {
				continue
			}
			for _, b := range a.own {
				c.exhaust(g, b)
			}
			for _, k := range g.keys {
				if k.limited != nil {
					for _, b := range k.limited[a.class].each {
						c.exhaust(g, b)
					}
				}
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
		p.Rules, p.groups, p.keys = r, nil, nil
		for _, g := range dom.groups {
			if p.draws(g.name) {
				p.groups = append(p.groups, g)
			}
		}
		for _, k := range dom.keys {
			if p.draws(k.group.name) {
				p.keys = append(p.keys, k)
			}
		}
		dom.pools = append(dom.pools, p)
	}
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
			for _, t := range ch.queue.byHolder {
				for w := t.first; w != nil; w = w.next {
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
		if err == nil && ch.exceeded(&w.Ask.Amounts) {
			err = ch.tooLarge(&w.Ask.Amounts)
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

// dropRetired forgets the groups that are not configured any more once nothing counts
// there.
func (dom *Domain) dropRetired(now Time) {
	dom.retired = slices.DeleteFunc(dom.retired, func(g *group) bool {
		for _, a := range g.accounts {
			if a.open > 0 {
				return false
			}
		}
		for b := range g.buckets {
			if b.Used(now) > 0 || b.Held() > 0 {
				return false
			}
		}
		g.gone, dom.changes.all = true, true
		for _, a := range g.accounts {
			a.gone = true
		}
		return true
	})
}
