package pool

// Turns: in which order contenders are served. The contenders of a queue are holders; those
// of a holder with several instances in line are its instances. Each grant moves its
// contender back by the largest part that it takes of any limit. A contender who comes new
// starts level with those who wait.

// virtual is how much virtual time a full limit costs.
const virtual = 1 << 32

// turns is an order of contenders.
type turns struct {
	heap    heap[*turn]      // of those who wait
	byName  map[string]*turn // also of some who have just left
	pruneAt int              // size of byName
	waiting int              // how many wait
	now     int64            // virtual time
	aside   []*turn          // those who are done with in this pass
}

// turn is one contender's place, with its waiters.
type turn struct {
	// What every pass touches comes first, and lies together.
	first  *Waiter // oldest
	cursor *Waiter // next in this pass
	tries  int     // searches in this pass
	parts  *turns  // of the instances, if there are several; they have the waiters then
	pass   int64   // virtual time
	index  int32   // in the heap of those who wait

	last     *Waiter
	instance string // of all these waiters
	whole    *turn  // of the holder, if this is the turn of one of several instances
}

func (t *turn) place() *int32 { return &t.index }

// waits reports whether the contender stands in line.
func (t *turn) waits() bool { return t.first != nil || t.parts != nil }

// of returns a contender's turn, and makes it if need be.
func (ts *turns) of(name string) *turn {
	t := ts.byName[name]
	if t == nil {
		ts.prune()
		t = &turn{index: -1}
		ts.byName[name] = t
	}
	return t
}

// waits reports whether a contender stands in line.
func (ts *turns) waits(name string) bool {
	t := ts.byName[name]
	return t != nil && t.waits()
}

// enter puts a contender in line.
func (ts *turns) enter(t *turn) {
	ts.now++ // of those who are level, the first to come is first
	t.pass = max(t.pass, ts.now)
	ts.heap.push(t, t.pass)
	ts.waiting++
}

// leave takes a contender out of line.
func (ts *turns) leave(t *turn) {
	ts.waiting--
	if t.index >= 0 {
		ts.heap.remove(t)
	}
}

// add puts a waiter in line, behind the others of its instance.
func (ts *turns) add(w *Waiter) {
	t := ts.of(w.Ask.Holder)
	if !t.waits() {
		ts.enter(t)
		t.instance = w.Ask.Instance
	}
	if t.parts == nil && t.instance != w.Ask.Instance {
		t.split()
	}
	if t.parts != nil {
		p := t.parts.of(w.Ask.Instance)
		if p.whole = t; !p.waits() {
			t.parts.enter(p)
		}
		t = p
	}
	w.turn = t
	t.append(w)
}

// split gives each instance a turn of its own, from when a second one joins the line.
func (t *turn) split() {
	t.parts = &turns{}
	p := t.parts.of(t.instance)
	p.whole = t
	t.parts.enter(p)
	p.first, p.last, p.cursor = t.first, t.last, t.cursor
	for w := p.first; w != nil; w = w.next {
		w.turn = p
	}
	t.first, t.last, t.cursor = nil, nil, nil
}

// remove takes a waiter out of line.
func (ts *turns) remove(w *Waiter) {
	t := w.turn
	t.unlink(w)
	w.turn = nil
	if t.first != nil {
		return
	}
	if whole := t.whole; whole != nil {
		if whole.parts.leave(t); whole.parts.waiting > 0 {
			return
		}
		whole.parts = nil
		t = whole
	}
	ts.leave(t)
}

func (t *turn) append(w *Waiter) {
	if w.prev = t.last; t.last != nil {
		t.last.next = w
	} else {
		t.first = w
	}
	t.last = w
}

func (t *turn) unlink(w *Waiter) {
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
}

// all iterates over the waiters of a contender.
func (t *turn) all(yield func(*Waiter) bool) {
	if !t.each(yield) || t.parts == nil {
		return
	}
	for _, p := range t.parts.byName {
		if !p.each(yield) {
			return
		}
	}
}

