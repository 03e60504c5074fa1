// Package broker owns the pools: it gives the engine its lock, its clock and its
// timers, lets calls wait, tries one pool after another, and makes lease ids. It
// knows keys by name only.
package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	// Notify, if set, hears what people should hear of. It must not block.
	Notify func(pool.Notice)
}

// Broker leases keys from its pools. It is safe for concurrent use.
type Broker struct {
	owners []*owner
	byName map[string]*owner
	signer *signer
}

// New claims the pools and starts their owners. Names are unique, and
// fallbacks exist; the errors are those of the store and of pool.New.
func New(ctx context.Context, store Store, pools []PoolConfig) (*Broker, error) {
	b := &Broker{byName: map[string]*owner{}, signer: newSigner()}
	for i, cfg := range pools {
		epoch, err := store.Claim(ctx, cfg.Name)
		if err != nil {
			return nil, fmt.Errorf("claim pool %q: %w", cfg.Name, err)
		}
		o, err := newOwner(cfg, i, epoch)
		if err != nil {
			return nil, fmt.Errorf("pool %q: %w", cfg.Name, err)
		}
		b.owners = append(b.owners, o)
		b.byName[cfg.Name] = o
	}
	return b, nil
}

// Close refuses every further ask with ErrDraining, and those who wait. Leases
// can still be reported and released.
func (b *Broker) Close() {
	for _, o := range b.owners {
		o.close()
	}
}

// chain lists the pools to try: the one named and its fallbacks, or those that
// serve the model.
func (b *Broker) chain(r *Request) ([]*owner, error) {
	var chain []*owner
	if r.Pool == "" {
		for _, o := range b.owners {
			if o.engine.Serves(r.Model) {
				chain = append(chain, o)
			}
		}
	} else if o := b.byName[r.Pool]; o != nil {
		chain = append(chain, o)
		for _, name := range o.cfg.Fallback {
			chain = append(chain, b.byName[name])
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
}

// Report takes in an answer. With settled, the lease had ended and nothing has
// changed; otherwise ttl is how long it still lives without another report, 0
// after the final one. The only error is ErrUnknownLease.
func (b *Broker) Report(holder, leaseID string, r Report) (ttl time.Duration, settled bool, err error) {
	o, n, err := b.find(holder, leaseID)
	if err != nil || n.epoch != o.epoch {
		return 0, err == nil, err
	}
	dialect := o.cfg.Dialect
	r.Response.At = time.Now()
	signal := dialect.Read(r.Response)
	if noOutput(r.Response.Status) && r.Usage.Output == provider.Unknown {
		r.Usage.Output = 0
	}
	used := dialect.Count(r.Usage)
	if used[provider.Requests] = provider.Unknown; r.Requests > 0 {
		used[provider.Requests] = r.Requests
	}
	o.do(func(now pool.Time, e *pool.Pool) {
		report := e.Report
		if r.Last {
			report = e.ReportLast
		}
		var expires pool.Time
		if expires, err = report(now, n.lease, holder, signal, used, r.Final); err == nil {
			ttl = expires.Sub(now)
		}
	})
	return ttl, err != nil, nil // it has ended: the signature vouches for the rest
}

// noOutput reports whether a status means that the provider wrote no answer. A
// gateway in between does not know.
func noOutput(status int) bool {
	return status >= 400 && status != http.StatusBadGateway && status != http.StatusGatewayTimeout
}

// Release ends a lease; unused says that its request was never sent. With
// settled, it had ended already. The only error is ErrUnknownLease.
func (b *Broker) Release(holder, leaseID string, unused bool) (settled bool, err error) {
	o, n, err := b.find(holder, leaseID)
	if err != nil || n.epoch != o.epoch {
		return err == nil, err
	}
	o.do(func(now pool.Time, e *pool.Pool) {
		settled = e.Release(now, n.lease, holder, unused) != nil
	})
	return settled, nil
}

func (b *Broker) find(holder, leaseID string) (*owner, leaseName, error) {
	n, ok := b.signer.parse(leaseID, holder)
	if !ok || int(n.pool) >= len(b.owners) {
		return nil, n, ErrUnknownLease
	}
	return b.owners[n.pool], n, nil
}
