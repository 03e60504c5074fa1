package pool_test

// Which key is chosen: by strategy within a priority, by priority among those
// with room; and what a caller is told when none has any.

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// tally counts which keys n leases get.
func (s *story) tally(n int) map[string]int {
	count := map[string]int{}
	for range n {
		count[s.key("h")]++
	}
	return count
}

func TestMistakesOfAConfiguration(t *testing.T) {
	d := dialect(t, "anthropic")
	one := []pool.Rules{{Name: "p"}}
	for want, cfg := range map[string]pool.Config{
		`domain "d" has no dialect`:                             {Pools: one},
		`domain "d" has no pool`:                                {Dialect: d},
		`pool "p": unknown strategy "fastest"`:                  {Dialect: d, Pools: []pool.Rules{{Name: "p", Strategy: "fastest"}}},
		`pool "p": unknown group "g"`:                           {Dialect: d, Pools: []pool.Rules{{Name: "p", Groups: []string{"g"}}}},
		`pool "p" is there twice`:                               {Dialect: d, Pools: append(one, one...)},
		`key "a": unknown group "g"`:                            {Dialect: d, Pools: one, Keys: []pool.Key{{ID: "a", Group: "g"}}},
		`group "g" is there twice`:                              {Dialect: d, Pools: one, Groups: []pool.Group{{Name: "g"}, {Name: "g"}}},
		`class "c" is there twice`:                              {Dialect: d, Pools: one, Classes: []pool.Class{{Name: "c"}, {Name: "c"}}},
		`model "m" is in two classes, "c" and "d"`:              {Dialect: d, Pools: one, Classes: []pool.Class{{Name: "c", Models: []string{"m"}}, {Name: "d", Models: []string{"l", "m"}}}},
		`key "a" is there twice`:                                {Dialect: d, Pools: one, Keys: []pool.Key{{ID: "a"}, {ID: "a"}}},
		`key "g": it has the name of a group, but is not in it`: {Dialect: d, Pools: one, Groups: []pool.Group{{Name: "g"}}, Keys: []pool.Key{{ID: "g"}}},
	} {
		cfg.Name = "d"
		_, err := pool.New(cfg)
		require.EqualError(t, err, want)
	}
}

func TestRoundRobinCycles(t *testing.T) {
	s := begin(t, setup{Strategy: pool.RoundRobin, Keys: []pool.Key{
		{ID: "a", Limits: rpm(10)}, {ID: "b", Limits: rpm(10)}, {ID: "c", Limits: rpm(10)},
	}})
	for range 10 {
		assert.Equal(t, []string{"a", "b", "c"}, []string{s.key("h"), s.key("h"), s.key("h")})
	}
	s.refused("h")
}

func TestWeightedServesByWeight(t *testing.T) {
	s := begin(t, setup{Strategy: pool.Weighted, Keys: []pool.Key{
		{ID: "a", Weight: 3, Limits: rpm(plenty)}, {ID: "b", Weight: 1, Limits: rpm(plenty)},
	}})
	for range 50 {
		assert.Equal(t, map[string]int{"a": 3, "b": 1}, s.tally(4), "in every four, not only on average")
	}
}

// A key that comes back does not make up for the time that it was away.
func TestWeightedForgetsAbsence(t *testing.T) {
	s := begin(t, setup{Strategy: pool.Weighted, Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}, {ID: "b", Limits: rpm(6)}}})
	s.tally(12) // b has none left
	require.Equal(t, map[string]int{"a": 100}, s.tally(100))
	s.now = minute
	assert.InDelta(t, 5, s.tally(10)["b"], 1)
}

// With nine degrees of freedom, chi-square is above 27.9 once in a thousand.
func TestRandomIsEven(t *testing.T) {
	cfg := setup{Strategy: pool.Random, Seed: 7}
	for i := range 10 {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint(i), Limits: rpm(plenty)})
	}
	const each = 1000
	square := 0.0
	count := begin(t, cfg).tally(10 * each)
	for i := range 10 {
		square += math.Pow(float64(count[fmt.Sprint(i)]-each), 2) / each
	}
	assert.Less(t, square, 27.9)
	assert.NotZero(t, square, "that even is a cycle, not chance")
	assert.Equal(t, count, begin(t, cfg).tally(10*each), "the seed repeats it")
}

func TestLeastLoadedTakesTheEmptiest(t *testing.T) {
	for name, c := range map[string]struct {
		a, b []pool.Limit
		want []string
	}{
		"by share, not by amount":           {rpm(100), rpm(10), []string{"a", "b", "a", "a", "a"}},
		"the tightest limit is what counts": {limits(100, 4000, plenty), limits(10, plenty, plenty), []string{"a", "b", "b", "b", "a"}},
		"held output loads":                 {limits(plenty, plenty, 400), limits(10, plenty, plenty), []string{"a", "b", "b", "b", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: c.a}, {ID: "b", Limits: c.b}}})
			var got []string
			for range c.want {
				got = append(got, s.key("h", input(1000), output(100)))
			}
			assert.Equal(t, c.want, got)
		})
	}
}

