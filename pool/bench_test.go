package pool_test

// What a decision costs. It must not depend on how many keys there are, nor on
// whether any of them has room.

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

var strategies = []string{pool.LeastLoaded, pool.RoundRobin, pool.Random, pool.Weighted}

// fleet is a pool of so many keys, each a group of its own with three limits.
func fleet(b *testing.B, strategy string, keys int, rpm int64) *pool.Domain {
	cfg := setup{Dialect: dialect(b, "anthropic"), Flat: true, Strategy: strategy, StartWithin: 2 * time.Second}
	for i := range keys {
		cfg.Keys = append(cfg.Keys, pool.Key{
			ID: fmt.Sprintf("k%d", i), Priority: 1, Weight: 1 + i%3, Limits: limits(rpm, 1000*rpm, 1000*rpm),
		})
	}
	p, err := newPool(cfg)
	require.NoError(b, err)
	return p
}

var small = pool.Ask{
	Holder: "h", TTL: 5 * time.Minute,
	Amounts: provider.Amounts{provider.Requests: 1, provider.InputTokens: 100, provider.OutputTokens: 100, provider.Concurrency: 1},
}

func BenchmarkAcquireRelease(b *testing.B) {
	for _, strategy := range strategies {
		for _, keys := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("%s/%dkeys", strategy, keys), func(b *testing.B) {
				acquireAndRelease(b, fleet(b, strategy, keys, 1e12))
			})
		}
	}
}

func BenchmarkOneGroup10000Keys(b *testing.B) {
	cfg := setup{
		Dialect: dialect(b, "anthropic"), Flat: true, StartWithin: 2 * time.Second,
		Groups: []pool.Group{{Name: "g", Limits: limits(1e12, 1e15, 1e15)}},
	}
	for i := range 10_000 {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprintf("k%d", i), Group: "g", Priority: 1})
	}
	p, err := newPool(cfg)
	require.NoError(b, err)
	acquireAndRelease(b, p)
}

// acquireAndRelease keeps a thousand leases out, and ends the oldest for each
// new one.
func acquireAndRelease(b *testing.B, p *pool.Domain) {
	var out [1000]pool.LeaseID
	now := pool.Time(time.Hour)
	for i := range out {
		g, err := p.Acquire(now, small)
		require.NoError(b, err)
		out[i] = g.Lease
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		now += 1000
		oldest := &out[i%len(out)]
		if err := p.Release(now, *oldest, "h", false); err != nil {
			b.Fatal(err)
		}
		g, err := p.Acquire(now, small)
		if err != nil {
			b.Fatal(err)
		}
		*oldest = g.Lease
	}
}

func BenchmarkExhausted(b *testing.B) {
	for _, strategy := range strategies {
		for _, keys := range []int{10, 10_000} {
			for _, kind := range []string{"repeated", "growing", "shrinking"} {
				b.Run(fmt.Sprintf("%s/%d/%s", strategy, keys, kind), func(b *testing.B) { exhausted(b, strategy, keys, kind) })
			}
		}
	}
}

// exhausted asks a pool without room, with the same ask, ever larger ones, or
// ever smaller ones, which no memory of a failed search answers.
func exhausted(b *testing.B, strategy string, keys int, kind string) {
	p := fleet(b, strategy, keys, 10)
	now := pool.Time(time.Hour)
	drain := pool.Ask{Holder: "h", TTL: time.Hour}
	drain.Amounts[provider.InputTokens] = 9_600 // of 10 000, the envelope of 2 s off
	for range keys {
		_, err := p.Acquire(now, drain)
		require.NoError(b, err)
	}
	ask := small
	ask.Amounts[provider.InputTokens] = 5000
	_, err := p.Acquire(now, ask)
	require.ErrorIs(b, err, pool.ErrAllKeysExhausted)
	for i := 0; b.Loop(); i++ {
		switch kind {
		case "growing":
			ask.Amounts[provider.InputTokens] = 5000 + int64(i%4000)
		case "shrinking":
			ask.Amounts[provider.InputTokens] = 5000 - int64(i%4000)
		}
		if _, err := p.Acquire(now, ask); err == nil {
			b.Fatal("there was room")
		}
	}
}

// BenchmarkQueue is one waiter served and another come, of a thousand from a
// hundred holders who want more than there is: all the same, or each another
// amount.
func BenchmarkQueue(b *testing.B) {
	for _, keys := range []int{10, 10_000} {
		for _, kind := range []string{"even", "mixed"} {
			b.Run(fmt.Sprintf("%dkeys/%s", keys, kind), func(b *testing.B) { queue(b, keys, kind == "mixed") })
		}
	}
}

