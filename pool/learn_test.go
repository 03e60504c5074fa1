package pool_test

// What answers teach, and who pays for them: limits from headers, slow start where a
// limit is not known, cooldowns, and keys that are refused.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// requests finds the limit on requests in force for the first group.
func (s *story) requests() (l pool.LimitState) {
	for _, l := range s.Inspect(s.now, "").Quotas[0].Limits {
		if l.Dimension == provider.Requests {
			return l
		}
	}
	return l
}

func (s *story) window() int { return s.Inspect(s.now, "").Quotas[0].Window }

func (s *story) health(key int) pool.Health { return s.Inspect(s.now, "").Keys[key].Health }

// A header knows nothing of what answers under way will use: that it states more than we
// have to give is no reason to dispute what we hold.
func TestWhatIsHeldIsNotDisputed(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	told := states(provider.OutputTokens, 1000, 1000)
	told.Windows = append(told.Windows, states(provider.Requests, 10_000, 10_000).Windows...)
	told.Windows = append(told.Windows, states(provider.InputTokens, 10_000, 10_000).Windows...)
	first, second := s.lease("first", output(10)), s.lease("second", output(10))
	s.ends(first, "first", told, unknown)
	s.now += 15 * sec
	s.ends(second, "second", told, unknown)
	s.now += minute
	s.granted("first", output(100))
	s.refused("second", output(100))
	assert.EqualValues(t, 1000, s.limit(0).Held)
}

func TestLimitsAreLearned(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a"}}})
	one, two := s.lease("h1"), s.lease("h2")
	require.Zero(t, s.requests().Limit)

	s.answers(one, "h1", states(provider.Requests, 60, 50))
	l := s.requests()
	assert.Equal(t, int64(60), l.Limit)
	assert.Zero(t, l.Configured)
	assert.Equal(t, int64(12), l.Used, "ten that the header saw, and two that it may not have seen")

	s.answers(two, "h2", states(provider.Requests, 30, 20))
	assert.Equal(t, int64(30), s.requests().Limit, "a lower limit binds at once")

	s.answers(one, "h1", states(provider.Requests, 90, 80))
	s.answers(one, "h1", states(provider.Requests, 90, 80))
	assert.Equal(t, int64(30), s.requests().Limit, "one lease alone raises nothing")
	s.answers(two, "h2", states(provider.Requests, 80, 80))
	assert.Equal(t, int64(30), s.requests().Limit, "nor do two that disagree")
	s.answers(one, "h1", states(provider.Requests, 80, 80))
	assert.Equal(t, int64(80), s.requests().Limit)
}

func TestConfiguredLimitIsACeiling(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	one, two := s.lease("h1"), s.lease("h2")
	s.answers(one, "h1", states(provider.Requests, 1000, 1000))
	s.answers(two, "h2", states(provider.Requests, 1000, 1000))
	assert.Equal(t, int64(60), s.requests().Limit)
	s.answers(one, "h1", states(provider.Requests, 30, 0))
	assert.Equal(t, int64(30), s.requests().Limit)
	assert.Equal(t, int64(60), s.requests().Configured)
	s.answers(one, "h1", states(provider.Requests, 1000, 1000))
	s.answers(two, "h2", states(provider.Requests, 1000, 1000))
	assert.Equal(t, int64(60), s.requests().Limit, "back to the ceiling, and no further")
}

func TestNonsenseTeachesNothing(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	g := s.lease("h")
	for _, limit := range []int64{0, -1, -1 << 63, 1<<63 - 1} {
		s.answers(g, "h", states(provider.Requests, limit, limit))
	}
	assert.Equal(t, int64(60), s.requests().Limit)
}

// Output that is on its way when its limit is learned is still held: it may be
// counted as late as any other.
func TestLearnedLimitHoldsOutputOnItsWay(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a"}}})
	first := s.lease("h", output(100))
	s.answers(first, "h", states(provider.OutputTokens, 100, 100))
	s.now = 30 * sec // the first has not answered a token yet
	_, err := s.Acquire(s.now, ask("h", output(50)))
	assert.Error(t, err, "all 100 may still be counted at 30 s, and with them these 50")
}

