package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// A repetition that comes at the moment at which the first call is due gets the lease of
// that call.
func TestRepetitionAtTheMomentOfServiceGetsOneLease(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onePool("a", 1, 10) // the next fits after 62 s
				cfg.Pools[0].MaxWait = 5 * time.Minute
				p := begin(t, &broker.Memory{}, cfg)
				_, err := p.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				r := waiting("bob", 4*time.Minute)
				r.Request = "r1"
				ids := make(chan string, 2)
				call := func() {
					l, err := p.Acquire(t.Context(), r)
					if err != nil {
						assert.ErrorIs(t, err, broker.ErrSuperseded)
					}
					ids <- l.ID
				}
				go call()
				time.Sleep(62 * time.Second)
				go call()
				got := map[string]bool{<-ids: true, <-ids: true}
				delete(got, "")
				assert.Len(t, got, 1, "one request, so many leases")
			})
		})
	}
}

// A call whose place a repetition has taken over does not give that place up when its own
// caller leaves.
func TestCallThatIsGoneLeavesThePlaceToItsRepetition(t *testing.T) {
	for i := range 50 { // the first caller may leave before the repetition comes, or after
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := begin(t, &broker.Memory{}, onePool("a", 10, 1))
				held, err := p.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				r := waiting("bob", time.Minute)
				r.Request = "r1"
				ctx, cancel := context.WithCancel(t.Context())
				first := make(chan error, 1)
				go func() {
					_, err := p.Acquire(ctx, r)
					first <- err
				}()
				synctest.Wait()
				go func() {
					time.Sleep(time.Second)
					_, _ = p.Release(t.Context(), "alice", held.ID, false)
				}()
				cancel()
				l, err := p.Acquire(t.Context(), r)
				require.NoError(t, err)
				assert.Equal(t, time.Second, l.Waited)
				require.Error(t, <-first)
				assert.Zero(t, p.state().Waiters)
			})
		})
	}
}

// A repetition gets the same lease while it is held, and never a lease that has ended or that
// ends because it cannot be made durable.
func TestRepetitionOfAHeldCall(t *testing.T) {
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
					settled, err := p.Release(t.Context(), "h", l.ID, true)
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
		require.NoError(t, err, "it is durable")
		assert.Equal(t, l.ID, again.ID)
		p.crash()
	})
}
