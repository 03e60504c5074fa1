package pool_test

// What a refusal puts out of use, for how long and for whom, and how it comes
// back.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// refusal is an answer that blames something, with a stated wait or none.
func refusal(class provider.Class, scope provider.Scope, wait time.Duration) provider.Signal {
	s := provider.Signal{Class: class, Scope: scope, Wait: wait}
	if wait > 0 {
		s.Source = provider.RetryAfter
	}
	return s
}

// about makes a refusal name a dimension.
func about(s provider.Signal, d provider.Dimension) provider.Signal {
	s.Refused = &provider.Refusal{Dimension: d, Limit: provider.Unknown, Used: provider.Unknown, Requested: provider.Unknown}
	return s
}

// polls asks every second and gives when it got a lease.
func (s *story) polls(holder string, end pool.Time, more ...func(*pool.Ask)) (pool.Grant, pool.Time) {
	s.Helper()
	for ; s.now <= end; s.now += sec {
		if g, err := s.Acquire(s.now, ask(holder, more...)); err == nil {
			return g, s.now
		}
	}
	s.Fatalf("%s gets no lease until %v", holder, time.Duration(end))
	return pool.Grant{}, 0
}

// granted counts the leases there are now.
func (s *story) granted(holder string, more ...func(*pool.Ask)) (n int) {
	for ; ; n++ {
		if _, err := s.Acquire(s.now, ask(holder, more...)); err != nil || n == 1000 {
			return n
		}
	}
}

// Four keys: two of one group, one of another, one of a lower priority.
func scopes() setup {
	return setup{
		Models: []string{"opus", "haiku"},
		Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}},
		Keys: []pool.Key{
			{ID: "a", Group: "g", Priority: 1}, {ID: "b", Group: "g", Priority: 1},
			{ID: "other", Limits: rpm(plenty), Priority: -1},
		},
	}
}

func TestWhatCoolsDownIsWhatIsBlamed(t *testing.T) {
	all := map[string]bool{"a opus": true, "a haiku": true, "b opus": true, "b haiku": true, "other opus": true, "other haiku": true}
	for name, c := range map[string]struct {
		s      provider.Signal
		blamed []string
	}{
		"the group for the model": {refusal(provider.RateLimited, provider.ClassScope, time.Minute), []string{"a opus", "b opus"}},
		"the group":               {refusal(provider.QuotaExhausted, provider.GroupScope, time.Minute), []string{"a opus", "a haiku", "b opus", "b haiku"}},
		"the key":                 {refusal(provider.QuotaExhausted, provider.KeyScope, time.Minute), []string{"a opus", "a haiku"}},
		"a 401":                   {invalid, []string{"a opus", "a haiku"}},
		"the key for the model":   {refusal(provider.Forbidden, provider.KeyModelScope, time.Minute), []string{"a opus"}},
		"the model":               {refusal(provider.Overloaded, provider.ModelScope, time.Minute), []string{"a opus", "b opus", "other opus"}},
		"the provider":            {refusal(provider.Overloaded, provider.ProviderScope, time.Minute), []string{"a opus", "a haiku", "b opus", "b haiku", "other opus", "other haiku"}},
		"nothing":                 {refusal(provider.Forbidden, provider.NoScope, time.Minute), nil},
		"no access to the model":  {provider.Signal{Class: provider.RateLimited, Scope: provider.GroupScope, Windows: states(provider.Requests, 0, 0).Windows}, []string{"a opus", "b opus"}},
		"a 401 that states no limit": {provider.Signal{Class: provider.AuthInvalid, Scope: provider.KeyScope, Windows: states(provider.Requests, 0, 0).Windows},
			[]string{"a opus", "a haiku"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, scopes())
			s.answers(s.lease("h", model("opus"), without("b", "other")), "h", c.s)
			for _, k := range []string{"a", "b", "other"} {
				for _, m := range []string{"opus", "haiku"} {
					var others []string
					for _, o := range s.keys {
						if o.ID != k {
							others = append(others, o.ID)
						}
					}
					_, err := s.Acquire(s.now, ask("h", model(m), without(others...)))
					at := k + " " + m
					blamed := false
					for _, r := range c.blamed {
						blamed = blamed || r == at
					}
					assert.Equal(t, all[at] && !blamed, err == nil, at)
				}
			}
		})
	}
}

