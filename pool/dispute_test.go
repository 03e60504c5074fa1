package pool_test

// How far the statement of one who was refused goes, and how others find out.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// Statements about three things. The provider states an hour.
var (
	slower  = refusal(provider.RateLimited, provider.ClassScope, time.Hour)
	unpaid  = refusal(provider.QuotaExhausted, provider.GroupScope, time.Hour)
	crowded = refusal(provider.Overloaded, provider.ModelScope, time.Hour)
)

// disputed is a pool of one key with room for all.
func disputed(t *testing.T) *story { return begin(t, setup{Keys: one(rpm(plenty))}) }

// leases gets so many.
func (s *story) leases(holder string, n int) (gs []pool.Grant) {
	s.Helper()
	for range n {
		gs = append(gs, s.lease(holder))
	}
	return gs
}

// well leases and has a good answer.
func (s *story) well(holder string, more ...func(*pool.Ask)) {
	s.Helper()
	s.ends(s.lease(holder, more...), holder, fine, unknown)
}

// outUntil is until when all are kept out.
func (s *story) outUntil() pool.Time {
	return max(s.Inspect(s.now, "").Quotas[0].CooldownUntil, s.Inspect(s.now, "").Keys[0].CooldownUntil)
}

// The statements of one speaker keep others out for ten seconds in all, whatever they are about,
// and for a second more after each minute.
func TestStatementsOfOneSpeakerAreWorthTenSeconds(t *testing.T) {
	s := disputed(t)
	s.well("liar")
	s.leases("honest", 1)
	out := s.leases("liar", 4)
	s.answers(out[0], "liar", slower)
	assert.Equal(t, 10*sec, s.outUntil())
	s.now = 6 * sec
	s.well("honest")
	s.answers(out[1], "liar", unpaid)
	assert.Equal(t, 10*sec, s.outUntil(), "six are spent")
	s.now = 12 * sec
	s.well("honest") // the time is over
	s.answers(out[2], "liar", invalid)
	s.leases("honest", 2)
	assert.Equal(t, pool.Healthy, s.health(0), "it binds itself alone")
	s.now += 2 * minute
	s.answers(out[3], "liar", crowded)
	s.refused("honest")
	assert.Equal(t, s.now+2100*sec/1000, s.outUntil(), "a tenth came back meanwhile")
}

// What was granted before shows nothing, but then a probe need not wait for it.
func TestAnswersFromBeforeCallForAProbe(t *testing.T) {
	s := disputed(t)
	before := s.lease("honest")
	g := s.lease("liar")
	s.now = sec / 2
	s.answers(g, "liar", unpaid)
	s.refused("third")
	s.answers(before, "honest", fine)
	s.lease("third")
	s.refused("third") // it is a probe
}

// It returns at once, the others slowly, and not one of them later because of it.
func TestWhoContradictsIsFree(t *testing.T) {
	s := disputed(t)
	s.answers(s.lease("liar"), "liar", unpaid)
	s.now = sec
	s.well("honest")
	assert.Equal(t, 1000, s.granted("honest"))
	assert.Equal(t, 4, s.granted("third"))
}

// What a small ask is given, a large one may be refused.
func TestASmallerAskContradictsNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	s.answers(s.lease("liar", input(50)), "liar", about(slower, provider.InputTokens))
	s.now = sec
	s.well("honest", input(5))
	assert.Equal(t, 1, s.granted("third", input(50)), "a probe")
}

func TestTwoWhoAgreeCallForAThird(t *testing.T) {
	s := disputed(t)
	s.leases("third", 1)
	one, two := s.lease("one"), s.lease("two")
	s.answers(one, "one", unpaid)
	s.now = sec / 2
	s.refused("third")
	s.answers(two, "two", unpaid)
	s.lease("third") // at once
	s.refused("fourth")
}

func TestStatementsAboutDifferentThingsDoNotAgree(t *testing.T) {
	s := disputed(t)
	s.leases("third", 1)
	one, two := s.lease("one"), s.lease("two")
	s.answers(one, "one", unpaid)
	s.now = sec / 2
	s.answers(two, "two", refusal(provider.Forbidden, provider.GroupScope, time.Hour))
	s.refused("third")
}

