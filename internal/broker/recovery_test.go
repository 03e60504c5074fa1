package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

func TestCrashAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		p := begin(t, store, daily(60, 1000))
		require.Equal(t, 58, p.take(100), "the limit, less what refills while a request may be on its way")
		p.crash()

		p = begin(t, store, daily(60, 1000))
		assert.Zero(t, p.take(1), "empty after a crash")
		time.Sleep(2 * time.Second)
		assert.Zero(t, p.take(1), "the predecessor may still grant")
		time.Sleep(30 * time.Second)
		assert.InDelta(t, 28, p.take(100), 1, "then it refills")
		time.Sleep(time.Minute)
		require.NoError(t, p.Stop(t.Context()))

		time.Sleep(time.Hour) // no record counts this time
		p = begin(t, store, daily(60, 1000))
		assert.Equal(t, 58, p.take(100), "it was full when it was stopped")
		require.NoError(t, p.Stop(t.Context()))
		p = begin(t, store, daily(60, 1000))
		assert.Zero(t, p.take(1), "and empty the next time")
		p.crash()
	})
}

// What is used of a day outlives any number of crashes, and each crash costs at most one
// hundredth of the limit.
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

// After a crash, slots are taken for exactly the longest time to live that anybody has asked
// for.
func TestSlotsAfterACrash(t *testing.T) {
	for name, c := range map[string]struct {
		ttl, taken time.Duration
		stop       bool // the owner stops in order before the crashes; its leases go on
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

// After StateLost, all limits are used up and earlier lease ids are unknown.
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
		_, _, err = p.Report(t.Context(), "h", l.ID, broker.Report{Final: true})
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		time.Sleep(25 * time.Hour)
		assert.Equal(t, 100, p.take(100))
		p.crash()
	})
}

// With StateLost, slots are taken for as long as the record says that leases live, if that is
// longer than the configuration says now.
func TestStateLostWithLongLeasesOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		cfg := onePool("a", plenty, 5)
		p := begin(t, store, cfg)
		r := ask("h")
		r.TTL = 8 * time.Minute
		_, err := p.Acquire(t.Context(), r)
		require.NoError(t, err)
		p.crash()
		cfg.StateLost = true
		cfg.Pools[0].DefaultTTL, cfg.Pools[0].MaxTTL = time.Minute, 2*time.Minute
		p = begin(t, store, cfg)
		time.Sleep(8 * time.Minute)
		assert.Zero(t, p.take(1))
		time.Sleep(3 * time.Second)
		assert.Equal(t, 5, p.take(10))
		p.crash()
	})
}
