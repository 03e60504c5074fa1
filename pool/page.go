package pool

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
	pageVisits = 20_000
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
		if g := p.byName[q.Group]; g != nil {
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
