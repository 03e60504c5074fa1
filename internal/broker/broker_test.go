package broker_test

// The owner: what it does when calls and timers cross at one moment, and what
// it leaves behind.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const plenty = 1_000_000_000

// onePool is a pool of one key with some requests a minute and some slots.
func onePool(name string, rpm, slots int64) broker.PoolConfig {
	dialect, _ := provider.Lookup("anthropic")
	k := pool.Key{ID: "k"}
	for d, n := range []int64{rpm, plenty, plenty} {
		k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Concurrency, Amount: slots})
	return broker.PoolConfig{
		Config:     pool.Config{Name: name, Dialect: dialect, Flat: true, Keys: []pool.Key{k}, StartWithin: 2 * time.Second},
		DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: time.Minute,
	}
}

func open(t *testing.T, pools ...broker.PoolConfig) *broker.Broker {
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func state(t *testing.T, b *broker.Broker, name string) pool.Snapshot {
	t.Helper()
	v, err := b.Inspect(name)
	require.NoError(t, err)
	return v.Snapshot
}

// used is what is charged for requests.
func used(s pool.Snapshot) int64 { return s.Quotas[0].Limits[0].Used }

func ask(holder string) broker.Request { return broker.Request{Holder: holder, Pool: "a"} }

func waiting(holder string, d time.Duration) broker.Request {
	r := ask(holder)
	r.MaxWait = d
	return r
}

func TestWaiterThatIsGoneWhenItIsServedReturnsItsLease(t *testing.T) {
	for i := range 50 { // select takes either branch
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, onePool("a", 10, 1))
				held, err := b.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					l, err := b.Acquire(ctx, waiting("bob", time.Minute))
					if err == nil { // before he went away: it is his to return
						_, err := b.Release("bob", l.ID, true)
						assert.NoError(t, err)
					}
					done <- err
				}()
				synctest.Wait()
				if i%2 == 0 { // both at one moment, in either order
					cancel()
				}
				_, err = b.Release("alice", held.ID, false)
				require.NoError(t, err)
				cancel()
				if err := <-done; err != nil || i%2 == 0 {
					require.ErrorIs(t, err, context.Canceled)
				}
				s := state(t, b, "a")
				assert.Zero(t, s.Open)
				assert.Zero(t, s.Waiters)
				assert.EqualValues(t, 1, used(s), "alice's request; bob's was never sent")
			})
		})
	}
}

func TestWaitThatEndsAsItIsServedIsServed(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, onePool("a", 10, 1))
				held, err := b.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				go func() {
					time.Sleep(time.Second)
					_, _ = b.Release("alice", held.ID, false)
				}()
				l, err := b.Acquire(t.Context(), waiting("bob", time.Second)) // the same moment
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
				s := state(t, b, "a")
				assert.Equal(t, want, s.Open)
				assert.Zero(t, s.Waiters)
			})
		})
	}
}

func TestCallerThatIsGoneGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, onePool("a", 10, 1))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.Acquire(ctx, ask("alice"))
		require.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, state(t, b, "a").Open)
		assert.Zero(t, used(state(t, b, "a")))

		r := ask("bob")
		r.Request = "r1"
		l, err := b.Acquire(t.Context(), r)
		require.NoError(t, err)
		_, err = b.Acquire(ctx, r) // a repetition whose caller is gone
		require.ErrorIs(t, err, context.Canceled)
		settled, err := b.Release("bob", l.ID, false)
		require.NoError(t, err)
		assert.False(t, settled, "the first call has the lease, and keeps it")
	})
}

func TestTimerServesWhenTheHeadOfTheLineLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", 60, 100)
		b := open(t, cfg)
		for range 58 {
			_, err := b.Acquire(t.Context(), ask("alice"))
			require.NoError(t, err)
		}
		// The head leaves before it is served; the timer that was set for it
		// must serve the one behind.
		go func() { _, _ = b.Acquire(t.Context(), waiting("bob", 500*time.Millisecond)) }()
		synctest.Wait()
		l, err := b.Acquire(t.Context(), waiting("carol", time.Minute))
		require.NoError(t, err)
		assert.Equal(t, time.Second, l.Waited)
	})
}

func TestTimerServesOneAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, onePool("a", 60, 100))
		for range 58 {
			_, err := b.Acquire(t.Context(), ask("alice"))
			require.NoError(t, err)
		}
		waited := make(chan time.Duration, 3)
		for range 3 {
			go func() {
				l, err := b.Acquire(t.Context(), waiting("bob", time.Minute))
				assert.NoError(t, err)
				waited <- l.Waited
			}()
		}
		for n := range 3 { // no call comes in between: only the timer serves
			assert.Equal(t, time.Duration(n+1)*time.Second, <-waited)
		}
	})
}

