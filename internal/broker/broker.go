// Package broker owns the pools: it gives the engine its lock, its clock and its
// timers, lets calls wait, tries one pool after another, and makes lease ids. It
// knows keys by name only.
package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

var (
	// ErrUnknownPool is returned for a pool, or a model, that no pool serves.
	ErrUnknownPool = errors.New("no such pool")

	// ErrUnknownLease is returned for a lease id that was not made here for
	// this holder.
	ErrUnknownLease = errors.New("no such lease")

	// ErrDraining is returned once Close has been called.
	ErrDraining = errors.New("broker is shutting down")

	// ErrStore is returned while what is granted cannot be written down.
	ErrStore = errors.New("the store cannot be reached, and nothing is granted that might be forgotten")

	// ErrNotOwner is returned when another broker has taken over the pool.
	ErrNotOwner = errors.New("another broker owns the pool")

	// ErrTTL is returned for a time to live that the pool does not allow.
	ErrTTL = errors.New("not what the pool allows")

	// ErrSuperseded is returned to a waiting call when the same holder repeats
	// it with the same request id; the later call has its place in line.
	ErrSuperseded = errors.New("superseded by a call with the same request id")
)

// PoolConfig is a pool with what the engine need not know.
type PoolConfig struct {
	pool.Config
	BaseURL    string
	Fallback   []string // names of pools to try next
	DefaultTTL time.Duration
	MaxTTL     time.Duration
	MaxWait    time.Duration
	// StateLost takes all limits for used, whatever the record says, if there is one:
	// for a store that was lost, or is an old copy. Lease ids of before are void.
	StateLost bool
	// Notify, if set, hears what people should hear of. It must not block.
	Notify func(pool.Notice)
	// Stored, if set, hears when the store cannot be reached, and with nil when it
	// can again. It must not block, nor call the broker.
	Stored func(error)
}

// Broker leases keys from its pools. It is safe for concurrent use.
type Broker struct {
	owners []*owner
	byName map[string]*owner
	byHash map[uint64]*owner // of the name, as lease ids have it
	signer *signer
	cancel context.CancelFunc // ends all owners
}

// New claims the pools and starts their owners, which go on until the context
// ends, or Stop. Names are unique, and fallbacks exist; the errors are those of the
// store, of its records, and of pool.New.
func New(ctx context.Context, store Store, pools []PoolConfig) (*Broker, error) {
	b := &Broker{owners: make([]*owner, len(pools)), byName: map[string]*owner{}, byHash: map[uint64]*owner{}}
	ctx, cancel := context.WithCancel(ctx)
	b.cancel = cancel
	lost := slices.ContainsFunc(pools, func(c PoolConfig) bool { return c.StateLost })
	signer, err := startSigner(ctx, store, lost)
	if err == nil {
		err = atOnce(pools, func(i int, cfg PoolConfig) (err error) {
			if b.owners[i], err = newOwner(ctx, store, cfg); err != nil {
				return fmt.Errorf("pool %q: %w", cfg.Name, err)
			}
			return nil
		})
	}
	if err != nil { // the pools that have begun end in order
		b.owners = slices.DeleteFunc(b.owners, func(o *owner) bool { return o == nil })
		return nil, errors.Join(err, b.Stop(ctx))
	}
	b.signer = signer
	for _, o := range b.owners {
		b.byName[o.cfg.Name] = o
		b.byHash[o.hash] = o
	}
	return b, nil
}

// Has reports whether there is such a pool, and such a key of it unless that is "".
func (b *Broker) Has(name, key string) bool {
	o := b.byName[name]
	return o != nil && (key == "" || slices.ContainsFunc(o.cfg.Keys, func(k pool.Key) bool { return k.ID == key }))
}

// NameOf gives the pool and the key of a lease, empty if it is not the holder's.
func (b *Broker) NameOf(holder, leaseID string) (pool, key string) {
	o, n, err := b.find(holder, leaseID)
	if err != nil {
		return "", ""
	}
	return o.cfg.Name, o.keyIDs[n.key]
}

// TakeBack ends a lease that Acquire gave and whose key has not left, unless another
// call was given the same.
func (b *Broker) TakeBack(holder, leaseID string) {
	if o, n, err := b.find(holder, leaseID); err == nil {
		o.do(func(now pool.Time, e *pool.Pool) { e.TakeBack(now, n.lease, holder) })
	}
}

// Close refuses every further ask with ErrDraining, and those who wait. Leases
// can still be reported and released.
func (b *Broker) Close() {
	for _, o := range b.owners {
		o.close()
	}
}

