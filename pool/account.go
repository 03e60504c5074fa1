package pool

import (
	"math"
	"slices"
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

// group is a quota group: whose limits they are.
type group struct {
	name     string
	keys     []*key
	seats    []*seat // one a priority that its keys have
	limits   []Limit
	shared   []*bucket  // limits for all models together
	shares   bool       // there are such, of the group or of a key
	accounts []*account // one a class, in the order of the pool's
	rest     rest       // of all of them
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

	capped bool // the provider has refused calls for being too many at one time

	open      int
	rest      rest
	doubt     doubt
	refusedAt Time // leases older than the last refusal say nothing new
	limitedAt Time // the last 429
	sighting  sighting
}

// The rests of an account, by their place in the list.
const (
	ofAccount = iota
	ofGroup
	ofModel
)

// rests are those that keep the account out of use: its own, its group's, and
// its model's.
func (a *account) rests() [3]*rest { return [3]*rest{&a.rest, &a.group.rest, &a.class.rest} }

// felt reports whether the way is felt: so many leases at once, and no more.
func (a *account) felt() bool { return len(a.missing) > 0 || a.capped }

func (p *Pool) newAccount(now Time, g *group, c *class) *account {
	a := &account{group: g, class: c, window: firstWindow}
	a.buckets = append(p.newBuckets(now, tightest(g.limits, c.limits)...), g.shared...)
	for _, k := range g.keys {
		if k.own != nil {
			k.own[c] = append(p.newBuckets(now, k.limits...), k.shared...)
		}
	}
	for _, d := range p.cfg.Dialect.Limited {
		if !a.knows(d) {
			a.missing = append(a.missing, d)
		}
	}
	return a
}

// knows reports whether a limit is known that speaks for a dimension: any that
// the provider has told, or one by the minute or for calls at a time.
func (a *account) knows(d provider.Dimension) bool {
	return slices.ContainsFunc(a.buckets, func(b *bucket) bool {
		return b.dimension == d && (b.ceiling == 0 || b.window <= time.Minute)
	})
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
			if out[i].Dimension == l.Dimension && out[i].Window == l.Window && out[i].Name == l.Name {
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

// bucket finds the account's bucket for what an answer states; without a length,
// by the limit that is stated.
func (a *account) bucket(w *provider.Window) *bucket {
	for _, b := range a.buckets {
		if b.dimension == w.Dimension && b.name == w.Name &&
			(b.window == w.Length || w.Length == 0 && (b.limit == w.Limit || w.Limit < 0 && b.window == time.Minute)) {
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

// fit evaluates the account's own limits, without those of single keys, for a
// holder; or with "" for whoever may be first.
func (a *account) fit(now Time, ask *provider.Amounts, holder string) fit {
	f := fit{at: now, by: unconditional}
	hard := fit{at: now, by: unconditional} // what no doubt opens
	for _, b := range a.buckets {
		if b.window == 0 {
			hard.in(now, b, ask)
		} else {
			f.in(now, b, ask)
		}
	}
	if opens := a.doubt.opens(holder); f.at > opens && !f.never {
		f.at, f.byEvent = max(now, opens), false
	}
	if a.felt() && a.open >= a.window {
		hard.later(Never, int(provider.Concurrency), true)
	}
	for _, r := range a.rests() {
		if r.concerns(ask) {
			at, byEvent := r.opens(now, holder)
			hard.later(at, int(r.only), byEvent)
		}
	}
	if hard.never {
		return hard
	}
	if !f.never {
		f.later(hard.at, hard.by, hard.byEvent)
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
func (a *account) room(now Time, ask *provider.Amounts, holder string) bool {
	if a.rest.on || a.group.rest.on || a.class.rest.on || a.doubt.by != "" {
		return a.fit(now, ask, holder).at == now
	}
	if a.felt() && a.open >= a.window {
		return false
	}
	return fits(now, a.buckets, ask)
}

// suspects reports whether the account is closed to a holder for longer than to
// others, since it is closed on that holder's word.
func (a *account) suspects(holder string) bool {
	return a.doubt.by == holder || a.rest.by == holder || a.group.rest.by == holder || a.class.rest.by == holder
}

// coolUntil is when no rest keeps the account out of use any more.
func (a *account) coolUntil() (until Time) {
	for _, r := range a.rests() {
		if r.on {
			until = max(until, r.until)
		}
	}
	return until
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
	if a.felt() {
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

// learn takes in what an answer states of limits. It reports whether anything
// changed that may give somebody room.
func (a *account) learn(now Time, p *Pool, l *lease, s *provider.Signal) (freed bool) {
	if s.Cached { // it tells of another time
		return false
	}
	for i := range s.Windows {
		if w := &s.Windows[i]; !w.Aside {
			freed = a.learnWindow(now, p, l, w) || freed
		}
	}
	if r := s.Refused; r != nil && r.Limit > 0 && r.Length > 0 && r.Dimension < provider.NumDimensions {
		w := provider.Window{
			Dimension: r.Dimension, Name: r.Name, Length: r.Length, Kind: p.cfg.Dialect.Kind,
			Limit: r.Limit, Remaining: provider.Unknown, Rounding: 1,
		}
		if r.Used >= 0 {
			w.Remaining = max(0, r.Limit-r.Used)
		}
		freed = a.learnWindow(now, p, l, &w) || freed
	}
	return freed
}

func (a *account) learnWindow(now Time, p *Pool, l *lease, w *provider.Window) (freed bool) {
	if w.Limit == 0 || w.Limit > math.MaxInt64/8 {
		return false
	}
	b := a.bucket(w)
	if b == nil {
		if w.Limit < 0 || w.Length == 0 || len(a.buckets) == ownBit-1 {
			return false
		}
		a.buckets = append(a.buckets, p.learned(now, a, w))
		a.missing = slices.DeleteFunc(a.missing, a.knows)
		return true
	}
	mixed := a.class.name == otherModels // what models nobody declared share, none of them can speak for
	if w.Limit > 0 && w.Length > 0 && (w.Limit <= b.limit || !mixed) {
		before := b.limit
		if b.report(now, w.Limit, l, len(p.holders) == 1) {
			freed = true
			if b.limit < before {
				a.doubt.cast(now, l.holder.name)
			}
		}
	}
	if f, ok := b.meter.(*fixed); ok && w.Kind == provider.Fixed && w.Reset >= 0 {
		f.resets(now, w.Reset)
	}
	foreign := b.foreign
	freed = b.fuse(now, w, l, p.cfg.StartWithin, !mixed) || freed
	if b.foreign-foreign > b.limit/8 { // enough to close it
		a.doubt.cast(now, l.holder.name)
		freed = true // for others, and soon
	}
	return freed
}

// learned makes the bucket of a limit that an answer is the first to state. The
// answer may have been counted before anything else that was granted since the
// account was last idle, so all of that counts beside what the answer says is
// used.
func (p *Pool) learned(now Time, a *account, w *provider.Window) *bucket {
	l := Limit{Dimension: w.Dimension, Name: w.Name, Window: w.Length, Amount: w.Limit, Kind: w.Kind}
	if w.Kind == provider.Fixed && w.Reset >= 0 {
		l.Reset = max(1, now.Add(w.Reset))
	}
	b := p.newBuckets(now, l)[0]
	b.ceiling = 0
	used := w.Limit
	if w.Remaining >= 0 {
		used = min(w.Limit, max(0, w.Limit-w.Remaining)+w.Rounding/2+min(a.since[w.Dimension], w.Limit))
	}
	if b.holds { // as if charged when its holds would have ended
		used += w.Limit / 2
	}
	b.charge(now, used)
	b.history.begun = now
	return b
}

// limited takes note of a refusal that is about too many calls: fewer are out at
// once, where the way is felt. A refusal of what was granted before the last one
// is the same piece of news.
func (a *account) limited(now Time, l *lease) {
	if l.granted >= a.refusedAt {
		a.window = max(1, a.window/2)
		a.clean, a.steady = 0, true
		a.refusedAt = now
	}
}

// crowded takes note of a refusal for too many calls at one time: one less than
// now is what there may be.
func (a *account) crowded(now Time, l *lease) {
	if l.granted < a.refusedAt && a.capped {
		return
	}
	if !a.felt() {
		a.window = maxWindow
	}
	a.capped = true
	a.window = max(1, min(a.window, a.open-1))
	a.clean, a.steady, a.refusedAt = 0, true, now
}

// answered takes note of an answer without a refusal.
func (a *account) answered() {
	if !a.felt() {
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
