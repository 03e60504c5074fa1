package pool

// What an answer means for keys, accounts and models: whom a refusal is about, and what
// a good answer brings back.

import (
	"github.com/keybroker/keybroker/internal/provider"
)

// strained is the part of late answers of a model that may be overloads before the model
// cools down. A model of which nothing is known stands right at it.
const strained = 0.5

// blame lays the blame for an answer where it belongs.
func (dom *Domain) blame(now Time, l *lease, s *provider.Signal, final bool) {
	switch {
	case s.Class == provider.OK:
		if !s.Cached {
			dom.praise(now, l, final)
		}
		return
	case !blames(s) || l.knows(s.Class):
		return
	case aboutKey(s) && l.granted < l.key.renewedAt: // about a value that the key had before
		return
	}
	l.refused = s.Class
	dom.note(l.account)
	if s.Source == provider.WindowReset && dom.cfg.Dialect.Kind == provider.Refilling {
		guessed := *s // a bucket that is full then has room long before, as ours knows
		guessed.Wait, guessed.Source = 0, provider.NotStated
		s = &guessed
	}
	switch s.Class {
	case provider.RateLimited:
		dom.rateLimited(now, l, s)
	case provider.ConcurrencyLimited:
		dom.concurrencyLimited(now, l, s)
	case provider.QuotaExhausted, provider.Forbidden:
		dom.cool(now, l, s, rarely)
	case provider.AuthInvalid:
		dom.count(l).AuthFailed++
		dom.cool(now, l, s, rarely)
	case provider.Overloaded:
		c := l.account.class
		c.strain += (1 - c.strain) / 8
		if c.strain > strained || s.Source != provider.NotStated {
			dom.cool(now, l, s, busily)
		}
	}
}

func (dom *Domain) rateLimited(now Time, l *lease, s *provider.Signal) {
	dom.count(l).RateLimited++
	a := l.account
	a.keepHeadroom(now, l, s.Refused)
	a.limited(now, l)
	dom.freed(now, a) // for others, and soon
	dom.cool(now, l, s, briefly)
	a.limitedAt = max(now, 1)
	dom.allLimited(now, a.class)
}

func (dom *Domain) concurrencyLimited(now Time, l *lease, s *provider.Signal) {
	dom.count(l).RateLimited++
	a := l.account
	a.crowded(now, l)
	dom.freed(now, a)
	if s.Source != provider.NotStated || a.slowStart.window == 1 { // others have all there is
		dom.cool(now, l, s, briefly)
	}
}

// blames reports whether an answer is a refusal that is about anything but the request.
func blames(s *provider.Signal) bool {
	switch s.Class {
	case provider.OK, provider.InvalidRequest, provider.RequestTooLarge, provider.NoAnswer:
		return false
	}
	return s.Scope != provider.NoScope
}

func aboutKey(s *provider.Signal) bool {
	return s.Scope == provider.KeyScope || s.Scope == provider.KeyModelScope
}

// knows reports whether a refusal is the one that was reported before: a lease for one
// request meets one. But what looks like a rate limit may turn out to be about money,
// when the body comes after the headers.
func (l *lease) knows(c provider.Class) bool {
	return l.count <= 1 && l.refused != provider.OK && (l.refused != provider.RateLimited || c != provider.QuotaExhausted)
}

// cool puts out of use what a refusal is about.
func (dom *Domain) cool(now Time, l *lease, s *provider.Signal, g guess) {
	a := l.account
	if noAccess(s) {
		s = &provider.Signal{Class: provider.Forbidden, Scope: provider.ClassScope, Operator: true}
		g = rarely
	}
	switch s.Scope {
	case provider.KeyScope:
		dom.note(l.key)
		if s.Class == provider.AuthInvalid {
			dom.refused(now, l.key, l, "refused by the provider (401)", 0)
		} else {
			dom.refused(now, l.key, l, "its own quota is used up", max(s.Wait, rarely.first))
		}
	case provider.KeyModelScope:
		dom.bar(now, l, s, g)
	case provider.GroupScope:
		dom.coolOne(now, l, s, g, a, &a.group.cooldown)
	case provider.ClassScope:
		dom.coolOne(now, l, s, g, a, &a.cooldown)
	case provider.ModelScope:
		dom.coolOne(now, l, s, g, a, &a.class.cooldown)
	case provider.ProviderScope:
		for _, a := range a.group.accounts {
			dom.coolOne(now, l, s, g, a, &a.class.cooldown)
		}
	}
}

// coolOne starts or extends one of an account's cooldowns.
func (dom *Domain) coolOne(now Time, l *lease, s *provider.Signal, g guess, a *account, c *cooldown) {
	known := c.active(now)
	dom.touchCooldown(a, c)
	dom.noteCooldown(a, c)
	if c.refuse(now, l, s, g) { // its time may end sooner than that of the probe would have
		dom.reopened(now, a, c)
	}
	if known && !s.Operator {
		return
	}
	n := Event{Kind: CoolingDown, Wait: c.until.Sub(now), Act: s.Operator, Text: s.Class.String()}
	if c != &a.class.cooldown {
		n.Group = a.group.name
	}
	if c != &a.group.cooldown {
		n.Class = a.class.name
	}
	dom.event(n)
}

