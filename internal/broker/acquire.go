package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/internal/failpoint"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// Request is what a holder asks for.
type Request struct {
	Holder  string
	Pool    string // may be empty if Model is set
	Model   string
	Demand  provider.Demand
	MaxWait time.Duration // cut to the pool's longest
	TTL     time.Duration // 0: the pool's default
	Exclude []string
	Request string // makes the call repeatable
	Count   int    // requests that the lease is to be good for
	// May, if set, tells whether the holder may use a pool, and how much of it. Any
	// other is unknown to it.
	May func(pool string) (pool.Caps, bool)
}

func (r *Request) may(o *owner) bool {
	if r.May == nil {
		return true
	}
	_, ok := r.May(o.cfg.Name)
	return ok
}

// Lease is what it gets.
type Lease struct {
	ID   string
	Pool *PoolConfig
	Key  string // its id
	// Requests is how many it is good for.
	Requests int
	// StartWithin and TTL count from the moment the call came in, and so does a
	// client that counts from before it called, to be on the safe side.
	StartWithin, TTL time.Duration
	Waited           time.Duration
}

// answerTime is how long before the caller's deadline a wait ends, so that the
// answer still reaches it.
const answerTime = 50 * time.Millisecond

// ExhaustedError adds to the engine's error where and when, in terms of the
// caller.
type ExhaustedError struct {
	*pool.ExhaustedError
	Pool  string
	Retry time.Duration // from now; 0 if it is no use to ask again
}

// TooLargeError adds to the engine's error where.
type TooLargeError struct {
	*pool.TooLargeError
	Pool string
}

// Unwrap gives the engine's error.
func (e *TooLargeError) Unwrap() error { return e.TooLargeError }

// Unwrap gives the engine's error.
func (e *ExhaustedError) Unwrap() error { return e.ExhaustedError }

// Acquire leases a key: from the pool asked for or one of its fallbacks if one
// has room now; else, if the caller waits, from the pool asked for, or at the
// end from any of them. A lease is given out when it is written down, or need not
// be. The errors are *ExhaustedError, *TooLargeError, ErrUnknownPool, ErrTTL,
// ErrDraining, ErrStore, ErrNotOwner, ErrSuperseded, the context's, and those of
// pool.Acquire.
func (b *Broker) Acquire(ctx context.Context, r Request) (Lease, error) {
	start := time.Now()
	chain, err := b.chain(&r)
	if err != nil {
		return Lease{}, err
	}
	if cfg := &chain[0].cfg; r.TTL != 0 && (r.TTL < cfg.StartWithin || r.TTL > cfg.MaxTTL) {
		return Lease{}, fmt.Errorf("%w: from %v, its start_within, to %v", ErrTTL, cfg.StartWithin, cfg.MaxTTL)
	}
	o, grant, repeated, err := granted(ctx, chain, &r)
	if !repeated {
		o, grant, err = tryAll(ctx, chain, &r)
	}
	if errors.Is(err, pool.ErrAllKeysExhausted) {
		if until := waitUntil(ctx, start, min(r.MaxWait, o.cfg.MaxWait)); until > 0 && worthWaiting(err) {
			grant, err = o.wait(ctx, &r, until)
			if errors.Is(err, errWaitEnded) {
				o, grant, err = tryAll(ctx, chain, &r)
			}
		}
	}
	if err == nil && ctx.Err() != nil { // nobody is there to take it
		err = ctx.Err()
	}
	if err != nil && grant.Lease != 0 && r.Request == "" {
		o.do(func(now pool.Time, e *pool.Pool) { _ = e.Release(now, grant.Lease, r.Holder, true) })
	}
	if err != nil {
		o.noteRefused(err)
		if errors.Is(err, pool.ErrModelNotServed) {
			err = fmt.Errorf("%w: pool %q, model %q", err, o.cfg.Name, r.Model)
		}
		return Lease{}, err
	}
	if r.Request != "" {
		for _, other := range chain {
			if other != o {
				other.supersede(requestKey{r.Holder, r.Request})
			}
		}
	}
	waited := floor(o.origin.Add(time.Duration(grant.Granted)).Sub(start))
	failpoint.At("before-answer")
	return Lease{
		ID:          b.signer.id(o.name(&grant), r.Holder),
		Pool:        &o.cfg,
		Key:         grant.Key,
		Requests:    grant.Count,
		StartWithin: grant.StartBy.Sub(grant.Granted) + waited,
		TTL:         grant.Expires.Sub(grant.Granted) + waited,
		Waited:      max(waited, 0),
	}, nil
}

// floor rounds down to a millisecond: less is on the safe side, and easier to
// read. The wait for a lease that was granted to an earlier call is below zero.
func floor(d time.Duration) time.Duration {
	f := d.Truncate(time.Millisecond)
	if f > d {
		f -= time.Millisecond
	}
	return f
}

// granted finds the lease that a repeated call was given before, in any pool of
// the chain.
func granted(ctx context.Context, chain []*owner, r *Request) (found *owner, grant pool.Grant, ok bool, err error) {
	if r.Request == "" {
		return nil, grant, false, nil
	}
	for _, o := range chain {
		grant, err = o.grant(ctx, r, func(now pool.Time, e *pool.Pool, ask pool.Ask) (g pool.Grant, err error) {
			if g, ok = o.granted(now, ask); !ok {
				err = errNotRepeated
			}
			return g, err
		})
		if ok {
			return o, grant, true, err
		}
	}
	return nil, grant, false, nil
}