// Whoever reports what, if what it says is not new, does not lengthen what we
// guess.
func TestWaitsOnlyExtend(t *testing.T) {
	for name, c := range map[string]struct {
		first, second time.Duration
		until         pool.Time
	}{
		"a longer wait extends":      {20 * time.Second, 50 * time.Second, 50 * sec},
		"a shorter shortens not":     {50 * time.Second, 20 * time.Second, 50 * sec},
		"nor does one not stated":    {50 * time.Second, 0, 50 * sec},
		"the longest there is":       {provider.LongestWait, time.Second, pool.Time(provider.LongestWait)},
		"a stated one after a guess": {0, 50 * time.Second, 50 * sec},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(rpm(plenty))})
			one, two := s.lease("h"), s.lease("h")
			s.answers(one, "h", limited(c.first))
			s.answers(two, "h", limited(c.second))
			assert.Equal(t, c.until, s.refused("h").RetryAt)
			s.now = c.until - 1
			s.refused("h")
			s.now++
			s.lease("h")
		})
	}
}

// What another holder says confirms, as far as it goes.
func TestTheOtherConfirmsAsFarAsItGoes(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	one, two := s.lease("liar"), s.lease("honest")
	s.answers(one, "liar", limited(provider.LongestWait))
	s.answers(two, "honest", limited(40*time.Second))
	assert.Equal(t, 40*sec, s.refused("honest").RetryAt)
	assert.Equal(t, 30*sec, s.refused("third").RetryAt, "then it may see for itself")
	s.now = 40 * sec
	s.refused("liar")
	s.ends(s.lease("third"), "third", fine, unknown)
	s.now += 30 * sec
	s.lease("liar") // it was so no longer
}

func TestOthersSeeForThemselves(t *testing.T) {
	for _, scope := range []provider.Scope{provider.ClassScope, provider.GroupScope, provider.ModelScope, provider.KeyModelScope, provider.KeyScope} {
		t.Run(scope.String(), func(t *testing.T) {
			s := begin(t, setup{Keys: one(rpm(plenty))})
			s.answers(s.lease("liar"), "liar", refusal(provider.QuotaExhausted, scope, provider.LongestWait))
			s.now = sec - 1
			s.refused("honest")
			s.now++
			s.refused("liar")
			probe := s.lease("honest")
			s.refused("third") // one at a time
			s.answers(probe, "honest", fine)
			s.lease("third")
			s.refused("liar") // its own word binds it
			s.now += 30 * sec
			s.lease("liar")
		})
	}
}

// They wait in line, and nobody calls in between.
func TestWaitersSeeForThemselves(t *testing.T) {
	for _, scope := range []provider.Scope{provider.ClassScope, provider.GroupScope, provider.ModelScope, provider.KeyModelScope, provider.KeyScope} {
		for _, single := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, single %v", scope, single), func(t *testing.T) {
				s := begin(t, setup{Single: single, Keys: one(rpm(plenty))})
				s.answers(s.lease("liar"), "liar", refusal(provider.QuotaExhausted, scope, provider.LongestWait))
				s.waits("liar")
				s.waits("honest")
				var at pool.Time
				var got []string
				s.until(100*sec, func(w *pool.Waiter) {
					got, at = append(got, w.Ask.Holder), s.now
					s.answers(w.Grant(), w.Ask.Holder, fine)
				})
				assert.Equal(t, []string{"honest", "liar"}, got)
				assert.Equal(t, 31*sec, at, "the liar's own word binds it longer")
			})
		}
	}
}

// A probe that tells nothing leaves it to the next.
func TestProbeWithoutAVerdict(t *testing.T) {
	for name, end := range map[string]struct {
		does  func(*story, pool.Grant)
		after pool.Time
	}{
		"released unused": {func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "one", true)) }, 0},
		"released":        {func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "one", false)) }, 0},
		"ends with a 400": {func(s *story, g pool.Grant) {
			s.ends(g, "one", provider.Signal{Class: provider.InvalidRequest}, unknown)
		}, 0},
		"expires":      {func(*story, pool.Grant) {}, 2 * sec},
		"says nothing": {func(*story, pool.Grant) {}, 5 * sec},
	} {
		for _, scope := range []provider.Scope{provider.ClassScope, provider.GroupScope, provider.ModelScope, provider.KeyModelScope, provider.KeyScope} {
			t.Run(name+", "+scope.String(), func(t *testing.T) {
				s := begin(t, setup{Keys: one(rpm(plenty))})
				s.answers(s.lease("liar"), "liar", refusal(provider.QuotaExhausted, scope, provider.LongestWait))
				s.now = 30 * sec
				probe := s.lease("one", lasting(time.Duration(max(end.after, 1))))
				if name == "says nothing" {
					s.ends(probe, "one", s.unanswered(), unknown)
					probe = s.lease("one")
				}
				s.waits("two")
				end.does(s, probe)
				served := false
				s.until(30*sec+end.after, func(*pool.Waiter) { served = true })
				assert.True(t, served)
			})
		}
	}
}

