package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Bounds of a queue, and of the work of one pass over it: who is behind so many
// that do not fit waits for the next.
const (
	maxWaiters  = 100_000
	maxSearches = 128
	maxVisits   = 2048
	perHolder   = 8 // searches, so that one holder's misfits do not hide the others
)

// housekeeping is how late the end of a lease may be noticed while nobody waits.
const housekeeping = 100 * time.Millisecond

// Waiter is an ask that stands in line.
type Waiter struct {
	Ask   Ask
	Since Time
	Grant Grant // once it has been served

	class      *class
	line       *line
	prev, next *Waiter // of the same holder
	served     bool
}

// queue is the line of those who wait for one class. Holders are served in the
// order of what they were given so far: each grant moves its holder back by the
// largest part that it takes of any limit. Of one holder's waiters the oldest is
// first. A holder who comes new starts level with those who wait.
type queue struct {
	lines    heap[*line]      // of holders who wait
	byHolder map[string]*line // also of some who have just left
	pruneAt  int              // size of byHolder
	len      int
	holders  int              // with waiters
	least    provider.Amounts // no waiter asks for less
	now      int64            // virtual time
	due      bool             // something was freed since the last pass
	wake     Time             // somebody may fit then
	claims   []claim          // of the first in line
	had      []claim          // in the pass before
	aside    []*line
}

// line is one holder's place in a queue.
type line struct {
	first  *Waiter // oldest
	last   *Waiter
	cursor *Waiter // next to try in this pass
	tries  int     // searches in this pass
	pass   int64   // virtual time
	index  int32
}

func (l *line) place() *int32 { return &l.index }

// virtual is how much virtual time a full limit costs.
const virtual = 1 << 32

