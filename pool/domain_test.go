package pool_test

// Several pools over the same quota groups.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func of(name string) func(*pool.Ask) { return func(a *pool.Ask) { a.Pool = name } }

// share begins a domain of two groups with 10 a minute each. Pool all draws on both, pool
// part on the first.
func share(t *testing.T, change func(*pool.Config)) *story {
	cfg := pool.Config{
		Name: "d", Dialect: dialect(t, "anthropic"), Flat: true,
		Groups: []pool.Group{{Name: "one", Limits: rpm(10)}, {Name: "two", Limits: rpm(10)}},
		Keys:   []pool.Key{{ID: "a", Group: "one"}, {ID: "b", Group: "two"}},
		Pools:  []pool.Rules{{Name: "all"}, {Name: "part", Groups: []string{"one"}}},
	}
	if change != nil {
		change(&cfg)
	}
	d, err := pool.New(cfg)
	require.NoError(t, err)
	return &story{T: t, Domain: d}
}

func TestPoolsShareTheLimitsOfTheirGroups(t *testing.T) {
	s := share(t, nil)
	for range 6 {
		assert.Equal(t, "a", s.key("h", of("part")))
	}
	count := map[string]int{}
	for range 14 {
		count[s.key("h", of("all"))]++
	}
	assert.Equal(t, map[string]int{"a": 4, "b": 10}, count)
	s.refused("h", of("part"))
	s.refused("h", of("all"))
	_, err := s.Acquire(s.now, ask("h", of("none")))
	require.ErrorIs(t, err, pool.ErrNoPool)
}

func TestPoolsCountForThemselves(t *testing.T) {
	s := share(t, nil)
	s.ends(s.lease("h", of("part")), "h", fine, unknown)
	s.lease("h", of("all"))
	s.lease("h", of("all"))
	all, part := s.Inspect(s.now, "all"), s.Inspect(s.now, "part")
	assert.Equal(t, []int{2, 0}, []int{all.Open, part.Open})
	assert.Equal(t, []int64{2, 1}, []int64{all.Counters.Granted, part.Counters.Granted})
	assert.Equal(t, []int{2, 1}, []int{all.KeyCount, part.KeyCount})
	assert.Len(t, s.Leases(s.now, "all", 0, 9), 2)
	assert.Empty(t, s.Leases(s.now, "part", 0, 9))
}

func TestBothPoolsWaitForTheSameRoom(t *testing.T) {
	s := share(t, nil)
	for range 10 {
		s.lease("h", of("part"))
	}
	for range 10 {
		s.lease("h", of("all"))
	}
	s.waits("p", of("part"))
	s.waits("q", of("all"))
	s.now = 6 * sec
	served, _ := s.serves()
	assert.ElementsMatch(t, []string{"p", "q"}, served)
}

func TestARefusalInOnePoolCoolsTheOther(t *testing.T) {
	s := share(t, nil)
	s.answers(s.lease("h", of("part")), "h", limited(20*time.Second))
	assert.Equal(t, 20*sec, s.refused("h", of("part")).RetryAt)
	for range 10 {
		assert.Equal(t, "b", s.key("h", of("all")))
	}
}

func TestPoolsServeTheirOwnModels(t *testing.T) {
	s := share(t, func(c *pool.Config) {
		c.Flat = false
		c.Pools[0].Models, c.Pools[1].Models = []string{"opus", "haiku"}, []string{"haiku"}
	})
	s.lease("h", of("all"), model("opus"))
	_, err := s.Acquire(s.now, ask("h", of("part"), model("opus")))
	require.ErrorIs(t, err, pool.ErrModelNotServed)
	for range 10 {
		s.lease("h", of("part")) // its only model
	}
	for range 10 {
		assert.Equal(t, "b", s.key("h", of("all"), model("haiku")), "the first group's limit for haiku is used up")
	}
	s.refused("h", of("all"), model("haiku"))
}

func TestTheLongestTimeToStartCounts(t *testing.T) {
	s := share(t, func(c *pool.Config) { c.Pools[1].StartWithin = 6 * time.Second })
	count := map[string]int{}
	for range 18 { // of ten in each group, the one that refills in 6 s is left out
		count[s.key("h", of("all"))]++
	}
	assert.Equal(t, map[string]int{"a": 9, "b": 9}, count)
	s.refused("h", of("all"))
	s.now = minute
	assert.Equal(t, minute+6*sec, s.lease("h", of("part")).StartBy)
	assert.Equal(t, minute, s.lease("h", of("all")).StartBy)
}

func TestAHolderHasCapsInEachPool(t *testing.T) {
	s := share(t, nil)
	capped := func(a *pool.Ask) { a.Caps = pool.Caps{Leases: 1} }
	s.lease("h", of("part"), capped)
	s.lease("h", of("all"), capped)
	_, err := s.Acquire(s.now, ask("h", of("all"), capped))
	require.ErrorIs(t, err, pool.ErrHolderLimit)
}

func TestARequestIDIsOfOnePool(t *testing.T) {
	s := share(t, func(c *pool.Config) { c.Pools[0].StartWithin, c.Pools[1].StartWithin = 2*time.Second, 2*time.Second })
	a := s.lease("h", of("all"), request("r"))
	b := s.lease("h", of("part"), request("r"))
	assert.NotEqual(t, a.Lease, b.Lease)
	assert.Equal(t, a.Lease, s.lease("h", of("all"), request("r")).Lease)
	assert.Equal(t, provider.Amounts{provider.Requests: 1, provider.Concurrency: 1}, a.Reserved)
}

// A line that shares its turns with another goes before a newcomer all the same, as a whole.
func TestANewcomerPassesNobodyInItsLine(t *testing.T) {
	s := share(t, func(c *pool.Config) { c.Groups[0].Limits = rpm(8) })
	for range 8 {
		s.lease("x", of("part"))
	}
	for range 8 {
		s.waits("h", of("part"))
	}
	s.waits("q", of("all"), inGroup("one"))
	served, _ := s.serves() // both lines are due
	require.Empty(t, served)
	s.now = minute
	s.refused("new", of("part"))
	served, _ = s.serves()
	assert.Len(t, served, 8)
	assert.NotContains(t, served, "q")
}

func TestWhatOnePoolGivesBackTheOtherHas(t *testing.T) {
	s := share(t, func(c *pool.Config) {
		c.Groups[0].Limits = append(rpm(10), slots(1))
	})
	g := s.lease("h", of("part"))
	s.waits("q", of("part"))
	s.waits("p", of("all"), inGroup("one"))
	served, _ := s.serves()
	assert.Empty(t, served)
	s.ends(g, "h", fine, unknown)
	served, _ = s.serves()
	assert.Equal(t, []string{"p"}, served, "the line of the first pool, as both were given the same")
}
