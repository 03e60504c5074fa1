package pool

import "slices"

// A page is bounded in three ways, so that the owner's lock is held for some milliseconds at
// most, and a message stays small, however many accounts there are.
const (
	// PageSize is how many keys and quotas a page has at most.
	PageSize = 1000
	// pageBytes bounds what they take in a message.
	pageBytes = 768 << 10
	// pageVisits bounds what is looked at for a page: groups, keys, accounts and buckets,
	// also those that the query leaves out. A page may exceed it by one key, which is as
	// many visits as its group has accounts and they have buckets.
	pageVisits = 40_000
	// maxMoved bounds how far from its place a key or group is looked for after another
	// configuration has moved it.
	maxMoved = 10_000
)

// Query selects keys and quotas of a pool, and where in their order a page begins.
type Query struct {
	Group string // only of this quota group; empty: of all
	Class string // only quotas of this class of models, and no keys; empty: of all
	// OnlyLimited selects what is limited right now: keys and quotas of which some limit
	// has nothing remaining, or that are cooling down or out of use.
	OnlyLimited bool
	Since       Mark   // only what has changed after it
	From        Cursor // where the page begins
	Size        int    // at most so many keys and quotas; 0, or more than PageSize: PageSize
}

// Cursor is a place in the order of a pool's keys, and then its quotas: after the one that it
// names. It names what was visited last, so that it stays right when others come and go. Its
// zero value is the beginning.
type Cursor struct {
	Quotas bool   // it is among the quotas, at their beginning if Group is empty
	Group  string // of the quota
	Class  string // of the quota
	Key    string // of the key, or of the quota if that is of one key
	// Place is where the key was, or the group, and KeyPlace where the quota's key was in
	// its group: they are looked for from there.
	Place, KeyPlace int
}

// Page is some of a pool's keys and quotas: a part of what a query selects.
type Page struct {
	Keys    []KeyMetadata // in the order of the configuration
	Quotas  []QuotaState  // by group, then by class
	Next    Cursor        // where the next page begins; zero if this is the last
	Visited int           // how many groups, keys, accounts and buckets were looked at
}

// Page gives some of a pool's keys and quotas; the empty name is the first pool. A page may be
// short, or even empty, while there are more: its work is bounded. The error is ErrCursor.
func (dom *Domain) Page(now Time, name string, q Query) (Page, error) {
	w := &walk{dom: dom, now: dom.tick(now), Query: q, bytes: pageBytes}
	if w.Size <= 0 || w.Size > PageSize {
		w.Size = PageSize
	}
	p := dom.pool(name)
	keys, groups := p.keys, p.groups
	if q.Group != "" {
		keys, groups = nil, nil
		if g := dom.named[q.Group]; g != nil && p.draws(q.Group) && !slices.Contains(dom.retired, g) {
			keys, groups = g.keys, []*group{g}
		}
	}
	if q.Class != "" {
		if keys = nil; dom.classes[q.Class] == nil {
			groups = nil
		}
	}
	if !q.From.Quotas {
		if done, err := w.keys(keys); !done || err != nil {
			return w.Page, err
		}
		w.Next, w.From = Cursor{Quotas: true}, Cursor{}
	}
	err := w.quotas(groups)
	return w.Page, err
}

// walk goes along a pool's keys and quotas until a page is full.
type walk struct {
	dom *Domain
	now Time
	Query
	Page
	bytes int    // that are left
	of    *group // reach is that of keys of this group without limits of their own
	reach reach
}

// full reports whether the page must end here.
func (w *walk) full() bool {
	return len(w.Keys)+len(w.Quotas) >= w.Size || w.Visited >= pageVisits || w.bytes <= 0
}

// keys goes along the keys. It returns whether it has come to their end.
func (w *walk) keys(keys []*key) (done bool, err error) {
	first, err := after(w.From.Key, w.From.Place, len(keys), func(i int) string { return keys[i].id })
	if err != nil {
		return false, err
	}
	for i := first; i < len(keys); i++ {
		if w.full() {
			return false, nil
		}
		k := keys[i]
		w.key(k)
		w.Next = Cursor{Key: k.id, Place: i}
	}
	return true, nil
}