// Its answer comes with its end, and counts then.
func TestProbeThatReportsOnlyAtItsEnd(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.answers(s.lease("liar"), "liar", limited(time.Hour))
	s.now = 30 * sec
	probe := s.lease("honest")
	s.now = 33 * sec
	s.refused("third")
	s.ends(probe, "honest", fine, unknown)
	s.lease("third")
}

// A holder that takes the probes for itself does not keep the others from theirs.
func TestProbesAreNotTheLiarsToTake(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	g := s.lease("liar")
	for s.now < 60*sec {
		s.answers(g, "liar", limited(0))
		for {
			s.now += sec
			if _, err := s.Acquire(s.now, ask("honest")); err == nil {
				assert.LessOrEqual(t, s.now, 31*sec)
				return
			}
			var err error
			if g, err = s.Acquire(s.now, ask("liar")); err == nil {
				break
			}
		}
	}
	t.Fatal("the honest holder gets none")
}

// Answers to leases from before say nothing new, however many there are.
func TestOldLeasesProlongNothing(t *testing.T) {
	for name, s := range map[string]provider.Signal{
		"a rate limit":    limited(time.Hour),
		"one not stated":  limited(0),
		"a key's quota":   refusal(provider.QuotaExhausted, provider.KeyScope, time.Hour),
		"a 401":           invalid,
		"a model refused": refusal(provider.Forbidden, provider.KeyModelScope, time.Hour),
		"a limit of one":  states(provider.Requests, 1, 0),
	} {
		t.Run(name, func(t *testing.T) {
			st := begin(t, setup{Keys: one(rpm(1000))})
			var old []pool.Grant
			for range 100 {
				old = append(old, st.lease("liar"))
			}
			for _, g := range old {
				st.ends(g, "liar", s, unknown)
				st.now += sec
				if g, err := st.Acquire(st.now, ask("honest")); err == nil {
					st.ends(g, "honest", states(provider.Requests, 1000, 900), unknown)
					if st.now > 25*sec {
						return
					}
				}
				require.LessOrEqual(t, st.now, 60*sec)
			}
		})
	}
}

func TestSlowStart(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.answers(s.lease("h"), "h", limited(10*time.Second))
	s.now = 10 * sec
	probe := s.lease("h")
	require.Zero(t, s.granted("h"))
	s.answers(probe, "h", fine)
	for i, most := range []int{4, 4, 8, 16, 32, 64, 128, 256} {
		assert.Equal(t, most, s.granted("h"), "in second %d", i)
		s.now += sec
	}
	assert.Equal(t, 1000, s.granted("h"))
}

// All who wait are served, though nobody calls but when Next wants to be called.
func TestSlowStartServesAllWhoWait(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.answers(s.lease("h"), "h", limited(10*time.Second))
	for i := range 300 {
		s.waits(fmt.Sprint("h", i%7))
	}
	n, first := 0, true
	s.until(20*sec, func(w *pool.Waiter) {
		if n++; first {
			s.answers(w.Grant(), w.Ask.Holder, fine)
		}
		first = false
	})
	assert.Equal(t, 300, n)
}

func TestRefusalInASlowStartBeginsItAnew(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.ends(s.lease("h"), "h", limited(0), unknown)
	s.now = sec
	s.ends(s.lease("h"), "h", fine, unknown)
	one, two := s.lease("h"), s.lease("h")
	s.now = 2 * sec
	s.ends(one, "h", limited(0), unknown)
	assert.Equal(t, 3*sec, s.refused("h").RetryAt)
	s.ends(two, "h", fine, unknown)
	s.refused("h") // what was granted before it is no news
}

// An ask for nothing of what is refused passes, and its answer tells nothing of it.
func TestCooldownOfOneDimension(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	s.answers(s.lease("h", input(5)), "h", about(limited(time.Minute), provider.InputTokens))
	assert.Equal(t, provider.InputTokens, s.refused("h", input(1)).Dimension)
	s.ends(s.lease("h", output(5)), "h", fine, unknown)
	s.refused("h", input(1))
	assert.Equal(t, minute, s.refused("h", input(9)).RetryAt)
	s.answers(s.lease("h"), "h", about(limited(time.Minute), provider.OutputTokens))
	s.refused("h", output(1))
}

