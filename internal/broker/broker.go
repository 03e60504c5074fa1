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

// DomainConfig describes a domain, whose pools share quota groups: the engine's part, and
// what the engine need not know. Most domains have one pool. The domain's name is the name
// of its record, so it stays what it is while the domain's other pools come and go.
type DomainConfig struct {
	pool.Config
	Pools []PoolConfig // in the place of the engine's
	// StateLost counts every limit as used up, whatever the record says, and voids all
	// earlier lease ids. It is for a store that was lost or replaced by an old copy.
	StateLost bool
	// OnEvent, if set, is called with each event that people should hear of. It must
	// not block.
	OnEvent func(pool.Event)
	// OnStore, if set, is called with an error when the store stops answering, and with
	// nil when it answers again. It must not block, nor call the broker.
	OnStore func(error)
}

// engine returns the engine's part of the configuration.
func (c *DomainConfig) engine() pool.Config {
	cfg := c.Config
	cfg.Pools = nil
	for _, p := range c.Pools {
		cfg.Pools = append(cfg.Pools, p.Rules)
	}
	return cfg
}

// longest returns the largest of the pools' times.
func (c *DomainConfig) longest(of func(*PoolConfig) time.Duration) (most time.Duration) {
	for i := range c.Pools {
		most = max(most, of(&c.Pools[i]))
	}
	return most
}

// PoolConfig describes a pool of a domain.
type PoolConfig struct {
	pool.Rules
	BaseURL    string        // of the provider's API
	Fallback   []string      // names of pools to try next, in this order
	DefaultTTL time.Duration // of a lease whose holder asks for no other
	MaxTTL     time.Duration // the longest time to live that may be asked for
	MaxWait    time.Duration // the longest time that a call may wait
}

// Broker leases keys from its pools. It is safe for concurrent use.
type Broker struct {
	owners []*owner     // one for each domain
	pools  []*ownedPool // in the order of the configuration
	byName map[string]*ownedPool
	byHash map[uint64]*ownedPool // by the pool.Hash of the name, which lease ids have
	signer *signer
	cancel context.CancelFunc // ends all owners
}

// ownedPool is one pool of an owner.
type ownedPool struct {
	*owner
	cfg  *PoolConfig
	hash uint64 // the pool.Hash of its name
}

// draws reports whether the pool draws on a quota group of its domain.
func (p *ownedPool) draws(group string) bool {
	return len(p.cfg.Groups) == 0 || slices.Contains(p.cfg.Groups, group)
}

// New claims the domains and starts their owners, which go on until the context ends, or
// Stop. Names of domains and of pools are unique, and fallbacks exist. The errors are those
// of the store, of records that cannot be read, and of pool.New.
func New(ctx context.Context, store Store, domains []DomainConfig) (*Broker, error) {
	b := &Broker{owners: make([]*owner, len(domains)), byName: map[string]*ownedPool{}, byHash: map[uint64]*ownedPool{}}
	ctx, cancel := context.WithCancel(ctx)
	b.cancel = cancel
	lost := slices.ContainsFunc(domains, func(c DomainConfig) bool { return c.StateLost })
	signer, err := startSigner(ctx, store, lost)
	if err == nil {
		err = atOnce(domains, func(i int, cfg DomainConfig) (err error) {
			if b.owners[i], err = newOwner(ctx, store, cfg); err != nil {
				return fmt.Errorf("domain %q: %w", cfg.Name, err)
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
		for i := range o.cfg.Pools {
			p := &ownedPool{o, &o.cfg.Pools[i], pool.Hash(o.cfg.Pools[i].Name)}
			b.pools = append(b.pools, p)
			b.byName[p.cfg.Name] = p
			b.byHash[p.hash] = p
		}
	}
	return b, nil
}

// Has reports whether the pool exists and, unless keyID is empty, whether that key is in one of
// the quota groups that the pool draws on.
func (b *Broker) Has(name, keyID string) bool {
	p := b.byName[name]
	return p != nil && (keyID == "" || slices.ContainsFunc(p.owner.cfg.Keys, func(k pool.Key) bool {
		return k.ID == keyID && p.draws(k.GroupName())
	}))
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
			return fmt.Errorf("domain %q: save its last record: %w", o.cfg.Name, err)
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
