package fleet

import (
	"errors"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// brokered asks the real engine for each request, as a client without an SDK would:
// one lease for each, waiting in the broker's line, and another key after a refusal.
type brokered struct {
	*run
	engine *pool.Domain
	waits  map[*pool.Waiter]*request
	wake   time.Duration
	set    uint64 // which timer is in force
	blamed []string
}

const startWithin = 2 * time.Second

// leased is what a request holds.
type leased struct {
	id    pool.LeaseID
	tried []string // keys that refused
}

func newBrokered(r *run) (Strategy, error) {
	u := r.upstream
	cfg := pool.Config{
		Name: r.scenario.Name, Dialect: u.dialect, Seed: r.chance.Uint64(),
		Pools: []pool.Rules{{Name: r.scenario.Name, StartWithin: startWithin}},
	}
	for _, g := range u.groups {
		limits := []pool.Limit{}
		if !g.unknown {
			for _, l := range u.dialectLimits(g.limits) {
				kind := u.dialect.Kind
				if l.fixed {
					kind = provider.Fixed
				}
				limits = append(limits, pool.Limit{Dimension: l.dimension, Window: l.window, Amount: l.amount, Kind: kind})
			}
			if n := g.limits.Concurrency; n > 0 {
				limits = append(limits, pool.Limit{Dimension: provider.Concurrency, Amount: n})
			}
		}
		cfg.Groups = append(cfg.Groups, pool.Group{Name: g.name, Limits: limits})
		for _, k := range g.keys {
			cfg.Keys = append(cfg.Keys, pool.Key{ID: k.id, Group: g.name, Priority: 1, Weight: 1})
		}
	}
	engine, err := pool.New(cfg)
	return &brokered{run: r, engine: engine, waits: map[*pool.Waiter]*request{}, wake: sim.Never}, err
}

// engineTime is virtual time as the engine has it.
func (b *brokered) engineTime() pool.Time { return pool.Time(b.now) }

// Begin sends an ask to the broker.
func (b *brokered) Begin(q *request) {
	if q.lease == nil {
		q.lease = &leased{}
	}
	b.after(b.hop(q.service), func() { b.ask(q) })
}

func (b *brokered) ask(q *request) {
	l := q.lease.(*leased)
	a := pool.Ask{
		Holder: q.service.name, Model: q.service.Model, TTL: 2 * time.Minute, Count: 1, Exclude: l.tried,
		Amounts: b.reserved(q),
	}
	grant, err := b.engine.Acquire(b.engineTime(), a)
	switch {
	case err == nil:
		b.granted(q, &grant)
	case errors.Is(err, pool.ErrAllKeysExhausted) && b.now < q.until:
		w, err := b.engine.Wait(b.engineTime(), a)
		if err != nil {
			b.after(b.hop(q.service), func() { b.fail(q) })
			break
		}
		b.waits[w] = q
		b.at(q.until, func() {
			if b.waits[w] == q && b.engine.Cancel(w) {
				delete(b.waits, w)
				b.after(b.hop(q.service), func() { b.fail(q) })
				b.next()
			}
		})
	default:
		b.after(b.hop(q.service), func() { b.fail(q) })
	}
	b.next()
}

// granted sends a lease to its holder, who uses it if it comes in time.
func (b *brokered) granted(q *request, g *pool.Grant) {
	l := q.lease.(*leased)
	l.id = g.Lease
	granted, key := b.now, b.upstream.byID[g.Key]
	b.after(b.hop(q.service), func() {
		if b.now > granted+startWithin {
			b.report(q, func(t pool.Time) { _ = b.engine.Release(t, l.id, q.service.name, true) })
			b.fail(q)
			return
		}
		b.send(q, key)
	})
}

// Answered reports the headers, and after a refusal asks for another key.
func (b *brokered) Answered(q *request, a *answer) {
	l := q.lease.(*leased)
	id, refused := l.id, a.status != 200
	if !q.silent || refused {
		used := unknown
		if refused {
			used = provider.Amounts{provider.Requests: 1}
		}
		signal := a.signal
		b.report(q, func(t pool.Time) { _, _ = b.engine.Report(t, id, q.service.name, signal, used, refused) })
	}
	if !refused {
		return
	}
	if b.now >= q.until {
		b.fail(q)
		return
	}
	l.tried = append(l.tried, q.key.id)
	if len(l.tried) >= len(b.upstream.keys) {
		l.tried = nil
	}
	b.Begin(q)
}

// Finished reports the usage.
func (b *brokered) Finished(q *request) {
	if q.silent {
		return
	}
	id, used := q.lease.(*leased).id, b.reported(q)
	b.report(q, func(t pool.Time) { _, _ = b.engine.Report(t, id, q.service.name, provider.Signal{}, used, true) })
}

var unknown = provider.Amounts{provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown}

func (b *brokered) isRevoked(id string) bool {
	return slices.ContainsFunc(b.upstream.keys, func(k *credential) bool { return k.id == id && k.revoked })
}

// report tells the engine something, a hop later.
func (b *brokered) report(q *request, f func(pool.Time)) {
	b.after(b.hop(q.service), func() {
		f(b.engineTime())
		b.next()
	})
}

// next serves who waits, and sets the timer.
func (b *brokered) next() {
	served, wake := b.engine.Next(b.engineTime())
	for _, w := range served {
		q := b.waits[w]
		delete(b.waits, w)
		g := w.Grant()
		b.granted(q, &g)
	}
	for _, n := range b.engine.Events() {
		if n.Kind == pool.KeyQuarantined && !b.isRevoked(n.Key) {
			b.blamed = append(b.blamed, n.Key)
		}
	}
	at := time.Duration(wake)
	if wake == pool.Never || at >= b.scenario.Duration {
		at = sim.Never
	}
	if at == b.wake && at > b.now {
		return
	}
	b.wake = at
	b.set++
	if mine := b.set; at < sim.Never {
		b.at(at, func() {
			if b.set == mine {
				b.wake = sim.Never
				b.next()
			}
		})
	}
}
