package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// call is an Acquire that cannot be answered at once: it is in the queue, or it is held
// until its lease is durable. It is answered exactly once.
type call struct {
	holder     string
	repeatable bool         // it has a request id, so another call may be given its lease
	place      *pool.Waiter // in the queue; nil if it never had one
	grant      pool.Grant   // while it is held
	gone       bool         // the caller has left
	done       chan answer  // of capacity 1
}

type answer struct {
	grant pool.Grant
	err   error
}

// requestKey identifies a call that may be repeated.
type requestKey struct{ pool, holder, request string }

var (
	errNotRepeated = errors.New("not granted before")
	errWaitEnded   = errors.New("wait ended")
)

func newCall(ask *pool.Ask) *call {
	return &call{holder: ask.Holder, repeatable: ask.Request != "", done: make(chan answer, 1)}
}

// grant makes an engineCall and returns the lease once it is durable. granted is true if the
// engine has granted a lease, also if that lease could not be made durable and has ended.
func (p *ownedPool) grant(ctx context.Context, r *Request, try engineCall) (grant pool.Grant, granted bool, err error) {
	ask := p.ask(r)
	var held *call
	run := func(l *locked, now pool.Time) { grant, held, err = l.grant(now, &ask, try) }
	if p.do(run); errors.Is(err, ErrStore) { // perhaps because nobody has asked for a while
		if err = p.confirmOwnership(ctx); err == nil {
			p.do(run)
		}
	}
	if held == nil {
		return grant, err == nil, err
	}
	grant, err = p.await(ctx, held, nil)
	return grant, true, err
}

// wait puts a call in the queue and returns its lease, or errWaitEnded after limit.
func (p *ownedPool) wait(ctx context.Context, r *Request, limit time.Duration) (pool.Grant, error) {
	ask := p.ask(r)
	var c *call
	var err error
	p.do(func(l *locked, now pool.Time) { c, err = l.enqueue(now, &ask) })
	if err != nil {
		return pool.Grant{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	return p.await(ctx, c, timer.C)
}

// await returns the answer to a call. If the caller leaves or the time is over before
// that, the call is withdrawn.
func (o *owner) await(ctx context.Context, c *call, over <-chan time.Time) (pool.Grant, error) {
	var err error
	select {
	case a := <-c.done:
		return a.grant, a.err
	case <-over:
		err = errWaitEnded
	case <-ctx.Done():
		err = ctx.Err()
	}
	o.do(func(l *locked, now pool.Time) { l.withdraw(now, c) })
	select {
	case a := <-c.done: // it was answered at the last moment
		return a.grant, a.err
	default:
		return pool.Grant{}, err
	}
}

// enqueue puts an ask in the engine's queue. A call that is repeated while it waits takes
// over the place of the earlier call, which fails with ErrSuperseded.
func (l *locked) enqueue(now pool.Time, ask *pool.Ask) (*call, error) {
	if err := l.mayGrant(now); err != nil {
		return nil, err
	}
	c, key := newCall(ask), requestKey{ask.Pool, ask.Holder, ask.Request}
	if c.repeatable {
		if g, err := l.repeated(now, *ask); err == nil {
			l.deliver(c, &g, ask.TTL)
			return c, nil
		}
		if c.place = l.byRequest[key]; c.place != nil {
			l.queue[c.place].done <- answer{err: ErrSuperseded}
			l.queue[c.place] = c
			return c, nil
		}
	}
	w, err := l.engine.Wait(now, *ask)
	if err != nil {
		return nil, explain(now, ask, err)
	}
	c.place, l.queue[w] = w, c
	if c.repeatable {
		l.byRequest[key] = w
	}
	return c, nil
}

// leaveQueue forgets a call that the engine has served or that was cancelled there.
func (l *locked) leaveQueue(w *pool.Waiter) *call {
	c := l.queue[w]
	delete(l.queue, w)
	if c.repeatable {
		delete(l.byRequest, requestKey{w.Ask.Pool, w.Ask.Holder, w.Ask.Request})
	}
	return c
}

// deliver answers a call with a lease, or holds the answer until the lease is durable.
func (l *locked) deliver(c *call, g *pool.Grant, ttl time.Duration) {
	if l.saves.durable(g, ttl) {
		c.done <- answer{grant: *g}
	} else {
		l.hold(c, g)
	}
}

// hold keeps the answer to a call back until the next save.
func (l *locked) hold(c *call, g *pool.Grant) {
	c.grant = *g
	l.saves.held = append(l.saves.held, c)
	l.wakeUpkeep()
}

// resolve answers a call that was held for a save. err is the outcome of the save. A
// lease that is not given out ends as unused.
func (l *locked) resolve(now pool.Time, c *call, err error) {
	switch {
	case errors.Is(err, ErrFenced):
		err = ErrNotOwner
	case errors.Is(err, ErrNotOwner), errors.Is(err, ErrDraining):
	case err != nil:
		err = ErrStore
	case now >= c.grant.StartBy, !l.engine.MarkDurable(c.grant.Lease):
		err = ErrStore // it is too late to use it, or it ended while it was held
	}
	if err != nil || c.gone && !c.repeatable {
		l.endUnused(now, c.grant.Lease, c.holder)
	}
	if err != nil {
		c.done <- answer{err: err}
	} else {
		c.done <- answer{grant: c.grant}
	}
}

// withdraw takes back a call whose caller does not wait any more. It changes nothing if
// the call has been answered, or if a repetition has taken over its place.
func (l *locked) withdraw(now pool.Time, c *call) {
	c.gone = true // for a save that is under way
	if i := slices.Index(l.saves.held, c); i >= 0 {
		l.saves.held = slices.Delete(l.saves.held, i, i+1)
		if !c.repeatable {
			l.endUnused(now, c.grant.Lease, c.holder)
		}
		return
	}
	if c.place != nil && l.queue[c.place] == c {
		l.engine.Cancel(c.place)
		l.leaveQueue(c.place)
	}
}

// supersede fails the call that waits with a request id, because another pool has granted
// a lease to its repetition.
func (l *locked) supersede(key requestKey) {
	if w := l.byRequest[key]; w != nil {
		l.cancel(w, ErrSuperseded)
	}
}

// cancel takes a call out of the queue and answers it with an error.
func (l *locked) cancel(w *pool.Waiter, err error) {
	l.engine.Cancel(w)
	l.leaveQueue(w).done <- answer{err: err}
}

// emptyQueue answers all calls in the queue with an error, and wakes those that wait for the
// store, which then learn for themselves that nothing is granted any more.
func (l *locked) emptyQueue(err error) {
	for w := range l.queue {
		l.cancel(w, err)
	}
	l.wakeConfirming()
}

// turnAway answers all calls with an error: those in the queue, those that wait for the store,
// and those that are held.
func (l *locked) turnAway(now pool.Time, err error) {
	l.emptyQueue(err)
	for _, c := range l.saves.held {
		l.resolve(now, c, err)
	}
	l.saves.held = nil
}