// bar starts or extends the cooldown of a key for one class of models.
func (dom *Domain) bar(now Time, l *lease, s *provider.Signal, g guess) {
	k, class := l.key, l.account.class
	c := k.barredFor(class)
	known := c.active(now)
	dom.note(k)
	c.refuse(now, l, s, g)
	dom.usableChanged(k.group)
	if !known {
		dom.event(Event{
			Kind: CoolingDown, Key: k.id, Group: k.group.name, Class: class.name,
			Wait: c.until.Sub(now), Act: s.Operator, Text: s.Class.String(),
		})
	}
}

// noAccess reports whether what refused is a limit of nothing: then the model is not for
// these keys. (A limit of 0 on tokens is also how some models say that they count none.)
func noAccess(s *provider.Signal) bool {
	if s.Class != provider.RateLimited && s.Class != provider.Forbidden {
		return false
	}
	if s.Refused != nil {
		return s.Refused.Limit == 0
	}
	none := false
	for i := range s.Windows {
		w := &s.Windows[i]
		if !w.Aside && w.Limit > 0 && w.Remaining == 0 {
			return false
		}
		none = none || !w.Aside && w.Limit == 0
	}
	return none
}

// A refusal where we saw room keeps so much more of the limit unused: an eighth if there
// is room even now, else a sixteenth once.
const (
	certainPart = 8
	likelyPart  = 16
)

// keepHeadroom keeps more unused where the provider refused and we saw room: in the
// bucket that the refusal names, or in all that have room. The named one had some when
// the lease was granted, though under load that is taken at once. (In a sliding window
// what is kept unused is lost, so there it must have room now.)
func (a *account) keepHeadroom(now Time, l *lease, r *provider.Refusal) {
	if l.probe || l.granted < a.slowStart.refusedAt { // a probe exceeded what there was room for
		return
	}
	for _, b := range l.buckets {
		d := b.Dimension()
		if r != nil && r.Dimension != d && r.Dimension < provider.NumDimensions {
			continue
		}
		if b.Slots() || b.lowered.at > 0 && l.granted < b.lowered.at { // a lower limit explains the refusal
			continue
		}
		switch {
		case b.Fits(now, l.reserved[d]):
			b.Tighten(now, b.Headroom(now), certainPart)
		case r != nil && r.Dimension == d && b.Refills():
			b.Tighten(now, 0, likelyPart)
		}
	}
}

// praise takes note of a good answer: the key works, and what was out of use comes back.
func (dom *Domain) praise(now Time, l *lease, final bool) {
	a := l.account
	dom.accepted(now, l.key, l)
	a.class.strain -= a.class.strain / 8
	for _, c := range a.cooldowns() {
		if c.answered(now, l) {
			dom.touchCooldown(a, c)
			dom.noteCooldown(a, c)
			dom.reopened(now, a, c)
		}
	}
	if c := l.key.barred[a.class]; c != nil && c.answered(now, l) {
		dom.note(l.key)
		dom.usableChanged(a.group)
	}
	if final && a.slowStart.answered() {
		dom.change(a)
	}
}

// Renewed takes note that a key has another value. What was said of the old one, also by
// those who still hold it, is not true of the new one. The limits and cooldowns of its
// group stay as they are. It returns whether there is such a key.
func (dom *Domain) Renewed(now Time, id string) bool {
	now = dom.tick(now)
	for _, k := range dom.keys {
		if k.id != id {
			continue
		}
		k.renewedAt = now
		dom.touchKey(k)
		dom.note(k)
		if k.health != Healthy {
			dom.revive(now, k)
		}
		if len(k.barred) > 0 {
			k.barred = nil
			dom.usableChanged(k.group)
		}
		return true
	}
	return false
}

// Restore puts a key of a pool, its quota group and their models back into use, whatever
// refusal keeps them out of it: for an operator who knows better, or has paid. The empty id
// restores all keys of the pool's groups; the empty name is the first pool. It returns
// whether the pool has such a key.
func (dom *Domain) Restore(now Time, name, id string) (found bool) {
	now = dom.tick(now)
	for _, k := range dom.pool(name).keys {
		if id != "" && k.id != id {
			continue
		}
		found = true
		dom.note(k)
		if k.health != Healthy {
			dom.revive(now, k)
		}
		k.barred = nil
		dom.note(k.group)
		k.group.cooldown = cooldown{}
		dom.touchGroup(k.group)
		for _, a := range k.group.accounts {
			a.cooldown, a.class.cooldown = cooldown{}, cooldown{}
			dom.note(a.class)
			dom.noteCharged(k, a)
			for _, b := range k.charges(a).buckets {
				b.Clear(now)
			}
			a.disputes(func(d *dispute) { *d = dispute{} })
			dom.touchCooldown(a, &a.class.cooldown)
			dom.reopened(now, a, &a.class.cooldown)
		}
	}
	return found
}
