package pool

// Reservations: what the first in line wait for, and nobody behind them may take. They
// are made anew with each pass over the line; queue.go says when, search.go asks them.

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const (
	// maxReservations and maxChoice bound how many in line have reservations, and the
	// groups among which each chooses.
	maxReservations = 8
	maxChoice       = 64
	// longBefore is by how much a holder's second reservation must end before its first.
	longBefore = time.Minute
)

// reservation is what one of the first in line waits for. Those behind it may take of it
// only what does not make it wait longer.
type reservation struct {
	account *account
	key     *key // if it waits for the limits of one key
	ask     *provider.Amounts
	until   Time
	holder  string // whose it is
}

// reserve gives one of the first in line the account, of those not reserved yet, where it
// will fit first. There is at most one reservation a holder; a second is allowed if it
// ends at least longBefore earlier than the first. Each ask is searched for anew: what is
// remembered of smaller asks would move a large ask from group to group. Among equals the
// ask keeps its last account; found is looked at first after that.
func (dom *Domain) reserve(now Time, ch *choice, w *Waiter, had []reservation, found *account) {
	q := &ch.queue
	before := Never // by which a second one must end
	for i := range q.reservations {
		if o := &q.reservations[i]; o.holder == w.Ask.Holder {
			if before < Never || o.until <= now.Add(longBefore) {
				return
			}
			before = o.until.Add(-longBefore)
		}
	}
	s := dom.search(now, ch, &w.Ask)
	best := reservation{ask: &w.Ask.Amounts, holder: w.Ask.Holder, until: Never}
	look := func(a *account) {
		if slices.ContainsFunc(q.reservations, func(o reservation) bool { return o.account == a }) {
			return
		}
		f := s.fit(a)
		if a.disputable() && s.dom.fit(a, &s.ask, anybody).at < f.at { // what keeps it out alone is nothing that others wait for
			return
		}
		if f.at < best.until || f.byEvent && best.account == nil {
			best.account, best.key, best.until = a, f.key, f.at
		}
	}
	if w.Ask.demands() {
		if a := ch.demanded(&w.Ask.Preference); a != nil {
			look(a)
		}
		q.keep(best, before)
		return
	}
	for i := range had {
		if had[i].ask == &w.Ask.Amounts {
			look(had[i].account)
		}
	}
	if found != nil { // it may be far down the list
		look(found)
	}
	for _, g := range ch.pool.groups[:min(len(ch.pool.groups), maxChoice)] {
		look(g.accounts[ch.class.index])
	}
	q.keep(best, before)
}

// keep adds a reservation, unless there is nothing to wait for or it ends too late.
func (q *queue) keep(r reservation, before Time) {
	if r.account != nil && (r.until < before || before == Never) {
		q.reservations = append(q.reservations, r)
	}
}

// endReservations removes all reservations, and what is known because of them. It returns
// them; their slice is free to be used again.
func (ch *choice) endReservations() (had []reservation) {
	for _, t := range ch.tiers {
		t.forgetReserved()
	}
	had, ch.queue.reservations = ch.queue.reservations, nil
	return had
}

// fit says when the ask will fit an account, its keys included.
func (s *search) fit(a *account) fit {
	f := s.dom.fit(a, &s.ask, s.eye)
	keys := fit{at: Never}
	for _, seat := range a.group.seats {
		_, best, _ := seat.pick(s, a.class)
		keys.sooner(&best)
	}
	if keys.at > f.at && !f.never {
		return keys
	}
	return f
}

// reserved returns the reservation that keeps an ask from an account, nil if none does.
func (s *search) reserved(a *account) *reservation {
	for i := range s.reservations {
		if r := &s.reservations[i]; r.account == a && r.delayed(s.now, a.buckets, &s.ask) {
			return r
		}
	}
	return nil
}

// keyReserved reports whether a reservation keeps an ask from a key.
func (s *search) keyReserved(k *key, class *class) bool {
	for i := range s.reservations {
		if r := &s.reservations[i]; r.key == k && r.delayed(s.now, k.own(class), &s.ask) {
			return true
		}
	}
	return false
}

// delayed reports whether an ask would make the reservation's wait longer.
func (r *reservation) delayed(now Time, buckets []*bucket, ask *provider.Amounts) bool {
	for _, b := range buckets {
		n, first := ask[b.Dimension()], r.ask[b.Dimension()]
		if n == 0 || first == 0 || b.statedBy(r.holder) { // others do not wait for the one whose statement it is
			continue
		}
		if n > b.Limit()-first {
			return true
		}
		if at, byEvent := b.FitAt(now, n+first); byEvent || at > r.until {
			return true
		}
	}
	return false
}