// Stop is the end, after Close: it writes down what is used, so that whoever
// follows can go on from there. What is reported from now on is lost.
func (b *Broker) Stop(ctx context.Context) error {
	b.Close()
	defer b.cancel()
	return atOnce(b.owners, func(_ int, o *owner) error {
		if err := o.halt(ctx); err != nil {
			return fmt.Errorf("pool %q: save its last record: %w", o.cfg.Name, err)
		}
		return nil
	})
}

// atOnce does something for each, all at the same time, so that they share what a
// store takes to write; and gives the errors.
func atOnce[T any](all []T, f func(int, T) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, x := range all {
		wait.Go(func() { errs[i] = f(i, x) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// chain lists the pools to try: the one named and its fallbacks, or those that
// serve the model; of these, those that the holder may use.
func (b *Broker) chain(r *Request) ([]*owner, error) {
	var chain []*owner
	if r.Pool == "" {
		for _, o := range b.owners {
			if o.engine.Serves(r.Model) && r.may(o) {
				chain = append(chain, o)
			}
		}
	} else if o := b.byName[r.Pool]; o != nil && r.may(o) {
		chain = append(chain, o)
		for _, name := range o.cfg.Fallback {
			if f := b.byName[name]; r.may(f) {
				chain = append(chain, f)
			}
		}
	}
	if len(chain) == 0 {
		return nil, ErrUnknownPool
	}
	return chain, nil
}

// Report is what a holder tells of an answer.
type Report struct {
	Response provider.Response
	Usage    provider.Usage
	Requests int64 // sent so far, of a lease that is good for several; 0: all
	Last     bool  // no more will be sent
	Final    bool
	// May, if set, tells whether the holder may still use a pool. If not, the report is
	// taken in, but renews nothing.
	May func(pool string) bool
}

// Report takes in an answer. With settled, the lease had ended and nothing has
// changed; otherwise ttl is how long it still lives without another report, 0
// after the final one. The only error is ErrUnknownLease.
func (b *Broker) Report(holder, leaseID string, r Report) (ttl time.Duration, settled bool, err error) {
	o, n, err := b.find(holder, leaseID)
	if err != nil {
		return 0, false, err
	}
	if n.epoch != o.epoch {
		o.waitAlone()
	}
	dialect := o.cfg.Dialect
	r.Response.At = time.Now()
	signal := dialect.Read(r.Response)
	if provider.NoOutput(r.Response.Status) && r.Usage.Output == provider.Unknown {
		r.Usage.Output = 0
	}
	used := dialect.Count(r.Usage)
	if used[provider.Requests] = provider.Unknown; r.Requests > 0 {
		used[provider.Requests] = r.Requests
	}
	o.do(func(now pool.Time, e *pool.Pool) {
		var expires pool.Time
		if r.May != nil && n.epoch == o.epoch && !r.May(o.cfg.Name) {
			e.NoRenewal(n.lease)
		}
		switch {
		case n.epoch != o.epoch:
			expires, err = e.ReportOld(now, n.old(holder), signal, used, r.Final)
		case r.Last:
			expires, err = e.ReportLast(now, n.lease, holder, signal, used, r.Final)
		default:
			expires, err = e.Report(now, n.lease, holder, signal, used, r.Final)
		}
		if err == nil && !r.Final {
			ttl = expires.Sub(now)
		}
	})
	return ttl, err != nil, nil // it has ended: the signature vouches for the rest
}

// Release ends a lease; unused says that its request was never sent. With
// settled, it had ended already. The only error is ErrUnknownLease.
func (b *Broker) Release(holder, leaseID string, unused bool) (settled bool, err error) {
	o, n, err := b.find(holder, leaseID)
	if err != nil {
		return false, err
	}
	if n.epoch != o.epoch {
		o.waitAlone()
	}
	o.do(func(now pool.Time, e *pool.Pool) {
		if n.epoch == o.epoch {
			err = e.Release(now, n.lease, holder, unused)
		} else {
			_, err = e.ReportOld(now, n.old(holder), provider.Signal{}, unknownUse, true)
		}
	})
	return err != nil, nil
}

// unknownUse is a report that says nothing of what was used.
var unknownUse = func() (a provider.Amounts) {
	for d := range a {
		a[d] = provider.Unknown
	}
	return a
}()

func (b *Broker) find(holder, leaseID string) (*owner, leaseName, error) {
	n, ok := b.signer.parse(leaseID, holder)
	o := b.byHash[n.pool]
	if !ok || o == nil || n.epoch > o.epoch {
		return nil, n, ErrUnknownLease
	}
	return o, n, nil
}
