package record

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// version is that of the records that this program writes. It refuses later ones, because it
// would lose what it does not understand of them.
const version = 2

// Record is what is on record of a domain. It holds neither keys nor leases.
type Record struct {
	MaxTTL time.Duration // no lease lives longer without a report
	State  *pool.State   // a whole one
}

// Decode reads the chunks of a record, of this version or the one before. It returns nil if
// there are none.
func Decode(chunks map[string][]byte) (*Record, error) {
	if len(chunks) == 0 {
		return nil, nil
	}
	for _, b := range chunks {
		if len(b) > 0 && b[0] == '{' { // no chunk begins so before version 123
			return decode1(chunks)
		}
	}
	var d decoder
	if err := d.chunks(chunks); err != nil {
		return nil, err
	}
	r, err := d.record()
	if err != nil {
		return nil, damaged(err)
	}
	return r, nil
}

func newer(than uint64) error {
	return fmt.Errorf("its record has version %d, and this program knows %d: use the one that wrote it, or a later one", than, version)
}

func damaged(err error) error {
	return fmt.Errorf("its record is damaged (%w); start once with --state-lost, which takes all limits for used", err)
}

// decoder reads a log.
type decoder struct {
	parts  []part     // in the order in which they were written
	latest map[id]int // the index of the part that counts
}

// chunks reads the parts of all chunks.
func (d *decoder) chunks(chunks map[string][]byte) error {
	type numbered struct {
		number uint64
		parts  reader
	}
	var all []numbered
	for _, b := range chunks {
		r := reader{b: b}
		if v := r.uint(); r.err == nil && v > version {
			return newer(v)
		} else if r.err == nil && v != version {
			return damaged(errRange)
		}
		n := r.uint()
		if r.err != nil {
			return damaged(r.err)
		}
		all = append(all, numbered{n, r})
	}
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	d.latest = map[id]int{}
	for i := range all {
		if i > 0 && all[i-1].number == all[i].number {
			return damaged(errors.New("two chunks with one number"))
		}
		for r := &all[i].parts; len(r.b) > 0; {
			p := part{b: r.bytes(r.count())}
			names := reader{b: p.b}
			p.id, p.gone = names.names()
			if err := cmp.Or(r.err, names.err); err != nil {
				return damaged(err)
			}
			d.latest[p.id] = len(d.parts)
			d.parts = append(d.parts, p)
		}
	}
	return nil
}

// counts reports whether a part is in force: it is the latest with its id, and its class was not
// forgotten.
func (d *decoder) counts(i int) bool {
	p := &d.parts[i]
	if d.latest[p.id] != i || p.gone {
		return false
	}
	if p.kind != account && p.kind != own {
		return true
	}
	c, ok := d.latest[id{kind: class, name: p.name}]
	return ok && !d.parts[c].gone
}

// record reads the state. All of it is as of the moment that the head says.
func (d *decoder) record() (*Record, error) {
	i, ok := d.latest[id{}]
	if !ok {
		return nil, errors.New("it has no head")
	}
	r := reader{b: d.parts[i].b}
	r.names()
	s := &pool.State{Whole: true, At: pool.Time(r.int())}
	maxTTL := r.duration()
	s.Stopped = r.flags(1)[0]
	if err := r.end(); err != nil {
		return nil, err
	}
	for i := range d.parts {
		if !d.counts(i) {
			continue
		}
		r := reader{b: d.parts[i].b}
		x, _ := r.names()
		if x.kind == head {
			continue
		}
		at := pool.Time(r.int())
		if at > s.At {
			r.fail(errRange)
		}
		r.into(s, x, at)
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	return &Record{maxTTL, s}, nil
}

// into adds the content of a part, as of the moment at, to a state.
func (r *reader) into(s *pool.State, x id, at pool.Time) {
	switch x.kind {
	case class:
		c := pool.ClassState{Name: x.name}
		r.class(&c)
		c.Age(at, s.At)
		s.Classes = append(s.Classes, c)
	case group:
		g := pool.GroupState{Name: x.name, Rest: r.cooldown(), Shared: r.buckets()}
		g.Age(at, s.At)
		s.Groups = append(s.Groups, g)
	case key:
		k := pool.KeyState{ID: x.name}
		r.key(&k)
		if k.Age(at, s.At); len(k.Barred) == 0 {
			k.Barred = nil
		}
		s.Keys = append(s.Keys, k)
	case account:
		a := pool.AccountState{Group: x.of, Class: x.name}
		r.account(&a)
		a.Age(at, s.At)
		s.Accounts = append(s.Accounts, a)
	case own:
		o := pool.OwnState{Key: x.of, Class: x.name, Buckets: r.buckets()}
		o.Age(at, s.At)
		s.Own = append(s.Own, o)
	}
}

// end returns the first mistake, or that something is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errors.New("a part is too long")
	}
	return r.err
}
