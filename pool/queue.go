package pool

import (
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
	Grant Grant // once it has been served

	class      *class
	turn       *turn   // of its holder; nil when it is out of line
	prev, next *Waiter // of the same holder
	served     bool
}

// queue is the line of those who wait for one class. Holders are served in the order of
// virtual time; see turn.go. Of one holder's waiters the oldest is first.
type queue struct {
	turns        heap[*turn]      // of holders who wait
	byHolder     map[string]*turn // also of some who have just left
	pruneAt      int              // size of byHolder
	len          int
	holders      int              // with waiters
	least        provider.Amounts // no waiter asks for less
	now          int64            // virtual time
	due          bool             // something was freed since the last pass
	wake         Time             // somebody may fit then
	reservations []reservation    // of the first in line
	had          []reservation    // in the pass before
	aside        []*turn
}

// Wait puts an ask in line, after Acquire has found no room for it. The waiter comes out
// of Next when it is served. The errors are those of Acquire that waiting does not cure,
// and ErrQueueFull.
func (p *Pool) Wait(now Time, ask Ask) (*Waiter, error) {
	now = p.tick(now)
	c, err := p.admit(&ask)
	if err != nil {
		return nil, err
	}
	if h := p.holders[ask.Holder]; h != nil && ask.Caps.Waiters > 0 && h.waiting >= ask.Caps.Waiters {
		return nil, &HolderLimitError{"calls in line", int64(ask.Caps.Waiters)}
	}
	if c.queue.len >= maxWaiters {
		return nil, ErrQueueFull
	}
	w := &Waiter{Ask: ask, Since: now, class: c}
	p.enqueue(w)
	c.queue.due = true
	return w, nil
}

// Cancel takes a waiter out of its line. It returns false if the waiter was served
// already; then its lease is the caller's to release.
func (p *Pool) Cancel(w *Waiter) bool {
	switch {
	case w.served:
		return false
	case w.turn == nil: // it has been cancelled before
		return true
	}
	p.dequeue(w)
	w.class.queue.due = true // it may have been the first
	return true
}

// Next serves those who can be served. It returns them, and when it wants to be called
// again: Never if only another call can bring a change. The owner calls it after every
// other call. The slice is valid until the next call.
func (p *Pool) Next(now Time) (served []*Waiter, wake Time) {
	now = p.tick(now)
	wake = Never
	for again := p.waiting > 0; again; {
		again, wake = false, Never
		for _, c := range p.inOrder {
			q := &c.queue
			if q.len == 0 {
				continue
			}
			if q.due || q.wake <= now {
				n := len(p.served)
				p.serve(now, c)
				again = again || len(p.served) > n // a probe of one key may leave the next to the others
			}
			if q.len > 0 {
				wake = min(wake, q.wake)
			}
		}
	}
	if p.due.len() > 0 {
		_, at := p.due.min()
		if p.waiting == 0 { // nobody minds, and many are done at once
			at += int64(housekeeping)
		}
		wake = min(wake, Time(at))
	}
	if p.orphans.len() > 0 && p.waiting > 0 {
		_, at := p.orphans.min()
		wake = min(wake, Time(at))
	}
	if p.resting.len() > 0 && p.waiting > 0 {
		_, at := p.resting.min()
		wake = min(wake, Time(at))
	}
	served, p.served = p.served, p.served[:0]
	return served, wake
}

// serve goes along the line, and again if somebody was served behind the first: then
// another may be the first.
func (p *Pool) serve(now Time, c *class) {
	for c.queue.len > 0 && p.pass(now, c) {
	}
}

// pass goes along the line once. The first that do not fit reserve the accounts where
// they will fit first; those behind them get what does not delay them. It returns
// whether somebody was served behind a reservation.
func (p *Pool) pass(now Time, c *class) (again bool) {
	q := &c.queue
	q.due, q.wake = false, Never
	spare := q.had[:0]
	q.had, q.reservations = c.endReservations(), spare
	for _, e := range q.turns.items {
		e.v.cursor, e.v.tries = e.v.first, 0
	}
	searches := 0
	for visits := 0; q.turns.len() > 0 && searches < maxSearches && visits < maxVisits; {
		t, _ := q.turns.min()
		w := t.cursor
		t.cursor = w.next
		n, full := c.knownFull(now, &w.Ask.Amounts)
		if !full {
			s := p.search(now, c, &w.Ask)
			var ok bool
			if n, ok = s.run(c); ok {
				p.serveWaiter(now, w, &s)
				again = again || len(q.reservations) > 0
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
				p.reserve(now, c, w, q.had, n.account)
			}
			if least, none := c.knownFull(now, &q.least); none { // there is no room for anybody
				q.wake = min(q.wake, least.fit.at)
				break
			}
		}
		if (t.cursor == nil || t.tries >= perHolder) && t.index >= 0 {
			q.turns.remove(t)
			q.aside = append(q.aside, t)
		}
	}
	for _, t := range q.aside {
		if t.first != nil {
			q.turns.push(t, t.pass)
		}
	}
	q.aside = q.aside[:0]
	return again
}

func (p *Pool) serveWaiter(now Time, w *Waiter, s *search) {
	w.Grant, w.served = p.grant(now, s, &w.Ask).grant(p), true
	p.served = append(p.served, w)
	p.dequeue(w)
}

func (p *Pool) enqueue(w *Waiter) {
	q := &w.class.queue
	h := p.hold(w.Ask.Holder)
	h.waiting++
	h.tokens += tokens(&w.Ask.Amounts)
	w.turn = q.turn(h.name)
	w.turn.append(q, w)
	if q.len == 0 {
		q.least = w.Ask.Amounts
	}
	q.lower(&w.Ask.Amounts)
	q.len++
	p.waiting++
}

// lower takes in that a waiter asks for so little.
func (q *queue) lower(ask *provider.Amounts) {
	for d, n := range ask {
		q.least[d] = min(q.least[d], n)
	}
}

func (p *Pool) dequeue(w *Waiter) {
	q := &w.class.queue
	w.turn.remove(q, w)
	if q.len == 1 {
		q.had = w.class.endReservations()
	}
	w.turn = nil
	q.len--
	p.waiting--
	h := p.holders[w.Ask.Holder]
	h.waiting--
	h.tokens -= tokens(&w.Ask.Amounts)
	p.letGo(h)
}