func (w *walk) key(k *key) {
	w.Visited++
	if w.Since > 0 && w.dom.lastChange(k) <= w.Since {
		return
	}
	m := k.inspect(w.now)
	m.Changed = w.dom.lastChange(k)
	r := w.reachOf(k)
	m.Limits, m.CooldownUntil = r.limits, r.until
	if k.index >= 0 {
		m.CooldownUntil = max(m.CooldownUntil, k.restsUntil)
	}
	if w.OnlyLimited && !m.IsLimited() {
		return
	}
	w.Keys = append(w.Keys, m)
	w.bytes -= bytesOfKey + len(m.ID) + len(m.Group) + len(m.LastError) + len(m.Organization)
	for _, c := range m.Forbidden {
		w.bytes -= 4 + len(c)
	}
}

// quotas goes along the quotas. Once it has come to their end, there is no next page.
func (w *walk) quotas(groups []*group) error {
	at := w.From
	first, err := after(at.Group, at.Place, len(groups), func(i int) string { return groups[i].name })
	if err != nil {
		return err
	}
	class, key := 0, -1 // in the first group: after this key of the class
	if at.Group != "" {
		first--
		if class, key, err = w.within(groups[first]); err != nil {
			return err
		}
	}
	for i := first; i < len(groups); i, class, key = i+1, 0, -1 {
		w.Visited++
		if w.skips(groups[i]) {
			if w.Next = groups[i].end(i); w.full() {
				return nil
			}
			continue
		}
		if done := w.group(groups[i], i, class, key); !done {
			return nil
		}
	}
	w.Next = Cursor{}
	return nil
}

// within finds where in its group the cursor is: the index of the class, and that of the key,
// or -1 if the cursor is at the account's own quota, which has been visited.
func (w *walk) within(g *group) (class, key int, err error) {
	at := w.From
	c := w.dom.classes[at.Class]
	switch {
	case at.Class == "": // it had no accounts
		return 0, -1, nil
	case c == nil:
		return 0, 0, ErrCursor
	}
	next, err := after(at.Key, at.KeyPlace, len(g.keys), func(i int) string { return g.keys[i].id })
	return c.index, next, err
}

// end is the place after a group.
func (g *group) end(place int) Cursor {
	at := Cursor{Quotas: true, Group: g.name, Place: place}
	if n := len(g.accounts); n > 0 {
		at.Class = g.accounts[n-1].class.name
	}
	if n := len(g.keys); n > 0 {
		at.Key, at.KeyPlace = g.keys[n-1].id, n-1
	}
	return at
}

// skips reports whether nothing in a group has changed.
func (w *walk) skips(g *group) bool {
	return len(g.accounts) == 0 || w.Since > 0 && max(g.newest, w.dom.marks.cooldown) <= w.Since
}

// group goes along the quotas of one group, from a class and a key on; with the key -1, from
// the quota of the class's account. It returns whether it has come to their end.
func (w *walk) group(g *group, place, class, key int) (done bool) {
	accounts := g.accounts
	if w.Class != "" {
		c := w.dom.classes[w.Class]
		if c.index < class {
			return true
		}
		if c.index > class {
			class, key = c.index, -1
		}
		accounts = accounts[:c.index+1]
	}
	for ; class < len(accounts); class, key = class+1, -1 {
		a := accounts[class]
		at := Cursor{Quotas: true, Group: g.name, Class: a.class.name, Place: place}
		if key < 0 {
			if w.full() {
				return false
			}
			w.account(a)
			w.Next = at
		}
		if !a.keyed {
			continue
		}
		for i := max(key, 0); i < len(g.keys); i++ {
			if w.full() {
				return false
			}
			w.own(a, g.keys[i])
			w.Next, w.Next.Key, w.Next.KeyPlace = at, g.keys[i].id, i
		}
	}
	return true
}

