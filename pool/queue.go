package pool

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Bounds of a queue, and of the work of one pass over it: whoever stands behind so many
// that do not fit waits for the next pass.
const (
	maxWaiters  = 100_000
	maxSearches = 128
	maxVisits   = 2048
	perHolder   = 8 // searches, so that what does not fit of one holder does not hide the others
)

// housekeeping is how late the end of a lease may be noticed while nobody waits.
const housekeeping = 100 * time.Millisecond

// Waiter is an ask that stands in line.
type Waiter struct {
	Ask   Ask
	Since Time
	Err   error // why Reconfigure has taken it out of line

	choice     *choice
	number     int64 // in the order in which they came
	by         *instance
	turn       *turn   // of its instance, or of its holder while that has just one in line; nil when it is out of line
	prev, next *Waiter // of the same instance
	lease      *lease  // once it has been served
}

// Grant returns the lease that the waiter was served with; the zero value if it was not.
func (w *Waiter) Grant() Grant {
	if w.lease == nil {
		return Grant{}
	}
	return w.lease.grant()
}

// queue is the line of those who wait for one class. Holders are served in the order of
// virtual time; see turn.go. Of one instance's waiters the oldest is first.
type queue struct {
	turns        turns // of holders
	len          int
	least        provider.Amounts // no waiter asks for less
	due          bool             // something was freed since the last pass
	wake         Time             // somebody may fit then
	reservations []reservation    // of the first in line
	had          []reservation    // in the pass before
	given        int64            // virtual time among the lines of the domain
	until        int64            // where its turn ends
}

// Wait puts an ask in line, after Acquire has found no room for it. The waiter comes out
// of Next when it is served. The errors are those of Acquire that waiting does not cure,
// and ErrQueueFull.
func (dom *Domain) Wait(now Time, ask Ask) (*Waiter, error) {
	now = dom.tick(now)
	ch, err := dom.admit(&ask)
	if err != nil {
		return nil, err
	}
	if most := ask.Caps.Waiters; most > 0 {
		if h := dom.holders[holderKey{ch.pool, ask.Holder}]; h != nil && int(h.waiting) >= most {
			return nil, &HolderLimitError{"calls in line", int64(most)}
		}
	}
	if ch.queue.len >= maxWaiters {
		return nil, ErrQueueFull
	}
	dom.lastWaiter++
	w := &Waiter{Ask: ask, Since: now, choice: ch, number: dom.lastWaiter}
	dom.enqueue(w)
	ch.queue.due = true
	return w, nil
}

// Cancel takes a waiter out of its line. It returns false if the waiter was served
// already; then its lease is the caller's to release.
func (dom *Domain) Cancel(w *Waiter) bool {
	switch {
	case w.lease != nil:
		return false
	case w.turn == nil: // it has been cancelled before
		return true
	}
	dom.dequeue(w)
	w.choice.queue.due = true // it may have been the first
	return true
}

// Next serves those who can be served. It returns them, and when it wants to be called
// again: Never if only another call can bring a change. The owner calls it after every
// other call. The slice is valid until the next call.
func (dom *Domain) Next(now Time) (served []*Waiter, wake Time) {
	now = dom.tick(now)
	wake = Never
	for again := dom.waiting > 0; again; {
		again, wake = false, Never
		for _, ch := range dom.inTurn(now) {
			q := &ch.queue
			if q.len > 0 && (q.due || q.wake <= now) {
				n := len(dom.served)
				dom.serve(now, ch)
				again = again || len(dom.served) > n // a probe of one key may leave the next to the others
			}
			if q.len > 0 {
				wake = min(wake, q.wake)
			}
		}
	}
	if dom.due.len() > 0 {
		_, due := dom.due.min()
		at := Time(due)
		if dom.waiting == 0 { // nobody minds, and many are done at once
			at = at.Add(housekeeping)
		}
		wake = min(wake, at)
	}
	if dom.orphans.len() > 0 && dom.waiting > 0 {
		_, at := dom.orphans.min()
		wake = min(wake, Time(at))
	}
	if dom.resting.len() > 0 && dom.waiting > 0 {
		_, at := dom.resting.min()
		wake = min(wake, Time(at))
	}
	served, dom.served = dom.served, dom.served[:0]
	return served, wake
}

