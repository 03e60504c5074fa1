package broker

import (
	"context"
	"fmt"
	"maps"
	"sync"
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

// mirror is what a watcher knows of a pool by the messages alone.
type mirror struct {
	mu     sync.Mutex
	last   Changes
	keys   map[string]pool.Mark
	quotas map[QuotaName]pool.Mark
	ended  error
}

// mirrored watches a pool until the context ends.
func mirrored(ctx context.Context, b *Broker, q pool.Query) *mirror {
	m := &mirror{}
	go func() {
		err := b.Watch(ctx, "a", q, time.Second, func(c Changes) error { m.take(&c); return nil })
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ended = err
	}()
	return m
}

func (m *mirror) take(c *Changes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last = *c; c.StartsOver {
		m.keys, m.quotas = map[string]pool.Mark{}, map[QuotaName]pool.Mark{}
	}
	for _, k := range c.Snapshot.Keys {
		m.keys[k.ID] = k.Changed
	}
	for _, q := range c.Snapshot.Quotas {
		m.quotas[QuotaName{q.Group, q.Class, q.Key}] = q.Changed
	}
	for _, q := range c.GoneQuotas {
		delete(m.quotas, q)
	}
}

// equal checks that the watcher knows the pool as it is. It returns how many quotas that has.
func (m *mirror) equal(t *testing.T, b *Broker) int {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := b.Inspect("a", pool.Query{})
	require.NoError(t, err)
	keys, quotas := map[string]pool.Mark{}, map[QuotaName]pool.Mark{}
	for q, more := (pool.Query{}), true; more; more = q.From != (pool.Cursor{}) {
		page, err := b.Page("a", q)
		require.NoError(t, err)
		for _, k := range page.Keys {
			keys[k.ID] = k.Changed
		}
		for _, q := range page.Quotas {
			quotas[QuotaName{q.Group, q.Class, q.Key}] = q.Changed
		}
		q.From = page.Next
	}
	assert.True(t, maps.Equal(keys, m.keys), "%d keys, and the watcher knows %d", len(keys), len(m.keys))
	assert.True(t, maps.Equal(quotas, m.quotas), "%d quotas, and the watcher knows %d", len(quotas), len(m.quotas))
	assert.Equal(t, v.Snapshot.Available, m.last.Snapshot.Available)
	assert.Equal(t, v.Refused, m.last.Refused)
	return len(quotas)
}

// Classes of models that nobody asks for any more are forgotten, also the one at which a page has
// ended. A watcher, here with pages of one quota, is told of that, and of all that changes after.
func TestWatchersHearOfForgottenClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialect, _ := provider.Lookup("openai")
		minute := []pool.Limit{{Dimension: provider.Requests, Window: time.Minute, Amount: 1000, Kind: provider.Refilling}}
		cfg := smallDomain()
		cfg.Dialect, cfg.Flat = dialect, false
		cfg.Groups = []pool.Group{{Name: "g", Limits: minute}, {Name: "without keys", Limits: minute}}
		cfg.Keys = []pool.Key{{ID: "x", Group: "g", Limits: minute}, {ID: "y", Group: "g"}, {ID: "z", Limits: minute}}
		b, err := New(t.Context(), &Memory{}, []DomainConfig{cfg})
		require.NoError(t, err)
		ask := func(model string) {
			l, err := b.Acquire(t.Context(), Request{Holder: "h", Pool: "a", Model: model})
			require.NoError(t, err)
			_, err = b.Release(t.Context(), "h", l.ID, false)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		m := mirrored(ctx, b, pool.Query{Size: 1})
		for round := range 3 {
			for i := range 20 {
				ask(fmt.Sprint("model-", i))
			}
			for range 100 {
				ask("other")
				time.Sleep(time.Second)
			}
			time.Sleep(20 * time.Minute)
			require.Equal(t, 21*4, m.equal(t, b), "round %d", round)
			time.Sleep(2 * time.Hour)
			for range 100 { // the others are forgotten meanwhile, one a second
				ask("other")
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
			require.Equal(t, 4, m.equal(t, b), "round %d", round)
		}
		cancel()
		require.NoError(t, b.Stop(t.Context()))
	})
}

// A class may be forgotten while a page has ended at it. What is behind it is told.
func TestAWatchGoesOnWhenItsPlaceIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(t.Context(), &Memory{}, []DomainConfig{smallDomain()})
		require.NoError(t, err)
		p := b.byName["a"]
		w := &watch{pool: p, query: pool.Query{Size: 1}}
		w.next()
		w.query.From = pool.Cursor{Quotas: true, Group: "k", Class: "forgotten"}
		quotas := 0
		for range 3 {
			c := w.next()
			quotas += len(c.Snapshot.Quotas)
		}
		assert.Equal(t, 1, quotas)
		require.NoError(t, b.Stop(t.Context()))
	})
}

// A refusal is told although it changes nothing else.
func TestWatchersHearOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(t.Context(), &Memory{}, []DomainConfig{smallDomain()})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		m := mirrored(ctx, b, pool.Query{})
		for n := range 3 {
			time.Sleep(10 * time.Second)
			m.mu.Lock()
			assert.EqualValues(t, n, m.last.Refused)
			m.mu.Unlock()
			b.byName["a"].countRefusal(pool.ErrAllKeysExhausted)
		}
		cancel()
		require.NoError(t, b.Stop(t.Context()))
	})
}

// In a large pool the available keys are counted in several steps. A change meanwhile is told
// without a further one.
func TestTheAvailableKeysOfALargePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := smallDomain()
		cfg.Keys = nil
		for i := range 12_000 {
			cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("key-", i)})
		}
		b, err := New(t.Context(), &Memory{}, []DomainConfig{cfg})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		m := mirrored(ctx, b, pool.Query{})
		time.Sleep(time.Minute)
		m.equal(t, b)
		for range 5 {
			l, err := b.Acquire(t.Context(), Request{Holder: "h", Pool: "a"})
			require.NoError(t, err)
			refused := Report{Response: provider.Response{Status: 401}, Usage: provider.NoUsage, Final: true}
			_, _, err = b.Report(t.Context(), "h", l.ID, refused)
			require.NoError(t, err)
			time.Sleep(1100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		m.equal(t, b)
		cancel()
		require.NoError(t, b.Stop(t.Context()))
	})
}

// A watch ends when a successor has claimed the domain, at once or at its next call.
func TestAWatchEndsWithTheOwnership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		old, err := New(t.Context(), store, []DomainConfig{smallDomain()})
		require.NoError(t, err)
		m := mirrored(t.Context(), old, pool.Query{})
		time.Sleep(time.Minute)
		next, err := New(t.Context(), store, []DomainConfig{smallDomain()})
		require.NoError(t, err)
		synctest.Wait()
		m.mu.Lock()
		assert.ErrorIs(t, m.ended, ErrNotOwner)
		m.mu.Unlock()
		err = old.Watch(t.Context(), "a", pool.Query{}, time.Second, func(Changes) error { return nil })
		assert.ErrorIs(t, err, ErrNotOwner)
		require.NoError(t, old.Stop(t.Context()))
		require.NoError(t, next.Stop(t.Context()))
	})
}