// Who asks for none of it and is refused for it all the same asks for some.
func TestCooldownOfADimensionThatIsNotAskedFor(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	s.answers(s.lease("h"), "h", about(limited(time.Minute), provider.InputTokens))
	assert.Equal(t, minute, s.refused("h").RetryAt)
}

func TestClassMadeWhileTheGroupCoolsDown(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty)), Models: nil, Classes: []pool.Class{{Name: "opus", Models: []string{"opus"}}}})
	s.answers(s.lease("h", model("opus")), "h", refusal(provider.QuotaExhausted, provider.GroupScope, time.Minute))
	assert.Equal(t, minute, s.refused("h", model("new")).RetryAt)
	s.waits("h", model("new"))
	s.waits("h", model("newer"))
	s.now = minute
	served, _ := s.Next(s.now)
	require.Len(t, served, 1, "one tries for the whole group")
	s.answers(served[0].Grant(), "h", fine)
	served, _ = s.Next(s.now)
	assert.Len(t, served, 1)
}

// Overloads that come now and then are the caller's to try again; a model that
// answers mostly so cools down.
func TestModelOverload(t *testing.T) {
	overloaded := refusal(provider.Overloaded, provider.ModelScope, 0)
	s := begin(t, setup{Keys: one(rpm(plenty))})
	for i := range 1000 {
		answer := fine
		if i%100 == 99 {
			answer = overloaded
		}
		s.ends(s.lease("h"), "h", answer, unknown)
		s.now += sec / 10
	}
	n := 0
	for range 20 {
		g, err := s.Acquire(s.now, ask("h"))
		if err != nil {
			break
		}
		s.ends(g, "h", overloaded, unknown)
		n++
	}
	assert.InDelta(t, 6, n, 3, "then it cools down")
	assert.Equal(t, s.now+sec, s.refused("h").RetryAt)
	for range 4 {
		s.now = s.refused("h").RetryAt
		s.ends(s.lease("h"), "h", overloaded, unknown)
		assert.Equal(t, s.now+2*sec, s.refused("h").RetryAt, "it ends for all at once, so the next try is never far")
	}
	assert.Equal(t, pool.Healthy, s.health(0))

	s = begin(t, setup{Keys: one(rpm(plenty))})
	s.ends(s.lease("h"), "h", fine, unknown)
	s.ends(s.lease("h"), "h", refusal(provider.Overloaded, provider.ModelScope, 20*time.Second), unknown)
	assert.Equal(t, 20*sec, s.refused("h").RetryAt, "what is stated is obeyed at once")
}

func TestPriorityFallsBackWhileTheHigherCoolsDown(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "high", Priority: 1, Limits: rpm(plenty)}, {ID: "low", Limits: rpm(plenty)}}})
	s.answers(s.lease("h"), "h", limited(20*time.Second))
	assert.Equal(t, "low", s.key("h"))
	s.now = 20 * sec
	probe := s.lease("h")
	assert.Equal(t, "high", probe.Key)
	assert.Equal(t, "low", s.key("h"), "while it is tried")
	s.answers(probe, "h", fine)
	assert.Equal(t, map[string]int{"high": 4, "low": 6}, s.tally(10), "a slow start")
	s.now = 40 * sec
	assert.Equal(t, map[string]int{"high": 10}, s.tally(10))
}

// Without pooling a key that cools down is waited for; one that may not be used is not.
func TestWithoutPoolingACooldownIsWaitedFor(t *testing.T) {
	cfg := setup{Single: true, Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}, {ID: "b", Limits: rpm(plenty)}}}
	s := begin(t, cfg)
	s.answers(s.lease("h"), "h", limited(20*time.Second))
	assert.Equal(t, 20*sec, s.refused("h").RetryAt)
	assert.Equal(t, "b", s.key("h", without("a")))

	s = begin(t, cfg)
	s.answers(s.lease("h"), "h", refusal(provider.Forbidden, provider.KeyModelScope, 20*time.Second))
	assert.Equal(t, "b", s.key("h"))
	s.now = 20 * sec
	probe := s.lease("h")
	assert.Equal(t, "a", probe.Key)
	assert.Equal(t, "b", s.key("h"))
	s.answers(probe, "h", fine)
	assert.Equal(t, "a", s.key("h"))
}