// Wait puts an ask in line, after Acquire has found no room for it. The waiter
// comes out of Next when it is served. The errors are those of Acquire that
// waiting does not cure, *HolderLimitError, and ErrQueueFull.
func (p *Pool) Wait(now Time, ask Ask) (*Waiter, error) {
	now = p.tick(now)
	c, err := p.class(ask.Model)
	if err != nil {
		return nil, err
	}
	p.expects(c, &ask)
	if c.exceeded(&ask.Amounts) {
		return nil, c.tooLarge(&ask.Amounts)
	}
	if err := p.capped(&ask); err != nil {
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

// Cancel takes a waiter out of its line. It reports false if it was served
// already; then its lease is the caller's to release.
func (p *Pool) Cancel(w *Waiter) bool {
	switch {
	case w.served:
		return false
	case w.line == nil: // it has been cancelled before
		return true
	}
	p.dequeue(w)
	w.class.queue.due = true // it may have been the first
	return true
}

// Next serves those who can be served, and gives them; and the moment at which
// it wants to be called again, Never if only another call can bring a change.
// The owner calls it after every other call. The slice is valid until the next
// call.
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
	if p.ghosts.len() > 0 && p.waiting > 0 {
		_, at := p.ghosts.min()
		wake = min(wake, Time(at))
	}
	if p.resting.len() > 0 && p.waiting > 0 {
		_, at := p.resting.min()
		wake = min(wake, Time(at))
	}
	served, p.served = p.served, p.served[:0]
	return served, wake
}

// serve goes along the line, and again if somebody was served behind the first:
// then another may be the first.
func (p *Pool) serve(now Time, c *class) {
	for c.queue.len > 0 && p.pass(now, c) {
	}
}

// pass goes along the line once. The first that do not fit claim the accounts where
// they will fit first; those behind them get what does not delay them.
func (p *Pool) pass(now Time, c *class) (again bool) {
	q := &c.queue
	q.due, q.wake = false, Never
	spare := q.had[:0]
	q.had, q.claims = c.unclaim(), spare
	for _, e := range q.lines.items {
		e.v.cursor, e.v.tries = e.v.first, 0
	}
	searches := 0
	for visits := 0; q.lines.len() > 0 && searches < maxSearches && visits < maxVisits; {
		l, _ := q.lines.min()
		w := l.cursor
		l.cursor = w.next
		m, full := c.known(now, &w.Ask.Amounts)
		if !full {
			s := p.search(now, c, &w.Ask)
			var ok bool
			if m, ok = s.run(c); ok {
				p.serveWaiter(now, w, &s)
				again = again || len(q.claims) > 0
			} else {
				searches++
				l.tries++
				full = true
			}
		}
		if full {
			visits++
			q.wake = min(q.wake, m.fit.at)
			if len(q.claims) < maxClaims {
				p.claim(now, c, w, q.had, m.account)
			}
			if least, none := c.known(now, &q.least); none { // there is no room for anybody
				q.wake = min(q.wake, least.fit.at)
				break
			}
		}
		if (l.cursor == nil || l.tries >= perHolder) && l.index >= 0 {
			q.lines.remove(l)
			q.aside = append(q.aside, l)
		}
	}
	for _, l := range q.aside {
		if l.first != nil {
			q.lines.push(l, l.pass)
		}
	}
	q.aside = q.aside[:0]
	return again
}

func (p *Pool) serveWaiter(now Time, w *Waiter, s *search) {
	w.Grant, w.served = p.lease(now, s, &w.Ask).grant(p), true
	p.served = append(p.served, w)
	p.dequeue(w)
}

func (p *Pool) enqueue(w *Waiter) {
	q := &w.class.queue
	h := p.hold(w.Ask.Holder)
	h.waiting++
	h.tokens += tokens(&w.Ask.Amounts)
	l := q.byHolder[h.name]
	if l == nil {
		q.prune()
		l = &line{index: -1}
		q.byHolder[h.name] = l
	}
	w.line = l
	if w.prev = l.last; l.last != nil {
		l.last.next = w
	} else {
		l.first = w
		q.now++ // of those who are level, the first to come is first
		l.pass = max(l.pass, q.now)
		q.lines.push(l, l.pass)
		q.holders++
	}
	l.last = w
	if q.len == 0 {
		q.least = w.Ask.Amounts
	}
	for d, n := range w.Ask.Amounts {
		q.least[d] = min(q.least[d], n)
	}
	q.len++
	p.waiting++
}

func (p *Pool) dequeue(w *Waiter) {
	q, l := &w.class.queue, w.line
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	if l.first == nil {
		q.holders--
		if l.index >= 0 {
			q.lines.remove(l)
		}
	}
	if q.len == 1 {
		q.had = w.class.unclaim()
	}
	w.prev, w.next, w.line = nil, nil, nil
	q.len--
	p.waiting--
	h := p.holders[w.Ask.Holder]
	h.waiting--
	h.tokens -= tokens(&w.Ask.Amounts)
	p.letGo(h)
}

// charge moves back in line who is given a part of a limit. Virtual time goes on by
// its share of a turn, so that whoever has waited for all the others' turns is level
// with a newcomer.
func (q *queue) charge(holder string, part float64) {
	if q.len == 0 && len(q.byHolder) == 0 {
		return
	}
	if line := q.byHolder[holder]; line != nil {
		q.now = max(q.now, q.moveBack(line, part))
	}
	q.passed(part)
}

// owes moves back in line who has used a part of a limit beyond what it was given. It
// may be far back already, so that is nobody's turn; and no more virtual time goes by
// than if twice as much had been given, as is usual where all guess.
func (q *queue) owes(l *lease, part float64) {
	if line := q.byHolder[l.holder.name]; line != nil {
		q.moveBack(line, part)
		q.passed(min(part, l.cost()))
		q.due = true // another may be the first
	}
}

// passed lets virtual time go on by a share of a part of a limit.
func (q *queue) passed(part float64) { q.now += int64(part*virtual) / int64(max(q.holders, 1)) }

// moveBack gives the place that the line had.
func (q *queue) moveBack(l *line, part float64) (from int64) {
	if l.first == nil { // it does not wait
		l.pass = max(l.pass, q.now)
	}
	from = l.pass
	l.pass += int64(part * virtual)
	if l.index >= 0 {
		q.lines.update(l, l.pass)
	}
	return from
}

// prune forgets holders who do not wait and whom virtual time has caught up
// with.
func (q *queue) prune() {
	if q.byHolder == nil {
		q.byHolder = map[string]*line{}
	}
	if len(q.byHolder) < max(q.pruneAt, 64) {
		return
	}
	for name, l := range q.byHolder {
		if l.first == nil && l.pass <= q.now {
			delete(q.byHolder, name)
		}
	}
	q.pruneAt = 2 * len(q.byHolder)
}
