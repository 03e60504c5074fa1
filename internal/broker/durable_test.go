package broker_test

// What an owner writes down, when it may grant, and how the next one goes on.

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/testing/long"
	"github.com/keybroker/keybroker/internal/testing/storetest"
	"github.com/keybroker/keybroker/pool"
)

const day = 24 * time.Hour

// daily is a pool of one key with so many requests a minute and a day.
func daily(rpm, rpd int64) broker.PoolConfig {
	cfg := onePool("a", rpm, 1000)
	limits := cfg.Keys[0].Limits
	cfg.Keys[0].Limits = append(limits[:len(limits)-1], pool.Limit{Dimension: provider.Requests, Window: day, Amount: rpd, Kind: provider.Sliding})
	return cfg
}

// afterCrash is when a minute's limit has room again, if it is so large that it
// refills at once: another owner may grant for two seconds, and what is granted may
// arrive two seconds later.
const afterCrash = 5 * time.Second

// process is one life of a broker. Its end is a crash, unless it was stopped.
type process struct {
	*testing.T
	*broker.Broker
	crash context.CancelFunc
}

func begin(t *testing.T, store broker.Store, cfg broker.PoolConfig) *process {
	ctx, cancel := context.WithCancel(t.Context())
	b, err := broker.New(ctx, store, []broker.PoolConfig{cfg})
	require.NoError(t, err)
	t.Cleanup(cancel)
	return &process{t, b, cancel}
}

// take leases as often as it can, and gives how often that was.
func (p *process) take(most int) (n int) {
	for ; n < most; n++ {
		if _, err := p.Acquire(p.Context(), ask("h")); err != nil {
			require.ErrorIs(p, err, pool.ErrAllKeysExhausted)
			break
		}
	}
	return n
}

func TestCrashAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		p := begin(t, store, daily(60, 1000))
		require.Equal(t, 58, p.take(100), "a minute's, less what may arrive two seconds late")
		p.crash()

		p = begin(t, store, daily(60, 1000))
		assert.Zero(t, p.take(1), "empty after a crash")
		time.Sleep(2 * time.Second)
		assert.Zero(t, p.take(1), "so long another may have gone on")
		time.Sleep(30 * time.Second)
		assert.InDelta(t, 28, p.take(100), 1, "then it refills")
		time.Sleep(time.Minute)
		require.NoError(t, p.Stop(t.Context()))

		time.Sleep(time.Hour) // which nobody counts
		p = begin(t, store, daily(60, 1000))
		assert.Equal(t, 58, p.take(100), "it was full when it was stopped")
		require.NoError(t, p.Stop(t.Context()))
		p = begin(t, store, daily(60, 1000))
		assert.Zero(t, p.take(1), "and empty the next time")
		p.crash()
	})
}

// What is used of a day outlives any number of crashes, and each costs one part in a
// hundred at most.
func TestDaysAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		const limit, crashes = 1000, 10
		granted := 0
		for range crashes {
			p := begin(t, store, daily(plenty, limit))
			time.Sleep(afterCrash)
			granted += p.take(50)
			p.crash()
		}
		assert.Equal(t, 50*crashes, granted)
		p := begin(t, store, daily(plenty, limit))
		time.Sleep(afterCrash)
		granted += p.take(limit)
		assert.LessOrEqual(t, granted, limit)
		assert.GreaterOrEqual(t, granted, limit-(crashes+1)*limit/100)
		p.crash()
	})
}

// A grant beyond what is written down waits for the store; if that fails it is
// none, and if it cannot be known whether it failed, neither.
func TestGrantsWaitForTheStore(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{"before": {}, "after": {After: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaulty(&broker.Memory{})
				p := begin(t, store, daily(plenty, 100)) // one at a time is written ahead
				require.Equal(t, 1, p.take(1))
				store.Always(storetest.Save, &fault)
				_, err := p.Acquire(t.Context(), ask("h"))
				require.ErrorIs(t, err, broker.ErrStore)
				assert.EqualValues(t, 1, state(t, p.Broker, "a").Summary.Open, "the lease was undone")
				store.Always(storetest.Save, nil)
				time.Sleep(time.Second) // it tries again by itself
				assert.Equal(t, 10, p.take(10))
				p.crash()
			})
		})
	}
}

