package app_test

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/record"
	"github.com/keybroker/keybroker/internal/store/bolt"
	"github.com/keybroker/keybroker/pool"
)

// oldLease is one of those that the program granted that wrote the file.
const oldLease = "AgGvY9xMhgHsjK9j5kyGAf2KNY56zIP-xVsBHoCA65H8DQEBAAAAAWy93hin2H1eMmdoexoIzGo"

// A file of the program before: one domain, which was stopped in order after 30 leases of a
// time to live of eight minutes.
func TestAFileOfTheProgramBefore(t *testing.T) {
	f, err := os.Open(filepath.Join("..", "store", "bolt", "testdata", "schema1.db.gz"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	data, err := io.ReadAll(z)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "state.db")
	require.NoError(t, os.WriteFile(path, data, 0o600))

	dialect, _ := provider.Lookup("anthropic")
	k := pool.Key{ID: "k"}
	for d, n := range []int64{60, 1e9, 1e9} {
		k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1000, Kind: provider.Sliding})
	cfg := broker.DomainConfig{
		Config: pool.Config{Name: "a", Dialect: dialect, Flat: true, Keys: []pool.Key{k}},
		Pools: []broker.PoolConfig{{
			Rules:      pool.Rules{Name: "a", StartWithin: 2 * time.Second},
			DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: time.Minute,
		}},
	}
	synctest.Test(t, func(t *testing.T) { // so that nothing refills, however slow the machine is
		for run := range 2 {
			s, err := bolt.Open(path)
			require.NoError(t, err)
			b, err := broker.New(t.Context(), s, []broker.DomainConfig{cfg})
			require.NoError(t, err)
			v, err := b.Inspect("a", pool.Query{})
			require.NoError(t, err)
			limits := v.Snapshot.Quotas[0].Limits
			assert.EqualValues(t, 30, limits[0].Used, "as it was")
			assert.EqualValues(t, 30, limits[3].Used)
			if run == 0 {
				_, settled, err := b.Report(t.Context(), "h", oldLease, broker.Report{Final: true})
				require.NoError(t, err)
				assert.False(t, settled)
			}
			require.NoError(t, b.Stop(t.Context()))
			r, err := s.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.NotContains(t, r.Chunks, broker.SoleChunk)
			got, err := record.Decode(r.Chunks)
			require.NoError(t, err)
			assert.True(t, got.State.Stopped)
			assert.Equal(t, 8*time.Minute, got.MaxTTL)
			require.NoError(t, s.Close())
		}
	})
}