func TestUnknownLimitsAreFelt(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a"}}})
	var out []pool.Grant
	// answered ends so many leases, and takes as many as there is room for.
	answered := func(n int) int {
		for range n {
			s.ends(out[0], "h", fine, unknown)
			out = out[1:]
		}
		for {
			g, err := s.Acquire(s.now, ask("h"))
			if err != nil {
				return len(out)
			}
			s.now++
			out = append(out, g)
		}
	}
	assert.Equal(t, 4, answered(0))
	assert.Equal(t, 4, answered(3))
	assert.Equal(t, 8, answered(1), "doubled by a window of answers")
	assert.Equal(t, 16, answered(8))

	s.now += sec
	s.answers(out[15], "h", limited(time.Second))
	s.answers(out[14], "h", limited(time.Second))
	assert.Equal(t, 8, s.window(), "halved once by refusals of the same moment")
	s.now += minute
	require.Equal(t, 1, answered(16), "one lease tries") // of those that ended, the last eight make the window grow
	s.answers(out[0], "h", fine)
	s.now += 10 * sec
	answered(0)
	s.now++
	before := s.window()
	answered(before)
	assert.Equal(t, before+1, s.window(), "from then on by one")

	for _, d := range dialect(t, "anthropic").Limited {
		s.answers(out[0], "h", states(d, 1000, 900))
	}
	assert.Zero(t, s.window(), "dropped when headers give the limits")
}

func TestStatedWaitIsObeyed(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	one, two := s.lease("h1"), s.lease("h2")
	s.answers(one, "h1", limited(20*time.Second))
	s.answers(two, "h2", limited(15*time.Second))
	e := s.refused("h1")
	assert.Equal(t, 20*sec, e.RetryAt, "a shorter wait shortens nothing")
	assert.Equal(t, provider.NumDimensions, e.Dimension, "no limit binds")
	s.now = 20*sec - 1
	s.refused("h1")
	k := s.Inspect(s.now, "").Keys[0]
	assert.False(t, k.IsAvailable())
	assert.Zero(t, k.GetCapacityScore())
	s.now = 20 * sec
	s.lease("h1")
}

func TestGuessedWaitDoubles(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}}})
	for _, wait := range []pool.Time{1, 2, 4, 8, 16, 32, 60, 60} {
		s.ends(s.lease("h"), "h", limited(0), unknown)
		require.Equal(t, s.now+wait*sec, s.refused("h").RetryAt)
		s.now += wait * sec
	}
	s.ends(s.lease("h"), "h", fine, unknown)
	s.ends(s.lease("h"), "h", limited(0), unknown)
	assert.Equal(t, s.now+sec, s.refused("h").RetryAt, "an answer starts it anew")
}

// Refusals of what was granted together are one piece of news.
func TestRefusalsOfOneMomentCountOnce(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	out := []pool.Grant{s.lease("h"), s.lease("h"), s.lease("h")}
	s.now = sec
	for _, g := range out {
		s.ends(g, "h", limited(0), unknown)
	}
	assert.Equal(t, 2*sec, s.refused("h").RetryAt)
}

// A mistake of the caller's, and what is about nothing of ours, cool nothing down.
func TestOthersAreNotBlamed(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	for _, class := range []provider.Class{provider.InvalidRequest, provider.RequestTooLarge, provider.RateLimited, provider.Forbidden, provider.NoAnswer} {
		s.ends(s.lease("h"), "h", provider.Signal{Class: class, Wait: time.Minute, Source: provider.RetryAfter}, unknown)
	}
	s.lease("h")
	assert.Equal(t, pool.Healthy, s.health(0))
}

