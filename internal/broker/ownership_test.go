package broker_test

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
	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// If the store does not answer for two seconds, nothing is granted until it answers again.
func TestNothingIsGrantedWithoutTheOwnershipLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		var last atomic.Value  // what OnStore was told last
		cfg := daily(12, 1000) // a request in 5 s
		cfg.OnStore = func(err error) { last.Store(fmt.Sprint(err)) }
		p := begin(t, store, cfg)
		require.Equal(t, 11, p.take(100))
		until := make(chan struct{})
		for _, op := range []storetest.Op{storetest.Save, storetest.Renew} {
			store.Always(op, &storetest.Fault{Until: until})
		}
		var all sync.WaitGroup
		var served time.Duration
		start := time.Now()
		all.Go(func() { // it is in the queue meanwhile, and has room only after the ownership lease has ended
			_, err := p.Acquire(t.Context(), waiting("bob", time.Minute))
			assert.NoError(t, err)
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
		assert.GreaterOrEqual(t, served, 15*time.Second, "when the ownership lease was renewed")
		assert.Equal(t, "<nil>", last.Load())
		p.crash()
	})
}

// A predecessor grants nothing once it can know of its successor.
func TestPredecessorGrantsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		old := begin(t, store, daily(6000, 1000))
		require.Equal(t, 1, old.take(1))
		next := begin(t, store, daily(6000, 1000))
		synctest.Wait()
		_, err := old.Acquire(t.Context(), ask("h"))
		require.ErrorIs(t, err, broker.ErrNotOwner)
		require.NoError(t, old.Stop(t.Context()), "the record is the successor's")
		time.Sleep(afterCrash)
		assert.Equal(t, 50, next.take(50))
		next.crash()
	})
}

// Calls that wait fail at once when a successor claims the pool.
func TestCallsThatWaitAtAPredecessor(t *testing.T) {
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

// A caller's context does not count as a failure of the store, and bounds the wait for the
// store.
func TestCallersContextIsNotTheStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		cfg := daily(plenty, 1000)
		cfg.OnStore = func(err error) { assert.NoError(t, err, "nor is it told") }
		p := begin(t, store, cfg)
		time.Sleep(time.Minute) // nobody has asked, so the ownership lease has ended
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

// OnStore is called once when the store stops answering, and once when it answers again.
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
		store.Always(storetest.Save, &storetest.Fault{}) // as with a full disk, which renewals do not need
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
