package pool_test

// Another configuration while leases are open and calls wait: what stays keeps its state,
// what goes drains, and of what is new nothing is used that nobody has used.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// reload puts another configuration in force, and gives the waiters that have no place in it.
func (s *story) reload(cfg setup) []*pool.Waiter {
	s.Helper()
	cfg.Flat = len(cfg.Classes) == 0 && len(cfg.Models) == 0
	cfg.Dialect = dialect(s.T, "anthropic")
	dropped, err := s.Reconfigure(s.now, cfg.config())
	require.NoError(s, err)
	return dropped
}

func keys(ls []pool.Limit, ids ...string) setup {
	cfg := setup{}
	for _, id := range ids {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: id, Limits: ls})
	}
	return cfg
}

// first is the first limit of the first quota group.
func (s *story) first() pool.LimitState { return s.Inspect(s.now, "").Quotas[0].Limits[0] }

func TestAnotherLimitKeepsWhatIsUsed(t *testing.T) {
	for name, c := range map[string]struct {
		rpm  int64
		room int
	}{
		"the same": {60, 20}, "more": {100, 60}, "less": {50, 10}, "less than is used": {30, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, keys(rpm(60), "a"))
			for range 40 {
				s.lease("h")
			}
			s.reload(keys(rpm(c.rpm), "a"))
			assert.Equal(t, int64(40), s.first().Used)
			for range c.room {
				s.lease("h")
			}
			s.refused("h")
		})
	}
}

func TestAProvidersLowerLimitStaysInForce(t *testing.T) {
	s := begin(t, keys(rpm(60), "a"))
	s.answers(s.lease("h"), "h", states(provider.Requests, 40, 39))
	require.Equal(t, int64(40), s.first().Limit)
	s.reload(keys(rpm(80), "a"))
	assert.Equal(t, []int64{40, 80}, []int64{s.first().Limit, s.first().Configured})
	s.reload(keys(rpm(20), "a"))
	assert.Equal(t, []int64{20, 20}, []int64{s.first().Limit, s.first().Configured})
}

func TestOfANewLimitNothingIsLeft(t *testing.T) {
	day := pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 100, Kind: provider.Sliding}
	s := begin(t, keys(rpm(60), "a"))
	s.lease("h")
	s.reload(keys(append(rpm(60), day), "a", "b"))
	assert.Equal(t, "b", s.key("h"), "a key that is new itself has all of it")
	e := s.refused("h", without("b"))
	assert.Equal(t, provider.Requests, e.Dimension)
	assert.Greater(t, e.RetryAt, 24*60*minute, "nobody knows what was used in the last day")
}

func TestOpenLeasesCountAgainstNewSlots(t *testing.T) {
	s := begin(t, keys(rpm(60), "a"))
	open := []pool.Grant{s.lease("h"), s.lease("h"), s.lease("h")}
	s.reload(keys(append(rpm(60), slots(4)), "a"))
	s.lease("h")
	s.refused("h")
	s.ends(open[0], "h", fine, unknown)
	s.lease("h")
	s.refused("h")
	s.reload(keys(append(rpm(60), slots(1)), "a"))
	s.ends(open[1], "h", fine, unknown)
	s.ends(open[2], "h", fine, unknown)
	s.refused("h")
}

func TestALimitThatGoesBindsNobody(t *testing.T) {
	s := begin(t, keys(append(rpm(60), slots(1)), "a"))
	g := s.lease("h")
	s.waits("h")
	s.reload(keys(rpm(60), "a"))
	served, _ := s.serves()
	assert.Equal(t, []string{"h"}, served)
	s.ends(g, "h", fine, unknown)
}

func TestWaitersGoOnWaiting(t *testing.T) {
	s := begin(t, keys(rpm(1), "a"))
	s.lease("h")
	s.waits("one")
	s.waits("two")
	assert.Empty(t, s.reload(keys(rpm(1), "a")))
	served, wake := s.serves()
	assert.Empty(t, served)
	assert.Equal(t, minute, wake)
	s.reload(keys(rpm(1), "a", "b"))
	served, _ = s.serves()
	assert.Equal(t, []string{"one"}, served, "on the new key")
	s.now = minute
	served, _ = s.serves()
	assert.Equal(t, []string{"two"}, served)
}

func TestAKeyThatGoesDrains(t *testing.T) {
	s := begin(t, keys(rpm(60), "a", "b"))
	g := s.only("a")
	s.reload(keys(rpm(60), "b"))
	s.refused("h", without("b"))
	s.ends(g, "h", fine, unknown)
	assert.Equal(t, 1, s.Summary(s.now, "").KeyCount)
	s.reload(keys(rpm(60), "a", "b"))
	for range 59 {
		s.only("a")
	}
	s.refused("h", without("b")) // what it used before is not forgotten
}

func TestAKeyKeepsItsHealth(t *testing.T) {
	s := begin(t, keys(rpm(60), "a", "b"))
	s.ends(s.only("a"), "h", invalid, unknown)
	s.reload(keys(rpm(90), "a", "b"))
	s.refused("h", without("b"))
	s.now = 5 * sec
	s.ends(s.only("a"), "h", fine, unknown)
	s.only("a")
}

func TestAKeyThatComesFromAnotherGroup(t *testing.T) {
	grouped := func(group string) setup {
		return setup{
			Groups: []pool.Group{{Name: "one", Limits: rpm(60)}, {Name: "two", Limits: rpm(60)}},
			Keys:   []pool.Key{{ID: "a", Group: group}, {ID: "b", Group: "two"}},
		}
	}
	s := begin(t, grouped("one"))
	g := s.only("a")
	s.reload(grouped("two"))
	assert.Equal(t, sec, s.refused("h").RetryAt, "nobody knows what it has used of its new group")
	s.ends(g, "h", fine, unknown)
	s.now = minute
	s.only("a")
}

