package pool_test

// Which keys can be used, and what is said when none can. A caller who is told
// that no key is usable gives up and wakes somebody, so it must be true; and all
// the places that tell it must agree.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// pair is two keys of one group.
func pair(ls []pool.Limit) setup {
	return setup{
		Groups: []pool.Group{{Name: "g", Limits: ls}},
		Keys:   []pool.Key{{ID: "a", Group: "g"}, {ID: "b", Group: "g"}},
	}
}

func (s *story) suspects(key string) {
	s.Helper()
	s.answers(s.only(key), "h", invalid)
}

func (s *story) quarantines(key string) {
	s.Helper()
	one, two := s.only(key), s.only(key)
	s.answers(one, "h", invalid)
	s.answers(two, "h", invalid)
}

// only leases that key.
func (s *story) only(key string) pool.Grant {
	s.Helper()
	var others []string
	for _, k := range s.keys {
		if k.ID != key {
			others = append(others, k.ID)
		}
	}
	return s.lease("h", without(others...))
}

func TestNoUsableKeyIsSaidOnlyWhenItIsSo(t *testing.T) {
	single := setup{Keys: one(limits(10, 100, plenty))}
	for name, c := range map[string]struct {
		cfg    setup
		before func(s *story)
		ask    []func(*pool.Ask)
		none   bool
	}{
		"suspect":          {single, func(s *story) { s.suspects("a") }, nil, false},
		"suspect and full": {setup{Keys: one(rpm(1))}, func(s *story) { s.suspects("a") }, nil, false},
		"suspect, a smaller ask": {single, func(s *story) {
			s.suspects("a")
			s.refused("h", input(5))
		}, in(3), false},
		"suspect, the same ask": {single, func(s *story) {
			s.suspects("a")
			s.refused("h", input(5))
		}, in(5), false},
		"suspect, the other excluded": {pair(rpm(9)), func(s *story) { s.suspects("a") }, []func(*pool.Ask){without("b")}, false},
		"proven just now": {single, func(s *story) {
			s.suspects("a")
			s.now = 5 * sec
			s.lease("h")
		}, nil, false},
		"resting after a 429":     {single, func(s *story) { s.answers(s.lease("h"), "h", limited(time.Minute)) }, nil, false},
		"quarantined":             {single, func(s *story) { s.quarantines("a") }, nil, true},
		"quarantined, one is not": {pair(rpm(3)), func(s *story) { s.quarantines("a"); s.lease("h") }, nil, false},
		"quarantined, all": {pair(rpm(9)), func(s *story) {
			s.quarantines("a")
			s.quarantines("b")
		}, nil, true},
		"quarantined, the other excluded": {pair(rpm(9)), func(s *story) { s.quarantines("a") }, []func(*pool.Ask){without("b")}, true},
		"all excluded":                    {pair(rpm(9)), func(*story) {}, []func(*pool.Ask){without("a", "b")}, true},
		"quarantined after it was full": {setup{Keys: one(rpm(2))}, func(s *story) {
			one, two := s.lease("h"), s.lease("h")
			s.answers(one, "h", invalid)
			s.refused("h") // and it is remembered that there is a key
			s.answers(two, "h", invalid)
		}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, c.cfg)
			c.before(s)
			e := s.refused("h", c.ask...)
			assert.Equal(t, c.none, e.NoUsableKey)
			assert.Equal(t, c.none, e.RetryAt == pool.Never, "retry at %v", time.Duration(e.RetryAt))
		})
	}
}

// The one key that is large enough cools down, and will be back.
func TestTooLargeIsNotSaidWhileTheFittingKeyCoolsDown(t *testing.T) {
	s := begin(t, setup{
		Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}},
		Keys:   []pool.Key{{ID: "small", Group: "g", Limits: limits(plenty, 10, plenty)}, {ID: "large", Group: "g"}},
	})
	s.answers(s.lease("h", input(50)), "h", invalid)
	e := s.refused("h", input(50))
	assert.Equal(t, 5*sec, e.RetryAt)
	assert.False(t, e.NoUsableKey)
	w := s.waits("h", input(50))
	var at pool.Time
	s.until(minute, func(o *pool.Waiter) {
		assert.Equal(t, w, o)
		at = s.now
	})
	assert.Equal(t, 5*sec, at)
}

