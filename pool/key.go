package pool

import "time"

// Health says whether the provider accepts a key. It is about the credential; capacity
// belongs to the quota group.
type Health uint8

// The states of a key. A refusal makes it suspect; refused again, on another lease, it
// is quarantined. Either way it is out of use for a time, and then one lease at a time
// probes it; an answer that is no refusal makes it healthy.
const (
	Healthy Health = iota
	Suspect
	Quarantined
)

// suspectRest is how long a refused key is out of use before one lease probes it. In
// quarantine it is probed rarely.
const suspectRest = 5 * time.Second

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
	health       Health
	restsUntil   Time // out of use before
	renewedAt    Time // has had its value since
	failedAt     Time // when the last refusal came in: what was granted before says nothing new
	failedBy     LeaseID
	accuser      string        // the holder on whose statement alone it is in quarantine
	accusedUntil Time          // for that holder, until then
	backoff      time.Duration // in quarantine
	barred       map[*class]*cooldown
	organization string // as answers name it
	lastErr      string
	errAt        Time
	probe        *lease // the one lease out on a key that is not healthy, while its answer is waited for
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
func (l *keyLimits) join(a *account) { l.charges, a.keyed = &ledger{concat(a.buckets, l.own)}, true }

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

// keptFrom reports whether the key is kept from a holder on that holder's own statement,
// while others may probe it.
func (k *key) keptFrom(now Time, holder string) bool {
	return k.accuser != "" && k.accuser == holder && now < k.accusedUntil
}

// opens returns when a holder may have the key for a class, if it is usable.
func (k *key) opens(now Time, c *class, holder string) Time {
	at := now
	if k.keptFrom(now, holder) {
		at = k.accusedUntil
	}
	if r := k.barred[c]; r != nil {
		opens, _ := r.opens(now, holder)
		at = max(at, opens)
	}
	return at
}

// usable reports whether the key may be leased: it is not out of use, and nobody is
// probing it.
func (k *key) usable() bool { return k.turn >= 0 }

// refused takes note that the provider did not accept the key. Two refusals put it in
// quarantine, and so does one that is certain. As far as that is one holder's statement,
// others may probe the key sooner.
func (dom *Domain) refused(now Time, k *key, l *lease, why string, wait time.Duration) {
	k.lastErr, k.errAt = why, now
	if k.health != Healthy && k.failedBy == l.id {
		return // the same lease again confirms nothing
	}
	holder := l.by.holder.name
	known := k.health == Quarantined && l.granted <= k.failedAt
	if known && (k.accuser == "" || k.accuser == holder) {
		return // it is the same piece of news
	}
	if k.health == Healthy {
		k.accuser, k.backoff, k.accusedUntil = holder, 0, now
	}
	k.failedAt, k.failedBy = now, l.id
	if k.health == Healthy && wait == 0 {
		k.health = Suspect
		dom.suspend(k, now.Add(suspectRest))
		dom.event(Event{Kind: KeySuspect, Key: k.id, Group: k.group.name, Text: why})
		return
	}
	if confirms := k.accuser != "" && k.accuser != holder && k.health == Quarantined; !known && !confirms {
		k.backoff = min(max(2*k.backoff, rarely.first), rarely.most)
	}
	k.health = Quarantined
	dom.event(Event{Kind: KeyQuarantined, Key: k.id, Group: k.group.name, Text: why})
	until := now.Add(max(wait, k.backoff))
	if k.accuser == holder {
		k.accusedUntil = max(k.accusedUntil, until)
		dom.suspend(k, min(k.accusedUntil, now.Add(secondOpinion)))
		return
	}
	if until >= k.accusedUntil { // else the first accuser stays bound by its own statement for longer
		k.accuser, k.accusedUntil = "", until
	}
	dom.suspend(k, until)
}

// accepted takes note that the provider accepted the key for a lease. An answer to a lease
// older than the refusal does not count.
func (dom *Domain) accepted(now Time, k *key, l *lease) {
	if k.health == Healthy || l.granted < k.failedAt {
		return
	}
	dom.revive(now, k)
	dom.event(Event{Kind: KeyBack, Key: k.id, Group: k.group.name, Text: "accepted again"})
}

// revive takes a key back into use.
func (dom *Domain) revive(now Time, k *key) {
	k.health, k.accuser, k.accusedUntil = Healthy, "", now
	dom.note(k)
	dom.suspend(k, now)
	dom.wakeKeys(now)
}

// suspend takes a key out of use until a moment.
func (dom *Domain) suspend(k *key, until Time) {
	k.restsUntil, k.probe = until, nil
	dom.touchKey(k)
	if k.usable() {
		k.seat.remove(k)
	}
	if k.index >= 0 {
		dom.resting.update(k, int64(until))
	} else {
		dom.resting.push(k, int64(until))
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
		dom.resting.remove(k)
		k.probe = nil
		k.seat.add(k)
		dom.touchKey(k)
		dom.usableChanged(k.group)
	}
}
