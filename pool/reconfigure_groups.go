package pool

// Groups and keys of another configuration, and those that are gone.

import (
	"slices"
	"time"
)

// groups makes groups and keys what the configuration says.
func (c *reconfiguration) groups() {
	dom := c.dom
	hadGroups, hadKeys := dom.everyGroup(), dom.everyKey()
	groups := map[string]*group{}
	for _, g := range hadGroups {
		groups[g.name] = g
		c.back[g] = g.goneAt < Never
		g.goneAt = min(g.goneAt, c.now)
		g.keys, g.seats = nil, nil
		for _, a := range g.accounts {
			a.candidates = nil
		}
	}
	keys := map[string]*key{}
	for _, k := range hadKeys {
		keys[k.id] = k
		k.goneAt = min(k.goneAt, c.now)
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
	}
	dom.drained = slices.DeleteFunc(hadKeys, func(k *key) bool { return k.goneAt == Never })
	for _, k := range dom.drained {
		if k.index >= 0 {
			dom.resting.remove(k)
		}
		k.turn = -1
	}
	dom.retired = slices.DeleteFunc(hadGroups, func(g *group) bool { return g.goneAt == Never })
}

func (c *reconfiguration) group(groups map[string]*group, cfg Group) {
	dom := c.dom
	g := groups[cfg.Name]
	if g == nil {
		g = &group{name: cfg.Name}
		groups[cfg.Name] = g
		c.fresh[g] = true
	}
	g.goneAt = Never
	each, shared := split(cfg.Limits)
	if !c.fresh[g] {
		g.later.note(c.late, c.before(g.limits), each)
	}
	g.limits = each
	g.shared = c.buckets(g, g, g.shared, shared, c.fresh[g])
	g.shares = len(g.shared) > 0
	dom.groups = append(dom.groups, g)
}

// key makes k, nil if it is new, what the configuration says.
func (c *reconfiguration) key(g *group, k *key, cfg Key, limits []Limit) {
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
	if k.turn < 0 && k.index < 0 && k.outUntil > c.now { // it is back, and was out of use when it went
		dom.resting.push(k, int64(k.outUntil))
	}
	k.goneAt = Never
	k.weight = int64(max(cfg.Weight, 1))
	each, shared := split(limits)
	if !c.freshKey[k] {
		k.later.note(c.late, c.before(k.limits), each)
	}
	k.limits = each
	k.shared = c.buckets(g, k, k.shared, shared, c.freshKey[k])
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

// before is the limits of each class that there were before.
func (c *reconfiguration) before(each []Limit) []Limit {
	if c.was.Flat != c.cfg.Flat { // they counted other things
		return nil
	}
	return each
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
		g.gone, dom.changes.all = true, true
		for _, a := range g.accounts {
			a.gone = true
		}
		return true
	})
	dom.drained = slices.DeleteFunc(dom.drained, func(k *key) bool {
		if now < k.goneAt.Add(remembered) || k.open > 0 || slices.ContainsFunc(k.shared, counts) {
			return false
		}
		for _, l := range k.limited {
			if slices.ContainsFunc(l.each, counts) {
				return false
			}
		}
		k.gone, dom.changes.all = true, true
		for _, l := range k.limited {
			l.gone = true
		}
		return true
	})
}
