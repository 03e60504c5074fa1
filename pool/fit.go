package pool

import "github.com/keybroker/keybroker/internal/provider"

// What binds an ask is a dimension, or one of these.
const (
	unconditional = int(provider.NumDimensions) // no amount is small enough
	several       = unconditional + 1           // each key is blocked by another reason
)

// fit says when an ask will fit and what binds it. An ask that has room now has at ==
// now. Where room comes by an event (a release, a report) rather than by time, byEvent is
// true and at is when to look again at the latest.
type fit struct {
	at      Time
	by      int // the dimension that has room last, or a constant above
	byEvent bool
	never   bool // above a configured limit
	key     *key // whose own limits bind, if it is those
}

// later takes the later of f and a moment with its reason: all must have room.
func (f *fit) later(at Time, by int, byEvent bool) {
	if at > f.at {
		*f = fit{at: at, by: by, byEvent: byEvent, key: f.key}
	}
}

// sooner takes the sooner of two fits: either will do.
func (f *fit) sooner(g *fit) {
	if g.before(f) || g.at == f.at && f.never {
		*f = *g
	}
}

// before reports whether f comes sooner than g. Of two that may be never, the one that an
// event can bring comes sooner.
func (f *fit) before(g *fit) bool {
	return f.at < g.at || f.at == g.at && f.byEvent && !g.byEvent && f.at == Never
}

// within takes in a bucket: when it has room.
func (f *fit) within(now Time, b *bucket, ask *provider.Amounts) {
	d := b.Dimension()
	n := ask[d]
	if n == 0 || f.never {
		return
	}
	if b.NeverFits(n) {
		*f = fit{at: Never, by: int(d), never: true, key: f.key}
		return
	}
	at, byEvent := b.FitAt(now, n)
	f.later(at, int(d), byEvent)
}

// withinDisputed takes in a bucket of which something is disputed: what is, binds an ask only
// until the one who asks may probe.
func (dom *Domain) withinDisputed(f *fit, b *bucket, ask *provider.Amounts, e eye) {
	d, now := b.Dimension(), dom.now
	n := ask[d]
	if n == 0 || f.never {
		return
	}
	if b.NeverFits(n) {
		*f = fit{at: Never, by: int(d), never: true, key: f.key}
		return
	}
	sooner := func(at Time, byEvent bool, about *dispute) {
		if about != nil && at > now {
			if probe, _ := dom.opens(about, ask, e); probe < at {
				at, byEvent = probe, false
			}
		}
		f.later(at, int(d), byEvent)
	}
	at, byEvent := b.FitAtOwn(now, n)
	sooner(at, byEvent, b.origin)
	at, byEvent = b.FitAtStated(now, n)
	sooner(at, byEvent, b.word)
}

// fit says when an ask fits the account, without the limits of single keys.
func (dom *Domain) fit(a *account, ask *provider.Amounts, e eye) fit {
	now := dom.now
	f := fit{at: now, by: unconditional}
	for _, b := range a.buckets {
		if b.origin == nil && b.word == nil {
			f.within(now, b, ask)
		} else {
			dom.withinDisputed(&f, b, ask, e)
		}
	}
	if f.never {
		return f
	}
	if a.full() {
		at := Never
		if a.slowStart.narrow != nil {
			at, _ = dom.opens(a.slowStart.narrow, ask, e)
		}
		f.later(at, int(provider.Concurrency), at == Never)
	}
	for _, c := range a.cooldowns() {
		if c.on() {
			opens := dom.opensFor(c, ask, e)
			f.later(opens.at, opens.by, opens.byEvent)
		}
	}
	return f
}

// room is fit where it only matters whether there is room now.
func (dom *Domain) room(a *account, ask *provider.Amounts, e eye) bool {
	if a.disputable() {
		return dom.fit(a, ask, e).at == dom.now
	}
	return !a.full() && fits(dom.now, a.buckets, ask)
}

// disputable reports whether it may depend on who asks whether an account has room.
func (a *account) disputable() bool {
	return a.cooldown.on() || a.group.cooldown.on() || a.class.cooldown.on() || a.disputed
}

func fits(now Time, buckets []*bucket, ask *provider.Amounts) bool {
	for _, b := range buckets {
		if n := ask[b.Dimension()]; n > 0 && (b.NeverFits(n) || !b.Fits(now, n)) {
			return false
		}
	}
	return true
}