func TestRefusedKeyIsProvenByOneLease(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}, {ID: "b", Priority: -1, Limits: rpm(plenty)}}})
	one, two := s.lease("h1"), s.lease("h2")
	s.now = sec
	s.answers(one, "h1", invalid)
	assert.Equal(t, pool.Suspect, s.health(0))
	assert.Equal(t, "b", s.key("h1"), "it cools down")
	s.answers(one, "h1", invalid)
	assert.Equal(t, pool.Suspect, s.health(0), "the same lease again confirms nothing")
	s.answers(two, "h2", invalid)
	assert.Equal(t, pool.Quarantined, s.health(0), "another does")
	s.answers(one, "h1", fine)
	assert.Equal(t, pool.Quarantined, s.health(0), "an answer to what was granted before is no news")

	s.now = sec + 10*minute - 1
	assert.Equal(t, "b", s.key("h1"))
	s.now = sec + 10*minute
	probe := s.lease("h1")
	assert.Equal(t, "a", probe.Key)
	assert.Equal(t, "b", s.key("h2"), "one at a time")
	s.ends(probe, "h1", fine, unknown)
	assert.Equal(t, pool.Healthy, s.health(0))
	assert.Equal(t, []string{"a", "a"}, []string{s.key("h1"), s.key("h2")})
	assert.Equal(t, "refused by the provider (401)", s.Inspect(s.now, "").Keys[0].LastError)
}

func TestProbeWithoutAVerdictIsFollowedByAnother(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}}})
	s.ends(s.lease("h"), "h", invalid, unknown)
	e := s.refused("h")
	assert.Equal(t, 5*sec, e.RetryAt)
	assert.False(t, e.NoUsableKey, "it may work yet")
	s.now = e.RetryAt
	probe := s.lease("h")
	e = s.refused("h")
	assert.Less(t, e.RetryAt, pool.Never, "the probe will tell, or end")
	require.NoError(t, s.Release(s.now, probe.Lease, "h", true))
	probe = s.lease("h")
	s.ends(probe, "h", invalid, unknown)
	assert.Equal(t, pool.Quarantined, s.health(0))
	e = s.refused("h")
	assert.True(t, e.NoUsableKey)
	assert.Equal(t, pool.Never, e.RetryAt)
}

