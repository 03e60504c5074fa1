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
	Holder string
	// Instance tells which process of the holder asks; it may be empty. Instances of one
	// holder take turns.
	Instance string
	// Pool is the pool to lease from. If it is empty, every pool that serves Model will
	// do, in the order of the configuration.
	Pool    string
	Model   string
	Demand  provider.Demand // of one request
	MaxWait time.Duration   // how long the call may wait; the pool's MaxWait bounds it
	TTL     time.Duration   // of the lease; 0 means the pool's DefaultTTL
	Exclude []string        // ids of keys that are not to be leased
	// Request, if not empty, identifies the call: the same holder gets the same lease
	// when it repeats the call.
	Request string
	Count   int // how many requests the lease is to be good for; fewer may be granted
	// May reports whether the holder may use a pool, and its caps there. Nil allows
	// every pool. A pool that the holder may not use counts as unknown.
	May func(pool string) (pool.Caps, bool)
}

// Lease is what a holder gets.
type Lease struct {
	ID       string
	Pool     *PoolConfig
	Dialect  *provider.Dialect
	Key      string // the id of the key
	Requests int    // how many requests the lease is good for
	// StartWithin is the time within which the request must be sent, and TTL the time
	// after which the lease ends without a report. Both count from the call of Acquire.
	// A client that counts from before it called is on the safe side.
	StartWithin, TTL time.Duration
	Waited           time.Duration
}

// Acquire leases a key from the first pool of the route that has room. If none has room
// and the caller waits, the call waits for one pool, and asks all of them again when its
// time is over. Acquire returns once the lease is durable. The errors are *ExhaustedError,
// *TooLargeError, ErrUnknownPool, ErrTTL, ErrSuperseded, ErrDraining, ErrStore,
// ErrNotOwner, the context's, and those of pool.Acquire.
func (b *Broker) Acquire(ctx context.Context, r Request) (Lease, error) {
	start := time.Now()
	route, err := b.route(&r)
	if err != nil {
		return Lease{}, err
	}
	if cfg := route[0].cfg; r.TTL != 0 && (r.TTL < cfg.StartWithin || r.TTL > cfg.MaxTTL) {
		return Lease{}, fmt.Errorf("%w: from %v, its start_within, to %v", ErrTTL, cfg.StartWithin, cfg.MaxTTL)
	}
	p, grant, err := obtain(ctx, start, route, &r)
	if err == nil && ctx.Err() != nil { // the caller has gone
		err = ctx.Err()
		if r.Request == "" { // with a request id, another call may have the same lease
			p.do(func(l *locked, now pool.Time) { l.endUnused(now, grant.Lease, r.Holder) })
		}
	}
	if err != nil {
		p.countRefusal(err)
		return Lease{}, err
	}
	if r.Request != "" {
		for _, other := range route {
			if other != p { // the same call may wait there
				other.do(func(l *locked, _ pool.Time) { l.supersede(requestKey{other.cfg.Name, r.Holder, r.Request}) })
			}
		}
	}
	waited := floorMillisecond(p.origin.Add(time.Duration(grant.Granted)).Sub(start))
	failpoint.At("before-answer")
	return Lease{
		ID:          b.signer.id(p.nameOf(&grant), r.Holder),
		Pool:        p.cfg,
		Dialect:     p.owner.cfg.Dialect,
		Key:         grant.Key,
		Requests:    grant.Count,
		StartWithin: grant.StartBy.Sub(grant.Granted) + waited,
		TTL:         grant.Expires.Sub(grant.Granted) + waited,
		Waited:      max(waited, 0),
	}, nil
}

// route lists the pools to try in order: the pool that was asked for and its fallbacks,
// or all pools that serve the model. Pools that the holder may not use are left out.
func (b *Broker) route(r *Request) ([]*ownedPool, error) {
	var route []*ownedPool
	if r.Pool == "" {
		for _, p := range b.pools {
			if p.cfg.Serves(r.Model) && r.allowed(p) {
				route = append(route, p)
			}
		}
	} else if p := b.byName[r.Pool]; p != nil && r.allowed(p) {
		route = append(route, p)
		for _, name := range p.cfg.Fallback {
			if f := b.byName[name]; r.allowed(f) {
				route = append(route, f)
			}
		}
	}
	if len(route) == 0 {
		return nil, ErrUnknownPool
	}
	return route, nil
}