func (t *turn) each(yield func(*Waiter) bool) bool {
	for w := t.first; w != nil; w = w.next {
		if !yield(w) {
			return false
		}
	}
	return true
}

// oldestSince is since when the oldest waiter of a contender has waited, Never without one.
func (t *turn) oldestSince() Time {
	oldest := Never
	if t.parts != nil {
		for _, p := range t.parts.byName {
			oldest = min(oldest, p.oldestSince())
		}
	} else if t.first != nil {
		oldest = t.first.Since
	}
	return oldest
}

// beginPass starts to go along the line.
func (ts *turns) beginPass() {
	for _, e := range ts.heap.items {
		t := e.v
		t.cursor, t.tries = t.first, 0
		if t.parts != nil {
			t.parts.beginPass()
		}
	}
}

// next returns the contender whose turn it is, and its next waiter. The line must not be
// done.
func (ts *turns) next() (*turn, *Waiter) {
	t, _ := ts.heap.min()
	if t.parts == nil {
		w := t.cursor
		t.cursor = w.next
		return t, w
	}
	p, w := t.parts.next()
	if p.cursor == nil {
		t.parts.setAside(p)
	}
	return t, w
}

// done reports whether a contender's waiters have all been tried in this pass.
func (t *turn) done() bool {
	if t.parts != nil {
		return t.parts.heap.len() == 0
	}
	return t.cursor == nil
}

// setAside takes a contender out of this pass.
func (ts *turns) setAside(t *turn) {
	if t.index >= 0 {
		ts.heap.remove(t)
		ts.aside = append(ts.aside, t)
	}
}

// endPass puts those back who were set aside.
func (ts *turns) endPass() {
	for _, t := range ts.aside {
		if t.waits() {
			ts.heap.push(t, t.pass)
		}
	}
	ts.aside = ts.aside[:0]
	for _, e := range ts.heap.items {
		if e.v.parts != nil {
			e.v.parts.endPass()
		}
	}
}

// charge moves a holder back in line that is given a part of a limit, and its instance
// among its own. Virtual time goes on by its share of a turn, so that whoever has waited
// for all the others' turns is level with a newcomer.
func (ts *turns) charge(holder, instance string, part float64) {
	if len(ts.byName) == 0 {
		return
	}
	if t := ts.byName[holder]; t != nil {
		if t.parts != nil {
			t.parts.charge(instance, "", part)
		}
		ts.now = max(ts.now, ts.moveBack(t, part))
	}
	ts.passed(part)
}

// owes moves a holder, and its instance, back by the part of a limit that it used beyond its
// reservation. Virtual time advances by at most given, the part that the lease took. It
// returns whether the holder has a turn.
func (ts *turns) owes(holder, instance string, part, given float64) bool {
	t := ts.byName[holder]
	if t == nil {
		return false
	}
	if t.parts != nil {
		t.parts.owes(instance, "", part, given)
	}
	ts.moveBack(t, part)
	ts.passed(min(part, given))
	return true
}

// passed lets virtual time go on by each contender's share of a part of a limit.
func (ts *turns) passed(part float64) { ts.now += int64(part*virtual) / int64(max(ts.waiting, 1)) }

// moveBack returns the place that the turn had.
func (ts *turns) moveBack(t *turn, part float64) (from int64) {
	if !t.waits() {
		t.pass = max(t.pass, ts.now)
	}
	from = t.pass
	t.pass += int64(part * virtual)
	if t.index >= 0 {
		ts.heap.update(t, t.pass)
	}
	return from
}

// prune forgets contenders who do not wait and whom virtual time has caught up with.
func (ts *turns) prune() {
	if ts.byName == nil {
		ts.byName = map[string]*turn{}
	}
	if len(ts.byName) < max(ts.pruneAt, 64) {
		return
	}
	for name, t := range ts.byName {
		if !t.waits() && t.pass <= ts.now {
			delete(ts.byName, name)
		}
	}
	ts.pruneAt = 2 * len(ts.byName)
}