// A call that is gone when a repetition has taken over its place must not take
// that place away.
func TestCallThatIsGoneLeavesThePlaceToItsRepetition(t *testing.T) {
	for i := range 50 { // it may leave before the repetition comes, or after
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, onePool("a", 10, 1))
				held, err := b.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				r := waiting("bob", time.Minute)
				r.Request = "r1"
				ctx, cancel := context.WithCancel(t.Context())
				first := make(chan error, 1)
				go func() {
					_, err := b.Acquire(ctx, r)
					first <- err
				}()
				synctest.Wait()
				go func() {
					time.Sleep(time.Second)
					_, _ = b.Release("alice", held.ID, false)
				}()
				cancel()
				l, err := b.Acquire(t.Context(), r)
				require.NoError(t, err)
				assert.Equal(t, time.Second, l.Waited)
				require.Error(t, <-first)
				assert.Zero(t, state(t, b, "a").Waiters)
			})
		})
	}
}

func TestCloseTurnsAwayAndStillTakesReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, onePool("a", 10, 2))
		one, err := b.Acquire(t.Context(), ask("alice"))
		require.NoError(t, err)
		two, err := b.Acquire(t.Context(), ask("alice"))
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := b.Acquire(t.Context(), waiting("bob", time.Minute))
			done <- err
		}()
		synctest.Wait()
		b.Close()
		b.Close() // twice is harmless
		require.ErrorIs(t, <-done, broker.ErrDraining)
		_, err = b.Acquire(t.Context(), ask("carol"))
		require.ErrorIs(t, err, broker.ErrDraining)
		_, settled, err := b.Report("alice", one.ID, broker.Report{Usage: provider.NoUsage, Final: true})
		require.NoError(t, err)
		assert.False(t, settled)
		settled, err = b.Release("alice", two.ID, true)
		require.NoError(t, err)
		assert.False(t, settled)
		s := state(t, b, "a")
		assert.Zero(t, s.Open)
		assert.EqualValues(t, 1, used(s))
		assert.ErrorIs(t, b.Watch(t.Context(), "a", time.Second, func(broker.View) error { return nil }), broker.ErrDraining)
	})
}

func TestErrorOfAnAnswerHasNoOutput(t *testing.T) {
	for _, c := range []struct {
		status int
		output int64 // reported
		want   int64 // charged
	}{{500, provider.Unknown, 0}, {400, provider.Unknown, 0}, {200, provider.Unknown, 70}, {200, 30, 30}, {500, 30, 30}} {
		t.Run(fmt.Sprintf("%d with %d", c.status, c.output), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, onePool("a", 10, 2))
				r := ask("alice")
				r.Demand = provider.Demand{InputTokens: 10, MaxOutputTokens: 70}
				l, err := b.Acquire(t.Context(), r)
				require.NoError(t, err)
				report := broker.Report{Response: provider.Response{Status: c.status}, Usage: provider.NoUsage, Final: true}
				report.Usage.Output = c.output
				_, _, err = b.Report("alice", l.ID, report)
				require.NoError(t, err)
				output := state(t, b, "a").Quotas[0].Limits[2]
				assert.EqualValues(t, c.want, output.Used)
				assert.Zero(t, output.Held)
			})
		})
	}
}

var errStore = errors.New("store stalled")

type stalled struct{ broker.Store }

func (stalled) Claim(context.Context, string) (uint64, error) { return 0, errStore }

func TestNewGivesTheErrorsOfStoreAndPool(t *testing.T) {
	_, err := broker.New(t.Context(), stalled{}, []broker.PoolConfig{onePool("a", 1, 1)})
	require.ErrorIs(t, err, errStore)
	cfg := onePool("a", 1, 1)
	cfg.Strategy = "best"
	_, err = broker.New(t.Context(), &broker.Memory{}, []broker.PoolConfig{cfg})
	require.ErrorContains(t, err, `pool "a": unknown strategy`)
}

func TestEpochsRise(t *testing.T) {
	m := &broker.Memory{}
	for want := range uint64(3) {
		a, err := m.Claim(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, want+1, a)
	}
	b, err := m.Claim(t.Context(), "b")
	require.NoError(t, err)
	assert.EqualValues(t, 1, b)
}
