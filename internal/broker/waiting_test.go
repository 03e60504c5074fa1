package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/testing/storetest"
	"github.com/keybroker/keybroker/pool"
)

func TestWaiterThatIsGoneWhenItIsServedReturnsItsLease(t *testing.T) {
	for i := range 50 { // select may take either branch
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := begin(t, &broker.Memory{}, onePool("a", 10, 1))
				held, err := p.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					l, err := p.Acquire(ctx, waiting("bob", time.Minute))
					if err == nil { // it came before he left, so he returns it
						_, err := p.Release(t.Context(), "bob", l.ID, true)
						assert.NoError(t, err)
					}
					done <- err
				}()
				synctest.Wait()
				if i%2 == 0 { // he leaves at the moment of the release, in either order
					cancel()
				}
				_, err = p.Release(t.Context(), "alice", held.ID, false)
				require.NoError(t, err)
				cancel()
				if err := <-done; err != nil || i%2 == 0 {
					require.ErrorIs(t, err, context.Canceled)
				}
				s := p.state()
				assert.Zero(t, s.Open)
				assert.Zero(t, s.Waiters)
				assert.EqualValues(t, 1, p.used(), "alice's request; bob's was never sent")
			})
		})
	}
}

func TestWaitThatEndsAsItIsServedIsServed(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := begin(t, &broker.Memory{}, onePool("a", 10, 1))
				held, err := p.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				go func() {
					time.Sleep(time.Second)
					_, _ = p.Release(t.Context(), "alice", held.ID, false)
				}()
				l, err := p.Acquire(t.Context(), waiting("bob", time.Second)) // at the moment at which the wait ends
				if err == nil {
					assert.Equal(t, time.Second, l.Waited)
				} else {
					require.ErrorIs(t, err, pool.ErrAllKeysExhausted)
				}
				synctest.Wait()
				want := 0
				if err == nil {
					want = 1
				}
				s := p.state()
				assert.Equal(t, want, s.Open)
				assert.Zero(t, s.Waiters)
			})
		})
	}
}

func TestCallerThatIsGoneGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, &broker.Memory{}, onePool("a", 10, 1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.Acquire(ctx, ask("alice"))
		require.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, p.state().Open)
		assert.Zero(t, p.used())

		r := ask("bob")
		r.Request = "r1"
		l, err := p.Acquire(t.Context(), r)
		require.NoError(t, err)
		_, err = p.Acquire(ctx, r) // a repetition whose caller has left
		require.ErrorIs(t, err, context.Canceled)
		settled, err := p.Release(t.Context(), "bob", l.ID, false)
		require.NoError(t, err)
		assert.False(t, settled, "the first call has the lease, and keeps it")
	})
}

func TestTimerServesTheNextWhenTheFirstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", 60, 100)
		p := begin(t, &broker.Memory{}, cfg)
		for range 58 {
			_, err := p.Acquire(t.Context(), ask("alice"))
			require.NoError(t, err)
		}
		// The first in the queue leaves before it is served. The timer that was set for
		// it must serve the next one.
		go func() { _, _ = p.Acquire(t.Context(), waiting("bob", 500*time.Millisecond)) }()
		synctest.Wait()
		l, err := p.Acquire(t.Context(), waiting("carol", time.Minute))
		require.NoError(t, err)
		assert.Equal(t, time.Second, l.Waited)
	})
}

func TestTimerServesOneAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, &broker.Memory{}, onePool("a", 60, 100))
		for range 58 {
			_, err := p.Acquire(t.Context(), ask("alice"))
			require.NoError(t, err)
		}
		waited := make(chan time.Duration, 3)
		for range 3 {
			go func() {
				l, err := p.Acquire(t.Context(), waiting("bob", time.Minute))
				assert.NoError(t, err)
				waited <- l.Waited
			}()
		}
		for n := range 3 { // no call comes in between, so only the timer serves
			assert.Equal(t, time.Duration(n+1)*time.Second, <-waited)
		}
	})
}

// What a call has waited for the store is part of the time that it may wait.
func TestTheWaitForTheStoreCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, onePool("a", plenty, 1))
		require.Equal(t, 1, p.take(1))
		time.Sleep(time.Minute) // nobody has asked, so the ownership lease has ended
		until := make(chan struct{})
		store.Next(storetest.Renew, storetest.Fault{Until: until})
		time.AfterFunc(time.Second, func() { close(until) })
		start := time.Now()
		_, err := p.Acquire(t.Context(), waiting("h", 1500*time.Millisecond))
		require.ErrorIs(t, err, pool.ErrAllKeysExhausted)
		assert.Equal(t, 1500*time.Millisecond, time.Since(start))
		p.crash()
	})
}
