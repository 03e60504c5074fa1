package pool_test

// Shares over minutes: of pools that draw on one group, of holders, and of the instances of
// one holder.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// crowd is somebody who always has so many asks alike in line.
type crowd struct {
	pool, holder, instance, model string
	waiters                       int
	input                         int64
	served, tokens                int64
}

// saturate lets crowds wait for ten minutes, with leases that end after a time.
func saturate(t require.TestingT, dom *pool.Domain, lasts time.Duration, crowds ...*crowd) {
	type open struct {
		id     pool.LeaseID
		holder string
		ends   pool.Time
		used   int64
	}
	of, leases := map[*pool.Waiter]*crowd{}, []open{}
	wait := func(now pool.Time, c *crowd) {
		a := ask(c.holder, input(c.input), model(c.model))
		a.Pool, a.Instance, a.TTL = c.pool, c.instance, time.Minute
		w, err := dom.Wait(now, a)
		require.NoError(t, err)
		of[w] = c
	}
	for _, c := range crowds {
		c.served, c.tokens = 0, 0
		for range c.waiters {
			wait(0, c)
		}
	}
	for now := pool.Time(0); now < 10*minute; {
		served, wake := dom.Next(now)
		var again []*crowd
		for _, w := range served {
			c := of[w]
			delete(of, w)
			if now >= minute { // the first burst is whose it is
				c.served++
				c.tokens += c.input
			}
			again = append(again, c)
			leases = append(leases, open{w.Grant().Lease, c.holder, now.Add(lasts), c.input})
		}
		for _, c := range again {
			wait(now, c)
		}
		if len(again) > 0 {
			continue
		}
		next := max(wake, now+1)
		for _, l := range leases {
			next = min(next, max(l.ends, now+1))
		}
		now = next
		for len(leases) > 0 && leases[0].ends <= now {
			l := leases[0]
			leases = leases[1:]
			_, err := dom.Report(now, l.id, l.holder, fine, provider.Amounts{1, l.used, 0, l.used, 1}, true)
			require.NoError(t, err)
		}
	}
}

// oneGroup is a domain of two pools over one group.
func oneGroup(t require.TestingT, second pool.Rules, ls ...pool.Limit) *pool.Domain {
	second.Name = "two"
	d, _ := provider.Lookup("anthropic")
	dom, err := pool.New(pool.Config{
		Dialect: d, Flat: true, Groups: []pool.Group{{Name: "g", Limits: ls}}, Keys: []pool.Key{{ID: "a", Group: "g"}, {ID: "b", Group: "g"}},
		Pools: []pool.Rules{{Name: "one"}, second},
	})
	require.NoError(t, err)
	return dom
}

// Asks are of one size: what the first of one line waits for is not kept from the others.
func TestNoPoolStarvesAnother(t *testing.T) {
	for name, ls := range map[string][]pool.Limit{
		"requests": rpm(60), "tokens": limits(plenty, 6000, plenty), "slots": append(rpm(plenty), slots(2)),
		"slots and tokens": append(limits(120, 12_000, plenty), slots(4)),
	} {
		for _, waiters := range [][2]int{{1, 1}, {40, 1}, {1, 40}, {20, 20}} {
			for _, holder := range []string{"h", "other"} {
				for _, late := range []time.Duration{0, 2 * time.Second} {
					t.Run(fmt.Sprint(name, waiters, holder, late), func(t *testing.T) {
						dom := oneGroup(t, pool.Rules{StartWithin: late, Strategy: pool.RoundRobin}, ls...)
						one := &crowd{pool: "one", holder: "h", waiters: waiters[0], input: 100}
						two := &crowd{pool: "two", holder: holder, waiters: waiters[1], input: 100}
						saturate(t, dom, time.Second, one, two)
						least := 0.4
						if waiters != [2]int{20, 20} && name == "slots and tokens" {
							least = 0.2 // one call at a time is less than its share of the slots
						}
						for _, c := range []*crowd{one, two} {
							assert.Greater(t, float64(c.served)/float64(one.served+two.served), least, "%+v", *c)
						}
					})
				}
			}
		}
	}
}

