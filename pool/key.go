package pool

import "github.com/keybroker/keybroker/internal/provider"

// Health says whether the provider accepts a key. It is about the credential; capacity
// belongs to the quota group.
type Health uint8

// The states of a key. A refusal makes it suspect; when others agree, or it is refused
// again, it is quarantined. Either way it is out of use for a time, and then one lease at a
// time probes it; an answer that is no refusal makes it healthy.
const (
	Healthy Health = iota
	Suspect
	Quarantined
)

type key struct {
	tracked
	id           string
	group        *group
	seat         *seat
	weight       int64
	limits       []Limit               // of this key alone, within its group's, for each class
	later        later                 // of its limits
	shared       []*bucket             // of this key alone, for all models together
	limited      map[*class]*keyLimits // the buckets of both; nil if there are none
	cooldown     cooldown              // whatever it is asked for
	outUntil     Time                  // of use, for all
	renewedAt    Time                  // has had its value since
	barred       map[*class]*cooldown
	organization string // as answers name it
	lastErr      string
	errAt        Time
	open         int
	goneAt       Time  // not configured since, Never while it is
	index        int32 // in the domain's heap of keys that are out of use
	turn         int32 // in the seat; -1 while it is out of use
	changed      Mark  // the last change of its own
}

func (k *key) place() *int32 { return &k.index }

// keyLimits are the buckets of one key with limits of its own, for one class of models.
type keyLimits struct {
	tracked
	key     *key
	class   *class
	each    []*bucket // of the key for this class
	own     []*bucket // each, and those of the key for all models
	charges *ledger   // own, and those of the account
}

// limitsFor returns the key's limits for a class, and makes them if need be.
func (k *key) limitsFor(c *class) *keyLimits {
	if k.limited[c] == nil {
		k.limited[c] = &keyLimits{key: k, class: c}
	}
	return k.limited[c]
}

// set puts other buckets in the place of those that there are.
func (l *keyLimits) set(each, shared []*bucket, a *account) {
	l.each, l.own = each, concat(each, shared)
	l.join(a)
}

// join takes in the buckets of the account.
func (l *keyLimits) join(a *account) {
	l.charges, a.keyed = &ledger{buckets: concat(a.buckets, l.own)}, true
}

// own returns the key's own buckets for a class, without those of its group.
func (k *key) own(c *class) []*bucket {
	if k.limited == nil {
		return nil
	}
	return k.limited[c].own
}

// charges returns all buckets that a lease of the key is charged to.
func (k *key) charges(a *account) *ledger {
	if k.limited == nil {
		return a.ledger
	}
	return k.limited[a.class].charges
}

// barredFor returns the key's cooldown for a class, and makes it if need be.
func (k *key) barredFor(c *class) *cooldown {
	if k.barred == nil {
		k.barred = map[*class]*cooldown{}
	}
	if k.barred[c] == nil {
		k.barred[c] = &cooldown{}
	}
	return k.barred[c]
}

// opens returns when a speaker may have the key for a class, if it is usable.
func (dom *Domain) keyOpens(k *key, c *class, ask *provider.Amounts, e eye) fit {
	f := dom.opensFor(&k.cooldown, ask, e)
	if r := k.barred[c]; r != nil {
		b := dom.opensFor(r, ask, e)
		f.later(b.at, b.by, b.byEvent)
	}
	return f
}

// usable reports whether the key may be leased to anybody.
func (k *key) usable() bool { return k.turn >= 0 }

// health tells how far the provider accepts the key, as far as that binds all.
func (k *key) health() Health {
	h := Healthy
	for _, d := range k.cooldown.disputes {
		switch {
		case d.private || d.returnAt > 0:
		case d.kind != badKey || d.backoff > kinds[badKey].first:
			h = Quarantined
		default:
			h = max(h, Suspect)
		}
	}
	return h
}

// lost reports whether a key is in quarantine, and no speaker's probe may end that.
func (dom *Domain) lost(k *key, e eye) bool {
	until, by := k.cooldown.active(dom.now)
	return by != nil && k.health() == Quarantined && dom.opensFor(&k.cooldown, nil, e).at >= until
}

// whyRefused tells people what a refusal of a key means.
func whyRefused(k kind) string {
	switch k {
	case badKey:
		return "refused by the provider (401)"
	case noQuota:
		return "its own quota is used up"
	}
	return "refused by the provider"
}

// refuseKey takes note that the provider did not accept the key.
func (dom *Domain) refuseKey(now Time, l *lease, s *provider.Signal) {
	k, about := l.key, kindOf(s)
	k.lastErr, k.errAt = whyRefused(about), now
	before := k.health()
	dom.refused(now, k.cooldown.about(now, about), l, s)
	dom.note(k)
	dom.reseat(now, k)
	dom.healthChanged(k, before, k.lastErr)
}

// healthChanged tells people if a key's health is another one than before.
func (dom *Domain) healthChanged(k *key, before Health, why string) {
	switch now := k.health(); {
	case now == before:
	case now == Suspect && before == Healthy:
		dom.event(Event{Kind: KeySuspect, Key: k.id, Group: k.group.name, Text: why})
	case now == Quarantined:
		dom.event(Event{Kind: KeyQuarantined, Key: k.id, Group: k.group.name, Text: why})
	case now == Healthy:
		dom.event(Event{Kind: KeyBack, Key: k.id, Group: k.group.name, Text: why})
	}
}

// revive takes a key back into use.
func (dom *Domain) revive(now Time, k *key, why string) {
	before := k.health()
	k.cooldown = cooldown{}
	dom.note(k)
	dom.reseat(now, k)
	dom.healthChanged(k, before, why)
}

// reseat takes a key out of its seat for as long as nobody may have it, or back.
func (dom *Domain) reseat(now Time, k *key) {
	dom.touchKey(k)
	k.outUntil = dom.opensFor(&k.cooldown, nil, anybody).at
	out := k.outUntil > now
	if out != k.usable() { // it stays where it is
		if out {
			dom.resting.update(k, int64(k.outUntil))
		}
		dom.usableChanged(k.group)
		return
	}
	if out {
		k.seat.remove(k)
		dom.resting.push(k, int64(k.outUntil))
	} else {
		dom.resting.remove(k)
		k.seat.add(k)
	}
	dom.usableChanged(k.group)
}

// usableChanged takes note that the usable keys of a group are others than before.
// Without pooling that may make any other key the one to lease.
func (dom *Domain) usableChanged(g *group) {
	groups := []*group{g}
	if dom.single {
		groups = dom.groups
	}
	for _, g := range groups {
		for _, a := range g.accounts {
			dom.freed(dom.now, a)
		}
	}
}

// wakeKeys puts back the keys whose time out of use is over.
func (dom *Domain) wakeKeys(now Time) {
	for dom.resting.len() > 0 {
		k, until := dom.resting.min()
		if Time(until) > now {
			return
		}
		dom.reseat(now, k)
	}
}
