package broker

import (
	"time"

	"github.com/keybroker/keybroker/internal/record"
	"github.com/keybroker/keybroker/pool"
)

// locked is what an owner's lock protects. Its methods are called with the lock held:
// they neither lock nor block. now is the time at which the lock was taken.
type locked struct {
	cfg    *DomainConfig // never changes
	engine *pool.Domain

	timer *time.Timer // calls owner.do at wake
	wake  pool.Time   // when the engine wants to be called again

	queue     map[*pool.Waiter]*call      // the calls in the engine's queue
	byRequest map[requestKey]*pool.Waiter // those that have a request id
	closed    bool                        // no further call is let in

	ownership ownership
	saves     saves
	trouble   trouble
	recheck   chan struct{} // of capacity 1: upkeep is to look again what is due
	heard     chan struct{} // see wakeConfirming
	lost      chan struct{} // closed by fence

	refused   map[string]int64 // by pool: calls that ended without a lease for want of room
	watchers  map[chan struct{}]struct{}
	unchanged bool // the call under way has changed nothing that a watcher sees
}

// recover begins where the last record leaves off, or, after StateLost, as if all limits
// were used up. last is nil if there is no record.
func (l *locked) recover(now pool.Time, last *record.Record) {
	r := pool.Recovery{Overlap: permit, TTL: l.cfg.longest(func(p *PoolConfig) time.Duration { return p.MaxTTL }), Wall: time.Now()}
	var state *pool.State
	switch {
	case last == nil:
	case l.cfg.StateLost: // it may be an old copy, and leases granted since may live longer
		state, r.TTL = last.State, max(last.MaxTTL, r.TTL)
	default:
		state, r.TTL = last.State, max(last.MaxTTL, l.saves.longest)
	}
	l.engine.Recover(now, state, r)
	if l.cfg.StateLost {
		l.engine.RecoverLost(now, r)
	}
	if l.cfg.StateLost || last != nil { // the predecessor's leases may outlive this owner too
		l.saves.longest = r.TTL
	}
}

// engineCall is (*locked).acquire or (*locked).repeated.
type engineCall func(l *locked, now pool.Time, ask pool.Ask) (pool.Grant, error)

// grant makes an engineCall if this owner may grant. If the lease is not durable, it is
// held, and grant returns the call that will be answered.
func (l *locked) grant(now pool.Time, ask *pool.Ask, try engineCall) (g pool.Grant, held *call, err error) {
	if err = l.mayGrant(now); err != nil {
		l.unchanged = true
		return g, nil, err
	}
	if g, err = try(l, now, *ask); err == nil && !l.saves.durable(&g, ask.TTL) {
		held = newCall(ask)
		l.hold(held, &g)
	}
	return g, held, err
}

// acquire asks the engine for a lease.
func (l *locked) acquire(now pool.Time, ask pool.Ask) (pool.Grant, error) {
	g, err := l.engine.Acquire(now, ask)
	if err != nil { // explain allocates
		err = explain(now, &ask, err)
	}
	return g, err
}

// repeated returns the lease that an ask with the same request id was granted before. It
// serves the queue first, because the same ask may be about to be served there.
func (l *locked) repeated(now pool.Time, ask pool.Ask) (pool.Grant, error) {
	l.settle(now)
	if g, ok := l.engine.Repeated(now, ask); ok {
		return g, nil
	}
	return pool.Grant{}, errNotRepeated
}

// endUnused ends a lease that was not given out.
func (l *locked) endUnused(now pool.Time, id pool.LeaseID, holder string) {
	_ = l.engine.Release(now, id, holder, true) // the only error is that it has ended
}

// finish ends a call on the engine and returns the engine's events.
func (l *locked) finish(now pool.Time) []pool.Event {
	l.settle(now)
	if l.saves.changed(l.engine.Dirty()) {
		l.wakeUpkeep()
	}
	return l.engine.Events()
}

// settle serves the calls that can be served now, and wakes the watchers.
func (l *locked) settle(now pool.Time) {
	if len(l.queue) == 0 || l.refusal(now) == nil { // else the queue goes on waiting
		l.serve(now)
	}
	if l.unchanged {
		l.unchanged = false
		return
	}
	for c := range l.watchers {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last change
		}
	}
}

// serve answers the calls that the engine serves, and sets the timer.
func (l *locked) serve(now pool.Time) {
	served, wake := l.engine.Next(now)
	for _, w := range served {
		c := l.leaveQueue(w)
		g := w.Grant()
		l.deliver(c, &g, w.Ask.TTL)
	}
	if wake < l.wake || l.wake <= now {
		if l.wake = wake; wake == pool.Never || l.closed {
			l.timer.Stop()
		} else {
			l.timer.Reset(max(wake.Sub(now), 0))
		}
	}
}

// wakeUpkeep makes the upkeep goroutine look again what is due.
func (l *locked) wakeUpkeep() {
	select {
	case l.recheck <- struct{}{}:
	default:
	}
}
