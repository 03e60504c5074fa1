package broker_test

// What may go wrong between an owner, its store and its callers.

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/testing/storetest"
	"github.com/keybroker/keybroker/pool"
)

func repeated(id string) broker.Request {
	r := ask("h")
	r.Request = id
	return r
}

func openLeases(p *process) int { return state(p.T, p.Broker, "a").Summary.Open }

func (p *process) health() (all []pool.Health) {
	for _, k := range state(p.T, p.Broker, "a").Keys {
		all = append(all, k.Health)
	}
	return all
}

var refused = broker.Report{Response: provider.Response{Status: 401}, Final: true}

// What has changed is saved, though the save before failed, or came just before.
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
					_, _, err := p.Report("h", l.ID, refused)
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

// By a request id the same lease is given again, and never one that has ended, or
// that somebody else's failure ends.
func TestRepeatsOfWhatWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, daily(plenty, 100))
		require.Equal(t, 1, p.take(1))
		until := make(chan struct{})
		store.Next(storetest.Save, storetest.Fault{Until: until, Err: storetest.ErrInjected})
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				l, err := p.Acquire(t.Context(), repeated("r"))
				if err == nil {
					settled, err := p.Release("h", l.ID, true)
					assert.NoError(t, err)
					assert.False(t, settled, "it was given, so it is open")
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		close(until)
		all.Wait()
		l, err := p.Acquire(t.Context(), repeated("s"))
		require.NoError(t, err)
		store.Always(storetest.Save, &storetest.Fault{})
		again, err := p.Acquire(t.Context(), repeated("s"))
		require.NoError(t, err, "it has been written down")
		assert.Equal(t, l.ID, again.ID)
		p.crash()
	})
}

// A caller that goes while its lease is being written down leaves nothing behind.
func TestGoneDuringASave(t *testing.T) {
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
				assert.Equal(t, 1, openLeases(p))
				p.crash()
			})
		})
	}
}

// A lease that was so long in coming that it is too late to use it is none.
func TestTooLateToUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		cfg := daily(plenty, 100)
		cfg.StartWithin = 500 * time.Millisecond
		p := begin(t, store, cfg)
		require.Equal(t, 1, p.take(1))
		until := make(chan struct{})
		store.Next(storetest.Save, storetest.Fault{Until: until})
		time.AfterFunc(1500*time.Millisecond, func() { close(until) })
		_, err := p.Acquire(t.Context(), ask("h"))
		require.ErrorIs(t, err, broker.ErrStore)
		assert.Equal(t, 1, openLeases(p))
		p.crash()
	})
}

// Those who wait hear at once that another owner has followed.
func TestWaitersOfAFollowedOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		old := begin(t, store, daily(60, 1000))
		require.Equal(t, 58, old.take(100))
		start := time.Now()
		heard := make(chan error)
		go func() {
			_, err := old.Acquire(t.Context(), waiting("bob", time.Minute))
			heard <- err
		}()
		synctest.Wait()
		next := begin(t, store, daily(60, 1000))
		require.ErrorIs(t, <-heard, broker.ErrNotOwner)
		assert.Zero(t, time.Since(start))
		next.crash()
	})
}

// A caller's own end is not the store's, and does not keep others waiting.
func TestCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		cfg := daily(plenty, 1000)
		cfg.OnStore = func(err error) { t.Error(err) }
		p := begin(t, store, cfg)
		time.Sleep(time.Minute) // nobody has asked, and there is no permit
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.Acquire(ctx, ask("h"))
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Minute)
		store.Next(storetest.Renew, storetest.Fault{Until: t.Context().Done()})
		start := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = p.Acquire(ctx, ask("h"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, time.Since(start), 100*time.Millisecond)
		p.crash()
	})
}

// Trouble is told once, and its end.
func TestTroubleIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		var told []bool
		var mu sync.Mutex
		cfg := daily(plenty, 1000)
		cfg.OnStore = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err != nil)
		}
		p := begin(t, store, cfg)
		store.Always(storetest.Save, &storetest.Fault{}) // the disk is full, and renewals need none of it
		for range 600 {
			_, _ = p.Acquire(t.Context(), ask("h"))
			time.Sleep(100 * time.Millisecond)
		}
		store.Always(storetest.Save, nil)
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, []bool{true, false}, told)
		p.crash()
	})
}

// A start that fails for one pool takes nothing from the others.
func TestHalfAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		a, b := daily(60, 1000), daily(60, 1000)
		b.Name = "b"
		pools := []broker.PoolConfig{a, b}
		x, err := broker.New(t.Context(), store, pools)
		require.NoError(t, err)
		require.NoError(t, x.Stop(t.Context()))
		epoch, err := store.Claim(t.Context(), "b")
		require.NoError(t, err)
		good, err := store.Load(t.Context(), "b")
		require.NoError(t, err)
		require.NoError(t, store.Save(t.Context(), "b", epoch, []byte(`{"version": 9}`)))
		_, err = broker.New(t.Context(), store, pools)
		require.ErrorContains(t, err, `pool "b"`)
		epoch, err = store.Claim(t.Context(), "b")
		require.NoError(t, err)
		require.NoError(t, store.Save(t.Context(), "b", epoch, good))
		x, err = broker.New(t.Context(), store, pools)
		require.NoError(t, err)
		for _, name := range []string{"a", "b"} {
			_, err = x.Acquire(t.Context(), broker.Request{Holder: "h", Pool: name})
			require.NoError(t, err, "it was stopped in order, and nothing granted since")
		}
		require.NoError(t, x.Stop(t.Context()))
	})
}

// An old copy of the state says too little of what is used. Told so, the broker
// takes all for used, and knows no lease of before.
func TestStateLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		cfg := daily(plenty, 1000)
		p := begin(t, store, cfg)
		l, err := p.Acquire(t.Context(), ask("h"))
		require.NoError(t, err)
		require.NoError(t, p.Stop(t.Context()))
		cfg.StateLost = true
		p = begin(t, store, cfg)
		time.Sleep(time.Hour)
		assert.Zero(t, p.take(1))
		_, _, err = p.Report("h", l.ID, broker.Report{Final: true})
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		time.Sleep(25 * time.Hour)
		assert.Equal(t, 100, p.take(100))
		p.crash()
	})
}

// After the end nothing is granted, and nobody waits.
func TestNothingAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, daily(plenty, 100))
		require.Equal(t, 1, p.take(1))
		store.Next(storetest.Save, storetest.Fault{Until: t.Context().Done()})
		heard := make(chan error, 2)
		for range 2 { // one waits for the save under way, one for the next
			go func() {
				_, err := p.Acquire(t.Context(), ask("h"))
				heard <- err
			}()
			time.Sleep(10 * time.Millisecond)
		}
		require.NoError(t, p.Stop(t.Context()))
		for range 2 {
			require.Error(t, <-heard)
		}
		_, err := p.Acquire(t.Context(), ask("h"))
		require.ErrorIs(t, err, broker.ErrDraining)
		require.NoError(t, p.Stop(t.Context()), "again")
	})
}
