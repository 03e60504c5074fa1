package pool

import "slices"

// What has changed since it was last saved. Whatever is recorded by itself is a unit: a class,
// a group, a key, an account, and the limits of one key for one class. Whoever changes what
// its record method tells says so by change or note, and the next State has the unit.

// unit is something that is recorded by itself.
type unit interface {
	record(*recorder)             // adds its state
	recorded(yield func(*bucket)) // goes through the buckets that it records
	tracking() *tracked
}

// tracked is embedded in every unit.
type tracked struct {
	changed bool // in changes.units
	saving  bool // in changes.saving
	gone    bool // it is not recorded any more
	saved   bool // some State that was saved has it
}

func (t *tracked) tracking() *tracked { return t }

// changes is what the next State has to tell.
type changes struct {
	units []unit
	all   bool     // all units
	gone  []string // classes that were forgotten

	// Of the last State, until it has been saved: if that fails, the next one has it all again.
	saving     []unit
	savingAll  bool
	savingGone int // so many of gone
}

// change puts a unit into the next State, but asks for none.
func (dom *Domain) change(u unit) {
	if t := u.tracking(); dom.keeps && !t.changed && !t.gone { // the first State has all
		t.changed = true
		dom.changes.units = append(dom.changes.units, u)
	}
}

// note says that a unit has changed in a way that must outlive the owner.
func (dom *Domain) note(u unit) {
	dom.change(u)
	dom.dirty = true
}

// noteCharged notes whatever records the buckets that a lease of a key is charged to.
func (dom *Domain) noteCharged(k *key, a *account) {
	dom.noteLimits(a)
	if l := k.limited[a.class]; l != nil {
		dom.note(l)
	}
	if len(k.shared) > 0 {
		dom.note(k)
	}
}

// noteLimits notes whatever records the limits of an account.
func (dom *Domain) noteLimits(a *account) {
	dom.note(a)
	if len(a.group.shared) > 0 {
		dom.note(a.group)
	}
}

// keep starts the books on what of a unit's bucket is saved.
func (dom *Domain) keep(u unit, b *bucket) { b.Keep(func() { dom.note(u) }) }

// begin chooses what a State has, and says so in it.
func (c *changes) begin(dom *Domain, s *State) {
	all := c.all || c.savingAll || s.Stopped
	if all {
		for _, u := range c.units {
			u.tracking().changed = false
		}
		for _, u := range c.saving {
			u.tracking().saving = false
		}
		c.units, c.saving, c.gone = nil, nil, nil
		dom.units(func(u unit) { c.units = append(c.units, u) })
	}
	for _, u := range c.units {
		t := u.tracking()
		if t.changed = false; !t.saving {
			t.saving = true
			c.saving = append(c.saving, u)
		}
	}
	c.saving = slices.DeleteFunc(c.saving, func(u unit) bool { return u.tracking().gone })
	clear(c.units) // so that what is forgotten is not kept here
	c.units, c.all, c.savingAll, c.savingGone = c.units[:0], false, all, len(c.gone)
	s.Whole, s.Gone = all, slices.Clone(c.gone)
}

// saved takes note that the last State has been saved.
func (c *changes) saved() {
	for _, u := range c.saving {
		t := u.tracking()
		t.saving, t.saved = false, true
		u.recorded((*bucket).saved)
	}
	c.gone = slices.Delete(c.gone, 0, c.savingGone)
	c.saving, c.savingAll, c.savingGone = nil, false, 0
}

// saved adapts Saved.
func (b *bucket) saved() { b.Saved() }

// units calls f for all units.
func (dom *Domain) units(f func(unit)) {
	for _, c := range dom.inOrder {
		f(c)
	}
	for _, g := range dom.everyGroup() {
		f(g)
		for _, a := range g.accounts {
			f(a)
		}
	}
	for _, k := range dom.everyKey() {
		f(k)
		for _, c := range dom.inOrder {
			if l := k.limited[c]; l != nil {
				f(l)
			}
		}
	}
}

// everyKey lists the keys, also those that drain.
func (dom *Domain) everyKey() []*key { return slices.Concat(dom.keys, dom.drained) }

// everyGroup lists the quota groups, also those that drain.
func (dom *Domain) everyGroup() []*group { return slices.Concat(dom.groups, dom.retired) }

func (c *class) recorded(func(*bucket)) {}

func (g *group) recorded(yield func(*bucket)) { each(g.shared, yield) }

func (k *key) recorded(yield func(*bucket)) { each(k.shared, yield) }

func (a *account) recorded(yield func(*bucket)) { each(a.own, yield) }

func (l *keyLimits) recorded(yield func(*bucket)) { each(l.each, yield) }

func each(bs []*bucket, yield func(*bucket)) {
	for _, b := range bs {
		yield(b)
	}
}

// buckets iterates over all buckets of a group and its keys, each once.
func (g *group) buckets(yield func(*bucket) bool) {
	more := true
	visit := func(u unit) {
		u.recorded(func(b *bucket) { more = more && yield(b) })
	}
	visit(g)
	for _, k := range g.keys {
		visit(k)
	}
	for _, a := range g.accounts {
		visit(a)
		for _, k := range g.keys {
			if l := k.limited[a.class]; l != nil {
				visit(l)
			}
		}
	}
}
