package pool_test

// Leases for several requests: how many they are good for, and what comes back.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// several makes the ask one for so many requests.
func several(n int) func(*pool.Ask) { return func(a *pool.Ask) { a.Count = n } }

func TestBudgetIsATenthAtMost(t *testing.T) {
	for name, c := range map[string]struct {
		limits []pool.Limit
		want   int
	}{
		"of requests":                     {limits(1000, plenty, plenty), 50},
		"of few requests":                 {limits(200, plenty, plenty), 20},
		"of what a request uses":          {limits(plenty, 10_000, plenty), 10},
		"one, where there are few":        {limits(15, plenty, plenty), 1},
		"one, where a limit is not known": {nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: c.limits}}})
			assert.Equal(t, c.want, s.lease("h", input(100), several(50)).Count)
		})
	}
}

func TestBudgetIsWhatThereIsRoomFor(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(100)}}})
	for range 9 {
		require.Equal(t, 10, s.lease("h", several(10)).Count)
	}
	for range 7 {
		s.lease("h")
	}
	assert.Equal(t, 3, s.lease("h", several(10)).Count)
	s.refused("h", several(10))
}

// Those who wait are served in turn, and nobody takes what leaves none for them.
func TestBudgetLeavesRoomForThoseWhoWait(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(100)}}})
	for s.now = 0; ; {
		if _, err := s.Acquire(s.now, ask("h", several(100))); err != nil {
			break
		}
	}
	one, two := s.waits("one", several(100)), s.waits("two", several(100))
	s.now = 6 * sec // ten have refilled
	s.serves()
	assert.Equal(t, []int{5, 5}, []int{one.Grant().Count, two.Grant().Count})
}

func TestWhatABudgetDidNotSendComesBack(t *testing.T) {
	for name, end := range map[string]func(s *story, g pool.Grant){
		"at its end": func(s *story, g pool.Grant) {
			s.ends(g, "h", fine, provider.Amounts{4, 40})
		},
		"before its answers": func(s *story, g pool.Grant) {
			_, err := s.ReportLast(s.now, g.Lease, "h", fine, provider.Amounts{4, 40}, false)
			require.NoError(s, err)
		},
		"and then no more": func(s *story, g pool.Grant) {
			for range 2 {
				_, err := s.ReportLast(s.now, g.Lease, "h", fine, provider.Amounts{4, 40}, false)
				require.NoError(s, err)
			}
			s.ends(g, "h", fine, provider.Amounts{4, 40})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: limits(100, 10_000, plenty)}}})
			g := s.lease("h", input(10), several(10))
			require.Equal(t, 10, g.Count)
			end(s, g)
			ls := s.Inspect(s.now, "").Quotas[0].Limits
			assert.EqualValues(t, 4, ls[0].Used)
			assert.EqualValues(t, 40, ls[1].Used)
		})
	}
}

// What is held for the answers of those that were sent stays held.
func TestTrimmedBudgetHoldsItsAnswers(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: limits(100, plenty, 10_000)}}})
	g := s.lease("h", output(100), several(10))
	_, err := s.ReportLast(s.now, g.Lease, "h", fine, provider.Amounts{4, -1, 50}, false)
	require.NoError(t, err)
	l := s.Inspect(s.now, "").Quotas[0].Limits[2]
	assert.EqualValues(t, []int64{50, 350}, []int64{l.Used, l.Held})
	s.ends(g, "h", fine, provider.Amounts{4, -1, 200})
	l = s.Inspect(s.now, "").Quotas[0].Limits[2]
	assert.EqualValues(t, []int64{200, 0}, []int64{l.Used, l.Held})
}

// What the provider keeps of a reservation it keeps of each request.
func TestBudgetOfAProviderThatKeeps(t *testing.T) {
	tpm := pool.Limit{Dimension: provider.Tokens, Window: time.Minute, Amount: 10_000, Kind: provider.Refilling}
	s := begin(t, setup{Dialect: dialect(t, "openai"), Keys: []pool.Key{{ID: "a", Limits: append(limits(100, plenty, plenty)[:1], tpm)}}})
	g := s.lease("h", several(5), func(a *pool.Ask) { a.Amounts[provider.Tokens] = 100 })
	require.Equal(t, 5, g.Count)
	s.ends(g, "h", fine, provider.Amounts{2, 10, 10, 20, 1})
	assert.EqualValues(t, 200, s.Inspect(s.now, "").Quotas[0].Limits[1].Used)
}

// Each of its requests may be refused, and each refusal counts.
func TestEachRefusalOfABudgetCounts(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(100)}}})
	g := s.lease("h", several(10))
	s.answers(g, "h", limited(5*time.Second))
	s.answers(g, "h", limited(20*time.Second))
	assert.Equal(t, 20*sec, s.refused("h").RetryAt)
}
