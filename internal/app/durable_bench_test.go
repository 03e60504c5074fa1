package app_test

// What durability costs.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/record"
	"github.com/keybroker/keybroker/internal/store/bolt"
	"github.com/keybroker/keybroker/internal/testing/storetest"
	"github.com/keybroker/keybroker/pool"
)

// remembered is a pool whose limits are by the minute and the day, so large that
// they never bind.
func remembered(keys int) broker.DomainConfig {
	dialect, _ := provider.Lookup("openai")
	cfg := broker.DomainConfig{
		Config: pool.Config{Name: "p", Dialect: dialect, Flat: true},
		Pools: []broker.PoolConfig{{
			Rules:      pool.Rules{Name: "p", StartWithin: 2 * time.Second},
			DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: time.Minute,
		}},
	}
	for i := range keys {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("key-", i), Limits: []pool.Limit{
			{Dimension: provider.Requests, Window: time.Minute, Amount: 1e12, Kind: provider.Refilling},
			{Dimension: provider.Tokens, Window: time.Minute, Amount: 1e15, Kind: provider.Refilling},
			{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1e6, Kind: provider.Sliding},
		}})
	}
	return cfg
}

func onFile(b *testing.B) (*bolt.Store, string) {
	path := filepath.Join(b.TempDir(), "state.db")
	s, err := bolt.Open(path)
	require.NoError(b, err)
	b.Cleanup(func() { _ = s.Close() })
	return s, path
}

func durable(b *testing.B, s broker.Store, cfg broker.DomainConfig) *broker.Broker {
	br, err := broker.New(b.Context(), s, []broker.DomainConfig{cfg})
	require.NoError(b, err)
	time.Sleep(5 * time.Second) // a minute's limits are empty at first, if they were used before
	return br
}

func acquire(b *testing.B, br *broker.Broker) {
	l, err := br.Acquire(context.Background(), broker.Request{Holder: "h", Pool: "p", Demand: provider.Demand{InputTokens: 100, MaxOutputTokens: 100}})
	require.NoError(b, err)
	_, err = br.Release(b.Context(), "h", l.ID, false)
	require.NoError(b, err)
}

// Leases a second with a file and with memory, in turn: their ratio.
func BenchmarkFileBesideMemory(b *testing.B) {
	file, _ := onFile(b)
	brokers := []*broker.Broker{durable(b, &broker.Memory{}, remembered(10)), durable(b, file, remembered(10))}
	var took [2]time.Duration
	const batch = 2000
	n := 0
	for b.Loop() {
		for i := range brokers {
			j := (i + n) % 2
			began := time.Now()
			for range batch {
				acquire(b, brokers[j])
			}
			took[j] += time.Since(began)
		}
		n++
	}
	b.ReportMetric(float64(took[0])/float64(took[1]), "of-memory")
	b.ReportMetric(float64(took[1].Nanoseconds())/float64(n*batch), "ns/lease")
	b.ReportMetric(0, "ns/op")
}

// Writes a second, by asks a second.
func BenchmarkWrites(b *testing.B) {
	for _, rate := range []int{0, 100, 20_000} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) {
			file, _ := onFile(b)
			s := storetest.NewFaulty(file)
			br := durable(b, s, remembered(10))
			before, began, sent := s.Calls(storetest.Save), time.Now(), 0
			for time.Since(began) < 10*time.Second {
				for sent < int(time.Since(began).Seconds()*float64(rate)) {
					acquire(b, br)
					sent++
				}
				time.Sleep(time.Millisecond)
			}
			took := time.Since(began).Seconds()
			b.ReportMetric(float64(s.Calls(storetest.Save)-before)/took, "writes/s")
			b.ReportMetric(float64(sent)/took, "asks/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A start with 10,000 keys that have all been used.
func BenchmarkStart(b *testing.B) {
	file, path := onFile(b)
	cfg := remembered(10_000)
	cfg.Pools[0].Strategy = "round_robin"
	br := durable(b, file, cfg)
	for range 10_000 {
		acquire(b, br)
	}
	require.NoError(b, br.Stop(b.Context()))
	require.NoError(b, file.Close())
	for b.Loop() {
		s, err := bolt.Open(path)
		require.NoError(b, err)
		br, err := broker.New(b.Context(), s, []broker.DomainConfig{cfg})
		require.NoError(b, err)
		b.StopTimer()
		require.NoError(b, br.Stop(b.Context()))
		require.NoError(b, s.Close())
		b.StartTimer()
	}
	info, err := os.Stat(path)
	require.NoError(b, err)
	b.ReportMetric(float64(info.Size())/1e6, "MB-file")
}

// The file after as many saves as a busy day has: one a second.
func BenchmarkDay(b *testing.B) {
	file, path := onFile(b)
	epoch, err := file.Claim(b.Context(), "p")
	require.NoError(b, err)
	dialect, _ := provider.Lookup("openai")
	p, err := pool.New(pool.Config{Name: "p", Dialect: dialect, Flat: true, Keys: remembered(100).Keys, Pools: []pool.Rules{{Name: "p"}}})
	require.NoError(b, err)
	log, version, written := record.NewLog(epoch, nil), uint64(0), 0
	for b.Loop() {
		for second := range 86_400 {
			now := pool.Time(second) * pool.Time(time.Second)
			_, err := p.Acquire(now, pool.Ask{Holder: "h", Amounts: provider.Amounts{provider.Requests: 1}, TTL: time.Minute})
			require.NoError(b, err)
			state, _ := p.State(now, false)
			var c broker.Change
			c.Put, c.Drop = log.Change(state, time.Minute)
			version, err = file.Save(b.Context(), "p", epoch, version, c)
			require.NoError(b, err)
			log.Saved()
			p.Saved()
			written += storetest.Size(&c)
		}
	}
	info, err := os.Stat(path)
	require.NoError(b, err)
	b.ReportMetric(float64(written)/1e6/float64(b.N), "MB-written")
	b.ReportMetric(float64(info.Size())/1e6, "MB-file")
}
