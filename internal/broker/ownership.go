package broker

import (
	"context"
	"errors"
	"time"

	"github.com/keybroker/keybroker/pool"
)

const (
	// permit is how long the ownership lease lasts after the send time of the last store
	// call that succeeded. A successor counts on it as the overlap.
	permit = 2 * time.Second
	// renewEvery is how often the ownership lease is renewed while somebody asks for
	// leases.
	renewEvery = 500 * time.Millisecond
	// retryEvery is how soon the store is called again after a failure.
	retryEvery = 250 * time.Millisecond
)

// ownership is the state of the ownership lease.
type ownership struct {
	until  pool.Time // it ends then
	used   bool      // somebody has asked for a lease since the last renewal was sent
	fenced bool      // a successor has claimed the domain; this is final
}

// trouble is how the store's last answers were.
type trouble struct {
	save, renew error     // of the last call of each kind; nil if it succeeded
	at          pool.Time // of the last failure of either kind
	told        bool      // OnStore was told last that there is trouble
}

// mayGrant returns why nothing can be granted now, or nil. It starts the renewal of the
// ownership lease, which stops while nobody asks for leases.
func (l *locked) mayGrant(now pool.Time) error {
	if !l.ownership.used {
		l.ownership.used = true
		l.wakeUpkeep()
	}
	return l.refusal(now)
}

// refusal returns why nothing can be granted now, or nil.
func (l *locked) refusal(now pool.Time) error {
	switch {
	case l.closed:
		return ErrDraining
	case l.ownership.fenced:
		return ErrNotOwner
	case now >= l.ownership.until:
		return ErrStore
	}
	return nil
}

// confirmOwnership asks the store whether this owner still owns the domain, if the ownership
// lease has ended because nobody asked for leases. While the store does not answer, it
// returns ErrStore at once, because upkeep already asks it again and again.
func (o *owner) confirmOwnership(ctx context.Context) (err error) {
	var heard chan struct{}
	o.look(func(l *locked, now pool.Time) {
		err = l.mayGrant(now)
		if errors.Is(err, ErrStore) && l.trouble.err() == nil {
			heard = l.heard
			l.wakeUpkeep()
		}
	})
	if heard == nil {
		return err
	}
	select {
	case <-heard:
	case <-ctx.Done():
		return ctx.Err()
	}
	o.look(func(l *locked, now pool.Time) { err = l.mayGrant(now) })
	return err
}

// wakeConfirming makes the calls that wait in confirmOwnership look again: the store has
// answered, or this owner will not ask it any more.
func (l *locked) wakeConfirming() {
	close(l.heard)
	l.heard = make(chan struct{})
}

// renewAt is when the ownership lease is to be renewed.
func (l *locked) renewAt() pool.Time {
	at := pool.Never
	if l.ownership.used || len(l.queue) > 0 || l.trouble.renew != nil {
		at = l.ownership.until.Add(renewEvery - permit)
	}
	if l.trouble.renew != nil {
		at = max(at, l.trouble.at.Add(retryEvery))
	}
	return at
}

// answered takes in the store's answer to a store call that was sent at the time sent. It
// extends or ends the ownership lease, and serves the queue if it could not be served
// before. then does what is particular to the store call; if it reports a change, the queue
// is served and the watchers are woken.
func (o *owner) answered(sent pool.Time, err error, then func(l *locked, now pool.Time) (changed bool)) {
	var tell bool
	var trouble error
	o.look(func(l *locked, now pool.Time) {
		blocked := l.refusal(now) != nil
		switch {
		case err == nil:
			l.ownership.until = max(l.ownership.until, sent.Add(permit))
		case errors.Is(err, ErrFenced):
			l.fence(now)
		default:
			l.trouble.at = now
		}
		if then(l, now) || blocked && l.refusal(now) == nil && len(l.queue) > 0 {
			l.settle(now)
		}
		trouble = l.trouble.err()
		if tell = !l.ownership.fenced && (trouble != nil) != l.trouble.told; tell {
			l.trouble.told = trouble != nil
		}
		l.wakeConfirming()
	})
	if tell && o.cfg.OnStore != nil {
		o.cfg.OnStore(trouble)
	}
}

// fence ends the ownership for good, because a successor has claimed the domain.
func (l *locked) fence(now pool.Time) {
	l.ownership.fenced = true
	select {
	case <-l.lost: // both the store's watch and its answers may tell
	default:
		close(l.lost)
	}
	l.turnAway(now, ErrNotOwner)
}

// err joins the errors of the last calls.
func (t *trouble) err() error { return errors.Join(t.save, t.renew) }
