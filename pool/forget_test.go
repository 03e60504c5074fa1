package pool_test

// Classes of models that nobody declared: what makes them go, what keeps them, and what they
// cost in the record meanwhile.

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// classes are those that the pool has an account for.
func (s *story) classes() (names []string) {
	for _, q := range s.Inspect(s.now, "").Quotas {
		if q.Key == "" && !slices.Contains(names, q.Class) {
			names = append(names, q.Class)
		}
	}
	return names
}

// passes lets time pass while others ask, for long enough that every class is looked at.
func (s *story) passes(d pool.Time) {
	for end := s.now + d; s.now < end; s.now += sec {
		s.Next(s.now)
	}
}

func undeclared(limits ...pool.Limit) setup {
	return setup{Classes: []pool.Class{{Name: "declared"}}, Keys: one(append(rpm(60), limits...))}
}

func TestAClassThatNobodyUsesIsForgotten(t *testing.T) {
	s := kept(t, undeclared())
	require.Equal(t, []string{"declared"}, s.classes())
	require.NoError(t, s.Release(s.now, s.lease("h", model("made up")).Lease, "h", false))
	s.save()
	s.passes(59 * minute)
	require.Equal(t, []string{"declared", "made up"}, s.classes())
	s.passes(2 * minute)
	require.Equal(t, []string{"declared"}, s.classes())
	require.True(t, s.Dirty())
	record := s.save()
	assert.Len(t, record.Classes, 1)
	assert.Len(t, record.Accounts, 1)
	for range 60 {
		s.lease("h", model("made up"))
	}
	s.refused("h", model("made up"))
	assert.Len(t, s.save().Accounts, 2, "it can come back")
	assert.Len(t, succeeds(t, undeclared(), s.save(), after).classes(), 2)
}

// An ask is a use, even if it is refused.
func TestAskingKeepsAClass(t *testing.T) {
	s := kept(t, undeclared())
	for range 5 {
		_, _ = s.Acquire(s.now, ask("h", model("made up"), func(a *pool.Ask) { a.Amounts[provider.Requests] = 1000 }))
		s.passes(30 * minute)
	}
	assert.Len(t, s.classes(), 2)
}

func TestWhatKeepsAClass(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  setup
		use  func(*story)
		kept pool.Time // at least so long
	}{
		"its longest window": {undeclared(pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1000, Kind: provider.Sliding}), func(s *story) {
			require.NoError(s, s.Release(s.now, s.lease("h", model("made up")).Lease, "h", true))
		}, 24 * 60 * minute},
		"a lease": {undeclared(), func(s *story) {
			s.lease("h", model("made up"), lasting(2*time.Hour))
		}, 4 * 60 * minute}, // as long again it may be reported late
		"a waiter": {undeclared(), func(s *story) {
			s.granted("h", model("made up"))
			w := s.waits("h", model("made up"), func(a *pool.Ask) { a.Amounts[provider.Requests] = 60; a.Exclude = []string{"a"} })
			s.passes(5 * 60 * minute)
			s.Cancel(w)
		}, 0},
		"a cooldown": {undeclared(), func(s *story) {
			s.ends(s.lease("h", model("made up")), "h", limited(3*time.Hour), unknown)
		}, 3 * 60 * minute},
		"a key that is barred": {undeclared(), func(s *story) {
			s.ends(s.lease("h", model("made up")), "h", refusal(provider.Forbidden, provider.KeyModelScope, 3*time.Hour), unknown)
		}, 3 * 60 * minute},
		"a lower limit": {undeclared(), func(s *story) {
			s.ends(s.lease("h", model("made up")), "h", states(provider.Requests, 30, 29), unknown)
		}, 48 * 60 * minute},
		"debt": {undeclared(), func(s *story) {
			used := unknown
			used[provider.InputTokens] = 2 * plenty
			s.ends(s.lease("h", model("made up"), input(plenty)), "h", fine, used)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := kept(t, c.cfg)
			c.use(s)
			for end := s.now + c.kept - 2*sec; s.now < end; s.now += 10 * sec {
				s.Next(s.now)
				if s.now > origin+60*minute {
					require.Len(t, s.classes(), 2, "after %v", time.Duration(s.now-origin))
				}
			}
			if c.kept < 48*60*minute {
				s.passes(65 * minute)
				assert.Len(t, s.classes(), 1)
			}
		})
	}
}

// A class that comes and goes while its state is on its way into the store is on record as it
// was last.
func TestForgottenWhileItIsSaved(t *testing.T) {
	for _, lands := range []bool{false, true} {
		s := kept(t, undeclared())
		require.NoError(t, s.Release(s.now, s.lease("h", model("made up")).Lease, "h", false))
		s.save()
		s.passes(59 * minute)
		state, _ := s.State(s.now, false)
		c := s.journal.change(state)
		if lands {
			s.journal.stored = s.journal.stored.with(c)
		}
		s.passes(2 * minute)
		require.Len(t, s.classes(), 1)
		assert.Len(t, s.state(false).Classes, 1, "whether the save before had its effect or not")
		s.lease("h", model("made up"))
		assert.Len(t, s.save().Accounts, 2)
	}
}

