package pool

// What an answer means for keys, accounts and models: whom a refusal is about, and what
// a good answer brings back.

import (
	"slices"

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
	dom.speakers.refused(now, l.eye())
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
		dom.cool(now, l, s)
	case provider.AuthInvalid:
		dom.count(l).AuthFailed++
		dom.cool(now, l, s)
	case provider.Overloaded:
		c := l.account.class
		c.strain += (1 - c.strain) / 8
		if c.strain > strained || s.Source != provider.NotStated {
			dom.cool(now, l, s)
		}
	}
}

func (dom *Domain) rateLimited(now Time, l *lease, s *provider.Signal) {
	dom.count(l).RateLimited++
	a := l.account
	dom.keepHeadroom(now, l, s)
	dom.limited(now, a, l)
	dom.freed(now, a) // for others, and soon
	dom.cool(now, l, s)
	if s.Source != provider.NotStated && s.Wait > 0 && dom.believes(now, l) {
		a.opensAt(now.Add(s.Wait))
	}
	a.limitedAt = max(now, 1)
	dom.allLimited(now, a.class)
}

func (dom *Domain) concurrencyLimited(now Time, l *lease, s *provider.Signal) {
	dom.count(l).RateLimited++
	a := l.account
	dom.crowded(now, a, l)
	dom.freed(now, a)
	if s.Source != provider.NotStated || a.slowStart.window == 1 { // others have all there is
		dom.cool(now, l, s)
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

// kindOf returns what a refusal is about.
func kindOf(s *provider.Signal) kind {
	switch s.Class {
	case provider.QuotaExhausted:
		return noQuota
	case provider.Forbidden:
		return forbidden
	case provider.AuthInvalid:
		return badKey
	case provider.Overloaded:
		return overloaded
	}
	return tooFast
}

// cool puts out of use what a refusal is about.
func (dom *Domain) cool(now Time, l *lease, s *provider.Signal) {
	a := l.account
	if noAccess(s) {
		s = &provider.Signal{Class: provider.Forbidden, Scope: provider.ClassScope, Operator: true}
	}
	switch s.Scope {
	case provider.KeyScope:
		dom.refuseKey(now, l, s)
	case provider.KeyModelScope:
		dom.bar(now, l, s)
	case provider.GroupScope:
		dom.coolOne(now, l, s, a, &a.group.cooldown)
	case provider.ClassScope:
		dom.coolOne(now, l, s, a, &a.cooldown)
	case provider.ModelScope:
		dom.coolOne(now, l, s, a, &a.class.cooldown)
	case provider.ProviderScope:
		for _, a := range a.group.accounts {
			dom.coolOne(now, l, s, a, &a.class.cooldown)
		}
	}
}

// coolOne starts or extends one of an account's cooldowns.
func (dom *Domain) coolOne(now Time, l *lease, s *provider.Signal, a *account, c *cooldown) {
	d := c.about(now, kindOf(s))
	known := d.active(now)
	dom.refused(now, d, l, s)
	dom.touchCooldown(a, c)
	dom.noteCooldown(a, c)
	dom.reopened(now, a, c) // its time may end sooner than that of a probe would have
	if d.private || known && !s.Operator {
		return
	}
	n := Event{Kind: CoolingDown, Wait: d.until.Sub(now), Act: s.Operator, Text: s.Class.String()}
	if c != &a.class.cooldown {
		n.Group = a.group.name
	}
	if c != &a.group.cooldown {
		n.Class = a.class.name
	}
	dom.event(n)
}

// bar starts or extends the cooldown of a key for one class of models.
func (dom *Domain) bar(now Time, l *lease, s *provider.Signal) {
	k, class := l.key, l.account.class
	d := k.barredFor(class).about(now, kindOf(s))
	known := d.active(now)
	dom.refused(now, d, l, s)
	dom.note(k)
	dom.usableChanged(k.group)
	if !known && !d.private {
		dom.event(Event{
			Kind: CoolingDown, Key: k.id, Group: k.group.name, Class: class.name,
			Wait: d.until.Sub(now), Act: s.Operator, Text: s.Class.String(),
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

// short reports whether a refusal says that there was less than n left in a dimension.
func short(s *provider.Signal, d provider.Dimension, n int64) bool {
	if s.Refused != nil && s.Refused.Dimension < provider.NumDimensions {
		return s.Refused.Dimension == d
	}
	return slices.ContainsFunc(s.Windows, func(w provider.Window) bool {
		return !w.Aside && w.Dimension == d && w.Remaining >= 0 && w.Remaining < n
	})
}

// mayTighten reports whether a holder's refusal keeps headroom of a limit: it is believed, and
// has not done so within misledFor, unless it is alone.
func (dom *Domain) mayTighten(now Time, l *lease, b *bucket) bool {
	holder := l.by.holder.name
	if dom.alone(now, holder) {
		return true
	}
	d := b.debtOf(now, holder)
	if !dom.believes(now, l) || d.tightened > 0 && now.Sub(d.tightened) < misledFor {
		return false
	}
	d.tightened = max(now, 1)
	return true
}

// keepHeadroom keeps more unused of what a refusal names, where we saw room: a refusal that
// names nothing may be about anything. There was some when the lease was granted, though
// under load that is taken at once. (In a sliding window what is kept unused is lost, so there
// it must have room now.)
func (dom *Domain) keepHeadroom(now Time, l *lease, s *provider.Signal) {
	a := l.account
	if l.probe || a.probes(l) || l.granted < a.slowStart.refusedAt { // a probe is refused because of what it is to find out
		return
	}
	for _, b := range l.buckets {
		d := b.Dimension()
		if !short(s, d, l.reserved[d]) {
			continue
		}
		if b.Slots() || b.word != nil && b.Limit() < b.OwnLimit() && l.granted < b.word.said { // a lower limit explains the refusal
			continue
		}
		if !dom.mayTighten(now, l, b) {
			continue
		}
		switch {
		case b.Fits(now, l.reserved[d]):
			b.Tighten(now, b.Headroom(now), certainPart)
		case b.Refills():
			b.Tighten(now, 0, likelyPart)
		}
	}
}

// praise takes note of a good answer: the key works, and what was out of use comes back.
func (dom *Domain) praise(now Time, l *lease, final bool) {
	a, k := l.account, l.key
	if dom.speakers.answered(now, l.eye()) { // it may probe sooner now, wherever it waits
		for _, ch := range dom.choices {
			ch.queue.due = ch.queue.due || ch.queue.len > 0
		}
	}
	a.class.strain -= a.class.strain / 8
	if k.cooldown.on() {
		before := k.health()
		if dom.coolingAnswered(now, &k.cooldown, l) {
			dom.note(k)
			dom.reseat(now, k)
			dom.healthChanged(k, before, "accepted again")
		}
	}
	for _, c := range a.cooldowns() {
		if c.on() && dom.coolingAnswered(now, c, l) {
			dom.touchCooldown(a, c)
			dom.noteCooldown(a, c)
			dom.reopened(now, a, c)
		}
	}
	if c := k.barred[a.class]; c != nil && dom.coolingAnswered(now, c, l) {
		dom.note(k)
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
		if k.cooldown.on() {
			dom.revive(now, k, "it has another value")
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
		if k.cooldown.on() {
			dom.revive(now, k, "put back by an operator")
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
			a.forgetStatements()
			a.findMissing(dom.cfg.Dialect)
			dom.touchCooldown(a, &a.class.cooldown)
			dom.reopened(now, a, &a.class.cooldown)
		}
	}
	return found
}
