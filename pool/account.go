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
	shared   []*bucket // limits for all models together
	shares   bool      // there are such, of the group or of a key
	ghosts   []*ghost
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
	open    int
	window  int  // leases at once while the way is felt
	capped  bool // the provider has refused calls for being too many at one time
	steady  bool // a refusal was met: grow by one, not twofold
	clean   int  // answers since the window last changed
	doubted bool // some doubt is cast: on the window of those out, or on a bucket
	rest    rest

	narrow    doubt            // on the window of those out
	trial     LeaseID          // the lease that sees for itself, 0 if none is out
	tried     Time             // when it was granted
	since     provider.Amounts // granted since no lease was out: what a header may not have seen
	refusedAt Time             // leases older than the last refusal say nothing new
	limitedAt Time             // the last 429
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

// full reports whether as many are out as there may be.
func (a *account) full() bool { return a.felt() && a.open >= a.window }

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
		side[i].bends = p.cfg.Dialect.Counts && l.Dimension == provider.OutputTokens
		if p.keeps && long(l.Window) { // nothing of it is written down yet
			side[i].escrow = &escrow{dirty: &p.dirty}
		}
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
	for _, b := range a.buckets {
		f.in(now, b, ask, min(a.opens(now, &b.unsure, holder), a.opens(now, &b.unseen, holder)))
	}
	if f.never {
		return f
	}
	if a.full() {
		at := a.opens(now, &a.narrow, holder)
		f.later(at, int(provider.Concurrency), at == Never)
	}
	for _, r := range a.rests() {
		if r.concerns(ask) {
			at, byEvent := r.opens(now, holder)
			f.later(at, int(r.only), byEvent)
		}
	}
	return f
}

// in takes in when there is room in a bucket, or the ask may pass without.
func (f *fit) in(now Time, b *bucket, ask *provider.Amounts, opens Time) {
	n := ask[b.dimension]
	if n == 0 || f.never {
		return
	}
	if b.never(n) {
		*f = fit{at: Never, by: int(b.dimension), never: true, key: f.key}
		return
	}
	at, byEvent := b.fitAt(now, n)
	if opens < at {
		at, byEvent = opens, false
	}
	f.later(at, int(b.dimension), byEvent)
}

// room is fit where one only wants to know whether there is room now.
func (a *account) room(now Time, ask *provider.Amounts, holder string) bool {
	if a.rest.on || a.group.rest.on || a.class.rest.on || a.doubted {
		return a.fit(now, ask, holder).at == now
	}
	return !a.full() && fits(now, a.buckets, ask)
}

