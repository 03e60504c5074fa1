package pool_test

// A limit on calls at one time that a team has agreed on holds for all models
// together, though each class of models has accounts of its own.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

var models = []string{"opus", "sonnet", "haiku", "fable"}

func together(n int64) pool.Limit {
	return pool.Limit{Dimension: provider.Concurrency, Amount: n, Shared: true}
}

// sharing are pools of two slots, wherever they are configured.
func sharing() map[string]setup {
	two := append(rpm(plenty), together(2))
	return map[string]setup{
		"of a group": {Models: models, Groups: []pool.Group{{Name: "g", Limits: two}}, Keys: []pool.Key{{ID: "a", Group: "g"}, {ID: "b", Group: "g"}}},
		"of a key":   {Models: models, Keys: one(two)},
		"of a key in a group": {
			Models: models, Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}},
			Keys: []pool.Key{{ID: "a", Group: "g", Limits: []pool.Limit{together(2)}}},
		},
		"for models not listed": {Classes: []pool.Class{{Name: "opus", Models: models[:1]}}, Keys: one(two)},
	}
}

func TestSharedSlotsHoldForAllModels(t *testing.T) {
	for name, cfg := range sharing() {
		t.Run(name, func(t *testing.T) {
			s := begin(t, cfg)
			got := 0
			for range 3 {
				for _, m := range models {
					if _, err := s.Acquire(s.now, ask("h", model(m))); err == nil {
						got++
					}
				}
			}
			assert.Equal(t, 2, got)
			assert.Equal(t, provider.Concurrency, s.refused("h", model("opus")).Dimension)
		})
	}
}

func TestSlotFreedForOneModelServesAnother(t *testing.T) {
	for name, cfg := range sharing() {
		t.Run(name, func(t *testing.T) {
			s := begin(t, cfg)
			one, two := s.lease("h", model("opus")), s.lease("h", model("sonnet"))
			waiting := s.waits("haiku", model("haiku"))
			s.refused("h", model("fable"))
			served, _ := s.Next(s.now)
			require.Empty(t, served)
			require.NoError(t, s.Release(s.now, one.Lease, "h", false))
			served, _ = s.Next(s.now)
			require.Equal(t, []*pool.Waiter{waiting}, served)
			s.refused("h", model("fable"))
			require.NoError(t, s.Release(s.now, two.Lease, "h", false))
			s.lease("h", model("fable"))
		})
	}
}

// By the minute, a provider counts each class for itself, and so do slots that
// are not shared.
func TestOtherLimitsAreOfEachClass(t *testing.T) {
	s := begin(t, setup{Models: models, Keys: one(append(rpm(2), slots(5)))})
	for _, m := range models {
		s.lease("h", model(m))
		s.lease("h", model(m))
		assert.Equal(t, provider.Requests, s.refused("h", model(m)).Dimension)
	}
}

// Shared slots are one bucket, whichever class shows it.
func TestSharedSlotsAreSeenFromEveryClass(t *testing.T) {
	s := begin(t, setup{Models: models, Keys: one(append(rpm(9), together(2)))})
	s.lease("h", model("opus"))
	for _, q := range s.Inspect(s.now, "").Quotas {
		last := q.Limits[len(q.Limits)-1]
		require.Equal(t, provider.Concurrency, last.Dimension)
		assert.EqualValues(t, 1, last.Held, q.Class)
		assert.EqualValues(t, 1, last.Remaining, q.Class)
	}
}

// Somebody looks before the first ask.
func TestListedModelsHaveAccountsFromTheStart(t *testing.T) {
	s := begin(t, setup{
		Models:  []string{"opus", "opus-old", "haiku"},
		Classes: []pool.Class{{Name: "large", Models: []string{"opus", "opus-old"}}},
		Keys:    []pool.Key{{ID: "a", Limits: rpm(7)}, {ID: "b", Limits: rpm(7)}},
	})
	seen := map[string]int64{}
	for _, q := range s.Inspect(0, "").Quotas {
		seen[q.Group+" "+q.Class] = q.Limits[0].Remaining
	}
	assert.Equal(t, map[string]int64{"a large": 7, "a haiku": 7, "b large": 7, "b haiku": 7}, seen)
}

// What one holder has said of a shared limit is found out for any of its models, by one.
func TestWhatIsDisputedIsProbedForAnyModel(t *testing.T) {
	hourly := pool.Limit{Dimension: provider.Requests, Window: time.Hour, Amount: 60, Kind: provider.Refilling, Shared: true}
	s := begin(t, setup{Models: models, Keys: one(append(rpm(plenty), hourly))})
	answer := states(provider.Requests, 60, 0)
	answer.Windows[0].Length = time.Hour
	s.answers(s.lease("one", model("opus")), "one", answer)
	assert.Equal(t, 3*sec, s.refused("two", model("haiku")).RetryAt)
	s.waits("two", model("haiku"))
	_, wake := s.serves()
	require.Equal(t, 3*sec, wake)
	s.now = wake
	served, _ := s.Next(s.now)
	require.Len(t, served, 1)
	assert.True(t, served[0].Grant().Probe)
	s.refused("two", model("opus"))
}
