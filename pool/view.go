package pool

import "slices"

// What a page shows of one key and of one quota.

// key visits a key.
func (w *walk) key(k *key) {
	w.Visited++
	if w.Since > 0 && w.dom.lastChange(k) <= w.Since {
		return
	}
	r := w.reachOf(k)
	if k.index >= 0 {
		r.until = max(r.until, k.outUntil)
	}
	if w.OnlyLimited && !k.cooldown.probed() && r.until <= w.now && r.left > 0 {
		return
	}
	m := k.inspect(w.now)
	m.Changed = w.dom.lastChange(k)
	m.Limits, m.CooldownUntil = limits(w.now, r.tightest), r.until
	w.Keys = append(w.Keys, m)
	w.bytes -= bytesOfKey + len(m.ID) + len(m.Group) + len(m.LastError) + len(m.Organization)
	for _, c := range m.Forbidden {
		w.bytes -= 4 + len(c)
	}
}

// account visits the quota of an account.
func (w *walk) account(a *account) {
	w.Visited++
	changed := a.lastChange()
	if w.Since > 0 && changed <= w.Since {
		return
	}
	until := a.coolUntil(w.now)
	if !w.shows(a.buckets, until) {
		return
	}
	q := QuotaState{
		Group: a.group.name, Class: a.class.name, Limits: limits(w.now, a.buckets),
		CooldownUntil: until, Open: a.open, Changed: changed,
	}
	for _, c := range a.cooldowns() {
		if at, by := c.active(w.now); by != nil && at == until {
			q.Reason = by.class.String()
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
	until    Time      // no account can be used before
	tightest []*bucket // of the account that has least room
	left     float64   // there, of the tightest limit, 0 to 1
}

// reachOf goes through all accounts of a key's group, once for all keys of a group without
// limits of their own.
func (w *walk) reachOf(k *key) reach {
	if k.limited == nil && w.of == k.group {
		return w.reach
	}
	r := reach{until: Never, left: 1}
	if len(k.group.accounts) == 0 {
		r.until = 0
	}
	for _, a := range k.group.accounts {
		r.until = min(r.until, a.coolUntil(w.now))
		charges := k.charges(a).buckets
		w.Visited += 1 + len(charges)
		part := 1.0
		for _, b := range charges {
			part = min(part, float64(b.Remaining(w.now))/float64(b.Limit()))
		}
		if r.tightest == nil || part < r.left {
			r.tightest, r.left = charges, part
		}
	}
	if k.limited == nil {
		w.of, w.reach = k.group, r
	}
	return r
}

// inspect gives what is known of the key itself.
func (k *key) inspect(now Time) KeyMetadata {
	m := KeyMetadata{
		ID: k.id, Group: k.group.name, Priority: k.seat.priority, Weight: int(k.weight),
		Health: k.health(), LastError: k.lastErr, LastErrorAt: k.errAt, Open: k.open,
		at: now, probe: k.cooldown.probed(), Organization: k.organization,
	}
	for class, c := range k.barred {
		if c.isActive(now) {
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