// suspects reports whether the account is closed to a holder for longer than to
// others, since it is closed on that holder's word.
func (a *account) suspects(holder string) bool {
	said := a.rest.by == holder || a.group.rest.by == holder || a.class.rest.by == holder
	if a.doubted {
		a.doubts(func(d *doubt) { said = said || d.by == holder })
	}
	return said
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
	var load, long Time
	brief := false
	for _, b := range a.buckets {
		if r, ok := b.meter.(*refilling); ok && b.held == 0 && b.window == time.Minute {
			load, brief = max(load, r.fullAt), true
			continue
		}
		part := now.Add(time.Duration(min(b.share(now), 1000) * float64(time.Minute)))
		if b.window > time.Minute {
			long = max(long, part)
		} else {
			load, brief = max(load, part), true
		}
	}
	if !brief { // there is nothing else to go by
		load = long
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

// over is what was used beyond the reservation: the largest part of any limit.
func (l *lease) over() (part float64) {
	l.buckets(func(_ uint32, b *bucket) {
		part = max(part, float64(l.used[b.dimension]-l.reserved[b.dimension])/float64(b.limit))
	})
	return part
}

// learn takes in what an answer states of limits. It reports whether anything
// changed that may give somebody room.
func (a *account) learn(now Time, p *Pool, l *lease, s *provider.Signal) (freed bool) {
	if s.Cached { // it tells of another time
		return false
	}
	if !s.Date.IsZero() {
		for _, b := range a.buckets {
			freed = b.renew(now, l, s.Date) || freed
		}
	}
	for i := range s.Windows {
		if w := &s.Windows[i]; !w.Aside {
			freed = a.learnWindow(now, p, l, w, s.Date) || freed
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
		freed = a.learnWindow(now, p, l, &w, s.Date) || freed
	}
	return freed
}

func (a *account) learnWindow(now Time, p *Pool, l *lease, w *provider.Window, date time.Time) (freed bool) {
	if w.Limit == 0 || w.Limit > math.MaxInt64/8 {
		return false
	}
	if w.Length == 0 {
		w.Length = p.cfg.Dialect.Unstated
	}
	b := a.bucket(w)
	if b == nil {
		if w.Limit < 0 || w.Length == 0 || len(a.buckets) == ownBit-1 {
			return false
		}
		b = p.learned(now, a, l, w)
		if w.Kind == provider.Fixed && w.Reset >= 0 {
			b.resets(now, l, w.Reset, date)
		}
		a.buckets = append(a.buckets, b)
		p.dirty = true
		a.missing = slices.DeleteFunc(a.missing, a.knows)
		a.cast(now, &b.unsure, l.holder.name)
		a.cast(now, &b.unseen, l.holder.name)
		return true
	}
	limit, foreign := b.limit, b.foreign
	mixed := a.class.name == otherModels // what models nobody declared share, none of them can speak for
	if w.Limit > 0 && w.Length > 0 && (w.Limit <= b.limit || !mixed) {
		freed = b.report(now, w.Limit, l, len(p.holders) == 1)
		p.dirty = p.dirty || b.limit != limit
	}
	if w.Kind == provider.Fixed && w.Reset >= 0 {
		b.resets(now, l, w.Reset, date)
	}
	freed = b.fuse(now, w, l, p.cfg.StartWithin, !mixed) || freed
	if w.Limit > 0 && b.capped(w.Limit) == b.limit {
		b.unsure.settled(l)
	}
	if w.Remaining >= 0 && min(w.Remaining, b.limit)-max(0, b.limit-b.used(now)) <= b.limit/8 { // it knows nothing of what we hold
		b.unseen.settled(l)
	}
	if b.limit < limit {
		a.cast(now, &b.unsure, l.holder.name)
	}
	claimed := b.claims(l.holder.name, b.foreign-foreign)
	if b.foreign > foreign && claimed > b.limit/8 { // enough to close it
		a.cast(now, &b.unseen, l.holder.name)
		freed = true // for others, and soon
	}
	return freed
}

// learned makes the bucket of a limit that an answer is the first to state. The
// answer may have been counted before anything else that was granted since the
// account was last idle, so all of that counts beside what the answer says is
// used.
func (p *Pool) learned(now Time, a *account, from *lease, w *provider.Window) *bucket {
	l := Limit{Dimension: w.Dimension, Name: w.Name, Window: w.Length, Amount: w.Limit, Kind: w.Kind}
	if w.Kind == provider.Fixed && w.Reset >= 0 {
		l.Reset = max(1, now.Add(w.Reset))
	}
	b := p.newBuckets(now, l)[0]
	b.ceiling = 0
	if f, ok := b.meter.(*fixed); ok { // it was stated some time ago
		f.early = now.Sub(from.granted)
	}
	used := w.Limit
	if w.Remaining >= 0 {
		used = min(w.Limit, max(0, w.Limit-w.Remaining)+w.Rounding/2+min(a.since[w.Dimension], w.Limit))
	}
	if b.holds { // as if charged when the last hold will have ended
		end := now
		for l := p.order.next; l != &p.order; l = l.next {
			if l.account == a {
				end = max(end, l.expires)
			}
		}
		used += mulDivUp(w.Limit, int64(min(end.Sub(now), b.holdFor())), int64(b.window))
	}
	b.charge(now, used)
	b.history = &history{begun: now + 1}
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
		if a.felt() {
			a.cast(now, &a.narrow, l.holder.name)
		}
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
	a.cast(now, &a.narrow, l.holder.name)
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
