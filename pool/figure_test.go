package pool_test

// What one holder alone says of limits binds everybody at once, but not for long:
// after a second another sees for itself.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const aDay = 24 * time.Hour

// daily is a limit of so many requests a day.
func daily(n int64, kind provider.Kind) pool.Limit {
	return pool.Limit{Dimension: provider.Requests, Window: aDay, Amount: n, Kind: kind, Reset: pool.Time(aDay)}
}

// statesDaily is an answer whose headers give a limit by the day.
func statesDaily(limit, remaining int64) provider.Signal {
	s := states(provider.Requests, limit, remaining)
	s.Windows[0].Length, s.Windows[0].Reset = aDay, provider.Unknown
	return s
}

// shut are lies that leave no room for a day.
var shut = map[string][]provider.Signal{
	"nothing remains":          {statesDaily(1000, 0)},
	"bit by bit":               {statesDaily(1000, 890), statesDaily(1000, 780), statesDaily(1000, 670), statesDaily(1000, 560), statesDaily(1000, 450), statesDaily(1000, 340), statesDaily(1000, 230), statesDaily(1000, 120), statesDaily(1000, 10), statesDaily(1000, 0)},
	"the limit is one":         {statesDaily(1, 0)},
	"the limit is lower":       {statesDaily(10, 0)},
	"in a refusal":             {{Class: provider.NoAnswer, Refused: &provider.Refusal{Dimension: provider.Requests, Length: aDay, Limit: 1, Used: 1, Requested: 1}}},
	"there is another limit":   {{Windows: []provider.Window{{Dimension: provider.Requests, Name: "odd", Length: aDay, Limit: 1, Remaining: 0, Rounding: 1}}}},
	"and another, soon in use": {{Windows: []provider.Window{{Dimension: provider.Requests, Name: "odd", Length: aDay, Limit: 1, Remaining: 1, Rounding: 1}}}},
}

// lies reports all of it, each from a lease of its own.
func (s *story) lies(holder string, all []provider.Signal) {
	s.Helper()
	var out []pool.Grant
	for range all {
		out = append(out, s.lease(holder))
	}
	s.now += 5 * sec
	for i, g := range out {
		s.ends(g, holder, all[i], unknown)
	}
}

func TestOneStatementShutsNothingForLong(t *testing.T) {
	for name, lies := range shut {
		for _, kind := range []provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed} {
			for _, learned := range []bool{false, true} {
				for answer, s := range map[string]provider.Signal{"the truth": statesDaily(1000, 900), "no headers": fine} {
					t.Run(name+" "+answer, func(t *testing.T) {
						if learned && answer == "the truth" && lies[0].Windows != nil && lies[0].Windows[0].Limit < 1000 {
							return // who is to be believed?
						}
						st := begin(t, setup{StartWithin: 2 * time.Second, Keys: one(nil)})
						if !learned {
							st = begin(t, setup{StartWithin: 2 * time.Second, Keys: one(append(rpm(plenty), daily(1000, kind)))})
						}
						if name == "bit by bit" && learned {
							return // four at once
						}
						st.lies("liar", lies)
						got := 0
						for start := st.now; st.now < start+2*minute; st.now += sec {
							if g, err := st.Acquire(st.now, ask("honest")); err == nil {
								got++
								st.now += 3 * sec
								st.ends(g, "honest", s, unknown)
							}
						}
						assert.Greater(t, got, 10)
					})
				}
			}
		}
	}
}

// It binds at once, for everybody but the one who is to try.
func TestOneStatementBindsAtOnce(t *testing.T) {
	s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
	s.lies("liar", shut["nothing remains"])
	s.refused("liar")
	e := s.refused("honest")
	assert.Equal(t, s.now+3*sec, e.RetryAt)
	assert.Equal(t, provider.Requests, e.Dimension)
	s.now += 3 * sec
	probe := s.lease("honest")
	assert.True(t, probe.Probe)
	s.refused("third")
	s.refused("liar")
	s.now += 5 * sec
	assert.True(t, s.lease("third").Probe, "patience ends")
}

