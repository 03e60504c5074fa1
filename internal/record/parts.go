package record

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// kind is what a part is about.
type kind byte

// The kinds of parts, and the names that tell those of one kind apart.
const (
	head    kind = iota // none
	gone                // a class that was forgotten: its name
	class               // its name
	group               // its name
	key                 // its id
	account             // its group, its class
	own                 // its key, its class
	kinds
)

// id tells the parts of a record from each other. The note that a class was forgotten has the
// id of the class.
type id struct {
	kind kind
	of   string // the group or key, if it is about a class
	name string
}

// part is a part and its bytes.
type part struct {
	id
	gone bool // nothing of the class counts
	b    []byte
}

// parts returns the parts of a state, the head first.
func parts(s *pool.State, maxTTL time.Duration) []part {
	all := make([]part, 0, 1+len(s.Gone)+len(s.Classes)+len(s.Groups)+len(s.Keys)+len(s.Accounts)+len(s.Own))
	var w writer // all parts in one piece of memory
	from := 0
	begin := func(k kind, names ...string) {
		w.byte(byte(k))
		for _, n := range names {
			w.text(n)
		}
	}
	end := func(x id, gone bool) {
		all = append(all, part{x, gone, w.b[from:len(w.b):len(w.b)]})
		from = len(w.b)
	}
	begin(head)
	w.int(int64(s.At))
	w.duration(maxTTL)
	w.flags(s.Stopped)
	end(id{}, false)
	for _, name := range s.Gone {
		begin(gone, name)
		end(id{kind: class, name: name}, true)
	}
	for i := range s.Classes {
		c := &s.Classes[i]
		begin(class, c.Name)
		w.int(int64(s.At))
		w.class(c)
		end(id{kind: class, name: c.Name}, false)
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		begin(group, g.Name)
		w.int(int64(s.At))
		w.cooldown(g.Rest)
		w.buckets(g.Shared)
		end(id{kind: group, name: g.Name}, false)
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		begin(key, k.ID)
		w.int(int64(s.At))
		w.key(k)
		end(id{kind: key, name: k.ID}, false)
	}
	for i := range s.Accounts {
		a := &s.Accounts[i]
		begin(account, a.Group, a.Class)
		w.int(int64(s.At))
		w.account(a)
		end(id{account, a.Group, a.Class}, false)
	}
	for i := range s.Own {
		o := &s.Own[i]
		begin(own, o.Key, o.Class)
		w.int(int64(s.At))
		w.buckets(o.Buckets)
		end(id{own, o.Key, o.Class}, false)
	}
	return all
}

// names reads what tells a part from others.
func (r *reader) names() (x id, isGone bool) {
	switch k := kind(r.byte()); k {
	case head:
	case gone, class:
		return id{kind: class, name: r.text()}, k == gone
	case group, key:
		x = id{kind: k, name: r.text()}
	case account, own:
		x = id{k, r.text(), r.text()}
	default:
		r.fail(errRange)
	}
	return x, false
}

// flags writes up to eight flags, the first in the lowest bit.
func (w *writer) flags(all ...bool) {
	var b byte
	for i, f := range all {
		if f {
			b |= 1 << i
		}
	}
	w.byte(b)
}

// flags reads n flags.
func (r *reader) flags(n int) (f [8]bool) {
	b := r.byte()
	if b>>n != 0 {
		r.fail(errRange)
	}
	for i := range n {
		f[i] = b&(1<<i) != 0
	}
	return f
}

func (w *writer) class(c *pool.ClassState) {
	w.uint(uint64(len(c.Models)))
	for _, m := range c.Models {
		w.text(m)
	}
	w.cooldown(c.Rest)
}

func (r *reader) class(c *pool.ClassState) {
	for range r.count() {
		c.Models = append(c.Models, r.text())
	}
	c.Rest = r.cooldown()
}

// A part has at most 128 KiB, whatever holders ask for and report: a larger one might never be
// saved. The largest are
//
//   - that of a key: names of 2.5 KiB, its limits, and barredBytes;
//   - that of a class: its models, of which the configuration bounds the bytes to 64 KiB;
//   - all others: names of 2.5 KiB and limits. There are at most 32 of these, each with a
//     name of 64 bytes, 33 slices and 10 more numbers: less than 20 KiB together.
//
// barredBytes bounds what a part has of the classes that a key is barred from. Their number is
// that of the classes that callers make up, and each names a holder in up to 2 KiB.
const barredBytes = 64 << 10

// longestBarred returns, in order, as many of the classes that a key is barred from as a part may
// have: those that stay barred for longest. What is left out costs a successor one refusal.
func longestBarred(barred map[string]pool.RestState) []string {
	all := slices.SortedFunc(maps.Keys(barred), func(a, b string) int {
		return cmp.Or(cmp.Compare(barred[b].Left, barred[a].Left), cmp.Compare(a, b))
	})
	const numbers = 2*binary.MaxVarintLen64 + 2*binary.MaxVarintLen32 + 3 // two times, two sizes, three bytes
	left := barredBytes
	for i, class := range all {
		if left -= len(class) + len(barred[class].By) + numbers; left < 0 {
			all = all[:i]
			break
		}
	}
	slices.Sort(all)
	return all
}

func (w *writer) key(k *pool.KeyState) {
	w.text(k.Group)
	w.byte(byte(k.Health))
	w.duration(k.Rest)
	w.text(k.By)
	w.duration(k.Backoff)
	w.text(k.Organization)
	barred := longestBarred(k.Barred)
	w.uint(uint64(len(barred)))
	for _, class := range barred {
		w.text(class)
		c := k.Barred[class]
		w.cooldown(&c)
	}
	w.buckets(k.Shared)
}

func (r *reader) key(k *pool.KeyState) {
	k.Group = r.text()
	k.Health = pool.Health(r.below(int(pool.Quarantined) + 1)) // #nosec G115 -- three values
	k.Rest, k.By, k.Backoff, k.Organization = r.duration(), r.text(), r.duration(), r.text()
	for range r.count() {
		class, c := r.text(), r.cooldown()
		if _, twice := k.Barred[class]; c == nil || twice {
			r.fail(errRange)
			return
		}
		if k.Barred == nil {
			k.Barred = map[string]pool.RestState{}
		}
		k.Barred[class] = *c
	}
	k.Shared = r.buckets()
}

// mostWindow bounds how many leases a slow start lets be open at once.
const mostWindow = 1<<31 - 1

func (w *writer) account(a *pool.AccountState) {
	w.flags(a.Capped, a.Steady)
	w.int(int64(min(a.Window, mostWindow)))
	w.cooldown(a.Rest)
	w.buckets(a.Buckets)
}

func (r *reader) account(a *pool.AccountState) {
	f := r.flags(2)
	a.Capped, a.Steady = f[0], f[1]
	a.Window = r.below(mostWindow + 1)
	a.Rest, a.Buckets = r.cooldown(), r.buckets()
}
