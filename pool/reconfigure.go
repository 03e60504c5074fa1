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
// are returned with their Err set: ErrNoPool, ErrNoKey, ErrModelRequired, ErrModelNotServed or
// *TooLargeError. The errors are those of New, and then nothing has changed. The dialect must
// stay the same.
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

// reconfiguration is one configuration on its way into force.
type reconfiguration struct {
	dom      *Domain
	now      Time
	late     Time // leases of before count as granted by then, since their start_within may be longer
	was, cfg Config
	fresh    map[*group]bool // groups of which nothing was used
	freshKey map[*key]bool   // keys of which nothing was used
	moved    map[*group]bool // nobody knows what is used of them: they have got a key of another group
	back     map[*group]bool // groups that were not configured just before, but once were
	mixed    map[*class]bool // nobody knows what is used of them: models of theirs were in another class
	unheard  map[*class]bool // models of theirs had a class that was forgotten, or none

	missing map[*account]bool // some limit of theirs has ceased to be known, while all were
}

// configure makes the domain what a configuration says, of whatever it was before.
func (dom *Domain) configure(now Time, cfg Config) {
	first := dom.pools == nil
	c := &reconfiguration{
		dom: dom, now: now, was: dom.cfg, cfg: cfg, fresh: map[*group]bool{}, freshKey: map[*key]bool{},
		moved: map[*group]bool{}, back: map[*group]bool{}, mixed: map[*class]bool{}, unheard: map[*class]bool{}, missing: map[*account]bool{},
	}
	dom.cfg, dom.dirty, dom.changes.all, dom.marks.configured = cfg, true, true, dom.mark()
	delta := dom.delta
	dom.delta, dom.single = 0, false
	for _, r := range cfg.Pools {
		dom.delta = max(dom.delta, r.StartWithin)
		dom.single = dom.single || r.Single
	}
	c.late = max(dom.late, now.Add(max(0, delta-dom.delta))) // leases of a configuration before the last may still be on their way
	if now >= dom.late {
		dom.wasDelta = 0
	}
	dom.late, dom.wasDelta = c.late, max(dom.wasDelta, delta)
	c.groups()
	c.classes()
	for _, g := range dom.groups {
		c.accounts(g)
	}
	c.noteGranted()
	c.pools()
	if !first {
		c.exhaustUnknown()
		dom.configured = max(now, 1)
		dom.takeHolds(now)
	}
	for _, p := range dom.pools {
		for _, m := range p.Models { // so that their limits are there to be seen
			_, _ = dom.class(p, m) // which it serves
		}
	}
}

// pools makes the pools what the configuration says, and all that they choose from anew.
func (c *reconfiguration) pools() {
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
			q.due = q.len > 0
			q.reservations = slices.DeleteFunc(q.reservations, func(r reservation) bool {
				return !slices.Contains(p.groups, r.account.group) || r.key != nil && !slices.Contains(p.keys, r.key)
			})
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