// What one pool uses is used for the other at once.
func TestPoolsOfOneGroupShareItsLimits(t *testing.T) {
	dom := oneGroup(t, pool.Rules{}, append(rpm(10), slots(4))...)
	got := 0
	for i := range 10 {
		a := ask("h")
		a.Pool = []string{"one", "two"}[i%2]
		if _, err := dom.Acquire(0, a); err == nil {
			got++
		}
	}
	assert.Equal(t, 4, got)
	for _, p := range []string{"one", "two"} {
		q := dom.Inspect(0, p).Quotas[0]
		assert.EqualValues(t, 4, q.Limits[0].Used, p)
		assert.EqualValues(t, 4, q.Limits[3].Held, p)
	}
}

// Instances of a holder take turns, and are not more than their holder.
func TestInstancesTakeTurnsInsideTheirHolder(t *testing.T) {
	for name, ls := range map[string][]pool.Limit{
		"requests": rpm(60), "tokens": limits(plenty, 6000, plenty), "slots": append(rpm(plenty), slots(3)),
	} {
		for _, n := range []int{2, 5} {
			t.Run(fmt.Sprint(name, ", ", n), func(t *testing.T) {
				dom := oneGroup(t, pool.Rules{}, ls...)
				other := &crowd{pool: "one", holder: "other", waiters: 6, input: 100}
				all := []*crowd{other}
				for i := range n {
					waiters := 2
					if i == 0 {
						waiters = 60
					}
					all = append(all, &crowd{pool: "one", holder: "h", instance: fmt.Sprint(i), waiters: waiters, input: 100})
				}
				saturate(t, dom, time.Second, all...)
				var sum int64
				for _, c := range all[1:] {
					sum += c.served
				}
				assert.InEpsilon(t, other.served, sum, 0.07, "holders")
				for _, c := range all[1:] {
					assert.InEpsilon(t, float64(sum)/float64(n), c.served, 0.1, "instance %s", c.instance)
				}
			})
		}
	}
}

// When all is over, nothing counts any more, and a domain that was configured often gives as
// much as a new one.
func TestNothingIsLeftOfManyConfigurations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newDomainWorld(t)
		for range rapid.SampledFrom([]int{10, 40}).Draw(t, "steps") {
			w.step()
		}
		for _, wt := range append([]*pool.Waiter(nil), w.waiting...) {
			w.dom.Cancel(wt)
		}
		for {
			_, wake := w.dom.Next(w.now)
			if wake == pool.Never {
				break
			}
			w.now = max(w.now, wake)
		}
		w.now += 100 * 24 * 60 * minute // a limit that was lowered may be used up for many days
		fresh, err := pool.New(w.config())
		require.NoError(t, err)
		w.now += 24 * 60 * minute
		fresh.Next(w.now)
		w.dom.Next(w.now)
		for _, p := range w.cfg.Pools {
			s := w.dom.Inspect(w.now, p.Name)
			require.Zero(t, s.Open)
			require.Zero(t, s.Waiters)
			require.Empty(t, w.dom.Leases(w.now, p.Name, 0, 10))
			for _, k := range s.Keys {
				require.Zero(t, k.Open, k.ID)
			}
			for _, q := range s.Quotas {
				require.Zero(t, q.Open, q.Group)
				for _, l := range q.Limits {
					require.Zero(t, l.Used+l.Held, "%s %s: %+v", q.Group, q.Class, l)
				}
			}
		}
		// One model may have more of a shared limit than in a new one, where its slow start has
		// just begun, and another less: they give as much in all.
		gave, gives := 0, 0
		for _, k := range w.cfg.Keys {
			for range 20 {
				a := ask("h", input(1), output(1), model(w.pick(domainModels, "model")))
				a.Pool, a.Key = w.cfg.Pools[0].Name, k.ID
				if _, err := fresh.Acquire(w.now, a); err == nil {
					gave++
				}
				if _, err := w.dom.Acquire(w.now, a); err == nil {
					gives++
				}
			}
		}
		if gives < gave {
			t.Fatalf("a new one grants %d of what is asked for, this one %d; %+v", gave, gives, w.config())
		}
	})
}