func (r *Request) allowed(p *ownedPool) bool {
	if r.May == nil {
		return true
	}
	_, ok := r.May(p.cfg.Name)
	return ok
}

// obtain gets a lease from some pool of the route: the one that the same call was granted
// before, else one that is granted now, else one that is worth waiting for. With an
// error, the pool is the one that the error is about.
func obtain(ctx context.Context, start time.Time, route []*ownedPool, r *Request) (*ownedPool, pool.Grant, error) {
	if r.Request != "" {
		for _, p := range route {
			if grant, granted, err := p.grant(ctx, r, (*locked).repeated); granted {
				return p, grant, err
			}
		}
	}
	p, grant, err := tryEach(ctx, route, r)
	if err == nil || !worthWaiting(err) {
		return p, grant, err
	}
	limit := waitLimit(ctx, start, min(r.MaxWait, p.cfg.MaxWait))
	if limit <= 0 {
		return p, grant, err
	}
	if grant, err = p.wait(ctx, r, limit); errors.Is(err, errWaitEnded) {
		return tryEach(ctx, route, r)
	}
	return p, grant, err
}

// tryEach asks each pool of the route once. If none grants a lease, it returns the first
// pool that is worth waiting for and that pool's error, or else the route's first pool
// and its error.
func tryEach(ctx context.Context, route []*ownedPool, r *Request) (*ownedPool, pool.Grant, error) {
	var first *ownedPool
	var reason error
	for _, p := range route {
		grant, _, err := p.grant(ctx, r, (*locked).acquire)
		if err == nil {
			return p, grant, nil
		}
		if first == nil || worthWaiting(err) && !worthWaiting(reason) {
			first, reason = p, err
		}
	}
	return first, pool.Grant{}, reason
}

// worthWaiting reports whether time alone may bring room.
func worthWaiting(err error) bool {
	var e *ExhaustedError
	return errors.As(err, &e) && !e.NoUsableKey
}

// answerTime is how long before the caller's deadline a wait ends, so that the answer
// still reaches the caller.
const answerTime = 50 * time.Millisecond

// waitLimit is how long a call that began at start may go on waiting: until the time asked for
// is over, or less if the caller's deadline comes earlier.
func waitLimit(ctx context.Context, start time.Time, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, deadline.Sub(start)-answerTime)
	}
	return limit - time.Since(start)
}

// ask puts a request in the engine's terms.
func (p *ownedPool) ask(r *Request) pool.Ask {
	ttl := r.TTL
	if ttl == 0 {
		ttl = p.cfg.DefaultTTL
	}
	var caps pool.Caps
	if r.May != nil {
		caps, _ = r.May(p.cfg.Name)
	}
	return pool.Ask{
		Pool: p.cfg.Name, Holder: r.Holder, Instance: r.Instance, Model: r.Model, Amounts: p.owner.cfg.Dialect.Reserve(r.Demand),
		TTL: min(max(ttl, p.cfg.StartWithin), p.cfg.MaxTTL), Exclude: r.Exclude, Request: r.Request, Count: r.Count,
		Caps: caps,
	}
}

// countRefusal counts a call that ended without a lease for want of room, which watchers are
// told.
func (p *ownedPool) countRefusal(err error) {
	if errors.Is(err, pool.ErrAllKeysExhausted) || errors.Is(err, pool.ErrHolderLimit) {
		p.do(func(l *locked, _ pool.Time) { l.refused[p.cfg.Name]++ })
	}
}

// floorMillisecond rounds down, which is on the safe side for what remains of a lease.
// The wait for a lease that was granted to an earlier call is negative.
func floorMillisecond(d time.Duration) time.Duration {
	f := d.Truncate(time.Millisecond)
	if f > d {
		f -= time.Millisecond
	}
	return f
}