// A late statement of a lower limit, after the limit was raised again: others who were
// granted their leases later say otherwise, so that the next may see for itself.
func TestLateStatementOfALowerLimitIsProbedAtOnce(t *testing.T) {
	const truth, lower = 1000, 100
	for name, c := range map[string]struct{ late, newer int }{
		"the statement is of an older lease": {0, 1},
		"of a newer one":                     {1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(append(rpm(plenty), daily(truth, provider.Refilling)))})
			var grants [2]pool.Grant
			holders := [2]string{"first", "second"}
			for i, h := range holders {
				grants[i] = s.lease(h)
				s.now += sec
			}
			for range 2 * lower {
				s.lease("others")
			}
			s.ends(grants[c.late], holders[c.late], statesDaily(lower, provider.Unknown), unknown)
			s.refused("third")
			w := s.waits("third")
			s.serves()
			s.ends(grants[c.newer], holders[c.newer], statesDaily(truth, provider.Unknown), unknown)
			s.now += 3 * sec
			served, _ := s.serves()
			require.Equal(t, []string{"third"}, served)
			assert.True(t, w.Grant().Probe)
			s.refused("fourth") // one is enough
			s.now += sec
			s.ends(w.Grant(), "third", statesDaily(truth, provider.Unknown), unknown)
			assert.EqualValues(t, truth, s.limit(3).Limit)
		})
	}
}

// Another late statement, of what was granted before there was any dispute, does not end it.
func TestOldStatementsSettleNothing(t *testing.T) {
	const truth, lower = 1000, 100
	s := begin(t, setup{Keys: one(append(rpm(plenty), daily(truth, provider.Refilling)))})
	a, c := s.lease("a"), s.lease("c")
	s.now += sec
	b := s.lease("b")
	for range 2 * lower {
		s.lease("others")
	}
	s.now += sec
	s.ends(a, "a", statesDaily(lower, provider.Unknown), unknown)
	s.ends(b, "b", statesDaily(truth, provider.Unknown), unknown)
	s.ends(c, "c", statesDaily(lower, provider.Unknown), unknown)
	assert.EqualValues(t, lower, s.limit(3).Limit)
	s.now += 3 * sec
	probe := s.lease("d")
	assert.True(t, probe.Probe)
	s.now += sec
	s.ends(probe, "d", statesDaily(truth, provider.Unknown), unknown)
	assert.EqualValues(t, truth, s.limit(3).Limit)
}

// A debt that others have confirmed is not disputed, though it is more than what is left.
func TestNobodyTriesInSpiteOfADebt(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 1000))})
	says := func(remaining int64) provider.Signal {
		a := states(provider.OutputTokens, 1000, remaining)
		a.Windows[0].Kind, a.Windows[0].Reset = provider.Refilling, provider.Unknown
		return a
	}
	x, a := s.lease("x", output(10)), s.lease("a", output(10))
	s.now = sec
	s.answers(a, "a", says(400))
	b, c, d := s.lease("b", output(10)), s.lease("c", output(10)), s.lease("d", output(10))
	s.now = 2 * sec
	s.ends(x, "x", fine, provider.Amounts{1, 0, 1010, 1010, 1})
	s.now = 3 * sec
	s.answers(b, "b", says(0))
	s.answers(c, "c", says(0))
	s.answers(d, "d", says(0))
	s.now = 32 * sec
	s.refused("b", output(10))
	s.refused("e", output(10))
}

// Those who wait are woken for it, though nobody calls in between.
func TestWaitersAreWokenToSee(t *testing.T) {
	for name, lies := range shut {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
			s.lies("liar", lies)
			s.granted("third") // what room there is
			start := s.now
			s.waits("liar")
			s.waits("honest")
			var who []string
			s.until(start+40*sec, func(w *pool.Waiter) { who = append(who, w.Ask.Holder) })
			assert.Equal(t, []string{"honest"}, who)
		})
	}
}

// The second opinion confirms: then it binds all, and for as long as it is.
func TestSecondOpinionConfirms(t *testing.T) {
	for name, answer := range map[string]provider.Signal{
		"by its headers": statesDaily(1000, 0),
		"by a refusal":   limited(time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
			s.lies("one", shut["nothing remains"])
			s.now += 30 * sec
			s.ends(s.lease("two"), "two", answer, unknown)
			s.now += 25 * sec
			for _, h := range []string{"one", "two", "three"} {
				s.refused(h)
			}
		})
	}
}

