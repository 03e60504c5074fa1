package pool_test

// What a header says of a bucket, joined with what is in flight.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// says is an answer that states what remains of an hourly limit, rounded.
func says(limit, remaining, rounding int64) provider.Signal {
	return provider.Signal{Windows: []provider.Window{{
		Dimension: provider.InputTokens, Length: time.Hour, Limit: limit, Remaining: remaining, Rounding: rounding, Reset: provider.Unknown,
	}}}
}

// hourly is a pool of 100 000 input tokens an hour, so that little refills in a
// story.
func hourly(t *testing.T) *story {
	return begin(t, setup{StartWithin: time.Second, Keys: one(append(limits(plenty, plenty, plenty),
		pool.Limit{Dimension: provider.InputTokens, Window: time.Hour, Amount: 100_000, Kind: provider.Refilling}))})
}

func (s *story) hour() pool.LimitState {
	s.Helper()
	for _, l := range s.Inspect(s.now, "").Quotas[0].Limits {
		if l.Window == time.Hour {
			return l
		}
	}
	s.Fatal("there is no such limit")
	return pool.LimitState{}
}

// near asserts what is used, but for what refills or is granted in a few seconds.
func (s *story) near(used int64, why ...any) {
	s.Helper()
	assert.InDelta(s, used, s.hour().Used, 400, why...)
}

// small makes a small call: what was granted before it can be told from what is
// granted later.
func (s *story) small() pool.Grant {
	s.Helper()
	s.lease("h", input(1))
	s.now += 2 * sec
	return s.lease("h", input(1))
}

// looks makes one that is answered at once.
func (s *story) looks(remaining int64) pool.Grant {
	s.Helper()
	g := s.small()
	s.answers(g, "h", says(100_000, remaining, 1))
	return g
}

// A first answer starts the books that later ones are joined with.
func (s *story) opened() {
	s.Helper()
	s.ends(s.lease("h", input(0)), "h", says(100_000, s.hour().Remaining, 1), unknown)
	s.now += 5 * sec
}

func TestReadings(t *testing.T) {
	for name, c := range map[string]struct {
		does    func(s *story)
		used    int64
		foreign int64
	}{
		"a later answer settles what was reserved": {func(s *story) {
			s.lease("h", input(50_000))
			s.now += 5 * sec
			s.looks(90_000)
		}, 10_000, 0},
		"its own may be from before it was counted": {func(s *story) {
			g := s.lease("h", input(50_000))
			s.now += 5 * sec
			s.answers(g, "h", says(100_000, 90_000, 1))
		}, 50_000, 0},
		"what is granted meanwhile counts beside": {func(s *story) {
			s.lease("h", input(50_000))
			s.now += 5 * sec
			look := s.small()
			s.lease("h", input(20_000))
			s.now += 5 * sec
			s.answers(look, "h", says(100_000, 90_000, 1))
		}, 30_000, 0},
		"a late one gives no more than it knows": {func(s *story) {
			look := s.small()
			s.now += 5 * sec
			s.lease("h", input(30_000))
			s.now += 5 * sec
			s.looks(60_000)
			s.answers(look, "h", says(100_000, 100_000, 1))
		}, 30_000, 10_000},
		"a repeated one changes nothing": {func(s *story) {
			s.lease("h", input(50_000))
			s.now += 5 * sec
			look := s.small()
			s.answers(look, "h", says(100_000, 90_000, 1))
			s.lease("h", input(20_000))
			s.now += 5 * sec
			s.answers(look, "h", says(100_000, 90_000, 1))
			s.ends(look, "h", says(100_000, 90_000, 1), unknown)
		}, 30_000, 0},
		"nor do those in another order": {func(s *story) {
			s.lease("h", input(20_000))
			s.now += 5 * sec
			a := s.small()
			s.lease("h", input(20_000))
			s.now += 5 * sec
			b := s.small()
			s.answers(b, "h", says(100_000, 60_000, 1))
			s.answers(a, "h", says(100_000, 80_000, 1))
			s.answers(b, "h", says(100_000, 60_000, 1))
		}, 40_000, 0},
		"others' use is seen": {func(s *story) {
			s.lease("h", input(10_000))
			s.now += 5 * sec
			s.looks(20_000)
		}, 80_000, 70_000},
		"and is not counted twice": {func(s *story) {
			s.lease("h", input(10_000))
			s.now += 5 * sec
			look := s.looks(20_000)
			s.answers(look, "h", says(100_000, 20_000, 1))
		}, 80_000, 70_000},
		"rounding is no use of others": {func(s *story) {
			g := s.lease("h", input(600))
			s.now += 5 * sec
			s.answers(g, "h", says(100_000, 99_000, 1000))
		}, 600, 0},
		"nor is it room": {func(s *story) {
			s.lease("h", input(1_400))
			s.now += 5 * sec
			look := s.small()
			s.answers(look, "h", says(100_000, 99_000, 1000))
		}, 1_400, 0},
		"remaining alone tightens": {func(s *story) {
			s.lease("h", input(10_000))
			s.now += 5 * sec
			s.answers(s.small(), "h", says(provider.Unknown, 20_000, 1))
		}, 80_000, 70_000},
		"remaining alone loosens not": {func(s *story) {
			s.lease("h", input(50_000))
			s.now += 5 * sec
			s.answers(s.small(), "h", says(provider.Unknown, 90_000, 1))
		}, 50_000, 0},
		"a cached one tells of another time": {func(s *story) {
			g := s.lease("h", input(50_000))
			s.now += 5 * sec
			old := says(100_000, 90_000, 1)
			old.Cached = true
			s.answers(g, "h", old)
			old = says(1000, 0, 1)
			old.Cached = true
			s.answers(g, "h", old)
		}, 50_000, 0},
		"nothing left may be debt, and gives nothing back": {func(s *story) {
			g := s.lease("h", input(90_000))
			s.ends(g, "h", fine, provider.Amounts{1, 150_000})
			s.now += 5 * sec
			s.answers(s.lease("h"), "h", says(100_000, 0, 1))
		}, 150_000, 0},
		"the provider's limit is above the configured": {func(s *story) {
			g := s.lease("h", input(50_000))
			s.now += 5 * sec
			s.answers(g, "h", says(1_000_000, 900_000, 1))
		}, 50_000, 0},
		"and little of it is left": {func(s *story) {
			s.lease("h", input(50_000))
			s.now += 5 * sec
			s.answers(s.small(), "h", says(1_000_000, 20_000, 1))
		}, 80_000, 30_000},
		"a call that was never made": {func(s *story) {
			s.lease("h", input(50_000), lasting(time.Second))
			s.now += 5 * sec
			s.ends(s.lease("h"), "h", says(100_000, 100_000, 1), unknown)
		}, 0, 0}, // by then, the provider would have counted it
	} {
		t.Run(name, func(t *testing.T) {
			s := hourly(t)
			s.opened()
			c.does(s)
			s.near(c.used)
			assert.InDelta(t, c.foreign, s.hour().Foreign, 600, "but for what refills meanwhile")
		})
	}
}

