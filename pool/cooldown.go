package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// A return is slow: so many leases in the first second, twice as many by the end of the
// next, and after so many seconds as many as there is room for.
const (
	slowLeases  = 4
	slowSeconds = 8
)

// guess is a wait that we choose because the provider states none. It doubles with each
// refusal in a row.
type guess struct{ first, most time.Duration }

var (
	briefly = guess{time.Second, time.Minute}
	busily  = guess{time.Second, 2 * time.Second} // an overload ends for all at once, and a probe costs nobody anything
	rarely  = guess{10 * time.Minute, time.Hour}  // where somebody has to act
)

// cooldown keeps something out of use after a refusal: an account, a quota group, a
// model, or a key for one class of models. When its time is over one lease probes, and
// the return after a good answer is slow.
type cooldown struct {
	on        bool
	until     Time   // out of use before
	by        string // the holder on whose statement alone it lasts so long; empty if others agree
	since     Time   // when by began to stand alone: more of the same statements do not postpone others
	agreed    Time   // confirmed by a second holder until then
	refusedAt Time   // when the last refusal came in: older leases say nothing new

	only     provider.Dimension // asks without any of it may pass; NumDimensions: no ask may
	class    provider.Class     // of the refusal that decided until
	operator bool               // that refusal does not pass by itself
	backoff  time.Duration      // the last guessed wait

	probe    LeaseID // the lease that probes, 0 if none is out
	probedAt Time    // when it was granted
	returnAt Time    // when a probe succeeded; 0 before
	returned int64   // leases since
}

// refuse starts or extends the cooldown. A stated wait is never shortened. A guessed
// one grows with each refusal of a lease that was granted after the last refusal. It
// returns whether that ended a probe or a slow return.
func (c *cooldown) refuse(now Time, l *lease, s *provider.Signal, g guess) (interrupted bool) {
	if !c.on || l.granted >= c.refusedAt {
		c.backoff = min(max(2*c.backoff, g.first), g.most)
		interrupted = c.probe != 0 || c.returnAt > 0
		c.refusedAt, c.probe, c.returnAt, c.returned = now, 0, 0, 0
	}
	only := provider.NumDimensions
	if w := s.Refused; w != nil && w.Dimension < only && l.reserved[w.Dimension] > 0 { // a lease that reserved none was refused all the same
		only = w.Dimension
	}
	holder := l.by.holder.name
	if !c.on {
		c.on, c.by, c.since, c.agreed, c.until, c.only = true, holder, now, 0, -1, only
	} else if c.only != only {
		c.only = provider.NumDimensions
	}
	wait := s.Wait
	if s.Source == provider.NotStated {
		wait = c.backoff
	}
	switch until := now.Add(wait); {
	case until > c.until:
		if holder != c.by { // the one who spoke before agrees as far as its statement went
			c.since, c.agreed = now, max(c.agreed, c.until)
		}
		c.until, c.by, c.class, c.operator = until, holder, s.Class, s.Operator && s.Wait == 0
	case holder != c.by:
		c.agreed = max(c.agreed, until)
	}
	return interrupted
}

// answered takes note of a good answer. It returns whether that ends the cooldown.
func (c *cooldown) answered(now Time, l *lease) bool {
	if !c.concerns(&l.reserved) || c.returnAt > 0 || l.granted < c.refusedAt {
		return false
	}
	c.until, c.by, c.agreed, c.probe, c.backoff, c.operator = now, "", 0, 0, 0, false
	c.returnAt = max(now, 1)
	return true
}

// opens returns when an ask of a holder may pass; with "", of whoever may first. With
// byEvent, an answer that is waited for may bring that sooner.
func (c *cooldown) opens(now Time, holder string) (at Time, byEvent bool) {
	if !c.on {
		return now, false
	}
	if c.returnAt > 0 {
		n := now.Sub(c.returnAt) / time.Second
		if n >= slowSeconds {
			c.on = false
		}
		if n >= slowSeconds || c.returned < slowLeases<<n {
			return now, false
		}
		return c.returnAt.Add((n + 1) * time.Second), false
	}
	at = c.until
	if c.by != "" && c.by != holder {
		at = min(at, max(c.agreed, c.since.Add(secondOpinion)))
	}
	if c.probe != 0 {
		return max(now, at, c.probedAt.Add(patience)), true
	}
	return max(now, at), false
}

// concerns reports whether an ask has to wait for the cooldown.
func (c *cooldown) concerns(ask *provider.Amounts) bool {
	return c.on && (c.only >= provider.NumDimensions || ask[c.only] > 0)
}

// granted takes note of a lease: it is the probe, or one of the slow return.
func (c *cooldown) granted(now Time, l *lease) {
	switch {
	case !c.concerns(&l.reserved):
	case c.returnAt > 0:
		c.returned++
	default:
		c.probe, c.probedAt = l.id, now
	}
}

// ended takes note of the end of a lease. It returns whether another may probe.
func (c *cooldown) ended(l *lease) bool {
	if !c.on || c.probe != l.id {
		return false
	}
	c.probe = 0
	return true
}

// active reports whether the cooldown keeps anything out of use at a moment.
func (c *cooldown) active(now Time) bool { return c.on && c.until > now }

// blocked reports whether it lasts for a holder until an operator acts. A holder who
// may probe another one's statement is not blocked.
func (c *cooldown) blocked(now Time, holder string) bool {
	if !c.on || !c.operator || now >= c.until {
		return false
	}
	at, _ := c.opens(now, holder)
	return at >= c.until
}

// cooldowns are those that keep the account out of use: its own, its group's and its
// model's.
func (a *account) cooldowns() [3]*cooldown {
	return [3]*cooldown{&a.cooldown, &a.group.cooldown, &a.class.cooldown}
}

// coolUntil is when no cooldown keeps the account out of use any more.
func (a *account) coolUntil() (until Time) {
	for _, c := range a.cooldowns() {
		if c.on {
			until = max(until, c.until)
		}
	}
	return until
}

// noteCooldown notes whose cooldown has changed, of those of an account.
func (dom *Domain) noteCooldown(a *account, c *cooldown) {
	switch c {
	case &a.cooldown:
		dom.note(a)
	case &a.group.cooldown:
		dom.note(a.group)
	case &a.class.cooldown:
		dom.note(a.class)
	}
}

// reopened wakes those that one of an account's cooldowns kept out of use: the account,
// all of its group, or all of its model.
func (dom *Domain) reopened(now Time, a *account, c *cooldown) {
	switch c {
	case &a.cooldown:
		dom.freed(now, a)
	case &a.group.cooldown:
		for _, a := range a.group.accounts {
			dom.freed(now, a)
		}
	case &a.class.cooldown:
		for _, g := range dom.groups {
			dom.freed(now, g.accounts[a.class.index])
		}
	}
}

// endProbes takes note that a lease has ended. If it was a probe without an answer, the
// next may probe.
func (dom *Domain) endProbes(now Time, l *lease) {
	a := l.account
	for _, c := range a.cooldowns() {
		if c.ended(l) {
			dom.reopened(now, a, c)
		}
	}
	if c := l.key.barred[a.class]; c != nil && c.ended(l) {
		dom.usableChanged(a.group)
	}
	if a.probe == l.id {
		a.probe = 0
		dom.freed(now, a)
	}
}
