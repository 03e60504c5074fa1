package pool_test

// What an ask prefers or demands.

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/pool"
)

func prefers(group string) func(*pool.Ask) { return func(a *pool.Ask) { a.Prefer = group } }
func inGroup(group string) func(*pool.Ask) { return func(a *pool.Ask) { a.Group = group } }
func withKey(key string) func(*pool.Ask)   { return func(a *pool.Ask) { a.Key = key } }

// two groups: two keys in the first, one of a lower priority in the second.
func two(t *testing.T) *story {
	return begin(t, setup{
		Groups: []pool.Group{{Name: "warm", Limits: rpm(3)}, {Name: "cold", Limits: rpm(3)}},
		Keys:   []pool.Key{{ID: "c", Group: "cold", Priority: 2}, {ID: "w1", Group: "warm", Priority: 1}, {ID: "w2", Group: "warm", Priority: 1}},
	})
}

func TestAPreferredGroupIsTakenWhileItHasRoom(t *testing.T) {
	s := two(t)
	for range 3 {
		assert.Contains(t, []string{"w1", "w2"}, s.key("h", prefers("warm")))
	}
	for range 3 {
		assert.Equal(t, "c", s.key("h", prefers("warm")), "rather than wait")
	}
	s.refused("h", prefers("warm"))
}

func TestAnUnknownPreferenceIsNoMatter(t *testing.T) {
	assert.Equal(t, "c", two(t).key("h", prefers("gone")))
}

func TestADemandedGroupOrKeyIsTheOnlyOne(t *testing.T) {
	s := two(t)
	for range 2 {
		assert.Equal(t, "w2", s.key("h", withKey("w2")))
	}
	s.lease("h", inGroup("warm"))
	e := s.refused("h", withKey("w2"))
	assert.Equal(t, 20*sec, e.RetryAt, "its group's limit")
	s.refused("h", inGroup("warm"))
	assert.Equal(t, "c", s.key("h"), "others find room elsewhere")
	_, err := s.Acquire(s.now, ask("h", withKey("gone")))
	require.ErrorIs(t, err, pool.ErrNoKey)
	_, err = s.Acquire(s.now, ask("h", inGroup("cold"), withKey("w1")))
	require.ErrorIs(t, err, pool.ErrNoKey)
	_, err = s.Wait(s.now, ask("h", inGroup("gone")))
	require.ErrorIs(t, err, pool.ErrNoKey)
}

func TestADemandWaitsForItsGroup(t *testing.T) {
	s := two(t)
	for range 6 {
		s.lease("h")
	}
	s.waits("warm", inGroup("warm"))
	s.waits("cold", withKey("c"))
	s.waits("any")
	s.now = 20 * sec
	served, _ := s.serves()
	assert.ElementsMatch(t, []string{"warm", "cold"}, served, "each has the next of its group")
	s.now = 40 * sec
	served, _ = s.serves()
	assert.Equal(t, []string{"any"}, served)
}

func TestADemandedKeyThatIsOutOfUse(t *testing.T) {
	s := two(t)
	for range 2 { // suspect, then in quarantine
		s.ends(s.lease("h", withKey("c")), "h", invalid, unknown)
		s.now += 6 * sec
	}
	assert.True(t, s.refused("h", withKey("c")).NoUsableKey)
	assert.Contains(t, []string{"w1", "w2"}, s.key("h"))
}