// As long as some models share a class for want of others, a model that comes new joins them:
// it may have been used there.
func TestAModelLeavesTheOthersWithTheirClass(t *testing.T) {
	s := kept(t, undeclared())
	for i := range 300 {
		s.lease("h", model(fmt.Sprint("model ", i)), lasting(time.Second))
	}
	require.Contains(t, s.classes(), "(other models)")
	for range 70 {
		s.passes(minute)
		s.lease("h", model("model 299"), lasting(time.Second))
	}
	require.Equal(t, []string{"declared", "(other models)"}, s.classes())
	s.lease("h", model("new"), lasting(time.Second))
	require.Len(t, s.classes(), 2)
	s.passes(62 * minute)
	require.Len(t, s.classes(), 1)
	s.lease("h", model("new"), lasting(time.Second))
	require.Equal(t, []string{"declared", "new"}, s.classes())
}

// The order in which classes are on record says nothing.
func TestClassesComeBackBesideThatOfTheOthers(t *testing.T) {
	record := kept(t, undeclared()).state(false)
	record.Classes = append([]pool.ClassState{{Name: "(other models)"}}, record.Classes...)
	record.Classes = append(record.Classes, pool.ClassState{Name: "made up"})
	for _, name := range []string{"(other models)", "made up"} {
		record.Accounts = append(record.Accounts, pool.AccountState{Group: "a", Class: name})
	}
	s := succeeds(t, undeclared(), record, after)
	assert.Equal(t, []string{"declared", "made up", "(other models)"}, s.classes())
	s.refused("h", model("made up"))
	s.refused("h", model("new"))
}

// madeUp is 100 keys whose limits count each model by itself.
func madeUp(t testing.TB, provider string, limits ...pool.Limit) setup {
	cfg := setup{Dialect: dialect(t, provider), Strategy: "least_loaded", StartWithin: 2 * time.Second, Classes: []pool.Class{{Name: "declared"}}}
	for i := range 100 {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("key-", i), Limits: limits})
	}
	return cfg
}

// 300 models that nobody declared, asked for at random, 50 times a second, and a save a second.
// What that costs, in bytes, stays far below a record of all accounts a second.
func TestMadeUpModelsCostLittle(t *testing.T) {
	perDay := func(n int64) pool.Limit {
		return pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: n, Kind: provider.Sliding}
	}
	minutely := []pool.Limit{
		{Dimension: provider.Requests, Window: time.Minute, Amount: 500, Kind: provider.Refilling},
		{Dimension: provider.Tokens, Window: time.Minute, Amount: 200_000, Kind: provider.Refilling},
	}
	for name, c := range map[string]struct {
		cfg     setup
		answer  provider.Signal
		first   int // bytes in the first minute, in which the models are new, at most
		later   int // in each later one
		onStore int // in the end
	}{
		"many a day":                 {madeUp(t, "openai", append(minutely, perDay(10_000))...), fine, 2 << 20, 1 << 16, 2 << 20},
		"few a day, each is saved":   {madeUp(t, "openai", append(minutely, perDay(90))...), fine, 4 << 20, 1 << 20, 4 << 20},
		"held output, all by itself": {madeUp(t, "anthropic", limits(500, 200_000, 80_000)...), fine, 4 << 20, 1 << 20, 4 << 20},
		"limits that answers teach":  {madeUp(t, "openai", perDay(10_000)), states(provider.Tokens, 200_000, 190_000), 4 << 20, 1 << 20, 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			u := &usage{story: &story{T: t, now: origin, journal: newJournal(1, nil)}, random: rand.New(rand.NewPCG(1, 2)), answer: c.answer}
			var err error
			u.Domain, err = newPool(c.cfg)
			require.NoError(t, err)
			u.saves()
			var perMinute []int
			for range 12 {
				perMinute = append(perMinute, u.minute())
			}
			t.Logf("bytes a minute: %v; on record: %d, in %d chunks, of %d accounts", perMinute, u.journal.stored.bytes(), len(u.journal.stored), len(u.journal.stored.state(t).Accounts))
			assert.Less(t, u.journal.stored.bytes(), c.onStore)
			assert.Less(t, perMinute[0], c.first)
			for _, n := range perMinute[1:] {
				assert.Less(t, n, c.later)
			}
			u.now += 25 * 60 * minute
			u.passes(6 * minute)
			u.saves()
			u.saves() // sees how much is out of date
			assert.Len(t, u.journal.stored.state(t).Accounts, 100, "and a day later nothing is left of them")
			assert.Less(t, u.journal.stored.bytes(), 1<<17)
		})
	}
}

// usage is a story in which models are asked for at random.
type usage struct {
	*story
	random *rand.Rand
	answer provider.Signal
	again  pool.Time
}

// minute lets a minute pass, and returns how many bytes were saved.
func (u *usage) minute() (bytes int) {
	const rate = 50
	for range 60 {
		for range rate {
			u.now += sec / rate
			a := ask("h", model(fmt.Sprint("model-", u.random.IntN(300))), lasting(10*time.Second))
			a.Amounts = provider.Amounts{provider.Requests: 1, provider.Tokens: 500, provider.OutputTokens: 100, provider.InputTokens: 400}
			g, err := u.Acquire(u.now, a)
			require.NoError(u, err)
			u.ends(g, "h", u.answer, g.Reserved)
		}
		if u.Dirty() || u.now >= u.again {
			bytes += u.saves()
		}
	}
	return bytes
}

func (u *usage) saves() (bytes int) {
	var state *pool.State
	state, u.again = u.State(u.now, false)
	c := u.journal.change(state)
	u.journal.stored = u.journal.stored.with(c)
	u.journal.log.Saved()
	u.Saved()
	return c.bytes()
}