func TestRequestIsIdempotent(t *testing.T) {
	s := begin(t, setup{StartWithin: 2 * time.Second, Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	g := s.lease("h", request("r"))
	s.now = 2*sec - 1
	again := s.lease("h", request("r"))
	assert.Equal(t, g.Lease, again.Lease)
	assert.Equal(t, g.StartBy, again.StartBy)
	assert.NotEqual(t, g.Lease, s.lease("other", request("r")).Lease, "each holder has ids of its own")
	s.now = 2 * sec
	fresh := s.lease("h", request("r"))
	assert.NotEqual(t, g.Lease, fresh.Lease, "too late to use the first")
	require.NoError(t, s.Release(s.now, g.Lease, "h", true))
	assert.Equal(t, fresh.Lease, s.lease("h", request("r")).Lease, "the end of the first is not the end of the second")
	require.NoError(t, s.Release(s.now, fresh.Lease, "h", true))
	assert.NotEqual(t, fresh.Lease, s.lease("h", request("r")).Lease)
}

// The same request may wait twice, when its first call was given up on. It is
// granted twice then, and the end of one lease leaves the other.
func TestRequestThatWaitedTwice(t *testing.T) {
	s := begin(t, setup{StartWithin: 2 * time.Second, Keys: []pool.Key{{ID: "a", Limits: append(rpm(plenty), slots(2))}}})
	one, two := s.lease("h"), s.lease("h")
	s.waits("h", request("r"))
	s.waits("h", request("r"))
	require.NoError(t, s.Release(s.now, one.Lease, "h", true))
	require.NoError(t, s.Release(s.now, two.Lease, "h", true))
	served, _ := s.Next(s.now)
	require.Len(t, served, 2)
	last := served[1].Grant().Lease
	require.NoError(t, s.Release(s.now, served[0].Grant().Lease, "h", true))
	assert.Equal(t, last, s.lease("h", request("r")).Lease)
}

func TestEndedAndForeignLeases(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	g := s.lease("h")
	report := func(holder string) error {
		_, err := s.Report(s.now, g.Lease, holder, limited(time.Hour), provider.Amounts{provider.Requests: 50}, true)
		return err
	}
	require.ErrorIs(t, report("thief"), pool.ErrNotHolder)
	require.ErrorIs(t, s.Release(s.now, g.Lease, "thief", true), pool.ErrNotHolder)
	require.NoError(t, s.Release(s.now, g.Lease, "h", false))
	require.ErrorIs(t, s.Release(s.now, g.Lease, "h", true), pool.ErrLeaseEnded)
	require.ErrorIs(t, report("h"), pool.ErrLeaseEnded)
	assert.Equal(t, int64(1), s.requests().Used, "none of that changed anything")
	s.lease("h")

	g = s.lease("h")
	s.now += pool.Time(time.Hour)
	require.ErrorIs(t, report("thief"), pool.ErrNotHolder, "not even when its time has run out")
	require.ErrorIs(t, s.Release(s.now, g.Lease, "h", true), pool.ErrLeaseEnded)
	require.ErrorIs(t, report("h"), pool.ErrLeaseEnded, "its holder was done with it")

	g = s.lease("h")
	s.now += pool.Time(time.Hour)
	require.NoError(t, report("h"), "a late report settles it")
	require.ErrorIs(t, report("h"), pool.ErrLeaseEnded)

	s.now += pool.Time(time.Hour) // what was refused cools down
	g = s.lease("h")
	s.now += 2 * pool.Time(time.Hour)
	require.ErrorIs(t, report("h"), pool.ErrLeaseEnded, "its time has run out twice over")
	assert.Empty(t, s.Leases(s.now, "", 0, 10))
}

// The largest amounts there are, where no limit is configured to refuse them.
func TestExtremeAmounts(t *testing.T) {
	const most = 1<<63 - 1
	for _, typ := range provider.Types() {
		t.Run(typ, func(t *testing.T) {
			s := begin(t, setup{Dialect: dialect(t, typ), Keys: []pool.Key{{ID: "a"}}})
			one, two := s.lease("h", input(most), output(most)), s.lease("h", input(most), output(most))
			for d := range provider.NumDimensions - 1 {
				s.answers(one, "h", states(d, 100, 100))
			}
			for _, l := range s.Inspect(s.now, "").Quotas[0].Limits {
				if l.Dimension == provider.InputTokens || l.Dimension == provider.OutputTokens {
					assert.GreaterOrEqual(t, l.Used, int64(100), "%v: all that is out counts", l.Dimension)
				}
			}
			s.ends(one, "h", fine, provider.Amounts{most, most, most, most, most})
			s.ends(two, "h", fine, provider.Amounts{most, most, most, most, most})
			for range 3 {
				s.now += 10 * minute
				g := s.lease("h", input(most), output(most))
				s.answers(g, "h", fine)
				s.ends(g, "h", fine, provider.Amounts{most, most, most, most, most})
				for _, l := range s.Inspect(s.now, "").Quotas[0].Limits {
					assert.GreaterOrEqual(t, l.Remaining, int64(0))
					assert.GreaterOrEqual(t, l.Held, int64(0))
					assert.LessOrEqual(t, l.Remaining, l.Limit)
				}
			}
		})
	}
}

// What may have been counted late is no more than was ever asked for: a ceiling far
// above the provider's limit shuts nobody out for long.
func TestCutFromFarAbove(t *testing.T) {
	for _, configured := range []int64{100, 4000, plenty} {
		s := begin(t, setup{Keys: one(rpm(configured)), StartWithin: 2 * time.Second})
		s.ends(s.lease("h"), "h", states(provider.Requests, 50, 49), unknown)
		_, at := s.polls("h", minute)
		assert.LessOrEqual(t, at, 2*sec, "%d a minute", configured)
	}
}

// An answer that states a limit for the first time may have been given before the others were
// counted, also those that were granted while a configured limit was in its place.
func TestALimitThatIsLearnedInTheConfiguredOnesPlace(t *testing.T) {
	s := begin(t, keys(rpm(60), "a"))
	var out []pool.Grant
	for range 30 {
		out = append(out, s.lease("h"))
	}
	s.reload(keys(nil, "a"))
	s.answers(out[0], "h", states(provider.Requests, 60, 59))
	assert.Equal(t, int64(31), s.requests().Used, "one that the header saw, and thirty that it may not have seen")
	s.reload(keys(rpm(90), "a"))
	s.reload(keys(nil, "a"))
	s.answers(out[1], "h", states(provider.Requests, 60, 60))
	assert.Equal(t, int64(30), s.requests().Used, "each once")
}
