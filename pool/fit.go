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

// within takes in a bucket: when it has room, or when the ask may probe it without.
func (f *fit) within(now Time, b *bucket, ask *provider.Amounts, probe Time) {
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
	if probe < at {
		at, byEvent = probe, false
	}
	f.later(at, int(d), byEvent)
}

// fit says when an ask of a holder fits the account, without the limits of single keys;
// with "", of whoever may be first.
func (a *account) fit(now Time, ask *provider.Amounts, holder string) fit {
	f := fit{at: now, by: unconditional}
	for _, b := range a.buckets {
		probe := Never
		if a.disputed {
			probe = min(a.mayProbe(now, &b.unsure, holder), a.mayProbe(now, &b.unseen, holder))
		}
		f.within(now, b, ask, probe)
	}
	if f.never {
		return f
	}
	if a.full() {
		at := a.mayProbe(now, &a.slowStart.narrow, holder)
		f.later(at, int(provider.Concurrency), at == Never)
	}
	for _, c := range a.cooldowns() {
		if c.concerns(ask) {
			at, byEvent := c.opens(now, holder)
			f.later(at, int(c.only), byEvent)
		}
	}
	return f
}

// room is fit where it only matters whether there is room now.
func (a *account) room(now Time, ask *provider.Amounts, holder string) bool {
	if a.cooldown.on || a.group.cooldown.on || a.class.cooldown.on || a.disputed {
		return a.fit(now, ask, holder).at == now
	}
	return !a.full() && fits(now, a.buckets, ask)
}

func fits(now Time, buckets []*bucket, ask *provider.Amounts) bool {
	for _, b := range buckets {
		if n := ask[b.Dimension()]; n > 0 && (b.NeverFits(n) || !b.Fits(now, n)) {
			return false
		}
	}
	return true
}
