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

// suspectRest is how long a refused key rests before one lease tries it. In
// quarantine it is tried rarely.
const suspectRest = 5 * time.Second

type key struct {
	id           string
	number       int // in the configuration
	group        *group
	seat         *seat
	weight       int64
	own          map[*class][]*bucket // limits of this key alone, within its group's
	limits       []Limit              // from which own is made
	shared       []*bucket            // those for all models together
	health       Health
	restedAt     Time // does not rest after
	renewedAt    Time // has had its value since
	failedAt     Time // of the lease that was refused last: what was granted before says nothing new
	failedBy     LeaseID
	accuser      string        // the holder on whose word alone it is in quarantine
	until        Time          // for that holder, until then
	backoff      time.Duration // in quarantine
	barred       map[*class]*rest
	organization string // as answers name it
	lastErr      string
	errAt        Time
	probe        *lease // the one lease out on a key that is not healthy, while its verdict is waited for
	open         int
	index        int32 // in the pool's heap of resting keys
	turn         int32 // in the seat; -1 while it rests
}

func (k *key) place() *int32 { return &k.index }

// keptFrom reports whether the key is kept from a holder on that holder's own
// word, while others may see for themselves.
func (k *key) keptFrom(now Time, holder string) bool {
	return k.accuser != "" && k.accuser == holder && now < k.until
}

// opens is when a holder may have the key for a class, if it is usable.
func (k *key) opens(now Time, c *class, holder string) Time {
	at := now
	if k.keptFrom(now, holder) {
		at = k.until
	}
	if r := k.barred[c]; r != nil {
		opens, _ := r.opens(now, holder)
		at = max(at, opens)
	}
	return at
}

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

// pick finds the next usable key that the caller may have and that, if it has
// limits of its own, has room in them. Without one, it says when there will be,
// or passed if there is one for others.
func (s *seat) pick(q *search, c *class) (found *key, best fit, passed bool) {
	best = fit{at: Never, by: unconditional, never: len(s.keys) == len(s.all)}
	tried := false
	for i := range s.keys {
		k := s.keys[(s.turn+i)%len(s.keys)]
		if !q.allows(k) || q.claimedKey(k, c) {
			passed, best.never = true, false
			if k.keptFrom(q.now, q.holder) {
				best.sooner(&fit{at: k.until, by: unconditional})
			}
			continue
		}
		f := fit{at: q.now, by: unconditional, key: k}
		if r := k.barred[c]; r != nil {
			at, byEvent := r.opens(q.now, q.holder)
			f.later(at, unconditional, byEvent)
			passed = passed || r.by == q.holder
		}
		for _, b := range k.own[c] {
			f.in(q.now, b, q.ask, Never)
		}
		if f.at == q.now {
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
		if !k.usable() && !slices.Contains(q.exclude, k.id) {
			best.sooner(&fit{at: k.restedAt, by: unconditional, byEvent: k.probe != nil})
		}
	}
}

// alive reports whether some key works for an ask, as far as is known.
func (s *seat) alive(now Time, c *class, ask *Ask) bool {
	for _, k := range s.all {
		r := k.barred[c]
		if (k.health != Quarantined || k.usable()) && (r == nil || !r.blocked(now, ask.Holder)) && !slices.Contains(ask.Exclude, k.id) {
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

// refused takes note that the provider did not accept the key. Two refusals put
// it in quarantine, and so does one that leaves no doubt. As far as that is one
// holder's word, others may try it sooner.
func (p *Pool) refused(now Time, k *key, l *lease, why string, wait time.Duration) {
	k.lastErr, k.errAt = why, now
	if k.health != Healthy && k.failedBy == l.id {
		return // the same lease again confirms nothing
	}
	holder := l.holder.name
	known := k.health == Quarantined && l.granted <= k.failedAt
	if known && (k.accuser == "" || k.accuser == holder) {
		return // it is the same piece of news
	}
	if k.health == Healthy {
		k.accuser, k.backoff, k.until = holder, 0, now
	}
	k.failedAt, k.failedBy = now, l.id
	if k.health == Healthy && wait == 0 {
		k.health = Suspect
		p.rest(k, now.Add(suspectRest))
		p.notice(Notice{Kind: KeySuspect, Key: k.id, Group: k.group.name, Text: why})
		return
	}
	if confirms := k.accuser != "" && k.accuser != holder && k.health == Quarantined; !known && !confirms {
		k.backoff = min(max(2*k.backoff, rarely.first), rarely.most)
	}
	k.health = Quarantined
	p.notice(Notice{Kind: KeyQuarantined, Key: k.id, Group: k.group.name, Text: why})
	until := now.Add(max(wait, k.backoff))
	if k.accuser == holder {
		k.until = max(k.until, until)
		p.rest(k, min(k.until, now.Add(secondOpinion)))
		return
	}
	if until >= k.until { // else the first to say so keeps to its own word for longer
		k.accuser, k.until = "", until
	}
	p.rest(k, until)
}

// accepted takes note that the provider accepted the key for a lease. An answer
// to a lease older than the refusal does not count.
func (p *Pool) accepted(now Time, k *key, l *lease) {
	if k.health == Healthy || l.granted < k.failedAt {
		return
	}
	p.revive(now, k)
	p.notice(Notice{Kind: KeyBack, Key: k.id, Group: k.group.name, Text: "accepted again"})
}

// revive takes a key back into use.
func (p *Pool) revive(now Time, k *key) {
	k.health, k.accuser, k.until = Healthy, "", now
	p.dirty = true
	p.rest(k, now)
	p.wakeKeys(now)
}

// rest takes a key out of use until a moment.
func (p *Pool) rest(k *key, until Time) {
	k.restedAt, k.probe = until, nil
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
		k.probe = nil
		k.seat.add(k)
		p.turned(k.group)
	}
}
