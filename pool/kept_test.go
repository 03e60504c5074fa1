package pool_test

// OpenAI counts what a request reserves, however little its answer uses.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func TestReservationIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *story, g pool.Grant)
		left int64
	}{
		"used less": {func(s *story, g pool.Grant) { s.ends(g, "a", provider.Signal{}, tokens(10)) }, 900},
		"used more": {func(s *story, g pool.Grant) { s.ends(g, "a", provider.Signal{}, tokens(150)) }, 850},
		"not known": {func(s *story, g pool.Grant) { s.ends(g, "a", provider.Signal{}, unknown) }, 900},
		"released":  {func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "a", false)) }, 900},
		"not sent":  {func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "a", true)) }, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Dialect: dialect(t, "openai"), Keys: []pool.Key{{ID: "k", Limits: []pool.Limit{
				{Dimension: provider.Tokens, Window: time.Minute, Amount: 1000, Kind: provider.Refilling},
			}}}})
			g := s.lease("a", func(a *pool.Ask) { a.Amounts[provider.Tokens] = 100 })
			c.end(s, g)
			assert.Equal(t, c.left, s.Inspect(s.now, "").Quotas[0].Limits[0].Remaining)
		})
	}
}

func tokens(n int64) provider.Amounts {
	used := unknown
	used[provider.Tokens] = n
	return used
}
