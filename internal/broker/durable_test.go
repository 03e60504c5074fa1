package broker_test

import (
	"context"
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

// A lease that is not durable is held until the next save. If the save fails, or if its
// outcome is unknown, the lease ends and the call fails.
func TestGrantsWaitForTheStore(t *testing.T) {
	for name, fault := range map[string]storetest.Fault{"before": {}, "after": {After: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaulty(&broker.Memory{})
				p := begin(t, store, daily(plenty, 100)) // the record allows for one lease in advance
				require.Equal(t, 1, p.take(1))
				store.Always(storetest.Save, &fault)
				_, err := p.Acquire(t.Context(), ask("h"))
				require.ErrorIs(t, err, broker.ErrStore)
				assert.EqualValues(t, 1, p.state().Open, "the lease was undone")
				store.Always(storetest.Save, nil)
				time.Sleep(time.Second) // upkeep tries again by itself
				assert.Equal(t, 10, p.take(10))
				p.crash()
			})
		})
	}
}

// A caller that leaves during the save of its lease leaves no lease behind.
func TestCallerLeavesDuringASave(t *testing.T) {
	for name, r := range map[string]broker.Request{"at once": ask("h"), "in line": waiting("h", time.Minute)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaulty(&broker.Memory{})
				p := begin(t, store, daily(plenty, 100))
				require.Equal(t, 1, p.take(1))
				until := make(chan struct{})
				store.Next(storetest.Save, storetest.Fault{Until: until})
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := p.Acquire(ctx, r)
				require.Error(t, err)
				close(until)
				time.Sleep(time.Second)
				assert.Equal(t, 1, p.state().Open)
				p.crash()
			})
		})
	}
}

// A lease that becomes durable after its time to start is not given out.
func TestDurableTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		cfg := daily(plenty, 100)
		cfg.Pools[0].StartWithin = 500 * time.Millisecond
		p := begin(t, store, cfg)
		require.Equal(t, 1, p.take(1))
		until := make(chan struct{})
		store.Next(storetest.Save, storetest.Fault{Until: until})
		time.AfterFunc(1500*time.Millisecond, func() { close(until) })
		_, err := p.Acquire(t.Context(), ask("h"))
		require.ErrorIs(t, err, broker.ErrStore)
		assert.Equal(t, 1, p.state().Open)
		p.crash()
	})
}

var refused = broker.Report{Response: provider.Response{Status: 401}, Final: true}

// A change is saved, even if the save before it failed or was only just made.
func TestEveryChangeIsSaved(t *testing.T) {
	for name, fail := range map[string]int{"after a change": 0, "after a failure": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := storetest.NewFaulty(&broker.Memory{})
				cfg := onePool("a", 6000, plenty)
				cfg.Keys = append(cfg.Keys, cfg.Keys[0])
				cfg.Keys[1].ID = "k2"
				p := begin(t, store, cfg)
				time.Sleep(afterCrash)
				var leases [2]broker.Lease
				for i := range leases {
					var err error
					leases[i], err = p.Acquire(t.Context(), ask("h"))
					require.NoError(t, err)
				}
				for _, l := range leases {
					for range fail {
						store.Next(storetest.Save, storetest.Fault{})
					}
					_, _, err := p.Report(t.Context(), "h", l.ID, refused)
					require.NoError(t, err)
					time.Sleep(3 * time.Second)
				}
				want := p.health()
				require.Equal(t, []pool.Health{pool.Suspect, pool.Suspect}, want)
				p.crash()
				p = begin(t, store, cfg)
				assert.Equal(t, want, p.health())
				p.crash()
			})
		})
	}
}

// An idle pool is not saved again. With any number of asks there are at most two saves a
// second.
func TestSavesDoNotGrowWithLoad(t *testing.T) {
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
				_, err = p.Release(t.Context(), "h", l.ID, false)
				require.NoError(t, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, store.Calls(storetest.Save)-idle, 2*seconds)
		t.Logf("%d writes in %d s at 5000 a second", store.Calls(storetest.Save)-idle, seconds)
		p.crash()
	})
}
