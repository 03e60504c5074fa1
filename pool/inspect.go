package pool

import "github.com/keybroker/keybroker/internal/provider"

// Snapshot is the state of a pool at one moment, for people to look at. It
// holds copies only.
type Snapshot struct {
	Summary
	Page
	Queues []QueueState // those with somebody in them
	// Warnings are what somebody should look at, the latest first.
	Warnings []Warning
}

// Summary is a pool at a glance.
type Summary struct {
	KeyCount  int
	Available int // keys that could be leased now, were there capacity
	Open      int // leases
	Waiters   int
	Counters  Counters
}

// KeyMetadata is what is known of a key, without the key.
type KeyMetadata struct {
	ID            string
	Group         string
	Priority      int
	Weight        int
	Health        Health
	LastError     string // the last reason why it was not healthy
	LastErrorAt   Time
	CooldownUntil Time     // out of use before; in the past if it is not
	Open          int      // leases
	Organization  string   // as answers name it
	Forbidden     []string // classes of models that it may not use, for now
	// Limits are those that apply in the class of models that has least room.
	Limits  []LimitState
	Changed Mark // the last change, but for what is used of the limits

	at    Time
	probe bool // the one lease that finds out whether it works is out
}

// IsAvailable reports whether the key could be leased, were there capacity: it works, as
// far as is known, and is not out of use.
func (k *KeyMetadata) IsAvailable() bool { return !k.probe && k.CooldownUntil <= k.at }

// GetCapacityScore returns what is left of the key's tightest limit, 0 to 1. A key without
// limits scores 1, one that is not available 0.
func (k *KeyMetadata) GetCapacityScore() float64 {
	if !k.IsAvailable() {
		return 0
	}
	return left(k.Limits)
}

// left returns what is left of the tightest of some limits, 0 to 1.
func left(limits []LimitState) float64 {
	part := 1.0
	for _, l := range limits {
		part = min(part, float64(l.Remaining)/float64(l.Limit))
	}
	return part
}

// QuotaState is what one quota group may use of one class of models.
type QuotaState struct {
	Group, Class  string
	Key           string // if the limits are of one key within the group
	Limits        []LimitState
	CooldownUntil Time
	Reason        string // why, if it is cooling down
	Open          int
	Window        int // leases that may be open at once in slow start; 0 when all limits are known
	Changed       Mark
}

// maxHolders bounds how many holders are looked at to find who has waited longest.
const maxHolders = 4096

// QueueState is one line of waiters.
type QueueState struct {
	Class            string
	Waiters, Holders int
	OldestSince      Time
}

// LeaseState is one lease.
type LeaseState struct {
	ID               LeaseID
	Holder           string
	Key, Group       string
	Class            string
	Granted, Expires Time
	Reserved, Used   provider.Amounts
}

// Count is a count of the keys that could be leased. In a large pool it takes several calls
// of Glance. Its zero value begins.
type Count struct {
	next      int // group
	available int
	since     Mark // configuration
}

// Glance gives a pool's summary; the empty name is the first pool. It goes on with a count of
// the available keys, and returns whether that has ended: only then Available is right, and
// the count begins anew.
func (dom *Domain) Glance(now Time, name string, c *Count) (s Summary, done bool) {
	dom.tick(now)
	p := dom.pool(name)
	s = Summary{KeyCount: len(p.keys), Open: p.open, Waiters: p.waiting, Counters: p.counters}
	if c.since != dom.marks.configured {
		*c = Count{since: dom.marks.configured}
	}
	for visits := 0; c.next < len(p.groups); c.next++ {
		if visits >= pageVisits/2 {
			return s, false
		}
		n, visited := p.groups[c.next].available(dom.now)
		c.available += n
		visits += visited
	}
	s.Available = c.available
	*c = Count{}
	return s, true
}

// available counts the group's keys that could be leased for some class of models. It also
// returns how much it has looked at.
func (g *group) available(now Time) (n, visited int) {
	for _, s := range g.seats {
		n += len(s.keys)
	}
	visited = 1 + len(g.seats)
	for _, a := range g.accounts {
		visited++
		if a.coolUntil(now) <= now {
			return n, visited
		}
	}
	if len(g.accounts) > 0 {
		n = 0
	}
	return n, visited
}

// Queues lists a pool's queues that have somebody in them; the empty name is the first pool.
// With very many holders, OldestSince is that of those who were looked at.
func (dom *Domain) Queues(now Time, name string) (all []QueueState) {
	now = dom.tick(now)
	p := dom.pool(name)
	holders := maxHolders
	for _, c := range dom.inOrder {
		q := &p.choices[c].queue
		if q.len == 0 {
			continue
		}
		s := QueueState{Class: c.name, Waiters: q.len, Holders: q.turns.waiting, OldestSince: now}
		look := q.turns.heap.items[:min(len(q.turns.heap.items), max(holders, 1))]
		holders -= len(look)
		for _, e := range look {
			s.OldestSince = min(s.OldestSince, e.v.oldestSince())
		}
		all = append(all, s)
	}
	return all
}

// Leases lists the open leases of a pool in the order of their grants, up to limit of those
// after the one given; 0 starts from the oldest. The empty name is the first pool.
func (dom *Domain) Leases(now Time, name string, after LeaseID, limit int) []LeaseState {
	dom.tick(now)
	p := dom.pool(name)
	l := dom.order.next
	if a := dom.leases[after]; a != nil && !a.lapsed {
		l = a.next
	}
	var out []LeaseState
	for ; l != &dom.order && len(out) < limit; l = l.next {
		if l.id <= after || l.choice.pool != p {
			continue
		}
		out = append(out, LeaseState{
			ID: l.id, Holder: l.by.holder.name, Key: l.key.id, Group: l.account.group.name, Class: l.account.class.name,
			Granted: l.granted, Expires: l.expires, Reserved: l.reserved, Used: l.used,
		})
	}
	return out
}