func TestModelsThatGetAnotherClass(t *testing.T) {
	cfg := keys(rpm(60), "a")
	cfg.Models = []string{"opus", "haiku", "old"}
	s := begin(t, cfg)
	s.lease("h", model("opus"))
	w := s.waits("h", model("opus"), input(plenty))
	cfg.Classes = []pool.Class{{Name: "big", Models: []string{"opus", "old"}}}
	assert.Empty(t, s.reload(cfg))
	assert.Equal(t, sec, s.refused("h", model("old")).RetryAt, "opus has used some of it")
	s.lease("h", model("haiku"))
	s.now = minute
	served, _ := s.serves()
	assert.Equal(t, []string{"h"}, served, "in the line of its new class")
	assert.Equal(t, "big", w.Grant().Class)
}

func TestWhoHasNoPlaceIsTold(t *testing.T) {
	s := share(t, func(c *pool.Config) {
		c.Flat = false
		c.Pools[0].Models = []string{"opus", "haiku"}
	})
	var waiters []*pool.Waiter
	for _, m := range []string{"opus", "haiku"} {
		for range 20 {
			s.lease("h", of("all"), model(m))
		}
		waiters = append(waiters, s.waits("h", of("all"), model(m)))
	}
	for range 10 {
		_, err := s.Acquire(s.now, ask("h", of("part"), model("x")))
		require.NoError(t, err)
	}
	lost := s.waits("h", of("part"), model("x"))
	pinned := s.waits("h", of("all"), model("haiku"), withKey("b"))
	cfg := pool.Config{
		Dialect: dialect(t, "anthropic"), Groups: []pool.Group{{Name: "one", Limits: rpm(10)}},
		Keys:  []pool.Key{{ID: "a", Group: "one"}},
		Pools: []pool.Rules{{Name: "all", Models: []string{"haiku"}}},
	}
	dropped, err := s.Reconfigure(s.now, cfg)
	require.NoError(t, err)
	assert.Equal(t, []*pool.Waiter{waiters[0], lost, pinned}, dropped)
	require.ErrorIs(t, waiters[0].Err, pool.ErrModelNotServed)
	require.ErrorIs(t, lost.Err, pool.ErrNoPool)
	require.ErrorIs(t, pinned.Err, pool.ErrNoKey)
	assert.True(t, s.Cancel(lost), "it is out of line")
	s.now = minute
	served, _ := s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{waiters[1]}, served)
}

func TestAMistakeChangesNothing(t *testing.T) {
	s := begin(t, keys(rpm(60), "a"))
	s.lease("h")
	_, err := s.Reconfigure(s.now, pool.Config{Dialect: dialect(t, "anthropic"), Keys: []pool.Key{{ID: "x"}}})
	require.ErrorContains(t, err, "has no pool")
	assert.Equal(t, "a", s.key("h"))
	assert.Equal(t, int64(2), s.first().Used)
}

func TestALongerTimeToStartCountsFromNowOn(t *testing.T) {
	cfg := keys(rpm(60), "a")
	s := begin(t, cfg)
	for range 30 {
		s.lease("h")
	}
	cfg.StartWithin = 10 * time.Second
	s.reload(cfg)
	for range 20 {
		s.lease("h")
	}
	assert.Equal(t, sec, s.refused("h").RetryAt, "what refills in 10 s is left out")
}

func TestLearnedLimitMakesNoAskTooLarge(t *testing.T) {
	cfg := setup{Keys: one(nil)}
	s := begin(t, cfg)
	s.ends(s.lease("h"), "h", states(provider.InputTokens, 50, 50), unknown)
	w := s.waits("h", input(1000))
	cfg.Flat = true
	assert.Empty(t, s.becomes(cfg))
	served, _ := s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{w}, served)
	s.now = 2 * minute
	s.lease("h", input(40))
}

// A bucket that was full long ago does not become full anew.
func TestTheSameLimitDelaysNobody(t *testing.T) {
	cfg := setup{StartWithin: 2 * time.Second, Keys: one(limits(plenty, 60, plenty))}
	s := begin(t, cfg)
	cfg.Flat = true
	s.now = minute
	s.becomes(cfg)
	s.lease("h", input(60))
}

// Who demands a group is bound by its limits alone.
func TestTooLargeForWhatIsDemanded(t *testing.T) {
	groups := func(small int64) setup {
		return setup{
			Groups: []pool.Group{{Name: "small", Limits: limits(plenty, small, plenty)}, {Name: "large", Limits: limits(plenty, 100, plenty)}},
			Keys:   []pool.Key{{ID: "a", Group: "small"}, {ID: "b", Group: "large"}}, Flat: true,
		}
	}
	demand := func(a *pool.Ask) { a.Group = "small" }
	s := begin(t, groups(50))
	s.lease("h", input(50), demand)
	waiting := s.waits("h", input(50), demand)
	assert.Equal(t, []*pool.Waiter{waiting}, s.becomes(groups(10)))
	_, acquired := s.Acquire(s.now, ask("h", input(50), demand))
	_, waited := s.Wait(s.now, ask("h", input(50), demand))
	for _, err := range []error{waiting.Err, acquired, waited} {
		assert.Equal(t, &pool.TooLargeError{Dimension: provider.InputTokens, Limit: 10}, err)
	}
}
