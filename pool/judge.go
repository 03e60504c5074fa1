package pool

// Blame: what an answer means for keys, accounts and models.

import (
	"slices"

	"github.com/keybroker/keybroker/internal/provider"
)

// strained is the part of late answers of a model that may be overloads before
// it rests. A model that nothing is known of stands right at it.
const strained = 0.5

// judge lays the blame for an answer where it belongs.
func (p *Pool) judge(now Time, l *lease, s *provider.Signal, final bool) {
	switch s.Class {
	case provider.OK:
		if !s.Cached {
			p.praise(now, l, final)
		}
		return
	case provider.InvalidRequest, provider.RequestTooLarge, provider.NoAnswer:
		return
	}
	if l.knows(s.Class) || s.Scope == provider.NoScope {
		return
	}
	if (s.Scope == provider.KeyScope || s.Scope == provider.KeyModelScope) && l.granted < l.key.renewedAt {
		return // of a value that it had
	}
	l.refused, p.dirty = s.Class, true
	if s.Source == provider.WindowReset && p.cfg.Dialect.Kind == provider.Refilling {
		guessed := *s // a bucket that is full then has room long before, as ours knows
		guessed.Wait, guessed.Source = 0, provider.NotStated
		s = &guessed
	}
	a := l.account
	switch s.Class {
	case provider.RateLimited:
		p.counters.RateLimited++
		a.tighten(now, l, s.Refused)
		a.limited(now, l)
		p.freed(now, a) // for others, and soon
		p.rests(now, l, s, briefly)
		a.limitedAt = max(now, 1)
		p.allLimited(now, a.class)
	case provider.ConcurrencyLimited:
		p.counters.RateLimited++
		a.crowded(now, l)
		p.freed(now, a)
		if s.Source != provider.NotStated || a.window == 1 { // others have all there is
			p.rests(now, l, s, briefly)
		}
	case provider.QuotaExhausted:
		p.rests(now, l, s, rarely)
	case provider.AuthInvalid:
		p.counters.AuthFailed++
		p.rests(now, l, s, rarely)
	case provider.Forbidden:
		p.rests(now, l, s, rarely)
	case provider.Overloaded:
		c := a.class
		c.strain += (1 - c.strain) / 8
		if c.strain > strained || s.Source != provider.NotStated {
			p.rests(now, l, s, busily)
		}
	}
}

// knows reports whether a refusal is the one that was reported before: a lease for
// one request meets one. But what looks like a rate limit may turn out to be about
// money, when the body comes after the headers.
func (l *lease) knows(c provider.Class) bool {
	return l.count <= 1 && l.refused != provider.OK && (l.refused != provider.RateLimited || c != provider.QuotaExhausted)
}

// rests puts out of use what a refusal is about.
func (p *Pool) rests(now Time, l *lease, s *provider.Signal, g guess) {
	a := l.account
	if noAccess(s) {
		s = &provider.Signal{Class: provider.Forbidden, Scope: provider.ClassScope, Operator: true}
		g = rarely
	}
	switch s.Scope {
	case provider.KeyScope:
		if s.Class == provider.AuthInvalid {
			p.refused(now, l.key, l, "refused by the provider (401)", 0)
		} else {
			p.refused(now, l.key, l, "its own quota is used up", max(s.Wait, rarely.first))
		}
	case provider.KeyModelScope:
		k := l.key
		if k.barred == nil {
			k.barred = map[*class]*rest{}
		}
		if k.barred[a.class] == nil {
			k.barred[a.class] = &rest{}
		}
		r := k.barred[a.class]
		known := r.on && r.until > now
		r.refuse(now, l, s, g)
		p.turned(k.group)
		if !known {
			p.notice(Notice{Kind: Resting, Key: k.id, Group: a.group.name, Class: a.class.name, Wait: r.until.Sub(now), Act: s.Operator, Text: s.Class.String()})
		}
	case provider.GroupScope:
		p.restOne(now, l, s, g, a, ofGroup)
	case provider.ClassScope:
		p.restOne(now, l, s, g, a, ofAccount)
	case provider.ModelScope:
		p.restOne(now, l, s, g, a, ofModel)
	case provider.ProviderScope:
		for _, a := range a.group.accounts {
			p.restOne(now, l, s, g, a, ofModel)
		}
	}
}

// restOne puts an account, its group or its model out of use.
func (p *Pool) restOne(now Time, l *lease, s *provider.Signal, g guess, a *account, which int) {
	r := a.rests()[which]
	known := r.on && r.until > now
	if r.refuse(now, l, s, g) { // whose time may end sooner than the trial's would have
		p.reopened(now, a, which)
	}
	if known && !s.Operator {
		return
	}
	n := Notice{Kind: Resting, Wait: r.until.Sub(now), Act: s.Operator, Text: s.Class.String()}
	if which != ofModel {
		n.Group = a.group.name
	}
	if which != ofGroup {
		n.Class = a.class.name
	}
	p.notice(n)
}