// Azure states a day for a limit by the minute. Who is alone tries after the window, by an ask for
// less than was refused; each refusal doubles that. An ask as large waits.
func TestAWaitLongerThanTheWindowIsTried(t *testing.T) {
	large, small := input(50), input(49)
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	s.ends(s.lease("alone", large), "alone", limited(day), unknown)
	s.now = minute - 1
	s.refused("alone", small)
	s.now++
	assert.Equal(t, pool.Time(day), s.refused("alone", large).RetryAt)
	s.ends(s.lease("alone", small), "alone", limited(day), unknown)
	s.now = 3*minute - 1
	s.refused("alone", input(48))
	s.now++
	s.refused("alone", small)
	g := s.lease("alone", input(48))
	s.refused("alone", input(48)) // until that one is answered
	s.ends(g, "alone", fine, unknown)
	s.lease("alone", large)

	s = begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	little, much := s.lease("alone", small), s.lease("alone", large)
	s.answers(little, "alone", limited(day))
	s.answers(much, "alone", limited(day))
	s.now = 2 * minute
	s.refused("alone", small) // as much as the least that was refused

	s = begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	s.ends(s.lease("alone", large), "alone", limited(time.Minute), unknown)
	s.now = minute - 1
	s.refused("alone", small) // that may be true
}

// It is so; but after half a minute one sees whether it still is, and then one after ten.
func TestThreeWhoAgreeStand(t *testing.T) {
	s := disputed(t)
	for i, g := range []pool.Grant{s.lease("h0"), s.lease("h1"), s.lease("h2")} {
		s.answers(g, []string{"h0", "h1", "h2"}[i], unpaid)
	}
	s.now = 30*sec - 1
	s.refused("fourth")
	s.now++
	s.ends(s.lease("fourth"), "fourth", unpaid, unknown)
	s.now = 630*sec - 1
	s.refused("fifth")
	s.now++
	s.well("fifth")
	assert.Equal(t, 1, s.granted("sixth"), "three against one: it begins with one")
}

// Of what two say, both say the shorter.
func TestTheLongestStatementIsOneSpeakersAlone(t *testing.T) {
	s := disputed(t)
	one, two := s.lease("one"), s.lease("two")
	s.answers(one, "one", unpaid)
	s.answers(two, "two", refusal(provider.QuotaExhausted, provider.GroupScope, 15*time.Second))
	s.now = 25*sec - 1
	s.refused("third")
	s.now++
	s.lease("third")
	s.refused("one")
}

// A stated wait that has run out agrees with no later one.
func TestStatementsRunOut(t *testing.T) {
	s := disputed(t)
	s.leases("third", 1)
	s.answers(s.lease("one"), "one", refusal(provider.QuotaExhausted, provider.GroupScope, 5*time.Second))
	s.now = 20 * sec
	s.answers(s.lease("two"), "two", unpaid)
	s.now++
	s.refused("third")
	assert.Equal(t, 30*sec, s.outUntil())
}

// The provider refuses all, but one says that all is well.
func TestWhoMisleadsFreesItselfAlone(t *testing.T) {
	s := disputed(t)
	s.leases("fourth", 1)
	before := s.lease("second")
	s.answers(s.lease("first"), "first", unpaid)
	s.now = sec
	s.well("sunny")
	s.answers(s.lease("third"), "third", unpaid)
	s.answers(s.lease("fourth"), "fourth", unpaid)
	s.refused("fifth") // three agree, and stand

	require.True(t, s.Restore(s.now, "", "a"))
	s.answers(before, "second", slower)
	s.now += 6 * sec
	s.well("sunny")
	assert.Equal(t, 1000, s.granted("sunny"))
	assert.Equal(t, 1, s.granted("fifth"), "a probe, and no return")
}

// What it meets is not the provider.
func TestWhoIsAlwaysRefusedIsNotBelieved(t *testing.T) {
	s := disputed(t)
	out := s.leases("gateway", 4)
	for _, g := range out[:3] {
		s.answers(g, "gateway", slower)
	}
	s.now = sec
	s.well("honest")
	s.now = 10 * sec
	s.answers(out[3], "gateway", unpaid)
	s.leases("honest", 2)
	s.refused("gateway")
}