var errNotRepeated = errors.New("not granted before")

var errWaitEnded = errors.New("wait ended")

// waitUntil gives how long a call may stand in line.
func waitUntil(ctx context.Context, start time.Time, wait time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, deadline.Sub(start)-answerTime)
	}
	return wait
}

// worthWaiting reports whether time may bring room.
func worthWaiting(err error) bool {
	var e *ExhaustedError
	return errors.As(err, &e) && !e.NoUsableKey
}

// tryAll asks each pool once. Without room anywhere it gives the first pool
// where there may be some later, with its error; else the first pool's error.
func tryAll(ctx context.Context, chain []*owner, r *Request) (*owner, pool.Grant, error) {
	var first *owner
	var reason error
	for _, o := range chain {
		grant, err := o.try(ctx, r)
		if err == nil {
			return o, grant, nil
		}
		if first == nil || worthWaiting(err) && !worthWaiting(reason) {
			first, reason = o, err
		}
	}
	return first, pool.Grant{}, reason
}

func (o *owner) ask(r *Request) pool.Ask {
	ttl := r.TTL
	if ttl == 0 {
		ttl = o.cfg.DefaultTTL
	}
	var caps pool.Caps
	if r.May != nil {
		caps, _ = r.May(o.cfg.Name)
	}
	return pool.Ask{
		Holder: r.Holder, Model: r.Model, Amounts: o.cfg.Dialect.Reserve(r.Demand),
		TTL: min(max(ttl, o.cfg.StartWithin), o.cfg.MaxTTL), Exclude: r.Exclude, Request: r.Request, Count: r.Count,
		Caps: caps,
	}
}

func (o *owner) try(ctx context.Context, r *Request) (grant pool.Grant, err error) {
	return o.grant(ctx, r, func(now pool.Time, e *pool.Pool, ask pool.Ask) (pool.Grant, error) {
		g, err := e.Acquire(now, ask)
		return g, o.explain(now, err)
	})
}

// grant runs a call on the engine that may give a lease, and gives it as soon as
// that may be.
func (o *owner) grant(ctx context.Context, r *Request, f func(pool.Time, *pool.Pool, pool.Ask) (pool.Grant, error)) (grant pool.Grant, err error) {
	ask := o.ask(r)
	var mine *wait
	call := func(now pool.Time, e *pool.Pool) {
		if err = o.may(now); err != nil {
			o.unchanged = true
			return
		}
		if grant, err = f(now, e, ask); err == nil && o.uncovered(&grant, ask.TTL) {
			mine = &wait{done: make(chan answer, 1)}
			o.hold(held{mine, grant, ask.Holder, ask.Request != ""})
		}
	}
	if o.do(call); errors.Is(err, ErrStore) {
		if err = o.permitted(ctx); err == nil {
			o.do(call)
		}
	}
	if mine == nil {
		return grant, err
	}
	select {
	case a := <-mine.done:
		return a.grant, a.err
	case <-ctx.Done():
	}
	o.leave(nil, mine)
	select {
	case a := <-mine.done: // saved at the last moment
		return a.grant, a.err
	default:
		return pool.Grant{}, ctx.Err()
	}
}

// name is what the id of a lease says.
func (o *owner) name(g *pool.Grant) leaseName {
	return leaseName{
		pool: o.hash, epoch: o.epoch, lease: g.Lease,
		key: pool.Hash(g.Key), class: pool.Hash(g.Class),
		ttl: g.Expires.Sub(g.Granted), count: g.Count, reserved: g.Reserved,
	}
}

// explain turns the engine's moments into the caller's.
func (o *owner) explain(now pool.Time, err error) error {
	var exhausted *pool.ExhaustedError
	var large *pool.TooLargeError
	switch {
	case errors.As(err, &exhausted):
		e := &ExhaustedError{ExhaustedError: exhausted, Pool: o.cfg.Name}
		if exhausted.RetryAt != pool.Never {
			e.Retry = max(exhausted.RetryAt.Sub(now), time.Millisecond)
		}
		return e
	case errors.As(err, &large):
		return &TooLargeError{large, o.cfg.Name}
	case errors.Is(err, pool.ErrHolderLimit):
		return fmt.Errorf("pool %q: %w", o.cfg.Name, err)
	}
	return err
}

// wait stands in line until the call is served, or the time is over, or the
// caller is gone.
func (o *owner) wait(ctx context.Context, r *Request, limit time.Duration) (pool.Grant, error) {
	w, mine, err := o.line(o.ask(r))
	if err != nil {
		return pool.Grant{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a := <-mine.done:
		return a.grant, a.err
	case <-timer.C:
		err = errWaitEnded
	case <-ctx.Done():
		err = ctx.Err()
	}
	o.leave(w, mine)
	select {
	case a := <-mine.done: // served at the last moment
		return a.grant, a.err
	default:
		return pool.Grant{}, err
	}
}

func (o *owner) noteRefused(err error) {
	if errors.Is(err, pool.ErrAllKeysExhausted) || errors.Is(err, pool.ErrHolderLimit) {
		o.mu.Lock()
		o.refused++
		o.mu.Unlock()
	}
}