func queue(b *testing.B, keys int, mixed bool) {
	p := fleet(b, pool.LeastLoaded, keys, 60_000/int64(keys))
	now := pool.Time(0)
	asks := make([]pool.Ask, 100)
	for i := range asks {
		asks[i] = small
		asks[i].Holder = fmt.Sprintf("h%d", i)
		asks[i].TTL = time.Second
		if mixed {
			asks[i].Amounts[provider.InputTokens] = int64(10 * (i%10 + 1))
			asks[i].Amounts[provider.OutputTokens] = int64(7 * (i%13 + 1))
		}
	}
	for _, err := p.Acquire(now, small); err == nil; {
		_, err = p.Acquire(now, small)
	}
	for i := range 1000 {
		_, err := p.Wait(now, asks[i%len(asks)])
		require.NoError(b, err)
	}
	b.ReportAllocs()
	wake := pool.Time(0)
	for served := 0; b.Loop(); served-- {
		for served <= 0 {
			var ws []*pool.Waiter
			now = max(now, wake)
			ws, wake = p.Next(now)
			served += len(ws)
			for _, w := range ws {
				if _, err := p.Wait(now, w.Ask); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

// BenchmarkLeaseMemory is a million leases at a time, which fit 400 MB.
func BenchmarkLeaseMemory(b *testing.B) {
	const leases = 1_000_000
	for b.Loop() {
		p := fleet(b, pool.LeastLoaded, 10, 1e12)
		before := heapInUse()
		for range leases {
			if _, err := p.Acquire(0, small); err != nil {
				b.Fatal(err)
			}
		}
		perLease := float64(heapInUse()-before) / leases
		b.ReportMetric(perLease, "B/lease")
		require.LessOrEqual(b, perLease, 400.0)
		runtime.KeepAlive(p)
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkAcquireReleaseKept is with limits by the day, beside the same where
// nobody writes anything down.
func BenchmarkAcquireReleaseKept(b *testing.B) {
	for _, keeps := range []bool{false, true} {
		b.Run(fmt.Sprintf("keeps=%v", keeps), func(b *testing.B) {
			p := byTheDay(b, 10)
			if keeps {
				p.State(0, false)
				p.Saved()
			}
			acquireAndRelease(b, p)
		})
	}
}

// byTheDay is a pool of so many keys, each with three limits by the minute and two by
// the day.
func byTheDay(b *testing.B, keys int) *pool.Domain {
	cfg := setup{Dialect: dialect(b, "anthropic"), Flat: true, StartWithin: 2 * time.Second}
	for i := range keys {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprintf("k%d", i), Limits: append(limits(1e12, 1e15, 1e15),
			pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1e12, Kind: provider.Refilling},
			pool.Limit{Dimension: provider.InputTokens, Window: 24 * time.Hour, Amount: 1e15, Kind: provider.Refilling},
		)})
	}
	p, err := newPool(cfg)
	require.NoError(b, err)
	return p
}

// BenchmarkState is how long the lock is held for a save of 10,000 keys and 30,000 accounts: of
// all of them, as at the start and the end, and of what one busy key, or 20,000 leases of all,
// have changed.
func BenchmarkState(b *testing.B) {
	cfg := setup{Dialect: dialect(b, "anthropic"), Models: []string{"m1", "m2", "m3"}, StartWithin: 2 * time.Second}
	for i := range 10_000 {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprintf("k%d", i), Priority: map[bool]int{true: 1}[i == 5000], Limits: append(limits(1e12, 1e15, 1e15),
			pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1e12, Kind: provider.Refilling},
			pool.Limit{Dimension: provider.InputTokens, Window: 24 * time.Hour, Amount: 10_000, Kind: provider.Sliding},
		)})
	}
	p, err := newPool(cfg)
	require.NoError(b, err)
	now := pool.Time(100 * time.Hour)
	a := small
	a.TTL, a.Model = time.Second, "m1"
	a.Amounts[provider.InputTokens] = 100
	lease := func(exclude ...string) {
		a.Exclude = exclude
		g, err := p.Acquire(now, a)
		require.NoError(b, err)
		require.NoError(b, p.Release(now, g.Lease, a.Holder, false))
	}
	save := func(b *testing.B, stopped bool) {
		s, _ := p.State(now, stopped)
		b.StopTimer()
		p.Saved()
		b.ReportMetric(float64(len(s.Accounts)), "accounts")
	}
	p.State(now, false)
	p.Saved()
	for range 20_000 {
		lease("k5000")
	}
	b.Run("of all", func(b *testing.B) {
		for b.Loop() {
			now++
			save(b, true)
			b.StartTimer()
		}
	})
	b.Run("of one busy key", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			now = now.Add(time.Hour)
			for range 4 {
				lease()
			}
			b.StartTimer()
			save(b, false)
			b.StartTimer()
		}
	})
	b.Run("of many", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			now = now.Add(time.Hour)
			for range 20_000 {
				lease("k5000")
			}
			b.StartTimer()
			save(b, false)
			b.StartTimer()
		}
	})
}

func BenchmarkRecover10000Keys(b *testing.B) {
	p := byTheDay(b, 10_000)
	s, _ := p.State(0, false)
	for b.Loop() {
		b.StopTimer()
		p := byTheDay(b, 10_000)
		b.StartTimer()
		p.Recover(0, s, after)
	}
}