func TestWithoutPoolingAProbeLeavesTheNextKey(t *testing.T) {
	for _, strategy := range strategies {
		for before := 1; before < 6; before++ {
			t.Run(fmt.Sprintf("%s, %d leases before", strategy, before), func(t *testing.T) {
				s := begin(t, setup{
					Single: true, Strategy: strategy,
					Keys: []pool.Key{{ID: "a", Limits: rpm(100)}, {ID: "b", Limits: rpm(100)}},
				})
				g := s.lease("h")
				for range before {
					require.Equal(t, "a", s.key("h"))
				}
				s.answers(g, "h", invalid)
				for range before {
					require.Equal(t, "b", s.key("h"))
				}
				s.now = 6 * sec
				probe := s.lease("h")
				require.Equal(t, "a", probe.Key)
				assert.Equal(t, "b", s.key("h"), "while it is not known whether a works")
				s.answers(probe, "h", fine)
				assert.Equal(t, "a", s.key("h"))
			})
		}
	}
}

// Both wait, for different models. One gets the probe, which leaves the second
// key to the other at once, and not at some later call.
func TestWithoutPoolingAProbeServesTheOtherClass(t *testing.T) {
	s := begin(t, setup{
		Single: true, Models: []string{"opus", "haiku"},
		Keys: []pool.Key{{ID: "a", Limits: rpm(1)}, {ID: "b", Limits: rpm(9)}},
	})
	s.answers(s.lease("h", model("opus")), "h", invalid)
	s.now = 5 * sec
	s.waits("opus", model("opus"))
	served, _ := s.serves()
	require.Empty(t, served, "a has no room for it")
	s.waits("haiku", model("haiku"))
	served, _ = s.serves()
	assert.ElementsMatch(t, []string{"haiku", "opus"}, served)
}

func TestWithoutPoolingAnExcludedKeyIsSkipped(t *testing.T) {
	s := begin(t, setup{Single: true, Keys: []pool.Key{{ID: "a", Limits: rpm(1)}, {ID: "b", Limits: rpm(1)}}})
	assert.Equal(t, "b", s.key("h", without("a")))
	assert.Equal(t, "a", s.key("h"))
	assert.False(t, s.refused("h", without("a")).NoUsableKey)
	assert.True(t, s.refused("h", without("a", "b")).NoUsableKey)
}

// Without keys nobody can be served, but no ask is too large, and those who wait may hope for
// another configuration.
func TestAPoolWithoutKeys(t *testing.T) {
	for _, single := range []bool{false, true} {
		for name, amounts := range map[string]provider.Amounts{"an ask": {1, 1, 1, 2, 1}, "an ask without amounts": {}} {
			t.Run(fmt.Sprint(name, ", single: ", single), func(t *testing.T) {
				cfg := setup{Dialect: dialect(t, "anthropic"), Single: single, Flat: true, Keys: one(rpm(1))}
				s := begin(t, cfg)
				s.lease("x")
				s.waits("h", func(a *pool.Ask) { a.Amounts = provider.Amounts{1} })
				cfg.Keys = nil
				dropped, err := s.Reconfigure(s.now, cfg.config())
				require.NoError(t, err)
				require.Empty(t, dropped)

				with := func(a *pool.Ask) { a.Amounts, a.TTL = amounts, time.Second }
				e := s.refused("h", with)
				assert.True(t, e.NoUsableKey)
				assert.Equal(t, pool.Never, e.RetryAt)
				w := s.waits("h", with)
				s.now = 2 * 60 * minute // the lease has ended
				s.serves()
				_, wake := s.serves()
				assert.Equal(t, pool.Never, wake)

				cfg.Keys = one(rpm(10))
				dropped, err = s.Reconfigure(s.now, cfg.config())
				require.NoError(t, err)
				require.Empty(t, dropped)
				s.now += 2 * minute
				served, _ := s.serves()
				assert.Equal(t, []string{"h", "h"}, served)
				assert.Equal(t, amounts, w.Grant().Reserved, "as much as it asked for")
			})
		}
	}
}

