package pool

import (
	"math"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// stated is a limit that an answer states, and the bucket that we had for it already.
type stated struct {
	window *provider.Window
	bucket *bucket
}

// learn takes in what an answer says about the limits themselves: how high they are, and
// when fixed windows end. It returns what the answer says about limits that were known
// before, and whether anybody may have room that had none.
func (dom *Domain) learn(now Time, l *lease, s *provider.Signal) (known []stated, freed bool) {
	if s.Cached { // the answer is about another time
		return nil, false
	}
	if !s.Date.IsZero() {
		for _, b := range l.account.buckets {
			if b.ObserveDate(now, l.granted, s.Date, dom.says(now, l, b)) {
				freed = true
				if b.origin != nil && b.origin.recorded {
					b.origin = nil
				}
			}
		}
	}
	known = dom.known[:0]
	take := func(w *provider.Window) {
		b, changed := dom.learnLimit(now, l, w, s.Date)
		if freed = freed || changed; b != nil {
			known = append(known, stated{w, b})
		}
	}
	for i := range s.Windows {
		if w := &s.Windows[i]; !w.Aside {
			take(w)
		}
	}
	if r := s.Refused; r != nil && r.Limit > 0 && r.Length > 0 && r.Dimension < provider.NumDimensions {
		w := &provider.Window{
			Dimension: r.Dimension, Name: r.Name, Length: r.Length, Kind: dom.cfg.Dialect.Kind,
			Limit: r.Limit, Remaining: provider.Unknown, Rounding: 1, Reset: provider.Unknown,
		}
		if r.Used >= 0 {
			w.Remaining = max(0, r.Limit-r.Used)
		}
		take(w)
	}
	dom.known = known[:0]
	return known, freed
}

// says returns who speaks of a bucket by an answer to a lease. Who has been alone for a window
// can mislead nobody else.
func (dom *Domain) says(now Time, l *lease, b *bucket) limit.Speaker {
	name := l.by.holder.name
	return limit.Speaker{Name: name, Sole: dom.sole(now, name, b.Window())}
}

// learnLimit takes in one limit. It returns the bucket if the limit was known before.
func (dom *Domain) learnLimit(now Time, l *lease, w *provider.Window, date time.Time) (known *bucket, freed bool) {
	if w.Limit == 0 || w.Limit > math.MaxInt64/8 {
		return nil, false
	}
	if w.Length == 0 {
		w.Length = dom.cfg.Dialect.Unstated
	}
	a := l.account
	if w.Inferred && !a.infers(w) {
		a.findMissing(dom.cfg.Dialect) // what was inferred before may be gone
		return nil, false
	}
	resets := w.Kind == provider.Fixed && w.Reset >= 0
	b := a.bucket(w)
	if b == nil {
		if w.Limit < 0 || w.Length == 0 || !dom.mayState(now, a, l, w) {
			return nil, false
		}
		b = dom.firstStated(now, l, w)
		b.inferred = w.Inferred
		if resets {
			b.ObserveReset(now, l.granted, w.Reset, date, dom.says(now, l, b))
		}
		a.add(b)
		dom.note(a)
		dom.founds(now, a, b, l)
		if used, _ := b.Excess(now); used > b.OwnLimit()/indeed {
			dom.states(now, a, b, l)
		}
		a.findMissing(dom.cfg.Dialect)
		return nil, true
	}
	before := b.Limit()
	if w.Limit > 0 && w.Length > 0 && (w.Limit <= before || !a.class.mixed()) {
		freed = dom.limitStated(now, a, b, w.Limit, l)
		if b.Limit() != before {
			dom.noteLimits(a)
		}
	}
	if resets {
		b.ObserveReset(now, l.granted, w.Reset, date, dom.says(now, l, b))
	}
	return b, freed
}

// inference is a length of a window that was inferred from an answer, and from how many in a
// row: figures that fit by chance fit once.
type inference struct {
	dimension provider.Dimension
	name      string
	limit     int64
	length    time.Duration
	times     int
}

// enough is how many answers must agree about a length that none of them states.
const enough = 3

// infers takes in a length that was inferred. It returns whether that is believed.
func (a *account) infers(w *provider.Window) bool {
	for _, b := range a.buckets {
		if b.Is(w.Dimension, w.Name, w.Length) && !b.inferred {
			return true // it is known otherwise
		}
	}
	i := slices.IndexFunc(a.inferred, func(o inference) bool { return o.dimension == w.Dimension && o.name == w.Name })
	if i < 0 {
		if len(a.inferred) >= maxAccountBuckets {
			return false
		}
		i = len(a.inferred)
		a.inferred = append(a.inferred, inference{dimension: w.Dimension, name: w.Name})
	}
	o := &a.inferred[i]
	if o.length != w.Length || o.limit != w.Limit {
		for _, b := range slices.Clone(a.own) { // what was inferred before is contradicted
			if b.inferred && b.Dimension() == w.Dimension && b.Name() == w.Name {
				a.remove(b)
			}
		}
		o.length, o.limit, o.times = w.Length, w.Limit, 0
	}
	o.times = min(o.times+1, enough)
	return o.times >= enough
}

// mayState reports whether an answer may make known a limit that nobody knew: there is room
// for one, its holder is believed and has not stated too many alone, and it is not the very
// number that is configured for another length.
func (dom *Domain) mayState(now Time, a *account, l *lease, w *provider.Window) bool {
	alone := 0
	for _, b := range a.buckets {
		if b.Dimension() == w.Dimension && b.Name() == w.Name && b.Ceiling() == w.Limit {
			return false
		}
		if b.statedBy(l.by.holder.name) && b.Ceiling() == 0 {
			alone++
		}
	}
	sole := dom.alone(now, l.by.holder.name)
	return len(a.buckets) < maxAccountBuckets && (alone < mostStated || sole && alone < maxAccountBuckets-mostStated) && dom.believes(now, l)
}

// firstStated makes the bucket of a limit that an answer is the first to state. The
// answer may have been counted before anything else that was granted since the account
// was last idle, so all of that counts; what the answer says is used counts beside it, in the
// stated books.
func (dom *Domain) firstStated(now Time, from *lease, w *provider.Window) *bucket {
	a := from.account
	l := Limit{Dimension: w.Dimension, Name: w.Name, Window: w.Length, Amount: w.Limit, Kind: w.Kind}
	if w.Kind == provider.Fixed && w.Reset >= 0 && w.Reset <= w.Length { // else the answer contradicts itself
		l.Reset = max(1, now.Add(w.Reset))
	}
	b := dom.newLearned(now, a, l, now.Sub(from.granted))
	used := min(a.slowStart.granted[w.Dimension], w.Limit)
	more := w.Limit - used // unless the answer says what is left
	if w.Remaining >= 0 {
		more = min(more, max(0, w.Limit-w.Remaining)+w.Rounding/2)
	}
	if b.Holds() { // as if charged when the last hold will have ended
		end := now
		for l := dom.order.next; l != &dom.order; l = l.next {
			if l.account == a {
				end = max(end, l.expires)
			}
		}
		used += limit.MulDivUp(w.Limit, int64(min(end.Sub(now), b.HoldFor())), int64(b.Window()))
	}
	b.Learn(now, used)
	if more > 0 {
		b.StateUse(now, more)
	}
	return b
}

// reconcile takes in what an answer says is used of the limits that were known before
// it. It returns whether anybody may have room that had none.
func (dom *Domain) reconcile(now Time, l *lease, known []stated) (freed bool) {
	a := l.account
	delta := dom.delta
	if l.granted < dom.late { // requests from before may still be on their way
		delta = dom.wasDelta
	}
	tighten := dom.believes(now, l)
	for _, k := range known {
		b, w := k.bucket, k.window
		read := func() (shown int64, tightened bool) {
			before := b.Foreign()
			shown, looser := b.Reconcile(now, w, l.granted, delta, !a.class.mixed(), tighten, dom.says(now, l, b))
			freed = looser || freed
			return shown, b.Foreign() > before
		}
		before := b.Used(now)
		shown, tightened := read()
		if w.Remaining < 0 || !b.Stands() {
			continue
		}
		_, lower := b.Excess(now)
		over := b.Overstated(now, w, l.granted, delta)
		if d := b.word; d != nil && d.probe == l.id { // what it states tells more than that it passed
			d.probe = 0
		}
		if d := b.word; d != nil && !lower && d.verdict != confirmed && over > b.Limit()/otherwise && dom.contradicts(now, a, b, &b.word, l) {
			shown, tightened = read() // by itself
			freed = true
		}
		freed = dom.judgeUse(now, a, b, l, shown, tightened, b.Used(now)-before) || freed
	}
	return freed
}

// judgeUse takes note of what an answer says of use that is disputed, or is now: it shows so
// much beside our own books, and may have tightened the stated ones, which say that so much more is
// used than before.
func (dom *Domain) judgeUse(now Time, a *account, b *bucket, l *lease, shown int64, tightened bool, more int64) (freed bool) {
	used, lower := b.Excess(now)
	much := used > b.OwnLimit()/indeed
	switch d := b.word; {
	case lower: // that is what the dispute is about
		return false
	case d == nil:
		if much && tightened {
			dom.states(now, a, b, l)
			return true
		}
	case more > b.OwnLimit()/indeed && (d.first.holder != l.by.holder.name || len(d.voices) > 1): // and more than others have said
		b.word = nil
		dom.states(now, a, b, l)
		return true
	case much && shown > 0: // it agrees as far as it sees
		dom.states(now, a, b, l)
		return true
	}
	return false
}
