package pool

// Turns: in which order holders are served. Each grant moves its holder back by the
// largest part that it takes of any limit. A holder who comes new starts level with
// those who wait.

// virtual is how much virtual time a full limit costs.
const virtual = 1 << 32

// turn is one holder's place in a queue, with its waiters.
type turn struct {
	first  *Waiter // oldest
	last   *Waiter
	cursor *Waiter // next to try in this pass
	tries  int     // searches in this pass
	pass   int64   // virtual time
	index  int32   // in the heap of those who wait
}

func (t *turn) place() *int32 { return &t.index }

// turn returns a holder's turn, and makes it if need be.
func (q *queue) turn(holder string) *turn {
	t := q.byHolder[holder]
	if t == nil {
		q.prune()
		t = &turn{index: -1}
		q.byHolder[holder] = t
	}
	return t
}

// waits reports whether a holder stands in line.
func (q *queue) waits(holder string) bool {
	t := q.byHolder[holder]
	return t != nil && t.first != nil
}

func (t *turn) append(q *queue, w *Waiter) {
	if w.prev = t.last; t.last != nil {
		t.last.next = w
	} else {
		t.first = w
		q.now++ // of those who are level, the first to come is first
		t.pass = max(t.pass, q.now)
		q.turns.push(t, t.pass)
		q.holders++
	}
	t.last = w
}

func (t *turn) remove(q *queue, w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		t.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		t.last = w.prev
	}
	w.prev, w.next = nil, nil
	if t.first == nil {
		q.holders--
		if t.index >= 0 {
			q.turns.remove(t)
		}
	}
}

// charge moves a holder back in line that is given a part of a limit. Virtual time goes
// on by its share of a turn, so that whoever has waited for all the others' turns is
// level with a newcomer.
func (q *queue) charge(holder string, part float64) {
	if q.len == 0 && len(q.byHolder) == 0 {
		return
	}
	if t := q.byHolder[holder]; t != nil {
		q.now = max(q.now, q.moveBack(t, part))
	}
	q.passed(part)
}

// owes moves a holder back in line that has used a part of a limit beyond what it was
// given. It may be far back already, so this is nobody's turn. No more virtual time goes
// by than if twice as much had been given, as is usual where all guess.
func (q *queue) owes(l *lease, part float64) {
	if t := q.byHolder[l.holder.name]; t != nil {
		q.moveBack(t, part)
		q.passed(min(part, l.cost()))
		q.due = true // another may be the first
	}
}

// passed lets virtual time go on by each holder's share of a part of a limit.
func (q *queue) passed(part float64) { q.now += int64(part*virtual) / int64(max(q.holders, 1)) }

// moveBack returns the place that the turn had.
func (q *queue) moveBack(t *turn, part float64) (from int64) {
	if t.first == nil { // it does not wait
		t.pass = max(t.pass, q.now)
	}
	from = t.pass
	t.pass += int64(part * virtual)
	if t.index >= 0 {
		q.turns.update(t, t.pass)
	}
	return from
}

// prune forgets holders who do not wait and whom virtual time has caught up with.
func (q *queue) prune() {
	if q.byHolder == nil {
		q.byHolder = map[string]*turn{}
	}
	if len(q.byHolder) < max(q.pruneAt, 64) {
		return
	}
	for name, t := range q.byHolder {
		if t.first == nil && t.pass <= q.now {
			delete(q.byHolder, name)
		}
	}
	q.pruneAt = 2 * len(q.byHolder)
}