// Whoever demands one key is told when that one may be leased.
func TestWithoutPoolingADemandedKeyIsWaitedFor(t *testing.T) {
	s := begin(t, setup{Single: true, Keys: []pool.Key{{ID: "x", Limits: rpm(9)}, {ID: "a", Limits: rpm(9)}}})
	s.answers(s.lease("h", withKey("a")), "h", refusal(provider.Forbidden, provider.KeyModelScope, 10*time.Minute))
	s.waits("h", withKey("a"))
	_, wake := s.serves()
	require.Equal(t, 10*minute, wake)
	s.now = wake
	served, _ := s.serves()
	assert.Equal(t, []string{"h"}, served)
}

// The number of available keys is that of keys that say they are.
func TestAvailableIsCountedAsItIsShown(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "a", Limits: rpm(9)}, {ID: "b", Limits: rpm(9)}, {ID: "c", Limits: rpm(9)}, {ID: "d", Limits: rpm(9)},
	}})
	agrees := func(want int, when string) {
		t.Helper()
		v := s.Inspect(s.now, "")
		shown := 0
		for _, k := range v.Keys {
			if k.IsAvailable() {
				shown++
			}
		}
		assert.Equal(t, []int{want, want}, []int{v.Available, shown}, when)
	}
	agrees(4, "at the start")
	s.answers(s.only("a"), "h", limited(10*time.Second))
	agrees(3, "a cools down")
	s.suspects("b")
	agrees(2, "b is suspect")
	s.quarantines("c")
	agrees(1, "c is quarantined")
	s.now = 5 * sec
	agrees(3, "b and c may be tried, by others")
	probe := s.only("b")
	agrees(2, "b is tried")
	s.answers(probe, "h", fine)
	s.now = 10 * sec
	agrees(4, "a has rested")
}

// A caller that reports tokens without a status has no verdict on the key.
func TestReportWithoutAStatusHealsNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(9))})
	s.suspects("a")
	s.now = 5 * sec
	g := s.lease("h")
	s.answers(g, "h", s.unanswered())
	assert.Equal(t, pool.Suspect, s.health(0))
	s.ends(g, "h", s.unanswered(), unknown)
	assert.Equal(t, pool.Suspect, s.health(0))
	s.ends(s.lease("h"), "h", fine, unknown)
	assert.Equal(t, pool.Healthy, s.health(0))
}

// unanswered is what the dialect reads in a response that has no status.
func (s *story) unanswered() provider.Signal {
	return dialect(s, "anthropic").Read(provider.Response{})
}

func TestOnlyAnswersWidenTheWindow(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	start := s.window()
	for range 20 {
		require.NoError(t, s.Release(s.now, s.lease("h").Lease, "h", false))
		require.NoError(t, s.Release(s.now, s.lease("h").Lease, "h", true))
		s.ends(s.lease("h"), "h", s.unanswered(), unknown)
	}
	assert.Equal(t, start, s.window())
	for range start {
		s.ends(s.lease("h"), "h", fine, unknown)
	}
	assert.Equal(t, 2*start, s.window())
}

// Of two keys without room one is excluded, and a release frees the other: that is soon, and
// not never.
func TestAReleaseThatIsWaitedForIsSoon(t *testing.T) {
	one := append(rpm(60), slots(1))
	for name, cfg := range map[string]setup{
		"two groups": {Keys: []pool.Key{{ID: "a", Limits: one}, {ID: "b", Limits: one}}},
		"one group": {Groups: []pool.Group{{Name: "g", Limits: rpm(60)}}, Keys: []pool.Key{
			{ID: "a", Group: "g", Limits: []pool.Limit{slots(1)}}, {ID: "b", Group: "g", Limits: []pool.Limit{slots(1)}},
		}},
	} {
		for _, excluded := range []string{"a", "b"} {
			t.Run(name+", "+excluded, func(t *testing.T) {
				s := begin(t, cfg)
				s.lease("h")
				s.lease("h")
				e := s.refused("h", without(excluded))
				assert.Equal(t, sec, e.RetryAt)
				assert.False(t, e.NoUsableKey)
			})
		}
	}
}
