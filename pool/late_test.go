package pool_test

// Reports that come late: after their lease's time, after the limit they speak
// of has changed, after another answer. What was used must be paid for and what
// was refused must be heard, but nobody gets more by what is past.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func lasting(d time.Duration) func(*pool.Ask) { return func(a *pool.Ask) { a.TTL = d } }

// late is a story with one lease of 10 s and so much input, 5 s after its end.
func late(t *testing.T, n int64, more ...pool.Limit) (*story, pool.Grant) {
	s := begin(t, setup{Keys: one(append(limits(plenty, 100, plenty), more...))})
	g := s.lease("h", input(n), lasting(10*time.Second))
	s.now = 15 * sec
	return s, g
}

func (s *story) input() pool.LimitState { return s.Inspect(s.now, "").Quotas[0].Limits[1] }

func TestLateOverUseIsCharged(t *testing.T) {
	s, g := late(t, 10)
	used := unknown
	used[provider.InputTokens] = 30
	s.answers(g, "h", fine)
	_, err := s.Report(s.now, g.Lease, "h", fine, used, false)
	require.NoError(t, err)
	assert.EqualValues(t, 20, s.input().Used, "the reservation has refilled")
	used[provider.InputTokens] = 60
	s.ends(g, "h", fine, used)
	assert.EqualValues(t, 50, s.input().Used, "the rest, once")
}

// What was reserved and not used comes back as far as it has not refilled.
func TestLateRefundIsSafe(t *testing.T) {
	for name, c := range map[string]struct{ reserved, used, left int64 }{
		"all of it is still there": {100, 40, 15},
		"some of it has refilled":  {40, 10, 0},
		"all of it has refilled":   {20, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := late(t, c.reserved)
			used := unknown
			used[provider.InputTokens] = c.used
			s.ends(g, "h", fine, used)
			assert.Equal(t, c.left, s.input().Used)
		})
	}
}

func TestLateRefusalCoolsTheAccountDown(t *testing.T) {
	s, g := late(t, 10)
	s.answers(g, "h", limited(30*time.Second))
	assert.Equal(t, 45*sec, s.refused("h").RetryAt)
}

func TestLateRefusalOfTheKeyIsHeard(t *testing.T) {
	s, g := late(t, 10)
	s.ends(g, "h", invalid, unknown)
	assert.Equal(t, pool.Suspect, s.health(0))
}

func TestLapsedLeaseIsNotRenewed(t *testing.T) {
	s, g := late(t, 10)
	expires, err := s.Report(s.now, g.Lease, "h", fine, unknown, false)
	require.NoError(t, err)
	assert.Equal(t, s.now, expires)
	assert.Empty(t, s.Leases(s.now, "", 0, 10))
	sum := s.Summary(s.now, "")
	assert.Zero(t, sum.Open)
	assert.Equal(t, pool.Counters{Granted: 1, Expired: 1}, sum.Counters)
	s.now = 20*sec - 1
	s.answers(g, "h", fine)
	s.now = 20 * sec
	_, err = s.Report(s.now, g.Lease, "h", fine, unknown, false)
	require.ErrorIs(t, err, pool.ErrLeaseEnded, "after as long again it is forgotten")
	assert.Equal(t, sum.Counters, s.Summary(s.now, "").Counters)
}

func TestSlotOfALapsedLeaseComesBackOnce(t *testing.T) {
	s, g := late(t, 10, slots(1))
	s.lease("other")
	s.ends(g, "h", fine, unknown)
	s.refused("h")
	assert.EqualValues(t, 1, s.Inspect(s.now, "").Keys[0].Open)
}

// Where the way is felt, a late answer widens the window for those who wait.
func TestLateAnswerServesAWaiter(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	a, b := s.lease("h", lasting(10*time.Second)), s.lease("h", lasting(10*time.Second))
	s.answers(a, "h", limited(time.Second))
	require.Equal(t, 2, s.window())
	s.now = 12 * sec
	s.answers(s.lease("h"), "h", fine)
	s.lease("h")
	w := s.waits("h")
	served, _ := s.Next(s.now)
	require.Empty(t, served, "two are out already")
	s.ends(a, "h", fine, unknown)
	s.ends(b, "h", fine, unknown)
	served, _ = s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{w}, served)
}