// Instances of one identity are one speaker while there are others,
func TestInstancesAreOneVoice(t *testing.T) {
	s := disputed(t)
	s.leases("honest", 1)
	for _, g := range []pool.Grant{s.lease("liar", instance("0")), s.lease("liar", instance("1")), s.lease("liar", instance("2"))} {
		s.answers(g, "liar", unpaid)
	}
	s.now = sec
	s.well("honest")
	s.lease("third")
}

// and several while there are not.
func TestInstancesOfASoleIdentitySeeForThemselves(t *testing.T) {
	s := disputed(t)
	s.answers(s.lease("h", instance("broken")), "h", unpaid)
	s.now = sec
	s.refused("h", instance("broken"))
	s.well("h", instance("well"))
	s.lease("h", instance("third"))
}

// A guess grows for whoever is refused again. For others it does when one of them is.
func TestGuessesGrowForWhoIsRefused(t *testing.T) {
	s := disputed(t)
	s.leases("honest", 1)
	for _, wait := range []pool.Time{sec, 2 * sec, 4 * sec} {
		s.ends(s.lease("gateway"), "gateway", limited(0), unknown)
		assert.Equal(t, s.now+sec, s.outUntil())
		s.now += wait - 1
		s.refused("gateway")
		s.now++
	}
	s.ends(s.lease("honest"), "honest", limited(0), unknown)
	assert.Equal(t, s.now+2*sec, s.outUntil())
}

func TestAStatedWaitThatIsTooShortGrows(t *testing.T) {
	s := disputed(t)
	for _, wait := range []pool.Time{sec / 1000, sec, 2 * sec, 4 * sec} {
		s.ends(s.lease("h"), "h", limited(time.Millisecond), unknown)
		assert.Equal(t, s.now+wait, s.refused("h").RetryAt)
		s.now += wait
	}
}

// When the time is over, answers from before it began bring nobody back.
func TestAnswersFromBeforeBeginNoReturn(t *testing.T) {
	s := disputed(t)
	before, g := s.lease("h"), s.lease("h")
	s.now = sec
	s.answers(g, "h", limited(10*time.Second))
	s.now = 11 * sec
	s.answers(before, "h", fine)
	assert.Equal(t, 1, s.granted("h"), "a probe")
}

func TestOneSpeakerAloneQuarantinesNoKey(t *testing.T) {
	s := disputed(t)
	honest := s.lease("honest")
	for _, g := range s.leases("liar", 2) {
		s.answers(g, "liar", invalid)
		assert.Equal(t, pool.Suspect, s.health(0))
	}
	s.answers(honest, "honest", invalid)
	assert.Equal(t, pool.Quarantined, s.health(0))
}

// While an identity is alone its instances count as several; to another one that comes they are one.
func TestInstancesBindANewcomerAsOne(t *testing.T) {
	s := disputed(t)
	as := func(instance string) func(*pool.Ask) { return func(a *pool.Ask) { a.Instance = instance } }
	var out []pool.Grant
	for _, i := range []string{"i0", "i1", "i2"} {
		out = append(out, s.lease("crowd", as(i)))
	}
	for _, g := range out {
		s.answers(g, "crowd", unpaid)
	}
	s.now = 2 * sec
	s.refused("crowd", as("i3"))
	s.well("newcomer")
	s.leases("newcomer", 100)
}

// Its refusals cost the others requests, though they have good answers all the time.
func TestWhoIsAlwaysRefusedWaitsLonger(t *testing.T) {
	s := disputed(t)
	refusals := 0
	for ; s.now < 10*minute; s.now += sec {
		s.well("honest")
		for range 3 {
			if g, err := s.Acquire(s.now, ask("gateway")); err == nil {
				s.ends(g, "gateway", limited(0), unknown)
				refusals++
			}
		}
	}
	assert.LessOrEqual(t, refusals, 60)
}

// What is left of a dispute when its speaker never comes back ends with its time: others may have
// leases for several requests again.
func TestADisputeOfOneWhoIsGoneEnds(t *testing.T) {
	s := disputed(t)
	s.answers(s.lease("gone"), "gone", limited(time.Minute))
	s.now = sec
	s.well("honest")
	s.now = 10 * minute
	s.well("honest")
	g := s.lease("honest", func(a *pool.Ask) { a.Count = 10 })
	assert.Equal(t, 10, g.Count)
}
