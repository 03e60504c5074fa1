package broker

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// View is a pool's state at one moment. Its methods put the moments of the snapshot on the
// wall clock.
type View struct {
	Domain   *DomainConfig
	Pool     *PoolConfig
	Snapshot pool.Snapshot // in a list, only its Summary is set
	Refused  int64         // calls that ended without a lease for want of room

	now  pool.Time
	wall time.Time
}

// Wall returns the wall-clock time of a moment, as the wall clock stood when the view was
// made.
func (v *View) Wall(t pool.Time) time.Time { return v.wall.Add(t.Sub(v.now)) }

// Future is Wall for a moment that matters only if it is still to come. It returns the
// zero time for a moment in the past and for pool.Never.
func (v *View) Future(t pool.Time) time.Time {
	if t <= v.now || t == pool.Never {
		return time.Time{}
	}
	return v.Wall(t)
}

func (p *ownedPool) view(f func(now pool.Time, e *pool.Domain) pool.Snapshot) View {
	v := View{Domain: &p.owner.cfg, Pool: p.cfg}
	p.look(func(l *locked, now pool.Time) {
		v.now, v.wall = now, time.Now()
		v.Snapshot, v.Refused = f(now, l.engine), l.refused[p.cfg.Name]
	})
	return v
}

// List returns a summary of every pool, in the order of the configuration.
func (b *Broker) List() []View {
	var all []View
	for _, p := range b.pools {
		all = append(all, p.view(func(now pool.Time, e *pool.Domain) pool.Snapshot {
			return pool.Snapshot{Summary: e.Summary(now, p.cfg.Name)}
		}))
	}
	return all
}

// Inspect returns the whole state of a pool. The only error is ErrUnknownPool.
func (b *Broker) Inspect(name string) (View, error) {
	p := b.byName[name]
	if p == nil {
		return View{}, ErrUnknownPool
	}
	return p.view(func(now pool.Time, e *pool.Domain) pool.Snapshot { return e.Inspect(now, name) }), nil
}

// Leases lists up to limit open leases of a pool in the order of their grants, after the
// one given; 0 begins with the oldest. The only error is ErrUnknownPool.
func (b *Broker) Leases(name string, after pool.LeaseID, limit int) (View, []pool.LeaseState, error) {
	p := b.byName[name]
	if p == nil {
		return View{}, nil, ErrUnknownPool
	}
	var leases []pool.LeaseState
	v := p.view(func(now pool.Time, e *pool.Domain) pool.Snapshot {
		leases = e.Leases(now, name, after, limit)
		return pool.Snapshot{}
	})
	return v, leases, nil
}

// Restore takes a key, or with an empty id all keys of the pool, back into use. The errors
// are ErrUnknownPool and ErrUnknownKey.
func (b *Broker) Restore(name, keyID string) (err error) {
	p := b.byName[name]
	if p == nil {
		return ErrUnknownPool
	}
	p.do(func(l *locked, now pool.Time) {
		if !l.engine.Restore(now, keyID) {
			err = ErrUnknownKey
		}
	})
	return err
}

// Renewed tells the engine that a key has another value. It does nothing if there is no
// such pool.
func (b *Broker) Renewed(name, keyID string) {
	if p := b.byName[name]; p != nil {
		p.do(func(l *locked, now pool.Time) { l.engine.Renewed(now, keyID) })
	}
}

// Watch calls f with the pool's state now, and again after changes, at most once in the
// interval. It ends with the context's error, the first error of f, ErrUnknownPool, or
// ErrDraining when the broker closes.
func (b *Broker) Watch(ctx context.Context, name string, interval time.Duration, f func(View) error) error {
	p := b.byName[name]
	if p == nil {
		return ErrUnknownPool
	}
	changed := make(chan struct{}, 1)
	p.look(func(l *locked, _ pool.Time) { l.watchers[changed] = struct{}{} })
	defer p.look(func(l *locked, _ pool.Time) { delete(l.watchers, changed) })
	pause := time.NewTimer(interval)
	defer pause.Stop()
	for {
		v, err := b.Inspect(name)
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
		pause.Reset(interval)
		if err := until(ctx, p.owner, pause.C); err != nil {
			return err
		}
		if err := until(ctx, p.owner, changed); err != nil {
			return err
		}
	}
}

// until waits for c, unless the owner closes or the context ends.
func until[T any](ctx context.Context, o *owner, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-o.closing:
		return ErrDraining
	case <-ctx.Done():
	}
	select {
	case <-o.closing: // this may be why the context ended
		return ErrDraining
	default:
		return ctx.Err()
	}
}