// Keys of one group share its limits, and so its load.
func TestKeysOfOneGroupTakeTurns(t *testing.T) {
	s := begin(t, setup{
		Groups: []pool.Group{{Name: "g", Limits: rpm(4)}},
		Keys:   []pool.Key{{ID: "a", Group: "g"}, {ID: "b", Group: "g"}},
	})
	assert.Equal(t, map[string]int{"a": 2, "b": 2}, s.tally(4))
	s.refused("h")
}

func TestPriorityThenStrategy(t *testing.T) {
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			s := begin(t, setup{Strategy: strategy, Keys: []pool.Key{
				{ID: "backup", Priority: 0, Limits: rpm(60)},
				{ID: "first", Priority: 2, Limits: rpm(60)},
				{ID: "second", Priority: 1, Limits: rpm(60)},
			}})
			assert.Equal(t, map[string]int{"first": 60}, s.tally(60))
			assert.Equal(t, map[string]int{"second": 60}, s.tally(60), "it spills over")
			assert.Equal(t, "backup", s.key("h"))
			s.now = 1*sec - 1
			assert.Equal(t, "backup", s.key("h"))
			s.now = 1 * sec
			assert.Equal(t, []string{"first", "second", "backup"}, []string{s.key("h"), s.key("h"), s.key("h")}, "and back")
		})
	}
}

func TestExcludedKeysAreSkipped(t *testing.T) {
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			s := begin(t, setup{Strategy: strategy, Keys: []pool.Key{{ID: "a", Limits: rpm(100)}, {ID: "b", Limits: rpm(100)}}})
			for range 20 {
				assert.Equal(t, "b", s.key("h", without("a")))
			}
			e := s.refused("h", without("a", "b"))
			assert.True(t, e.NoUsableKey)
			assert.Equal(t, pool.Never, e.RetryAt)
			s.lease("h") // one caller's exclusion is nobody else's
		})
	}
}

func TestExhaustedSaysWhenAndWhy(t *testing.T) {
	for name, c := range map[string]struct {
		limits []pool.Limit
		delta  time.Duration
		before []func(*pool.Ask)
		ask    []func(*pool.Ask)
		at     pool.Time
		by     provider.Dimension
	}{
		"requests":              {limits(1, plenty, plenty), 0, nil, nil, 60 * sec, provider.Requests},
		"one a minute, delta":   {limits(1, plenty, plenty), 2 * time.Second, nil, nil, 62 * sec, provider.Requests},
		"input":                 {limits(plenty, 60, plenty), 0, in(60), in(7), 7 * sec, provider.InputTokens},
		"input, delta":          {limits(plenty, 60, plenty), 2 * time.Second, in(58), in(7), 7 * sec, provider.InputTokens},
		"large input, delta":    {limits(plenty, 60, plenty), 2 * time.Second, in(58), in(60), 60 * sec, provider.InputTokens},
		"the last to have room": {limits(6, 60, plenty), 0, in(60), in(30), 30 * sec, provider.InputTokens},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{StartWithin: c.delta, Keys: []pool.Key{{ID: "a", Limits: c.limits}}})
			s.lease("h", c.before...)
			e := s.refused("h", c.ask...)
			assert.Equal(t, c.at, e.RetryAt)
			assert.Equal(t, c.by, e.Dimension)
			assert.False(t, e.NoUsableKey)
			s.now = e.RetryAt - 1
			s.refused("h", c.ask...)
			s.now = e.RetryAt
			s.lease("h", c.ask...)
		})
	}
}

func in(n int64) []func(*pool.Ask) { return []func(*pool.Ask){input(n)} }

func TestSoonestOfManyKeys(t *testing.T) {
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			s := begin(t, setup{Strategy: strategy, Keys: []pool.Key{
				{ID: "slow", Limits: rpm(1)}, {ID: "quick", Limits: rpm(3)}, {ID: "low", Priority: -1, Limits: rpm(2)},
			}})
			s.tally(6)
			require.Equal(t, 20*sec, s.refused("h").RetryAt)
			s.now = 20*sec - 1
			s.refused("h")
			s.now = 20 * sec
			assert.Equal(t, "quick", s.key("h"))
		})
	}
}

// Nobody knows when a call ends; soon is likely.
func TestExhaustedByOpenCalls(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: append(rpm(plenty), slots(1))}}})
	g := s.lease("h")
	for _, more := range []func(*pool.Ask){input(0), input(9), output(9), input(3), output(3), input(1)} {
		e := s.refused("h", more)
		assert.Equal(t, s.now+sec, e.RetryAt)
		assert.Equal(t, provider.Concurrency, e.Dimension)
	}
	require.NoError(t, s.Release(s.now, g.Lease, "h", true))
	s.lease("h")
}