// What was refunded by a header is not refunded again by the report of usage.
func TestHeaderAndReportDoNotGiveBackTwice(t *testing.T) {
	s := hourly(t)
	s.opened()
	a, b := s.lease("h", input(40_000)), s.lease("h", input(40_000))
	s.now += 5 * sec
	s.looks(50_000) // 10 000 of one, and all of the other
	s.near(50_000)
	s.ends(a, "h", fine, provider.Amounts{1, 10_000})
	s.near(50_000)
	s.ends(b, "h", fine, provider.Amounts{1, 40_000})
	s.near(50_000)
}

func TestDriftIsSeen(t *testing.T) {
	s := hourly(t)
	g := s.lease("h", input(50_000))
	s.now += 5 * sec
	s.answers(g, "h", says(100_000, 90_000, 1))
	assert.InDelta(t, -40_000, s.hour().Drift, 400)
	assert.Equal(t, s.now, s.hour().ReadAt)
	s.now += 5 * sec
	s.answers(s.lease("h"), "h", says(100_000, 20_000, 1))
	assert.Positive(t, s.hour().Drift)
}

// What is held is neither drift of others nor given away while it is on its way.
func TestReadingWhileOutputIsHeld(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 1000))})
	g := s.lease("h", output(600))
	s.now = 10 * sec
	s.answers(g, "h", states(provider.OutputTokens, 1000, 700)) // half of it is out
	l := s.Inspect(s.now, "").Quotas[0].Limits[2]
	assert.Zero(t, l.Foreign)
	assert.EqualValues(t, 600, l.Held)
	s.refused("h", output(401))
	s.ends(g, "h", states(provider.OutputTokens, 1000, 400), provider.Amounts{1, 0, 600})
	l = s.Inspect(s.now, "").Quotas[0].Limits[2]
	assert.Zero(t, l.Foreign)
	assert.InDelta(t, 400, l.Remaining, 10)
}

// A limit that is learned is joined from then on as a configured one is.
func TestLearnedThenFused(t *testing.T) {
	s := begin(t, setup{StartWithin: time.Second, Keys: one(nil)})
	s.ends(s.lease("h", input(10)), "h", says(100_000, 95_000, 1), unknown)
	s.near(5_000)
	for range 3 {
		s.now += 10 * sec
		s.ends(s.lease("h", input(10)), "h", says(100_000, 60_000, 1), unknown)
	}
	s.near(40_000, "others use it")
	s.ends(s.lease("h", input(50_000)), "h", fine, unknown)
	s.now += 10 * sec
	s.looks(50_000)
	s.near(50_000, "and what was reserved was not used")
	assert.Zero(t, s.hour().Configured)
}

// What may be on its way when a long limit on output is learned is bounded by how
// long it may be.
func TestLearnedLimitByTheDayIsNotUsedUpByWhatIsOnItsWay(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	g := s.lease("h", output(100), lasting(10*time.Minute))
	answer := statesDaily(144_000, 70_000)
	answer.Windows[0].Dimension = provider.OutputTokens
	s.answers(g, "h", answer)
	l := s.Inspect(s.now, "").Quotas[0].Limits[0]
	require.Equal(t, aDay, l.Window)
	assert.InDelta(t, 74_000+100+1000, l.Used, 10)
}

// An answer to a lease of the window before tells nothing of this one.
func TestReadingAcrossAReset(t *testing.T) {
	s := begin(t, setup{StartWithin: time.Second, Keys: one([]pool.Limit{
		{Dimension: provider.Requests, Window: time.Hour, Amount: 100, Kind: provider.Fixed, Reset: minute},
	})})
	s.now = 50 * sec
	g := s.lease("h")
	s.now = 70 * sec
	answer := states(provider.Requests, 100, 3)
	answer.Windows[0].Length = time.Hour
	s.answers(g, "h", answer)
	assert.Zero(t, s.requests().Used)
	s.answers(s.lease("h"), "h", answer)
	assert.EqualValues(t, 97+1, s.requests().Used, "and itself, if it was not counted yet")
}
