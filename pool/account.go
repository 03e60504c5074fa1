package pool

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// group is a quota group: the owner of limits that its keys share.
type group struct {
	tracked
	name     string
	keys     []*key
	seats    []*seat // one for each priority that its keys have
	limits   []Limit
	shared   []*bucket // limits for all models together
	shares   bool      // there are such limits, of the group or of a key
	later    later     // of its limits
	goneAt   Time      // not configured since, Never while it is
	crossed  bool      // leases may hold amounts in accounts of other classes than their own
	orphans  []*orphan
	accounts []*account // one for each class, in the domain's order
	cooldown cooldown   // of all of them

	// The last changes: of all of the group, of its shared limits, and of anything in it.
	changed, sharedChanged, newest Mark
}

// account is what one group may use of one class of models.
type account struct {
	// What every ask touches comes first, and lies together.
	group    *group
	class    *class
	*ledger       // own, and those that the group shares
	open     int  // leases
	disputed bool // there is an open dispute
	keyed    bool // a key of the group has, or had, limits of its own
	tracked
	cooldown  cooldown
	slowStart slowStart

	own        []*bucket    // of this account alone: configured, then learned
	candidates []*Candidate // one for each seat of the group
	limitedAt  Time         // the last rate-limit refusal, 0 if there was none
	inferred   []inference  // of the lengths of windows
	changed    Mark         // the last change of the account's own
}

// ledger is the buckets that a lease is charged to. Leases share it, so it is replaced and
// never changed.
type ledger struct {
	buckets []*bucket
	cut     map[int]int64 // what a lease reserved in those of them whose learned limit is less; mostly nil
}

// maxAccountBuckets bounds the limits that answers can add to an account.
const maxAccountBuckets = 15

func (dom *Domain) newAccount(now Time, g *group, c *class) *account {
	a := &account{group: g, class: c, slowStart: slowStart{window: firstWindow}}
	a.own = dom.newBuckets(now, a, tightest(g.limits, c.limits)...)
	a.ledger = &ledger{buckets: concat(a.own, g.shared)}
	g.later.exhaust(dom, g, a.own)
	dom.note(a)
	for _, k := range g.keys {
		if k.limited != nil {
			l := k.limitsFor(c)
			l.set(dom.newBuckets(now, l, k.limits...), k.shared, a)
			k.later.exhaust(dom, g, l.each)
			dom.note(l)
		}
	}
	a.findMissing(dom.cfg.Dialect)
	if dom.before != nil {
		dom.before.created(a)
	}
	dom.touchGroup(g) // with one more class, its keys may be of use again
	return a
}

// findMissing lists the limits that the provider has and nobody has told us. It returns
// whether there are some where there were none.
func (a *account) findMissing(d *provider.Dialect) (begins bool) {
	s := &a.slowStart
	begins, s.missing = len(s.missing) == 0, nil
	for _, d := range d.Limited {
		if !a.knows(d) {
			s.missing = append(s.missing, d)
		}
	}
	return begins && len(s.missing) > 0
}

// add adds a limit that was learned. Leases that are open are not charged to it.
func (a *account) add(b *bucket) {
	a.own = append(a.own, b)
	a.ledger = &ledger{buckets: concat(a.own, a.group.shared)}
	for _, k := range a.group.keys {
		if k.limited != nil {
			k.limited[a.class].join(a)
		}
	}
	a.slowStart.missing = slices.DeleteFunc(a.slowStart.missing, a.knows)
}

// remove forgets a limit that was learned. Leases that are open were charged to it, and nobody
// will know.
func (a *account) remove(b *bucket) {
	a.own = slices.DeleteFunc(slices.Clone(a.own), func(o *bucket) bool { return o == b })
	a.ledger = &ledger{buckets: concat(a.own, a.group.shared)}
	for _, k := range a.group.keys {
		if k.limited != nil {
			k.limited[a.class].join(a)
		}
	}
}

// knows reports whether a limit is known that speaks for a dimension: any that the
// provider has stated to more than one holder or to the sole one, or a configured one by the
// minute or for calls at one time.
func (a *account) knows(d provider.Dimension) bool {
	return slices.ContainsFunc(a.buckets, func(b *bucket) bool {
		return b.Dimension() == d && b.known() && (b.Ceiling() == 0 || b.Window() <= time.Minute)
	})
}

// bucket finds the account's bucket for what an answer states; without a length, by the
// limit that is stated.
func (a *account) bucket(w *provider.Window) *bucket {
	for _, b := range a.buckets {
		if b.Dimension() == w.Dimension && b.Name() == w.Name &&
			(b.Window() == w.Length || w.Length == 0 && (b.Limit() == w.Limit || b.OwnLimit() == w.Limit || w.Limit < 0 && b.Window() == time.Minute)) {
			return b
		}
	}
	return nil
}

// rank orders accounts by load, least first: the time until the tightest limit by the
// minute or less will be unused, as a moment, so that it stays true as time passes.
func (a *account) rank(now Time) int64 {
	var load, long Time
	brief := false
	for _, b := range a.buckets {
		if b.Window() > time.Minute {
			long = max(long, b.Load(now))
		} else {
			load, brief = max(load, b.Load(now)), true
		}
	}
	if !brief { // there is nothing else to go by
		load = long
	}
	if a.slowStart.active() {
		load = max(load, now.Add(time.Minute*time.Duration(a.open)/time.Duration(a.slowStart.window)))
	}
	return int64(load)
}
