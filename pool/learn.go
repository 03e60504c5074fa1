package pool

import (
	"math"
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
			if b.ObserveDate(now, l.granted, s.Date) {
				freed = true
				if b.unseen.by == ownerBefore {
					b.unseen = dispute{}
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
			Limit: r.Limit, Remaining: provider.Unknown, Rounding: 1,
		}
		if r.Used >= 0 {
			w.Remaining = max(0, r.Limit-r.Used)
		}
		take(w)
	}
	dom.known = known[:0]
	return known, freed
}

// learnLimit takes in one limit. It returns the bucket if the limit was known before.
func (dom *Domain) learnLimit(now Time, l *lease, w *provider.Window, date time.Time) (known *bucket, freed bool) {
	if w.Limit == 0 || w.Limit > math.MaxInt64/8 {
		return nil, false
	}
	if w.Length == 0 {
		w.Length = dom.cfg.Dialect.Unstated
	}
	a, holder := l.account, l.by.holder.name
	resets := w.Kind == provider.Fixed && w.Reset >= 0
	b := a.bucket(w)
	if b == nil {
		if w.Limit < 0 || w.Length == 0 || len(a.buckets) >= maxAccountBuckets {
			return nil, false
		}
		b = dom.firstStated(now, l, w)
		if resets {
			b.ObserveReset(now, l.granted, w.Reset, date)
		}
		a.add(b)
		dom.note(a)
		a.dispute(now, &b.unsure, holder)
		a.dispute(now, &b.unseen, holder)
		return nil, true
	}
	before := b.Limit()
	if w.Limit > 0 && w.Length > 0 && (w.Limit <= before || !a.class.mixed()) {
		freed = b.state(now, w.Limit, l, dom.sole(holder))
		if b.Limit() != before {
			dom.noteLimits(a)
		}
	}
	if w.Limit > 0 && b.Capped(w.Limit) == b.Limit() {
		b.unsure.settle(l)
	}
	if b.Limit() < before {
		a.dispute(now, &b.unsure, holder)
	}
	if resets {
		b.ObserveReset(now, l.granted, w.Reset, date)
	}
	return b, freed
}

// firstStated makes the bucket of a limit that an answer is the first to state. The
// answer may have been counted before anything else that was granted since the account
// was last idle, so all of that counts beside what the answer says is used.
func (dom *Domain) firstStated(now Time, from *lease, w *provider.Window) *bucket {
	a := from.account
	l := Limit{Dimension: w.Dimension, Name: w.Name, Window: w.Length, Amount: w.Limit, Kind: w.Kind}
	if w.Kind == provider.Fixed && w.Reset >= 0 {
		l.Reset = max(1, now.Add(w.Reset))
	}
	b := dom.newLearned(now, a, l, now.Sub(from.granted))
	used := w.Limit
	if w.Remaining >= 0 {
		used = min(w.Limit, max(0, w.Limit-w.Remaining)+w.Rounding/2+min(a.slowStart.granted[w.Dimension], w.Limit))
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
	return b
}

// reconcile takes in what an answer says is used of the limits that were known before
// it. It returns whether anybody may have room that had none.
func (dom *Domain) reconcile(now Time, l *lease, known []stated) (freed bool) {
	a, holder := l.account, l.by.holder.name
	delta := dom.delta
	if l.granted < dom.late { // requests from before may still be on their way
		delta = dom.wasDelta
	}
	for _, k := range known {
		b, w := k.bucket, k.window
		foreign := b.Foreign()
		freed = b.Reconcile(now, w, l.granted, delta, !a.class.mixed()) || freed
		if w.Remaining >= 0 && min(w.Remaining, b.Limit())-max(0, b.Limit()-b.Used(now)) <= b.Limit()/8 { // what we hold is none of the header's business
			b.unseen.settle(l)
		}
		claimed := b.claims(holder, b.Foreign()-foreign)
		if b.Foreign() > foreign && claimed > b.Limit()/8 { // enough to close the bucket
			a.dispute(now, &b.unseen, holder)
			freed = true // for others, and soon
		}
	}
	return freed
}
