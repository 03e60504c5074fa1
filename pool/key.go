package pool

import (
	"slices"
	"time"
)

// Health says whether the provider accepts a key. It is about the credential;
// capacity belongs to the quota group.
type Health uint8

// The states of a key. A refusal makes it suspect; refused again, on another
// lease, it is quarantined. Either way it rests, and then one lease at a time
// finds out whether it works; an answer that is no refusal makes it healthy.
const (
	Healthy Health = iota
	Suspect
	Quarantined
)

// How long a refused key rests before one lease tries it.
const (
	suspectRest    = 5 * time.Second
	quarantineRest = 10 * time.Minute
)

type key struct {
	id       string
	number   int // in the configuration
	group    *group
	seat     *seat
	weight   int64
	own      map[*class][]*bucket // limits of this key alone, within its group's
	limits   []Limit              // from which own is made
	shared   []*bucket            // those for all models together
	health   Health
	restedAt Time // does not rest after
	failedAt Time // of the lease that was refused last: what was granted before says nothing new
	failedBy LeaseID
	lastErr  string
	errAt    Time
	probe    *lease // the one lease out on a key that is not healthy
	open     int
	index    int32 // in the pool's heap of resting keys
	turn     int32 // in the seat; -1 while it rests
}

func (k *key) place() *int32 { return &k.index }

// usable reports whether the key may be leased: it does not rest, and nobody is
// trying it out.
func (k *key) usable() bool { return k.turn >= 0 }

// seat is the keys of one group and one priority. They take turns.
type seat struct {
	tier   int    // priority
	all    []*key // in the order of the configuration
	keys   []*key // the usable ones
	turn   int
	weight int64 // of the usable ones together
}

// pick takes the next usable key that the caller may have and that, if it has
// limits of its own, has room in them. Without one, it says when there will be,
// or passed if there is one for others.
func (s *seat) pick(q *search, c *class) (found *key, best fit, passed bool) {
	best = fit{at: Never, by: unconditional, never: len(s.keys) == len(s.all)}
	tried := false
	for i := range s.keys {
		k := s.keys[(s.turn+i)%len(s.keys)]
		if !q.allows(k) || q.claim.blocksKey(q.now, k, c, q.ask) {
			passed, best.never = true, false
			continue
		}
		f := fit{at: q.now, by: unconditional, key: k}
		for _, b := range k.own[c] {
			f.in(q.now, b, q.ask)
		}
		if f.at == q.now {
			s.turn = (s.turn + i + 1) % len(s.keys)
			return k, f, false
		}
		tried = true
		best.sooner(&f)
	}
	if len(s.keys) < len(s.all) {
		s.restedAt(q, &best)
	}
	if len(s.all) > 1 && tried {
		best.by = several
	}
	return nil, best, passed
}

// restedAt takes into account the keys that may be leased later.
func (s *seat) restedAt(q *search, best *fit) {
	for _, k := range s.all {
		switch {
		case k.usable() || slices.Contains(q.exclude, k.id):
		case k.index >= 0:
			best.sooner(&fit{at: k.restedAt, by: unconditional})
		default: // the one lease that tries it is out
			best.byEvent = best.byEvent || best.at == Never
		}
	}
}

// alive reports whether some key works, as far as is known, and is not
// excluded.
func (s *seat) alive(exclude []string) bool {
	for _, k := range s.all {
		if (k.health != Quarantined || k.usable()) && !slices.Contains(exclude, k.id) {
			return true
		}
	}
	return false
}

func (s *seat) add(k *key) {
	k.turn = int32(len(s.keys))
	s.keys = append(s.keys, k)
	s.weight += k.weight
}

func (s *seat) remove(k *key) {
	last := s.keys[len(s.keys)-1]
	s.keys[k.turn], last.turn = last, k.turn
	s.keys = s.keys[:len(s.keys)-1]
	k.turn = -1
	s.weight -= k.weight
}

// refused takes note that the provider did not accept the key.
func (p *Pool) refused(now Time, k *key, l *lease, why string) {
	k.lastErr, k.errAt = why, now
	if k.health != Healthy && k.failedBy == l.id {
		return // the same lease again confirms nothing
	}
	if k.health == Healthy {
		k.health = Suspect
	} else {
		k.health = Quarantined
	}
	k.failedAt, k.failedBy = now, l.id
	rest := suspectRest
	if k.health == Quarantined {
		rest = quarantineRest
	}
	p.rest(k, now.Add(rest))
}

// accepted takes note that the provider accepted the key for a lease. An answer
// to a lease older than the refusal does not count.
func (p *Pool) accepted(now Time, k *key, l *lease) {
	if k.health == Healthy || l.granted < k.failedAt {
		return
	}
	k.health = Healthy
	if k.probe != nil {
		k.probe = nil
	}
	p.rest(k, now)
	p.wakeKeys(now)
}

// rest takes a key out of use until a moment.
func (p *Pool) rest(k *key, until Time) {
	k.restedAt = until
	if k.usable() {
		k.seat.remove(k)
	}
	if k.index >= 0 {
		p.resting.update(k, int64(until))
	} else {
		p.resting.push(k, int64(until))
	}
	p.turned(k.group)
}

// turned takes note that the usable keys of a group are others than before.
// Without pooling that may make any other key the one to lease.
func (p *Pool) turned(g *group) {
	groups := []*group{g}
	if p.cfg.Single {
		groups = p.groups
	}
	for _, g := range groups {
		for _, a := range g.accounts {
			p.freed(p.now, a)
		}
	}
}

// wakeKeys puts back the keys whose rest is over.
func (p *Pool) wakeKeys(now Time) {
	for p.resting.len() > 0 {
		k, until := p.resting.min()
		if Time(until) > now {
			return
		}
		p.resting.remove(k)
		if k.probe == nil {
			k.seat.add(k)
			p.turned(k.group)
		}
	}
}
