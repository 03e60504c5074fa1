package pool

import (
	"math"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// While some limit of an account is not known, so many leases may be out at
// once: few at first, doubled by every window of answers without a refusal,
// halved by a refusal and from then on larger by one.
const (
	firstWindow = 4
	maxWindow   = 1 << 20
)

// A refusal that states no wait rests the account this long, doubled by each
// one in a row.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// group is a quota group: whose limits they are.
type group struct {
	name     string
	keys     []*key
	seats    []*seat // one a priority that its keys have
	limits   []Limit
	shared   []*bucket  // limits for all models together
	shares   bool       // there are such, of the group or of a key
	accounts []*account // one a class
}

// account is what one group may use of one class of models.
type account struct {
	group      *group
	class      *class
	buckets    []*bucket
	candidates []*Candidate // one a seat of the group

	missing []provider.Dimension // limits that the provider has but nobody has told us
	window  int                  // leases at once while any is missing
	clean   int                  // answers since the window last changed
	steady  bool                 // a refusal was met: grow by one, not twofold
	since   provider.Amounts     // granted since no lease was out: what a header may not have seen

	open      int
	coolUntil Time
	backoff   time.Duration
	refusedAt Time
}

func (p *Pool) newAccount(now Time, g *group, c *class) *account {
	a := &account{group: g, class: c, window: firstWindow}
	a.buckets = append(p.newBuckets(now, tightest(g.limits, c.limits)...), g.shared...)
	for _, k := range g.keys {
		if k.own != nil {
			k.own[c] = append(p.newBuckets(now, k.limits...), k.shared...)
		}
	}
	for _, d := range p.cfg.Dialect.Limited {
		if a.bucket(d, time.Minute) == nil {
			a.missing = append(a.missing, d)
		}
	}
	return a
}

// newBuckets makes full buckets, side by side in memory, since an ask goes
// through all of them.
func (p *Pool) newBuckets(now Time, limits ...Limit) []*bucket {
	side := make([]bucket, len(limits))
	out := make([]*bucket, len(limits))
	for i, l := range limits {
		side[i].init(now, l, p.cfg.Dialect.Held[l.Dimension], p.cfg.StartWithin)
		out[i] = &side[i]
	}
	return out
}

// tightest joins limits; of two for the same dimension and window the lower
// one holds, since both apply.
func tightest(lists ...[]Limit) []Limit {
	var out []Limit
next:
	for _, l := range concat(lists) {
		for i := range out {
			if out[i].Dimension == l.Dimension && out[i].Window == l.Window {
				out[i].Amount = min(out[i].Amount, l.Amount)
				continue next
			}
		}
		out = append(out, l)
	}
	return out
}

func concat[T any](lists [][]T) []T {
	var all []T
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// bucket finds the account's bucket for a dimension and window.
func (a *account) bucket(d provider.Dimension, window time.Duration) *bucket {
	for _, b := range a.buckets {
		if b.dimension == d && b.window == window {
			return b
		}
	}
	return nil
}

// These stand for a dimension in a fit.
const (
	unconditional = int(provider.NumDimensions) // no amount is small enough
	several       = unconditional + 1           // each key is blocked by another
)

// fit says when an ask will fit and what binds. An ask that has room now has
// at == now. Where room comes by an event (a release, a report) rather than by
// time, byEvent is true and at is the moment to look again at the latest.
type fit struct {
	at      Time
	by      int // the dimension that has room last, or unconditional
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
	if g.at < f.at || g.at == f.at && f.never {
		*f = *g
	}
}

// fit evaluates the account's own limits, without those of single keys.
func (a *account) fit(now Time, ask *provider.Amounts) fit {
	f := fit{at: now, by: unconditional}
	f.later(a.coolUntil, unconditional, false)
	if len(a.missing) > 0 && a.open >= a.window {
		f.later(Never, int(provider.Concurrency), true)
	}
	for _, b := range a.buckets {
		f.in(now, b, ask)
	}
	return f
}

func (f *fit) in(now Time, b *bucket, ask *provider.Amounts) {
	n := ask[b.dimension]
	if n == 0 || f.never {
		return
	}
	if b.never(n) {
		*f = fit{at: Never, by: int(b.dimension), never: true, key: f.key}
		return
	}
	at, byEvent := b.fitAt(now, n)
	f.later(at, int(b.dimension), byEvent)
}

// room is fit where one only wants to know whether there is room now.
func (a *account) room(now Time, ask *provider.Amounts) bool {
	if a.coolUntil > now || len(a.missing) > 0 && a.open >= a.window {
		return false
	}
	return fits(now, a.buckets, ask)
}

func fits(now Time, buckets []*bucket, ask *provider.Amounts) bool {
	for _, b := range buckets {
		if n := ask[b.dimension]; n > 0 && (b.never(n) || !b.fits(now, n)) {
			return false
		}
	}
	return true
}

// rank orders accounts by load, least first: the time until the tightest limit
// by the minute (or less) is full again, as a moment, so that it stays true as
// time passes.
func (a *account) rank(now Time) int64 {
	var load Time
	for _, b := range a.buckets {
		if b.window > time.Minute {
			continue
		}
		if r, ok := b.meter.(*refilling); ok && b.held == 0 && b.window == time.Minute {
			load = max(load, r.fullAt)
			continue
		}
		load = max(load, now.Add(time.Duration(min(b.share(now), 1000)*float64(time.Minute))))
	}
	if len(a.missing) > 0 {
		load = max(load, now.Add(time.Minute*time.Duration(a.open)/time.Duration(a.window)))
	}
	return int64(load)
}

// cost is what a lease takes: the largest part of any limit.
func (l *lease) cost() float64 {
	part := 1.0 / 1024 // where nothing is limited, turns are even
	l.buckets(func(_ uint32, b *bucket) {
		part = max(part, float64(l.reserved[b.dimension])/float64(b.limit))
	})
	return part
}

// learn takes in the limits that an answer states. It reports whether anything
// changed that may give somebody room.
func (a *account) learn(now Time, p *Pool, l *lease, windows []provider.Window) (freed bool) {
	for _, w := range windows {
		if w.Limit <= 0 || w.Limit > math.MaxInt64/8 {
			continue
		}
		if b := a.bucket(w.Dimension, w.Length); b != nil {
			// What models nobody declared share, none of them can speak for.
			if w.Limit <= b.limit || a.class.name != otherModels {
				freed = b.report(now, w.Limit, l, len(p.holders) == 1) || freed
			}
			continue
		}
		a.buckets = append(a.buckets, p.learned(now, a, w))
		a.missing = without(a.missing, w.Dimension)
		freed = true
	}
	return freed
}

// learned makes the bucket of a limit that an answer is the first to state. The
// answer may have been counted before anything else that was granted since the
// account was last idle, so all of that counts beside what the answer says is
// used.
func (p *Pool) learned(now Time, a *account, w provider.Window) *bucket {
	b := p.newBuckets(now, Limit{Dimension: w.Dimension, Window: w.Length, Amount: w.Limit, Kind: p.cfg.Dialect.Kind})[0]
	b.ceiling = 0
	used := w.Limit
	if w.Remaining >= 0 {
		used = min(w.Limit, max(0, w.Limit-w.Remaining)+w.Rounding/2+min(a.since[w.Dimension], w.Limit))
	}
	if b.holds { // as if charged when its holds would have ended
		used += w.Limit / 2
	}
	b.charge(now, used)
	return b
}

func without(ds []provider.Dimension, d provider.Dimension) []provider.Dimension {
	var out []provider.Dimension
	for _, x := range ds {
		if x != d {
			out = append(out, x)
		}
	}
	return out
}

// limited takes note of a refusal for want of capacity. A stated wait is obeyed
// and never shortened; where none is stated, ours grows with each refusal of a
// lease that was granted after the last.
func (a *account) limited(now Time, wait time.Duration, granted Time) {
	if granted >= a.refusedAt {
		a.backoff = min(max(2*a.backoff, firstBackoff), maxBackoff)
		a.window = max(1, a.window/2)
		a.clean, a.steady = 0, true
		a.refusedAt = now
	}
	if wait == 0 {
		wait = a.backoff
	}
	a.coolUntil = max(a.coolUntil, now.Add(wait))
}

// answered takes note of an answer without a refusal.
func (a *account) answered(granted Time) {
	if granted >= a.refusedAt {
		a.backoff = 0
	}
	if len(a.missing) == 0 {
		return
	}
	if a.clean++; a.clean < a.window {
		return
	}
	a.clean = 0
	if a.steady {
		a.window++
	} else {
		a.window = min(2*a.window, maxWindow)
	}
}
