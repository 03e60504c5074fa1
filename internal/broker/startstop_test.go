package broker_test

import (
	"context"
	"errors"
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

var errStore = errors.New("store stalled")

type stalled struct{ broker.Store }

func (stalled) Claim(context.Context, string) (uint64, error) { return 0, errStore }

func TestNewGivesTheErrorsOfStoreAndPool(t *testing.T) {
	_, err := broker.New(t.Context(), stalled{}, []broker.DomainConfig{onePool("a", 1, 1)})
	require.ErrorIs(t, err, errStore)
	cfg := onePool("a", 1, 1)
	cfg.Pools[0].Strategy = "best"
	_, err = broker.New(t.Context(), &broker.Memory{}, []broker.DomainConfig{cfg})
	require.ErrorContains(t, err, `domain "a": pool "a": unknown strategy`)
}

// A start that fails for one domain leaves the records of the others exact.
func TestHalfAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		a, b := daily(60, 1000), daily(60, 1000)
		b.Name, b.Pools[0].Name = "b", "b"
		pools := []broker.DomainConfig{a, b}
		x, err := broker.New(t.Context(), store, pools)
		require.NoError(t, err)
		require.NoError(t, x.Stop(t.Context()))
		epoch, err := store.Claim(t.Context(), "b")
		require.NoError(t, err)
		good, err := store.Load(t.Context(), "b")
		require.NoError(t, err)
		bad := broker.Change{Put: map[string][]byte{broker.SoleChunk: []byte(`{"version": 9}`)}}
		for id := range good.Chunks {
			bad.Drop = append(bad.Drop, id)
		}
		version, err := store.Save(t.Context(), "b", epoch, good.Version, bad)
		require.NoError(t, err)
		_, err = broker.New(t.Context(), store, pools)
		require.ErrorContains(t, err, `domain "b"`)
		epoch, err = store.Claim(t.Context(), "b")
		require.NoError(t, err)
		_, err = store.Save(t.Context(), "b", epoch, version, broker.Change{Put: good.Chunks, Drop: []string{broker.SoleChunk}})
		require.NoError(t, err)
		x, err = broker.New(t.Context(), store, pools)
		require.NoError(t, err)
		for _, name := range []string{"a", "b"} {
			_, err = x.Acquire(t.Context(), broker.Request{Holder: "h", Pool: name})
			require.NoError(t, err, "it was stopped in order, and nothing granted since")
		}
		require.NoError(t, x.Stop(t.Context()))
	})
}

func TestCloseTurnsAwayAndStillTakesReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, &broker.Memory{}, onePool("a", 10, 2))
		one, err := p.Acquire(t.Context(), ask("alice"))
		require.NoError(t, err)
		two, err := p.Acquire(t.Context(), ask("alice"))
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := p.Acquire(t.Context(), waiting("bob", time.Minute))
			done <- err
		}()
		synctest.Wait()
		p.Close()
		p.Close() // twice is harmless
		require.ErrorIs(t, <-done, broker.ErrDraining)
		_, err = p.Acquire(t.Context(), ask("carol"))
		require.ErrorIs(t, err, broker.ErrDraining)
		_, settled, err := p.Report(t.Context(), "alice", one.ID, broker.Report{Usage: provider.NoUsage, Final: true})
		require.NoError(t, err)
		assert.False(t, settled)
		settled, err = p.Release(t.Context(), "alice", two.ID, true)
		require.NoError(t, err)
		assert.False(t, settled)
		s := p.state()
		assert.Zero(t, s.Open)
		assert.EqualValues(t, 1, p.used())
		assert.ErrorIs(t, p.Watch(t.Context(), "a", pool.Query{}, time.Second, func(broker.Changes) error { return nil }), broker.ErrDraining)
	})
}

// After Stop nothing is granted, and no call waits.
func TestNothingAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, daily(plenty, 100))
		require.Equal(t, 1, p.take(1))
		store.Next(storetest.Save, storetest.Fault{Until: t.Context().Done()})
		heard := make(chan error, 2)
		for range 2 { // one is held for the save under way, one for the next
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
