package broker

import (
	"slices"
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

// at makes a view of the moment at which the lock was taken.
func (p *ownedPool) at(l *locked, now pool.Time) View {
	return View{Domain: &p.owner.cfg, Pool: p.cfg, Refused: l.refused[p.cfg.Name], now: now, wall: time.Now()}
}

// glance returns a view with the summary, and with what more adds. In a large pool the available
// keys are counted in several steps, between which others get the lock.
func (p *ownedPool) glance(more func(l *locked, now pool.Time, s *pool.Snapshot)) (v View) {
	var count pool.Count
	for done := false; !done; {
		p.look(func(l *locked, now pool.Time) {
			v = p.at(l, now)
			if v.Snapshot.Summary, done = l.engine.Glance(now, p.cfg.Name, &count); done {
				more(l, now, &v.Snapshot)
			}
		})
	}
	return v
}

// warnings lists the warnings about the quota groups that the pool draws on, and about all
// groups of its domain together.
func (p *ownedPool) warnings(l *locked) []pool.Warning {
	return slices.DeleteFunc(l.engine.Warnings(), func(w pool.Warning) bool { return w.Group != "" && !p.draws(w.Group) })
}

// List returns a summary of every pool, in the order of the configuration.
func (b *Broker) List() []View {
	var all []View
	for _, p := range b.pools {
		all = append(all, p.glance(func(*locked, pool.Time, *pool.Snapshot) {}))
	}
	return all
}

// Inspect returns the state of a pool, with a page of its keys and quotas. The errors are
// ErrUnknownPool and pool.ErrCursor.
func (b *Broker) Inspect(name string, q pool.Query) (View, error) {
	p := b.byName[name]
	if p == nil {
		return View{}, ErrUnknownPool
	}
	var err error
	v := p.glance(func(l *locked, now pool.Time, s *pool.Snapshot) {
		s.Queues, s.Warnings = l.engine.Queues(now, name), p.warnings(l)
		s.Page, err = l.engine.Page(now, name, q)
	})
	return v, err
}

// Page returns a page of a pool's keys and quotas alone. The errors are those of Inspect.
func (b *Broker) Page(name string, q pool.Query) (page pool.Page, err error) {
	p := b.byName[name]
	if p == nil {
		return page, ErrUnknownPool
	}
	p.look(func(l *locked, now pool.Time) { page, err = l.engine.Page(now, name, q) })
	return page, err
}

// Leases lists up to limit open leases of a pool in the order of their grants, after the
// one given; 0 begins with the oldest. The only error is ErrUnknownPool.
func (b *Broker) Leases(name string, after pool.LeaseID, limit int) (View, []pool.LeaseState, error) {
	p := b.byName[name]
	if p == nil {
		return View{}, nil, ErrUnknownPool
	}
	var v View
	var leases []pool.LeaseState
	p.look(func(l *locked, now pool.Time) {
		v, leases = p.at(l, now), l.engine.Leases(now, name, after, limit)
	})
	return v, leases, nil
}

// Restore takes a key, or with an empty id all keys of the quota groups that the pool draws
// on, back into use. The errors are ErrUnknownPool and ErrUnknownKey.
func (b *Broker) Restore(name, keyID string) (err error) {
	p := b.byName[name]
	if p == nil {
		return ErrUnknownPool
	}
	p.do(func(l *locked, now pool.Time) {
		if !l.engine.Restore(now, name, keyID) {
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