// A cached answer tells of another time.
func TestCachedAnswerEndsNoRest(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.answers(s.lease("h"), "h", limited(10*time.Second))
	s.now = 10 * sec
	s.answers(s.lease("h"), "h", provider.Signal{Cached: true})
	s.refused("h")
}

// Whatever an operator restores is tried at once.
func TestRestore(t *testing.T) {
	for _, scope := range []provider.Scope{provider.ClassScope, provider.GroupScope, provider.KeyModelScope, provider.KeyScope, provider.ModelScope} {
		for _, id := range []string{"a", ""} {
			t.Run(scope.String()+id, func(t *testing.T) {
				s := begin(t, setup{Keys: one(rpm(plenty))})
				blocked := refusal(provider.QuotaExhausted, scope, 0)
				blocked.Operator = true
				s.answers(s.lease("h"), "h", blocked)
				s.refused("h")
				s.waits("h")
				assert.False(t, s.Restore(s.now, "", "unknown"))
				assert.True(t, s.Restore(s.now, "", id))
				served, _ := s.Next(s.now)
				assert.Len(t, served, 1)
				s.lease("h")
			})
		}
	}
}

// So are limits of its own that it has within its group.
func TestRestoreOfAKeyWithLimitsOfItsOwn(t *testing.T) {
	daily := []pool.Limit{{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 1, Kind: provider.Sliding}}
	s := begin(t, setup{
		Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}},
		Keys:   []pool.Key{{ID: "a", Group: "g", Limits: daily}},
	})
	s.ends(s.lease("h"), "h", fine, unknown)
	s.refused("h")
	require.True(t, s.Restore(s.now, "", "a"))
	s.lease("h")
}

// A refusal that is over sooner does not hide the one that lasts.
func TestWhyItCoolsDownIsWhyItTakesSoLong(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	broke := refusal(provider.QuotaExhausted, provider.GroupScope, 0)
	broke.Operator = true
	first, second := s.lease("h"), s.lease("h")
	s.answers(first, "h", broke)
	s.answers(second, "h", refusal(provider.RateLimited, provider.GroupScope, time.Second))
	assert.Equal(t, "quota_exhausted", s.Inspect(s.now, "").Quotas[0].Reason)
	assert.True(t, s.refused("h").NoUsableKey)
}

// A client may tell of an error when its headers arrive, and again with its body.
func TestRateLimitThatTurnsOutToBeAQuota(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	g := s.lease("h")
	s.answers(g, "h", limited(0))
	broke := refusal(provider.QuotaExhausted, provider.GroupScope, 0)
	broke.Operator = true
	for range 3 { // told again, it is the same
		s.now += sec
		s.answers(g, "h", broke)
	}
	s.answers(g, "h", limited(time.Hour))
	assert.Equal(t, "quota_exhausted", s.Inspect(s.now, "").Quotas[0].Reason)
	assert.Equal(t, sec+10*minute, s.Inspect(s.now, "").Quotas[0].CooldownUntil)
}

// Quarantine is long, and ends by itself when the key works.
func TestQuarantineBacksOff(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.quarantines("a")
	for _, wait := range []pool.Time{10, 20, 40, 60, 60} {
		s.now += wait*minute - 1
		s.refused("h")
		s.now++
		s.ends(s.lease("h"), "h", invalid, unknown)
	}
	s.now += 60 * minute
	s.ends(s.lease("h"), "h", fine, unknown)
	assert.Equal(t, pool.Healthy, s.health(0))
}

// Many calls were out when the key was revoked.
func TestRefusalsOfOneKeyAtOneMomentCountOnce(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	var out []pool.Grant
	for i := range 10 {
		out = append(out, s.lease(fmt.Sprint(i%2)))
	}
	s.now = sec
	for i, g := range out {
		s.ends(g, fmt.Sprint(i%2), invalid, unknown)
	}
	s.now = sec + 10*minute
	s.lease("h")
}

// A longer wait that one holder has stated is not shortened by another's guess,
// for the one; nor does it bind the others.
func TestKeyQuotaAsTwoStateIt(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.answers(s.lease("one"), "one", refusal(provider.QuotaExhausted, provider.KeyScope, 24*time.Hour))
	s.now = 30 * sec
	s.ends(s.lease("two"), "two", refusal(provider.QuotaExhausted, provider.KeyScope, 0), unknown)
	g, at := s.polls("three", 30*minute)
	assert.Equal(t, minute, at, "half a minute after two agree")
	require.NoError(t, s.Release(s.now, g.Lease, "three", true))
	s.refused("one")
}