// A provider cuts a limit. Answers to what was sent before still state the old.
func TestCutIsNotUndoneByOlderAnswers(t *testing.T) {
	for _, holder := range []string{"h", "other"} {
		s := begin(t, setup{Keys: one(nil)})
		a, b, c := s.lease("h"), s.lease(holder), s.lease("h")
		s.answers(a, "h", states(provider.Requests, 1000, 999))
		s.now = sec
		s.answers(c, "h", states(provider.Requests, 100, 90))
		s.now = 2 * sec
		s.answers(a, "h", states(provider.Requests, 1000, 998))
		s.answers(b, holder, states(provider.Requests, 1000, 998))
		assert.EqualValues(t, 100, s.requests().Limit, "in the hands of %s", holder)

		require.NoError(t, s.Release(s.now, c.Lease, "h", false))
		s.now = 10 * minute
		a, b = s.lease("h"), s.lease(holder)
		s.answers(a, "h", states(provider.Requests, 1000, 998))
		s.answers(b, holder, states(provider.Requests, 1000, 998))
		assert.EqualValues(t, 1000, s.requests().Limit, "what is younger than the cut may raise it")
	}
}

func TestRaiseTakesTwoHoldersIfThereAre(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	s.answers(s.lease("honest"), "honest", states(provider.Requests, 10, 9))
	s.now = minute
	b, c := s.lease("liar"), s.lease("liar") // leases of before the statement raise nothing
	s.answers(b, "liar", states(provider.Requests, 1000, 998))
	s.answers(c, "liar", states(provider.Requests, 1000, 998))
	assert.EqualValues(t, 10, s.requests().Limit, "the other has not said so")
}

func TestSoleHolderVouchesForItself(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	a, b, c := s.lease("h"), s.lease("h"), s.lease("h")
	s.answers(a, "h", states(provider.Requests, 10, 9))
	s.answers(b, "h", states(provider.Requests, 20, 9))
	assert.EqualValues(t, 10, s.requests().Limit, "one lease is not enough")
	s.answers(c, "h", states(provider.Requests, 20, 9))
	assert.EqualValues(t, 20, s.requests().Limit)
}

// Nobody pays for one class of models alone.
func TestPaymentRequiredCoolsAllClassesDown(t *testing.T) {
	s := begin(t, setup{Models: []string{"opus", "haiku"}, Keys: one(rpm(60))})
	s.answers(s.lease("h", model("opus")), "h", provider.Signal{
		Class: provider.QuotaExhausted, Scope: provider.GroupScope, Wait: time.Hour, Source: provider.InMessageDate,
	})
	for _, m := range []string{"opus", "haiku"} {
		assert.Equal(t, 60*minute, s.refused("h", model(m)).RetryAt, m)
	}
}

// A request's id names one ask. With another ask it is the caller's mistake, or
// its way to try again elsewhere; either way the old lease does not fit.
func TestRepeatedRequestIsTheSameAsk(t *testing.T) {
	s := begin(t, setup{
		Models: []string{"opus", "haiku"}, StartWithin: 2 * time.Second,
		Keys: []pool.Key{{ID: "a", Limits: rpm(60)}, {ID: "b", Limits: rpm(60)}},
	})
	g := s.lease("h", request("r"), model("opus"))
	key := g.Key
	assert.Equal(t, g, s.lease("h", request("r"), model("opus")))
	assert.Equal(t, g, s.lease("h", request("r"), model("opus"), without("c")))
	other := s.lease("h", request("r"), model("opus"), without(key))
	assert.NotEqual(t, g.Key, other.Key)
	assert.NotEqual(t, g.Lease, other.Lease)
	third := s.lease("h", request("r"), model("haiku"))
	assert.NotEqual(t, other.Lease, third.Lease)
	assert.Equal(t, third, s.lease("h", request("r"), model("haiku")), "and now that is what it names")
}

// The report of one refusal may come twice; the wait it asks for counts from the
// first.
func TestRefusalReportedAgainIsTheSame(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "k", Limits: rpm(10)}}})
	g := s.lease("a")
	s.answers(g, "a", limited(20*time.Second))
	s.now = 15 * sec
	s.answers(g, "a", limited(20*time.Second))
	snapshot := s.Inspect(s.now, "")
	assert.Equal(t, 20*sec, snapshot.Quotas[0].CooldownUntil)
	assert.EqualValues(t, 1, snapshot.Counters.RateLimited)
}