// A probe that tells nothing settles nothing.
func TestDisputeOutlivesAProbeWithoutAVerdict(t *testing.T) {
	for name, end := range map[string]func(*story, pool.Grant){
		"a 400": func(s *story, g pool.Grant) {
			s.ends(g, "two", provider.Signal{Class: provider.InvalidRequest}, unknown)
		},
		"no answer":       func(s *story, g pool.Grant) { s.ends(g, "two", s.unanswered(), unknown) },
		"released":        func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "two", false)) },
		"released unused": func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "two", true)) },
		"cached": func(s *story, g pool.Grant) {
			s.ends(g, "two", provider.Signal{Cached: true, Windows: statesDaily(1000, 1000).Windows}, unknown)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
			s.lies("one", shut["the limit is one"])
			s.now += 30 * sec
			end(s, s.lease("two"))
			assert.True(t, s.lease("three").Probe)
		})
	}
}

// What opens is what is disputed, and nothing else.
func TestDisputeOpensNoOtherLimit(t *testing.T) {
	s := begin(t, setup{Keys: one(append(limits(plenty, 100, plenty), daily(1000, provider.Refilling), slots(5)))})
	s.lease("x", input(100))
	s.lies("liar", shut["nothing remains"])
	s.now = 35 * sec
	s.refused("honest", input(90))
	s.lease("honest", input(50))
	s.now += 5 * sec
	s.granted("honest")
	assert.LessOrEqual(t, s.Summary(s.now, "").Open, 5)
}

// Two who disagree: the lower holds, but whoever says otherwise is not shut out,
// and a third decides.
func TestTwoWhoDisagree(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	s.lease("low")
	s.lies("low", []provider.Signal{statesDaily(10, 0)})
	for range 5 {
		s.now += 30 * sec
		s.ends(s.lease("high"), "high", statesDaily(1000, 900), unknown)
		assert.EqualValues(t, 10, s.requests().Limit)
	}
	s.now += 30 * sec
	s.ends(s.lease("third"), "third", statesDaily(1000, 900), unknown)
	assert.EqualValues(t, 1000, s.requests().Limit)
}

// Whoever said it first, a dispute of what another has said stands for itself.
func TestHonestStatementsDoNotHideLies(t *testing.T) {
	s := begin(t, setup{StartWithin: 2 * time.Second, Keys: one(nil)})
	s.ends(s.lease("honest"), "honest", statesDaily(1000, 900), unknown)
	s.lies("liar", shut["there is another limit"])
	s.refused("honest")
	s.polls("honest", s.now+31*sec)
}

// A holder that says calls were too many at a time, and keeps its own.
func TestTooManyAtATimeOnOneStatement(t *testing.T) {
	for name, cfg := range map[string]setup{"felt": {Keys: one(nil)}, "configured": {Keys: one(rpm(plenty))}} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, cfg)
			one := s.lease("liar")
			for range 3 {
				s.answers(s.lease("liar"), "liar", provider.Signal{Class: provider.ConcurrencyLimited, Scope: provider.ClassScope})
				s.now += sec
				if s.window() == 1 {
					break
				}
				s.ends(one, "liar", fine, unknown)
				one = s.lease("liar")
			}
			for range 5 {
				g, _ := s.polls("honest", s.now+31*sec)
				s.ends(g, "honest", fine, unknown)
			}
			s.granted("honest")
			assert.Greater(t, s.window(), 1)
		})
	}
}

// Fewer at a time after a refusal, and more again with good answers.
func TestWindowShrinksAndGrowsAgain(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	var out []pool.Grant
	for range 10 {
		out = append(out, s.lease("h"))
	}
	s.now = sec
	for _, g := range out[:3] {
		s.answers(g, "h", provider.Signal{Class: provider.ConcurrencyLimited, Scope: provider.ClassScope})
	}
	assert.Equal(t, 9, s.window(), "one less than there were, once")
	for _, g := range out {
		s.ends(g, "h", fine, unknown)
	}
	assert.Equal(t, 10, s.window())
	assert.Equal(t, 10, s.granted("h"))
	assert.Equal(t, provider.Concurrency, s.refused("h").Dimension)
}

// A probe of a key that never answers holds it no longer than patience.
func TestLiarDoesNotSitOnTheProbe(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.ends(s.lease("liar"), "liar", invalid, unknown)
	s.now = 5 * sec
	s.lease("liar")
	s.refused("honest")
	s.waits("honest")
	served := pool.Time(0)
	s.until(minute, func(*pool.Waiter) { served = s.now })
	assert.Equal(t, 10*sec, served)
}

// Restore ends disputes, too.
func TestRestoreEndsDisputes(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	s.lies("liar", shut["and another, soon in use"])
	s.Restore(s.now, "", "a")
	s.granted("honest")
	s.now += minute
	s.refused("honest")
}