// turnOfLine is how much of a limit one line may be given while others wait as well: then it
// is the next one's turn.
const turnOfLine = virtual / 16

// inTurn returns the lines in which somebody waits, those first that have been given the
// least. Each may have its turn.
func (dom *Domain) inTurn(now Time) []*choice {
	lines := dom.lines[:0]
	for _, ch := range dom.choices {
		if ch.queue.len > 0 {
			lines = append(lines, ch)
		}
	}
	slices.SortStableFunc(lines, func(a, b *choice) int { return cmp.Compare(a.queue.given, b.queue.given) })
	others := 0
	for _, ch := range lines {
		if q := &ch.queue; q.due || q.wake <= now {
			others++
		}
	}
	for _, ch := range lines {
		ch.queue.until = math.MaxInt64
		if others > 1 {
			ch.queue.until = ch.queue.given + turnOfLine
		}
	}
	dom.lines = lines
	return lines
}

// serve goes along the line, and again if somebody was served behind the first: then
// another may be the first.
func (dom *Domain) serve(now Time, ch *choice) {
	for ch.queue.len > 0 && dom.pass(now, ch) {
	}
}

// pass goes along the line once. The first that do not fit reserve the accounts where
// they will fit first; those behind them get what does not delay them. It returns
// whether somebody was served behind a reservation.
func (dom *Domain) pass(now Time, ch *choice) (again bool) {
	q := &ch.queue
	q.due, q.wake = false, Never
	spare := q.had[:0]
	q.had, q.reservations = ch.endReservations(), spare
	q.turns.beginPass()
	searches := 0
	for visits := 0; q.turns.heap.len() > 0 && searches < maxSearches && visits < maxVisits; {
		t, w := q.turns.next()
		n, full := ch.knownFull(now, &w.Ask.Amounts)
		if !full {
			s := dom.search(now, ch, &w.Ask)
			var ok bool
			if n, ok = s.run(ch); ok {
				dom.serveWaiter(now, w, &s)
				again = again || len(q.reservations) > 0
				if q.given > q.until {
					q.due, again = true, false
					break
				}
			} else {
				searches++
				t.tries++
				full = true
			}
		}
		if full {
			visits++
			q.wake = min(q.wake, n.fit.at)
			if len(q.reservations) < maxReservations {
				dom.reserve(now, ch, w, q.had, n.account)
			}
			if least, none := ch.knownFull(now, &q.least); none { // there is no room for anybody
				q.wake = min(q.wake, least.fit.at)
				break
			}
		}
		if t.done() || t.tries >= perHolder {
			q.turns.setAside(t)
		}
	}
	q.turns.endPass()
	return again
}

func (dom *Domain) serveWaiter(now Time, w *Waiter, s *search) {
	w.lease = dom.grant(now, s, &w.Ask, w.by.hold())
	w.lease.given++
	dom.served = append(dom.served, w)
	dom.dequeue(w)
}

func (dom *Domain) enqueue(w *Waiter) {
	q := &w.choice.queue
	w.by = dom.hold(w.choice.pool, w.Ask.Holder, w.Ask.Instance)
	h := w.by.holder
	h.waiting++
	h.tokens += tokens(&w.Ask.Amounts)
	q.turns.add(w)
	if q.len == 0 {
		q.least = w.Ask.Amounts
		q.given, q.until = max(q.given, dom.given), math.MaxInt64 // level with the others
	}
	q.lower(&w.Ask.Amounts)
	q.len++
	w.choice.pool.waiting++
	dom.waiting++
}

// lower takes in that a waiter asks for so little.
func (q *queue) lower(ask *provider.Amounts) {
	for d, n := range ask {
		q.least[d] = min(q.least[d], n)
	}
}

func (dom *Domain) dequeue(w *Waiter) {
	q := &w.choice.queue
	q.turns.remove(w)
	if q.len == 1 {
		q.had = w.choice.endReservations()
	}
	q.len--
	w.choice.pool.waiting--
	dom.waiting--
	h := w.by.holder
	h.waiting--
	h.tokens -= tokens(&w.Ask.Amounts)
	dom.letGo(w.by)
}