func TestTooLargeIsForEver(t *testing.T) {
	keys := []pool.Key{{ID: "a", Limits: limits(60, 100, plenty)}, {ID: "b", Limits: limits(60, 70, plenty)}}
	refusal := func(t *testing.T, s *story, n int64) *pool.TooLargeError {
		_, err := s.Acquire(s.now, ask("h", input(n)))
		var e *pool.TooLargeError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, err, pool.ErrTooLarge)
		return e
	}
	t.Run("names the largest limit", func(t *testing.T) {
		s := begin(t, setup{Keys: keys})
		assert.Equal(t, &pool.TooLargeError{Dimension: provider.InputTokens, Limit: 100}, refusal(t, s, 101))
		assert.Equal(t, "a", s.key("h", input(100)), "but at the limit it fits")
	})
	t.Run("however many other asks have failed since", func(t *testing.T) {
		s := begin(t, setup{Keys: keys})
		refusal(t, s, 101)
		s.lease("h", input(100))
		s.lease("h", input(70))
		for n := int64(10); n > 0; n-- {
			s.refused("h", input(n))
		}
		refusal(t, s, 101)
	})
	t.Run("not when only excluded keys are large enough", func(t *testing.T) {
		s := begin(t, setup{Keys: keys})
		s.refused("h", input(90), without("a"))
	})
	t.Run("a key's own limit counts", func(t *testing.T) {
		s := begin(t, setup{
			Groups: []pool.Group{{Name: "g", Limits: rpm(60)}},
			Keys:   []pool.Key{{ID: "a", Group: "g", Limits: limits(60, 10, plenty)}},
		})
		s.lease("h", input(10))
		refusal(t, s, 11)
	})
	t.Run("a learned limit never binds for ever", func(t *testing.T) {
		s := begin(t, setup{Keys: []pool.Key{{ID: "a"}}})
		g := s.lease("h")
		s.ends(g, "h", states(provider.InputTokens, 50, 50), unknown)
		s.lease("h", input(1000))
	})
}

func TestModels(t *testing.T) {
	s := begin(t, setup{
		Models:  []string{"opus", "opus-old", "haiku"},
		Classes: []pool.Class{{Name: "opus", Models: []string{"opus", "opus-old"}}},
		Keys:    []pool.Key{{ID: "a", Limits: rpm(1)}},
	})
	model := func(m string) func(*pool.Ask) { return func(a *pool.Ask) { a.Model = m } }
	s.lease("h", model("opus"))
	s.refused("h", model("opus-old"))
	s.lease("h", model("haiku"))
	s.lease("h", model(provider.NoModel)) // beside all models
	s.refused("h", model(provider.NoModel))
	_, err := s.Acquire(s.now, ask("h"))
	require.ErrorIs(t, err, pool.ErrModelRequired)
	_, err = s.Acquire(s.now, ask("h", model("gpt")))
	require.ErrorIs(t, err, pool.ErrModelNotServed)
	assert.False(t, (&pool.Rules{Models: []string{"opus"}}).Serves("gpt"))
}

func TestPoolJumpBackwards(t *testing.T) {
	s := begin(t, setup{StartWithin: 2 * time.Second, Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	s.now = 100 * sec
	s.tally(58)
	s.now = 0 // the clock jumps
	e := s.refused("h")
	assert.Equal(t, 101*sec, e.RetryAt, "time stands still, it does not run backwards")
	s.waits("h")
	_, wake := s.serves()
	assert.Equal(t, 101*sec, wake)
	s.now = 101*sec - 1
	s.refused("h")
	s.now = 101 * sec
	served, _ := s.serves()
	assert.Equal(t, []string{"h"}, served)
	s.now = 0
	s.refused("h")
}

func TestTheDefaultStrategyIsLeastLoaded(t *testing.T) {
	s, err := pool.NewSelector("", nil)
	require.NoError(t, err)
	require.IsType(t, &pool.LeastLoadedSelector{}, s)
}

func TestTooManyLimitsForOneLease(t *testing.T) {
	many := func(n int) (ls []pool.Limit) {
		for i := range n {
			ls = append(ls, pool.Limit{Dimension: provider.Requests, Window: time.Duration(i+1) * time.Minute, Amount: 1})
		}
		return ls
	}
	for name, c := range map[string]struct {
		cfg  setup
		over int
	}{
		"a key's":           {setup{Keys: one(many(33))}, 1},
		"as many as may be": {setup{Keys: one(many(32))}, 0},
		"group's and key's": {setup{Groups: []pool.Group{{Name: "g", Limits: many(20)}}, Keys: []pool.Key{{ID: "a", Group: "g", Limits: many(14)}}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Dialect = dialect(t, "anthropic")
			_, err := newPool(c.cfg)
			if c.over == 0 {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, fmt.Sprintf(`key "a": too many limits, by %d: of its group, a class and its own at most 32 may apply`, c.over))
		})
	}
}
