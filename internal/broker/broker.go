package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// PoolConfig describes a pool: the engine's part, and what the engine need not know.
type PoolConfig struct {
	pool.Config
	BaseURL    string        // of the provider's API
	Fallback   []string      // names of pools to try next, in this order
	DefaultTTL time.Duration // of a lease whose holder asks for no other
	MaxTTL     time.Duration // the longest time to live that may be asked for
	MaxWait    time.Duration // the longest time that a call may wait
	// StateLost counts every limit as used up, whatever the record says, and voids all
	// earlier lease ids. It is for a store that was lost or replaced by an old copy.
	StateLost bool
	// OnEvent, if set, is called with each event that people should hear of. It must
	// not block.
	OnEvent func(pool.Notice)
	// OnStore, if set, is called with an error when the store stops answering, and with
	// nil when it answers again. It must not block, nor call the broker.
	OnStore func(error)
}

// Broker leases keys from its pools. It is safe for concurrent use.
type Broker struct {
	owners []*owner // in the order of the configuration
	byName map[string]*owner
	byHash map[uint64]*owner // by the pool.Hash of the name, which lease ids have
	signer *signer
	cancel context.CancelFunc // ends all owners
}

// New claims the pools and starts their owners, which go on until the context ends, or
// Stop. Pool names are unique, and fallbacks exist. The errors are those of the store,
// of records that cannot be read, and of pool.New.
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
	if err != nil { // the owners that have started save their last record
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

// Has reports whether the pool exists and, unless keyID is empty, has that key.
func (b *Broker) Has(name, keyID string) bool {
	o := b.byName[name]
	return o != nil && (keyID == "" || o.keyIDs[pool.Hash(keyID)] == keyID)
}

// Close makes every further Acquire, and every call that waits, fail with ErrDraining.
// Leases can still be reported and released.
func (b *Broker) Close() {
	for _, o := range b.owners {
		o.close()
	}
}

// Stop calls Close, ends all owners and saves their last records, from which a successor
// continues exactly. What is reported afterwards is lost.
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

// atOnce calls f for all elements concurrently, so that the store can write what they
// save together, and joins the errors.
func atOnce[T any](all []T, f func(int, T) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, x := range all {
		wait.Go(func() { errs[i] = f(i, x) })
	}
	wait.Wait()
	return errors.Join(errs...)
}