// noAccess reports whether what refused is a limit of nothing: then the model is
// not for these keys. (A limit of 0 on tokens is also how some models say that
// they count none.)
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

// tighten keeps more unused where the provider refused and we saw room: in the
// bucket that it names, or in all that have some. The one that is named had some when
// the lease was granted, though under load that is taken at once. (In a sliding window
// what is kept unused is lost, so there it must have some now.)
func (a *account) tighten(now Time, l *lease, r *provider.Refusal) {
	if l.trial || l.granted < a.refusedAt { // a trial went beyond what there was room for
		return
	}
	l.buckets(func(_ uint32, b *bucket) {
		if r != nil && r.Dimension != b.dimension && r.Dimension < provider.NumDimensions {
			return
		}
		if b.window == 0 || b.loweredAt > 0 && l.granted < b.loweredAt { // a lower limit explains it
			return
		}
		switch {
		case b.fits(now, l.reserved[b.dimension]):
			b.tighten(now, b.headroom(now), headroomPart)
		case r != nil && r.Dimension == b.dimension && b.meter == &b.refilling:
			b.tighten(now, 0, 2*headroomPart) // no more often, and less: it is only likely
		}
	})
}

// praise takes note of a good answer: the key works, and what was out of use
// comes back.
func (p *Pool) praise(now Time, l *lease, final bool) {
	a := l.account
	p.accepted(now, l.key, l)
	a.class.strain -= a.class.strain / 8
	for i, r := range a.rests() {
		if r.answered(now, l) {
			p.dirty = true
			p.reopened(now, a, i)
		}
	}
	if r := l.key.barred[a.class]; r != nil && r.answered(now, l) {
		p.dirty = true
		p.turned(a.group)
	}
	if final {
		a.answered()
	}
}

// hear takes note of what an answer says beside its class: whose the key is, and
// that somebody else than the one in doubt has had an answer.
func (p *Pool) hear(now Time, l *lease, s *provider.Signal) {
	if s.Cached { // it tells of another time
		return
	}
	p.belongs(now, l.key, s.Organization)
	for i := range s.Windows {
		p.sight(now, l.account, &s.Windows[i])
	}
	a := l.account
	if !a.doubted {
		return
	}
	if l.trial {
		a.witness(now, l, s)
	}
	a.doubted = false
	a.doubts(func(d *doubt) { a.doubted = a.doubted || d.by != "" })
	p.freed(now, a)
}

// reopened wakes those that a rest kept out of use: the account's own, its
// group's, or its model's.
func (p *Pool) reopened(now Time, a *account, rest int) {
	switch rest {
	case ofAccount:
		p.freed(now, a)
	case ofGroup:
		for _, a := range a.group.accounts {
			p.freed(now, a)
		}
	case ofModel:
		for _, g := range p.groups {
			p.freed(now, g.accounts[a.class.index])
		}
	}
}

// endTrial takes note that a lease has ended, which may have been a trial
// without an answer: then the next may try.
func (p *Pool) endTrial(now Time, l *lease) {
	a := l.account
	for i, r := range a.rests() {
		if r.ended(l) {
			p.reopened(now, a, i)
		}
	}
	if r := l.key.barred[a.class]; r != nil && r.ended(l) {
		p.turned(a.group)
	}
	if a.trial == l.id {
		a.trial = 0
		p.freed(now, a)
	}
}

// Renewed takes note that a key has another value: what was said of the old one, also
// by those who still hold it, is not true of the new. Its group's limits and rests stay
// as they are. It reports whether there is such a key.
func (p *Pool) Renewed(now Time, id string) bool {
	now = p.tick(now)
	for _, k := range p.keys {
		if k.id != id {
			continue
		}
		k.renewedAt, p.dirty = now, true
		if k.health != Healthy {
			p.revive(now, k)
		}
		if len(k.barred) > 0 {
			k.barred = nil
			p.turned(k.group)
		}
		return true
	}
	return false
}

// Restore puts a key, its quota group and their models back into use, whatever
// refusal keeps them out of it: for an operator who knows better, or has paid.
// With "", all keys. It reports whether there is such a key.
func (p *Pool) Restore(now Time, id string) (found bool) {
	now = p.tick(now)
	p.dirty = true
	for _, k := range p.keys {
		if id != "" && k.id != id {
			continue
		}
		found = true
		if k.health != Healthy {
			p.revive(now, k)
		}
		k.barred = nil
		k.group.rest = rest{}
		for _, a := range k.group.accounts {
			a.rest, a.class.rest = rest{}, rest{}
			for _, b := range append(slices.Clip(a.buckets), k.own[a.class]...) {
				b.reopen(now)
			}
			a.doubts(func(d *doubt) { *d = doubt{} })
			p.reopened(now, a, ofModel)
		}
	}
	return found
}
