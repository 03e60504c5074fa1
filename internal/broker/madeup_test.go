package broker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
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

// 100 keys, and 300 models that nobody declared, asked for at random 50 times a second. So few
// requests a day are allowed that each lease waits for a save. Nobody is turned away, and
// little is written. A successor knows what was used.
func TestMadeUpModelsStopNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialect, _ := provider.Lookup("openai")
		cfg := onePool("a", plenty, plenty)
		cfg.Dialect, cfg.Flat, cfg.Keys = dialect, false, nil
		for i := range 100 {
			cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("key-", i), Limits: []pool.Limit{
				{Dimension: provider.Requests, Window: time.Minute, Amount: 500, Kind: provider.Refilling},
				{Dimension: provider.Tokens, Window: time.Minute, Amount: 200_000, Kind: provider.Refilling},
				{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 90, Kind: provider.Sliding},
			}})
		}
		var troubles []error
		cfg.OnStore = func(err error) { troubles = append(troubles, err) }
		store := storetest.NewFaulty(&broker.Memory{})
		p := begin(t, store, cfg)
		time.Sleep(afterCrash)
		random := rand.New(rand.NewPCG(1, 2))
		var perMinute []int
		const minutes, rate = 3, 50
		for range minutes {
			before := store.Written()
			for range 60 * rate {
				r := waiting("h", 10*time.Second)
				r.Model = fmt.Sprint("model-", random.IntN(300))
				go func() {
					l, err := p.Acquire(t.Context(), r)
					if assert.NoError(t, err) {
						_, err = p.Release(t.Context(), "h", l.ID, false)
						assert.NoError(t, err)
					}
				}()
				time.Sleep(time.Second / rate)
			}
			perMinute = append(perMinute, store.Written()-before)
		}
		t.Logf("bytes a minute: %v; saves: %d", perMinute, store.Calls(storetest.Save))
		assert.Empty(t, errors.Join(troubles...))
		assert.Less(t, perMinute[0], 8<<20, "while the models are new")
		for _, n := range perMinute[1:] {
			assert.Less(t, n, 1<<20)
		}
		time.Sleep(time.Minute)
		used := func() (n int64) {
			for q := (pool.Query{}); ; {
				page, err := p.Page("a", q)
				require.NoError(t, err)
				for _, quota := range page.Quotas {
					n += quota.Limits[2].Used
				}
				if q.From = page.Next; q.From == (pool.Cursor{}) {
					return n
				}
			}
		}
		before := used()
		require.EqualValues(t, 60*rate*minutes, before)
		p.crash()
		p = begin(t, store, cfg)
		assert.Equal(t, before, used())
		p.crash()
	})
}
