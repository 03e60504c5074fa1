package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// With another configuration, a watcher is told all of the state anew.
func TestWatchStartsOverWithAnotherConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialect, _ := provider.Lookup("anthropic")
		cfg := DomainConfig{
			Config: pool.Config{Name: "a", Dialect: dialect, Flat: true, Keys: []pool.Key{{ID: "one"}, {ID: "two"}}},
			Pools:  []PoolConfig{{Rules: pool.Rules{Name: "a"}, DefaultTTL: time.Minute, MaxTTL: time.Minute}},
		}
		b, err := New(t.Context(), &Memory{}, []DomainConfig{cfg})
		require.NoError(t, err)
		defer b.Close()
		told := make(chan Changes)
		go func() {
			_ = b.Watch(t.Context(), "a", pool.Query{}, time.Second, func(c Changes) error { told <- c; return nil })
		}()
		ids := func(startsOver bool) (all []string) {
			c := <-told
			assert.Equal(t, startsOver, c.StartsOver)
			assert.True(t, c.Complete)
			for _, k := range c.Snapshot.Keys {
				all = append(all, k.ID)
			}
			return all
		}
		assert.Equal(t, []string{"one", "two"}, ids(true))
		_, err = b.Acquire(t.Context(), Request{Holder: "h", Pool: "a", Exclude: []string{"two"}})
		require.NoError(t, err)
		assert.Equal(t, []string{"one"}, ids(false))
		cfg.Keys = []pool.Key{{ID: "three"}, {ID: "two"}}
		b.byName["a"].do(func(l *locked, now pool.Time) {
			_, err = l.engine.Reconfigure(now, cfg.engine())
			require.NoError(t, err)
		})
		assert.Equal(t, []string{"three", "two"}, ids(true), "one has gone")
	})
}

// When very many are not limited any more, their names are told in several messages, once each.
func TestManyThatAreGoneAreToldInTurns(t *testing.T) {
	w := &watch{keys: seen[string]{}, quotas: seen[QuotaName]{}}
	for i := range 20_000 {
		w.keys.again(fmt.Sprint("key-", i))
		w.quotas.again(QuotaName{fmt.Sprint("key-", i), "class", ""})
	}
	assert.Empty(t, w.keys.endRound(), "they were seen")
	assert.Empty(t, w.quotas.endRound())
	w.goneKeys, w.goneQuotas = w.keys.endRound(), w.quotas.endRound()
	told, messages := map[any]bool{}, 0
	for ; w.leaves(); messages++ {
		var c Changes
		w.tellGone(&c)
		for _, k := range c.GoneKeys {
			assert.False(t, told[k])
			told[k] = true
		}
		for _, q := range c.GoneQuotas {
			assert.False(t, told[q])
			told[q] = true
		}
	}
	assert.Len(t, told, 40_000)
	assert.Equal(t, 2, messages)
}