// account visits the quota of an account.
func (w *walk) account(a *account) {
	w.Visited++
	changed := a.lastChange()
	if w.Since > 0 && changed <= w.Since {
		return
	}
	until := a.coolUntil()
	if !w.shows(a.buckets, until) {
		return
	}
	q := QuotaState{
		Group: a.group.name, Class: a.class.name, Limits: limits(w.now, a.buckets),
		CooldownUntil: until, Open: a.open, Changed: changed,
	}
	for _, c := range a.cooldowns() {
		if c.active(w.now) && c.until == until {
			q.Reason = c.class.String()
		}
	}
	if a.slowStart.active() {
		q.Window = a.slowStart.window
	}
	w.add(q)
}

// own visits the quota of a key within an account.
func (w *walk) own(a *account, k *key) {
	w.Visited++
	own := k.own(a.class)
	changed := a.lastChangeOf(k)
	if len(own) == 0 || w.Since > 0 && changed <= w.Since || !w.shows(own, 0) {
		return
	}
	w.add(QuotaState{
		Group: a.group.name, Class: a.class.name, Key: k.id, Limits: limits(w.now, own), Open: k.open, Changed: changed,
	})
}

// shows reports whether a quota is shown whose state has to be looked at for that.
func (w *walk) shows(buckets []*bucket, until Time) bool {
	w.Visited += len(buckets)
	return !w.OnlyLimited || until > w.now ||
		slices.ContainsFunc(buckets, func(b *bucket) bool { return b.Remaining(w.now) == 0 })
}

// What a key, a quota and a limit take in a message at most, without their names.
const (
	bytesOfKey   = 128
	bytesOfQuota = 64
	bytesOfLimit = 160
)

func (w *walk) add(q QuotaState) {
	w.Quotas = append(w.Quotas, q)
	w.bytes -= bytesOfQuota + len(q.Group) + len(q.Class) + len(q.Key)
	for _, l := range q.Limits {
		w.bytes -= bytesOfLimit + len(l.Name)
	}
}

// reach is what a group's accounts leave to a key.
type reach struct {
	until  Time         // no account can be used before
	limits []LimitState // of the account that has least room
}

// reachOf goes through all accounts of a key's group, once for all keys that are not different.
func (w *walk) reachOf(k *key) reach {
	if k.limited == nil && w.of == k.group {
		return w.reach
	}
	r := reach{until: Never}
	if len(k.group.accounts) == 0 {
		r.until = 0
	}
	var tightest []*bucket
	least := 2.0
	for _, a := range k.group.accounts {
		r.until = min(r.until, a.coolUntil())
		charges := k.charges(a).buckets
		w.Visited += 1 + len(charges)
		part := 1.0
		for _, b := range charges {
			part = min(part, float64(b.Remaining(w.now))/float64(b.Limit()))
		}
		if part < least {
			tightest, least = charges, part
		}
	}
	r.limits = limits(w.now, tightest)
	if k.limited == nil {
		w.of, w.reach = k.group, r
	}
	return r
}

// inspect gives what is known of the key itself.
func (k *key) inspect(now Time) KeyMetadata {
	m := KeyMetadata{
		ID: k.id, Group: k.group.name, Priority: k.seat.priority, Weight: int(k.weight),
		Health: k.health, LastError: k.lastErr, LastErrorAt: k.errAt, Open: k.open,
		at: now, probe: k.probe != nil, Organization: k.organization,
	}
	for class, c := range k.barred {
		if c.active(now) {
			m.Forbidden = append(m.Forbidden, class.name)
		}
	}
	slices.Sort(m.Forbidden)
	return m
}

func limits(now Time, buckets []*bucket) []LimitState {
	var out []LimitState
	for _, b := range buckets {
		out = append(out, b.Status(now))
	}
	return out
}

// after returns the index after that of a name among n, which is looked for from its place
// before; 0 for no name.
func after(name string, place, n int, at func(int) string) (int, error) {
	if name == "" {
		return 0, nil
	}
	for d := range maxMoved {
		for _, i := range [2]int{place - d, place + d} {
			if i >= 0 && i < n && at(i) == name {
				return i + 1, nil
			}
		}
	}
	return 0, ErrCursor
}
