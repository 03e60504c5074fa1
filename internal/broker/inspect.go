package broker

import (
	"context"
	"errors"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// View is a pool's state with what it takes to put its moments on the wall
// clock.
type View struct {
	Pool     *PoolConfig
	Snapshot pool.Snapshot // of Summary only, in a list
	Refused  int64

	now  pool.Time
	wall time.Time
}

// Wall puts a moment of the snapshot on the wall clock, as it is now.
func (v *View) Wall(t pool.Time) time.Time { return v.wall.Add(t.Sub(v.now)) }

// Future is Wall for a moment that matters only if it is still to come; else,
// or for Never, it gives the zero time.
func (v *View) Future(t pool.Time) time.Time {
	if t <= v.now || t == pool.Never {
		return time.Time{}
	}
	return v.Wall(t)
}

func (o *owner) view(f func(now pool.Time, e *pool.Pool) pool.Snapshot) View {
	v := View{Pool: &o.cfg}
	o.mu.Lock()
	defer o.mu.Unlock()
	v.now, v.wall = o.now(), time.Now()
	v.Snapshot, v.Refused = f(v.now, o.engine), o.refused
	return v
}

// List gives every pool at a glance, in the order of the configuration.
func (b *Broker) List() []View {
	var all []View
	for _, o := range b.owners {
		all = append(all, o.view(func(now pool.Time, e *pool.Pool) pool.Snapshot {
			return pool.Snapshot{Summary: e.Summary(now)}
		}))
	}
	return all
}

// Inspect gives one pool whole, or ErrUnknownPool.
func (b *Broker) Inspect(name string) (View, error) {
	o := b.byName[name]
	if o == nil {
		return View{}, ErrUnknownPool
	}
	return o.view(func(now pool.Time, e *pool.Pool) pool.Snapshot { return e.Inspect(now) }), nil
}

// ErrUnknownKey is returned for a key that a pool does not have.
var ErrUnknownKey = errors.New("no such key")

// Restore takes a key, or with "" all keys of a pool, back into use:
// ErrUnknownPool, ErrUnknownKey.
func (b *Broker) Restore(name, key string) (err error) {
	o := b.byName[name]
	if o == nil {
		return ErrUnknownPool
	}
	o.do(func(now pool.Time, e *pool.Pool) {
		if !e.Restore(now, key) {
			err = ErrUnknownKey
		}
	})
	return err
}

// Renewed takes note that a key of a pool has another value, if there is one.
func (b *Broker) Renewed(name, key string) {
	if o := b.byName[name]; o != nil {
		o.do(func(now pool.Time, e *pool.Pool) { e.Renewed(now, key) })
	}
}

// Leases lists up to limit open leases of a pool after the one given, oldest
// first, or ErrUnknownPool.
func (b *Broker) Leases(name string, after pool.LeaseID, limit int) (View, []pool.LeaseState, error) {
	o := b.byName[name]
	if o == nil {
		return View{}, nil, ErrUnknownPool
	}
	var leases []pool.LeaseState
	v := o.view(func(now pool.Time, e *pool.Pool) pool.Snapshot {
		leases = e.Leases(now, after, limit)
		return pool.Snapshot{}
	})
	return v, leases, nil
}

// Watch calls f with the pool's state, and again after changes, at most once in
// the interval, until the context ends or f fails, and gives that error; or
// ErrUnknownPool, or ErrDraining when the broker closes.
func (b *Broker) Watch(ctx context.Context, name string, interval time.Duration, f func(View) error) error {
	o := b.byName[name]
	if o == nil {
		return ErrUnknownPool
	}
	changed := make(chan struct{}, 1)
	o.mu.Lock()
	o.watchers[changed] = struct{}{}
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		delete(o.watchers, changed)
		o.mu.Unlock()
	}()
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
		if err := until(ctx, o, pause.C); err != nil {
			return err
		}
		if err := until(ctx, o, changed); err != nil {
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
	if o.closed() { // which may be why the context ended
		return ErrDraining
	}
	return ctx.Err()
}
