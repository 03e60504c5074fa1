package metrics

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// A look that takes long is not repeated before it has become a hundredth of the
// time.
func TestLooksAreRare(t *testing.T) {
	for _, c := range []struct {
		name       string
		took, good time.Duration
		err        error
	}{
		{"a look that costs nothing", 0, 0, nil},
		{"a small pool", 10 * time.Microsecond, time.Millisecond, nil},
		{"a big pool", 50 * time.Millisecond, 5 * time.Second, nil},
		{"a busy machine", 10 * time.Second, time.Minute, nil},
		{"in vain", 50 * time.Millisecond, 5 * time.Second, errors.New("gone")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				looks := 0
				cache := newLimitCache(func(string, pool.Query) (pool.Page, error) {
					looks++
					time.Sleep(c.took)
					return pool.Page{}, c.err
				})
				assert.Equal(t, c.err == nil, cache.of("p") != nil)
				if c.good == 0 {
					cache.of("p")
					assert.Equal(t, 2, looks)
					return
				}
				time.Sleep(c.good - 1)
				cache.of("p")
				assert.Equal(t, 1, looks, "a nanosecond early")
				time.Sleep(time.Nanosecond)
				cache.of("p")
				assert.Equal(t, 2, looks)
			})
		})
	}
}

func TestScrapersShareALook(t *testing.T) {
	var looks atomic.Int32
	cache := newLimitCache(func(string, pool.Query) (pool.Page, error) {
		looks.Add(1)
		time.Sleep(600 * time.Millisecond) // good for a minute
		return pool.Page{}, nil
	})
	var scrapers sync.WaitGroup
	for range 8 {
		scrapers.Go(func() { assert.NotNil(t, cache.of("p")) })
	}
	scrapers.Wait()
	assert.EqualValues(t, 1, looks.Load())
}

func TestLimitsUnderTheSameLabels(t *testing.T) {
	state := func(name string, window time.Duration, remaining int64) pool.LimitState {
		return pool.LimitState{Dimension: provider.Tokens, Name: name, Window: window, Limit: 100, Used: 100 - remaining, Remaining: remaining}
	}
	got := &poolLimits{places: map[limitName]int{}}
	got.add([]pool.QuotaState{
		{Group: "g", Class: "c", Limits: []pool.LimitState{state("x", time.Minute, 50), state("y", time.Minute, 20), state("z", time.Minute, 30), state("", time.Hour, 10)}},
		{Group: "g", Class: "c", Key: "k", Limits: []pool.LimitState{state("", time.Minute, 0)}},
	})
	assert.Equal(t, []limit{
		{limitName{"g", "c", "tokens", "1m"}, 100, 80, 20},
		{limitName{"g", "c", "tokens", "1h"}, 100, 90, 10},
	}, got.limits)
}

// If the pool gets another configuration between two pages, it is read anew.
func TestReadingBeginsAnewWhenACursorIsLost(t *testing.T) {
	quota := func(group string) []pool.QuotaState {
		return []pool.QuotaState{{Group: group, Limits: []pool.LimitState{{Limit: 1}}}}
	}
	reads := 0
	got := newLimitCache(func(_ string, q pool.Query) (pool.Page, error) {
		if q.From.Group == "" {
			reads++
			return pool.Page{Quotas: quota(fmt.Sprint("first of ", reads)), Next: pool.Cursor{Quotas: true, Group: "g"}}, nil
		}
		if reads == 1 {
			return pool.Page{}, pool.ErrCursor
		}
		return pool.Page{Quotas: quota("last")}, nil
	}).of("p")
	require.Len(t, got.limits, 2)
	assert.Equal(t, []string{"first of 2", "last"}, []string{got.limits[0].group, got.limits[1].group})
}

func TestWindow(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", time.Second: "1s", 10 * time.Second: "10s", time.Minute: "1m", 90 * time.Second: "1m30s", 10 * time.Minute: "10m",
		time.Hour: "1h", 10 * time.Hour: "10h", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h",
	} {
		assert.Equal(t, want, window(d))
	}
}

func FuzzLabel(f *testing.F) {
	f.Add("claude")
	f.Add("\xff" + strings.Repeat("é", 200))
	f.Fuzz(func(t *testing.T, s string) {
		got := label(s)
		require.LessOrEqual(t, len(got), maxLabel)
		require.Equal(t, got, strings.ToValidUTF8(got, ""))
	})
}

// What a scrape reads of a pool. The engine's lock is held for the longest page at most.
func BenchmarkLook(b *testing.B) {
	for _, c := range []struct{ keys, classes int }{{100, 4}, {1000, 4}, {5000, 1}, {400, 250}} {
		b.Run(fmt.Sprintf("keys=%d/classes=%d", c.keys, c.classes), func(b *testing.B) {
			dialect, _ := provider.Lookup("anthropic")
			var limits []pool.Limit
			for d := range provider.Dimension(3) {
				limits = append(limits, pool.Limit{Dimension: d, Window: time.Minute, Amount: 1000, Kind: provider.Refilling})
			}
			cfg := pool.Config{Name: "p", Dialect: dialect}
			for i := range c.keys {
				cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("key", i), Limits: limits})
			}
			for i := range c.classes {
				cfg.Classes = append(cfg.Classes, pool.Class{Name: fmt.Sprint("class", i), Models: []string{fmt.Sprint("model", i)}})
			}
			broker, err := broker.New(b.Context(), &broker.Memory{}, []broker.DomainConfig{{
				Config: cfg,
				Pools:  []broker.PoolConfig{{Rules: pool.Rules{Name: "p", StartWithin: time.Second}, DefaultTTL: time.Minute, MaxTTL: time.Minute}},
			}})
			require.NoError(b, err)
			b.Cleanup(broker.Close)
			pages, longest := 0, time.Duration(0)
			cache := newLimitCache(func(name string, q pool.Query) (pool.Page, error) {
				began := time.Now()
				p, err := broker.Page(name, q)
				pages, longest = pages+1, max(longest, time.Since(began))
				return p, err
			})
			for b.Loop() {
				_, _ = cache.read("p")
			}
			b.ReportMetric(float64(pages)/float64(b.N), "pages/op")
			b.ReportMetric(float64(longest.Microseconds()), "longest-page-µs")
		})
	}
}
