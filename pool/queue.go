package pool

import "slices"

const (
	// maxWaiters bounds a queue.
	maxWaiters = 100_000
	// lookahead bounds how many waiters one pass over a queue tries. Behind so
	// many that do not fit, others wait for the next pass.
	lookahead = 128
)

// Waiter is an ask that stands in line.
type Waiter struct {
	Ask   Ask
	Since Time
	Grant Grant // once it has been served

	class      *class
	line       *line
	prev, next *Waiter // of the same holder
	served     bool
	last       memo // why it was not served when it was last tried
}

// queue is the line of those who wait for one class. Holders are served in the
// order of what they were given so far: each grant moves its holder back by the
// largest part that it takes of any limit. Of one holder's waiters the oldest is
// first. A holder who comes new starts level with whoever was served last.
type queue struct {
	lines    heap[*line]      // of holders who wait
	byHolder map[string]*line // also of some who have just left
	len      int
	now      int64 // virtual time: that of whoever was served last
	due      bool  // something was freed since the last pass
	wake     Time  // somebody may fit then
	aside    []*line
}

// line is one holder's place in a queue.
type line struct {
	holder string
	first  *Waiter // oldest
	last   *Waiter
	cursor *Waiter // next to try in this pass
	pass   int64   // virtual time
	index  int32
}

func (l *line) place() *int32 { return &l.index }

// virtual is how much virtual time a full limit costs.
const virtual = 1 << 32

// Wait puts an ask in line, after Acquire has found no room for it. The waiter
// comes out of Next when it is served. The errors are those of Acquire that
// waiting does not cure, and ErrQueueFull.
func (p *Pool) Wait(now Time, ask Ask) (*Waiter, error) {
	now = p.tick(now)
	c, err := p.class(ask.Model)
	if err != nil {
		return nil, err
	}
	if c.exceeded(&ask.Amounts) {
		return nil, c.tooLarge(&ask.Amounts)
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
	if p.waiting > 0 {
		for _, c := range p.inOrder {
			q := &c.queue
			if q.len == 0 {
				continue
			}
			if q.due || q.wake <= now {
				p.serve(now, c)
			}
			if q.len > 0 {
				wake = min(wake, q.wake)
			}
		}
	}
	if p.due.len() > 0 {
		_, at := p.due.min()
		wake = min(wake, Time(at))
	}
	if p.resting.len() > 0 && p.waiting > 0 {
		_, at := p.resting.min()
		wake = min(wake, Time(at))
	}
	served, p.served = p.served, p.served[:0]
	return served, wake
}

// serve goes along the line once. The first that does not fit claims the
// account where it will fit first; those behind it get what does not delay it.
func (p *Pool) serve(now Time, c *class) {
	q := &c.queue
	q.due, q.wake = false, Never
	for _, e := range q.lines.items {
		e.v.cursor = e.v.first
	}
	var first *claim
	for tried := 0; q.lines.len() > 0 && tried < lookahead; tried++ {
		l, _ := q.lines.min()
		w := l.cursor
		l.cursor = w.next
		lease, m := p.tryWaiter(now, w, first)
		if lease != nil {
			w.Grant, w.served = lease.grant(p), true
			p.served = append(p.served, w)
			p.dequeue(w)
		} else {
			w.last = *m
			q.wake = min(q.wake, m.fit.at)
			if first == nil && !m.fit.never {
				first = &claim{m.account, &w.Ask.Amounts, m.fit.at}
			}
		}
		if l.cursor == nil && l.index >= 0 {
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
}

// tryWaiter grants w a lease, or says when and where it will fit first.
func (p *Pool) tryWaiter(now Time, w *Waiter, first *claim) (*lease, *memo) {
	ask := &w.Ask
	s := search{now: now, ask: &ask.Amounts, exclude: ask.Exclude, only: p.only(), claim: first}
	m, ok := s.run(w.class)
	if ok {
		return p.lease(now, &s, ask), nil
	}
	return nil, &m
}

// acquireInLine lets an ask that does not wait take its place in line for one
// pass, so that it gets what nobody before it can use.
func (p *Pool) acquireInLine(now Time, c *class, ask *Ask) (*lease, error) {
	w := &Waiter{Ask: *ask, Since: now, class: c}
	p.enqueue(w)
	p.serve(now, c)
	if w.served {
		p.served = slices.DeleteFunc(p.served, func(v *Waiter) bool { return v == w })
		return p.leases[w.Grant.Lease], nil
	}
	p.dequeue(w)
	m := w.last
	if m.account == nil { // too far behind to be tried
		m.fit = fit{at: c.queue.wake, by: unconditional}
		m.usable = true
	}
	return nil, p.exhausted(c, &m, &ask.Amounts)
}

func (p *Pool) enqueue(w *Waiter) {
	q := &w.class.queue
	h := p.hold(w.Ask.Holder)
	l := q.byHolder[h.name]
	if l == nil {
		q.prune()
		l = &line{holder: h.name, index: -1}
		q.byHolder[h.name] = l
	}
	w.line = l
	if w.prev = l.last; l.last != nil {
		l.last.next = w
	} else {
		l.first = w
		l.pass = max(l.pass, q.now)
		q.lines.push(l, l.pass)
	}
	l.last = w
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
	if l.first == nil && l.index >= 0 {
		q.lines.remove(l)
	}
	w.prev, w.next, w.line = nil, nil, nil
	q.len--
	p.waiting--
	p.letGo(p.holders[w.Ask.Holder])
}

// charge moves the holder of a new lease back in line.
func (q *queue) charge(l *lease) {
	if len(q.byHolder) == 0 {
		return
	}
	line := q.byHolder[l.holder.name]
	if line == nil {
		return
	}
	q.now = max(q.now, line.pass)
	line.pass = q.now + int64(l.account.cost(&l.reserved)*virtual)
	if line.index >= 0 {
		q.lines.update(line, line.pass)
	}
}

// prune forgets holders who do not wait and whom virtual time has caught up
// with.
func (q *queue) prune() {
	if q.byHolder == nil {
		q.byHolder = map[string]*line{}
	}
	if len(q.byHolder) < 2*q.lines.len()+64 {
		return
	}
	for name, l := range q.byHolder {
		if l.first == nil && l.pass <= q.now {
			delete(q.byHolder, name)
		}
	}
}
