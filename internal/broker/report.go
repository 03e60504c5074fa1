package broker

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// Report is what a holder reports of the provider's answer.
type Report struct {
	Response provider.Response
	Usage    provider.Usage // since the grant
	Requests int64          // sent so far, of a lease that is good for several; 0 means all
	Last     bool           // no more requests will be sent
	Final    bool           // ends the lease
	// May reports whether the holder may still use a pool. Nil allows it. If it may
	// not, the report counts, but neither it nor a later one renews the lease.
	May func(pool string) bool
}

// Report takes in the provider's answer to a request of a lease. ttl is how long the
// lease lives without a further report, 0 after the final one. settled means that the
// lease had ended, and that nothing has changed. The errors are ErrUnknownLease and the
// context's, which means that the report was not taken in.
func (b *Broker) Report(ctx context.Context, holder, leaseID string, r Report) (ttl time.Duration, settled bool, err error) {
	p, name, err := b.find(holder, leaseID)
	if err != nil {
		return 0, false, err
	}
	ours := name.epoch == p.epoch // else a predecessor granted it
	if !ours {
		if err := p.waitOverlap(ctx); err != nil {
			return 0, false, err
		}
	}
	r.Response.At = time.Now()
	dialect := p.owner.cfg.Dialect
	signal, used := dialect.Read(r.Response), r.used(dialect)
	p.do(func(l *locked, now pool.Time) {
		if r.May != nil && ours && !r.May(p.cfg.Name) {
			l.engine.NoRenewal(name.lease)
		}
		var expires pool.Time
		switch {
		case !ours:
			expires, err = l.engine.ReportPredecessor(now, name.asPredecessors(holder), signal, used, r.Final)
		case r.Last:
			expires, err = l.engine.ReportLast(now, name.lease, holder, signal, used, r.Final)
		default:
			expires, err = l.engine.Report(now, name.lease, holder, signal, used, r.Final)
		}
		if err == nil && !r.Final {
			ttl = expires.Sub(now)
		}
	})
	return ttl, err != nil, nil // the signature was good, so the lease has ended
}

// used is what was used as the dialect counts it; provider.Unknown where the report does
// not say.
func (r *Report) used(d *provider.Dialect) provider.Amounts {
	usage := r.Usage
	if provider.NoOutput(r.Response.Status) && usage.Output == provider.Unknown {
		usage.Output = 0
	}
	used := d.Count(usage)
	if used[provider.Requests] = provider.Unknown; r.Requests > 0 {
		used[provider.Requests] = r.Requests
	}
	return used
}

// Release ends a lease. unused says that its request was never sent. settled means that
// the lease had ended before. The errors are those of Report.
func (b *Broker) Release(ctx context.Context, holder, leaseID string, unused bool) (settled bool, err error) {
	p, name, err := b.find(holder, leaseID)
	if err != nil {
		return false, err
	}
	ours := name.epoch == p.epoch // else a predecessor granted it
	if !ours {
		if err := p.waitOverlap(ctx); err != nil {
			return false, err
		}
	}
	p.do(func(l *locked, now pool.Time) {
		if ours {
			err = l.engine.Release(now, name.lease, holder, unused)
		} else {
			_, err = l.engine.ReportPredecessor(now, name.asPredecessors(holder), provider.Signal{}, unknownUse, true)
		}
	})
	return err != nil, nil
}

// unknownUse is a report that does not say what was used.
var unknownUse = func() (a provider.Amounts) {
	for d := range a {
		a[d] = provider.Unknown
	}
	return a
}()

// TakeBack ends, as unused, a lease that Acquire returned and whose key was not passed
// on. It does nothing if another call with the same request id was given the lease too.
func (b *Broker) TakeBack(holder, leaseID string) {
	if p, name, err := b.find(holder, leaseID); err == nil {
		p.do(func(l *locked, now pool.Time) { l.engine.TakeBack(now, name.lease, holder) })
	}
}

// NameOf returns the pool and the key id of a lease. Both are empty if the lease is not
// the holder's.
func (b *Broker) NameOf(holder, leaseID string) (pool, keyID string) {
	p, name, err := b.find(holder, leaseID)
	if err != nil {
		return "", ""
	}
	return p.cfg.Name, p.keyIDs[name.key]
}

// find checks a lease id and returns its pool. A lease with a later epoch than
// the owner's was granted by a successor, and is unknown here.
func (b *Broker) find(holder, leaseID string) (*ownedPool, leaseName, error) {
	name, ok := b.signer.parse(leaseID, holder)
	p := b.byHash[name.pool]
	if !ok || p == nil || name.epoch > p.epoch {
		return nil, name, ErrUnknownLease
	}
	return p, name, nil
}

// waitOverlap waits until the predecessor surely grants nothing any more. Until then it
// might count as ended a lease that this owner is about to renew. The only error is the
// context's.
func (o *owner) waitOverlap(ctx context.Context) error {
	wait := o.overlapEnd.Sub(o.now())
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
