package pool

// Mark numbers what changes in a domain, from 1. Of everything that people can look at, the
// domain keeps the mark of its last change, so that it can tell what has changed since they
// looked. What time alone does has no mark: a limit that refills, or a cooldown that ends.
type Mark uint64

// marks are those of a domain's last changes.
type marks struct {
	last       Mark // of anything
	cooldown   Mark // of the cooldown of any class of models
	configured Mark // of the configuration, which changes everything
}

func (dom *Domain) mark() Mark {
	dom.marks.last++
	return dom.marks.last
}

// Mark returns the mark of the last change, and that of the last configuration, which
// changes everything.
func (dom *Domain) Mark() (last, configured Mark) {
	return dom.marks.last, dom.marks.configured
}

// touch marks an account's books, and a key of the group with its books. Where the group has
// limits for all models together, that changes its other accounts too.
func (dom *Domain) touch(a *account, k *key) {
	m := dom.mark()
	a.changed, a.group.newest = m, m
	if len(a.group.shared) > 0 {
		a.group.sharedChanged = m
	}
	if k != nil {
		k.changed = m
	}
}

// touchKey marks a key: its health, or whether it is in use.
func (dom *Domain) touchKey(k *key) {
	k.changed = dom.mark()
	k.group.newest = k.changed
}

// touchGroup marks a group, its keys, and its accounts.
func (dom *Domain) touchGroup(g *group) {
	g.changed = dom.mark()
	g.newest = g.changed
}

// touchCooldown marks those that one of an account's cooldowns keeps out of use. That may
// make all keys of the group usable, or none. A model's cooldown may do so in every group.
func (dom *Domain) touchCooldown(a *account, c *cooldown) {
	if c == &a.class.cooldown {
		a.class.changed = dom.mark()
		dom.marks.cooldown = a.class.changed
	} else {
		dom.touchGroup(a.group)
	}
}

// lastChange returns the mark of the last change of what people see of a key. What is used
// of its limits has marks of its own, in the accounts.
func (dom *Domain) lastChange(k *key) Mark {
	return max(k.changed, k.group.changed, dom.marks.cooldown)
}

func (a *account) lastChange() Mark {
	return max(a.changed, a.group.changed, a.group.sharedChanged, a.class.changed)
}

// lastChangeOf returns the mark of the last change of a key's own limits, in any account: with
// them goes how many leases of the key are open.
func (a *account) lastChangeOf(k *key) Mark { return max(k.changed, a.group.changed) }