// A length that no answer states fits by chance once, and not three times. One that does not
// fit ends what was inferred.
func TestALengthThatIsInferredTakesSeveralAnswers(t *testing.T) {
	hourly := func(length time.Duration) provider.Signal {
		answer := states(provider.Requests, 600, 594)
		answer.Windows[0].Length, answer.Windows[0].Inferred = length, true
		return answer
	}
	s := begin(t, setup{Keys: one(nil)})
	known := func() []pool.LimitState { return s.Inspect(s.now, "").Quotas[0].Limits }
	for range 2 {
		s.ends(s.lease("h"), "h", hourly(time.Hour), unknown)
		assert.Empty(t, known())
	}
	s.ends(s.lease("h"), "h", hourly(time.Hour), unknown)
	assert.Len(t, known(), 1)
	s.ends(s.lease("h"), "h", hourly(time.Minute), unknown)
	assert.Empty(t, known())
}

// What an operator restores has no limits that only answers have stated.
func TestRestoreForgetsWhatWasStated(t *testing.T) {
	s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
	s.lies("liar", shut["the limit is one"])
	s.Restore(s.now, "", "a")
	assert.EqualValues(t, 1000, s.limit(3).Limit)
	s.lease("honest")
}

// A limit that is gone is not known any more: the start is careful again.
func TestRestoreBeginsCarefully(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	before := s.granted("probing")
	told := states(provider.Requests, 10_000, 10_000)
	told.Windows = append(told.Windows, states(provider.InputTokens, 10_000, 10_000).Windows...)
	told.Windows = append(told.Windows, states(provider.OutputTokens, 10_000, 10_000).Windows...)
	s = begin(t, setup{Keys: one(nil)})
	s.ends(s.lease("h"), "h", told, unknown)
	s.Restore(s.now, "", "a")
	assert.Equal(t, before, s.granted("h"))
}

// An answer with room in it does not agree that much more is used, however old its lease is.
func TestAnOldHeaderAgreesWithNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(append(rpm(plenty), daily(1000, provider.Refilling)))})
	liar := s.lease("liar")
	var old []pool.Grant
	for _, h := range []string{"h0", "h1", "h2"} {
		old = append(old, s.lease(h))
	}
	for range 500 {
		s.lease("h0") // so that the statement is possible
	}
	s.now = sec
	s.ends(liar, "liar", statesDaily(1000, 0), unknown)
	s.refused("h0")
	for i, h := range []string{"h0", "h1", "h2"} {
		s.ends(old[i], h, statesDaily(1000, 990), unknown)
	}
	s.now += 3 * sec
	s.ends(s.lease("h0"), "h0", fine, unknown) // a probe, which contradicts at once
	s.leases("h1", 100)
}

// Of what a holder owes others only bear an eighth of the limit in a window.
func TestDebtIsToleratedOnceAWindow(t *testing.T) {
	s := begin(t, setup{Dialect: dialect(t, "openai"), Keys: one([]pool.Limit{
		limits(plenty, 0, 0)[0], {Dimension: provider.Tokens, Window: time.Minute, Amount: 8000, Kind: provider.Refilling},
	})})
	s.lease("honest", bothTokens(1))
	huge := unknown
	huge[provider.Tokens] = 1e15
	got := 0
	for ; s.now < 5*minute; s.now += sec {
		if g, err := s.Acquire(s.now, ask("liar", bothTokens(1))); err == nil {
			s.ends(g, "liar", fine, huge)
		}
		for {
			g, err := s.Acquire(s.now, ask("honest", bothTokens(50)))
			if err != nil {
				break
			}
			s.ends(g, "honest", fine, unknown)
			if s.now >= 2*minute {
				got += 100
			}
		}
	}
	assert.GreaterOrEqual(t, got, 3*8000*8/10)
}

// That one passed more than all have seen shows little: our books may be coarser.
func TestOneProbeEndsNoConfirmedLimit(t *testing.T) {
	s := begin(t, setup{Keys: one(nil)})
	for _, h := range []string{"h0", "h1", "h2"} {
		s.ends(s.lease(h), h, statesDaily(160, 160), unknown)
	}
	for range 200 {
		if g, err := s.Acquire(s.now, ask("h0")); err == nil {
			s.ends(g, "h0", fine, unknown)
		}
	}
	s.refused("h0")
	s.now = 31 * sec
	g := s.lease("fourth")
	s.refused("fifth")
	s.ends(g, "fourth", fine, unknown)
	s.leases("fifth", 1) // the next
	s.refused("fourth")
}
