package pool

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// Snapshot is the state of a pool at one moment, for people to look at. It
// holds copies only.
type Snapshot struct {
	Summary
	Keys   []KeyMetadata // in the order of the configuration
	Quotas []QuotaState
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
	Limits []LimitState

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
}

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

// Summary gives a pool at a glance; the empty name is the first.
func (dom *Domain) Summary(now Time, name string) Summary {
	dom.tick(now)
	p := dom.pool(name)
	s := Summary{KeyCount: len(p.keys), Open: p.open, Waiters: p.waiting, Counters: p.counters}
	for _, k := range p.keys {
		if k.usable() && k.coolUntil() <= dom.now {
			s.Available++
		}
	}
	return s
}

// Inspect gives the whole state of a pool; the empty name is the first.
func (dom *Domain) Inspect(now Time, name string) Snapshot {
	s := Snapshot{Summary: dom.Summary(now, name), Warnings: dom.warned()}
	now = dom.now
	p := dom.pool(name)
	for _, k := range p.keys {
		s.Keys = append(s.Keys, k.inspect(now))
	}
	for _, g := range p.groups {
		for _, a := range g.accounts {
			s.Quotas = append(s.Quotas, a.inspect(now)...)
		}
	}
	for _, c := range dom.inOrder {
		if ch := p.choices[c]; ch.queue.len > 0 {
			s.Queues = append(s.Queues, ch.queue.inspect(c.name, now))
		}
	}
	return s
}

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
	m.CooldownUntil = k.coolUntil()
	for _, a := range k.group.accounts {
		all := limits(now, k.charges(a).buckets)
		if m.Limits == nil || left(all) < left(m.Limits) {
			m.Limits = all
		}
	}
	return m
}

// coolUntil is when the key may be leased again for some class of models.
func (k *key) coolUntil() Time {
	until := Never
	for _, a := range k.group.accounts {
		until = min(until, a.coolUntil())
	}
	if len(k.group.accounts) == 0 {
		until = 0
	}
	if k.index >= 0 {
		until = max(until, k.restsUntil)
	}
	return until
}

func (a *account) inspect(now Time) []QuotaState {
	q := QuotaState{
		Group: a.group.name, Class: a.class.name, Limits: limits(now, a.buckets),
		CooldownUntil: a.coolUntil(), Open: a.open,
	}
	for _, c := range a.cooldowns() {
		if c.active(now) && c.until == q.CooldownUntil {
			q.Reason = c.class.String()
		}
	}
	if a.slowStart.active() {
		q.Window = a.slowStart.window
	}
	all := []QuotaState{q}
	for _, k := range a.group.keys {
		if own := k.own(a.class); len(own) > 0 {
			all = append(all, QuotaState{
				Group: q.Group, Class: q.Class, Key: k.id, Limits: limits(now, own), Open: k.open,
			})
		}
	}
	return all
}

func limits(now Time, buckets []*bucket) []LimitState {
	var out []LimitState
	for _, b := range buckets {
		out = append(out, b.Status(now))
	}
	return out
}

func (q *queue) inspect(class string, now Time) QueueState {
	s := QueueState{Class: class, Waiters: q.len, Holders: q.turns.waiting, OldestSince: now}
	for _, t := range q.turns.byName {
		s.OldestSince = min(s.OldestSince, t.oldestSince())
	}
	return s
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
			ID: l.id, Holder: l.by.holder.name, Key: l.key.id, Group: l.key.group.name, Class: l.account.class.name,
			Granted: l.granted, Expires: l.expires, Reserved: l.reserved, Used: l.used,
		})
	}
	return out
}