// Without an answer of the store for two seconds nothing is granted, to nobody,
// until it answers again.
func TestNothingIsGrantedWithoutThePermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		var last atomic.Value // the word of the store
		cfg := daily(60, 1000)
		cfg.Stored = func(err error) { last.Store(fmt.Sprint(err)) }
		p := begin(t, store, cfg)
		require.Equal(t, 58, p.take(100))
		until := make(chan struct{})
		for _, op := range []storetest.Op{storetest.Save, storetest.Renew} {
			store.Always(op, &storetest.Fault{Until: until})
		}
		var all sync.WaitGroup
		var served time.Duration
		start := time.Now()
		all.Go(func() { // it stands in line meanwhile
			_, err := p.Acquire(t.Context(), waiting("bob", time.Minute))
			require.NoError(t, err)
			served = time.Since(start)
		})
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Acquire(ctx, ask("alice"))
		require.ErrorIs(t, err, broker.ErrStore)
		time.Sleep(10 * time.Second)
		for _, op := range []storetest.Op{storetest.Save, storetest.Renew} {
			store.Always(op, nil)
		}
		close(until)
		all.Wait()
		time.Sleep(time.Second)
		assert.True(t, served <= 2*time.Second || served >= 15*time.Second, "while there was a permit, or when it came back: %v", served)
		assert.Equal(t, "<nil>", last.Load())
		p.crash()
	})
}

// Whoever has been followed grants nothing any more, from the moment it can know.
func TestFollowedOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		old := begin(t, store, daily(6000, 1000))
		require.Equal(t, 1, old.take(1))
		next := begin(t, store, daily(6000, 1000))
		synctest.Wait()
		_, err := old.Acquire(t.Context(), ask("h"))
		require.ErrorIs(t, err, broker.ErrNotOwner)
		require.NoError(t, old.Stop(t.Context()), "and leaves the record to the other")
		time.Sleep(afterCrash)
		assert.Equal(t, 50, next.take(50))
		next.crash()
	})
}

// Leases outlive their owner: their ids are known, they settle once, and give
// nothing back.
func TestLeasesOutliveTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		cfg := daily(6000, 1000)
		p := begin(t, store, cfg)
		l, err := p.Acquire(t.Context(), ask("h"))
		require.NoError(t, err)
		unused, err := p.Acquire(t.Context(), ask("h"))
		require.NoError(t, err)
		p.crash()
		p = begin(t, store, cfg)
		_, _, err = p.Report("somebody else", l.ID, broker.Report{Final: true})
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		_, err = p.Release("h", "A"+l.ID, true)
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		ttl, settled, err := p.Report("h", l.ID, broker.Report{Response: provider.Response{Status: 200}})
		require.NoError(t, err)
		assert.False(t, settled)
		assert.Positive(t, ttl)
		_, settled, err = p.Report("h", l.ID, broker.Report{Response: provider.Response{Status: 200}, Final: true})
		require.NoError(t, err)
		assert.False(t, settled)
		_, settled, err = p.Report("h", l.ID, broker.Report{Final: true})
		require.NoError(t, err)
		assert.True(t, settled)
		before := state(t, p.Broker, "a")
		settled, err = p.Release("h", unused.ID, true)
		require.NoError(t, err)
		assert.False(t, settled)
		assert.Equal(t, used(before), used(state(t, p.Broker, "a")), "nothing comes back")
		p.crash()
	})
}

// The store is spoken to as often as there is something to say: hardly at all
// without asks, and no more with many.
func TestWritesDoNotGrowWithLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, daily(plenty, 100_000_000))
		time.Sleep(3 * time.Second)
		idle := store.Calls(storetest.Save)
		time.Sleep(time.Hour)
		assert.Equal(t, idle, store.Calls(storetest.Save), "nothing is used, nothing to write")
		seconds := 4
		if long.Enabled {
			seconds = 20
		}
		for range seconds * 10 {
			for range 500 {
				l, err := p.Acquire(t.Context(), ask("h"))
				require.NoError(t, err)
				_, err = p.Release("h", l.ID, false)
				require.NoError(t, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, store.Calls(storetest.Save)-idle, 2*seconds)
		t.Logf("%d writes in %d s at 5000 a second", store.Calls(storetest.Save)-idle, seconds)
		p.crash()
	})
}

// Slots are taken after a crash for as long as a lease may live that nobody knows of:
// the longest that anybody has asked for, and no longer.
func TestSlotsAfterACrash(t *testing.T) {
	for name, c := range map[string]struct {
		ttl, taken time.Duration
		stop       bool // in order, before the crashes: its leases may still live
	}{
		"by default": {0, 2 * time.Minute, false}, "longer": {8 * time.Minute, 8 * time.Minute, false},
		"stopped before": {8 * time.Minute, 8 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &broker.Memory{}
				cfg := onePool("a", plenty, 5)
				p := begin(t, store, cfg)
				r := ask("h")
				r.TTL = c.ttl
				_, err := p.Acquire(t.Context(), r)
				require.NoError(t, err)
				if c.stop {
					require.NoError(t, p.Stop(t.Context()))
					p = begin(t, store, cfg)
				}
				for range 2 { // the second crash comes before anything is granted
					p.crash()
					p = begin(t, store, cfg)
				}
				time.Sleep(c.taken)
				assert.Zero(t, p.take(1))
				time.Sleep(3 * time.Second)
				assert.Equal(t, 5, p.take(10))
				p.crash()
			})
		})
	}
}
