package pool_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// answersWith has a holder get answers of so many output tokens.
func (s *story) answersWith(holder string, tokens int64, more ...func(*pool.Ask)) {
	s.Helper()
	g := s.lease(holder, more...)
	s.ends(g, holder, fine, provider.Amounts{1, 0, tokens, tokens, 1})
}

func (s *story) setsAside(holder string, more ...func(*pool.Ask)) int64 {
	s.Helper()
	g := s.lease(holder, more...)
	assert.NoError(s, s.Release(s.now, g.Lease, holder, true))
	return g.Reserved[provider.OutputTokens]
}

func TestOutputIsWhatAnswersUse(t *testing.T) {
	s := begin(t, setup{Models: []string{"opus", "haiku"}, Keys: one(limits(plenty, plenty, plenty))})
	most := func(a *pool.Ask) {
		a.Model = "opus"
		a.Amounts[provider.OutputTokens] = 8000
		a.Amounts[provider.Tokens] = 8010
	}
	for i := range 4 {
		assert.EqualValues(t, 8000, s.setsAside("h", most), "after %d", i)
		s.answersWith("h", 100, most)
	}
	assert.EqualValues(t, 200, s.setsAside("h", most), "twice the largest of few")
	for range 28 {
		s.answersWith("h", 100, most)
	}
	assert.EqualValues(t, 125, s.setsAside("h", most), "and a quarter more of the largest of many")
	assert.EqualValues(t, 8000, s.setsAside("other", most), "each holder by itself")
	assert.EqualValues(t, 8000, s.setsAside("h", most, func(a *pool.Ask) { a.Model = "haiku" }), "and each class of models")
	assert.EqualValues(t, 60, s.setsAside("h", most, output(60)), "never more than the answer can use")
	assert.EqualValues(t, 8200, s.setsAside("h", most, output(8200)), "who wants a longer answer may get one")

	s.answersWith("h", 4000, most)
	assert.EqualValues(t, 5000, s.setsAside("h", most), "a large one counts")
	for range 32 {
		s.answersWith("h", 100, most)
	}
	assert.EqualValues(t, 125, s.setsAside("h", most), "as long as it is one of the latest")

	g := s.lease("h", most)
	s.ends(g, "h", fine, unknown)
	g = s.lease("h", most)
	s.ends(g, "h", busy, provider.Amounts{1, 0, 0, 0, 1})
	s.now += minute
	assert.EqualValues(t, 125, s.setsAside("h", most), "what is not known, and refusals, say nothing")
	assert.EqualValues(t, 10+125, s.lease("h", most).Reserved[provider.Tokens], "with the input, where both are counted together")
}

// Errors are no answers: what was written before one says little of how long answers
// are, and who says that they are empty is not believed.
func TestErrorsTeachNothing(t *testing.T) {
	for name, answers := range map[string][]provider.Signal{
		"400": {{Class: provider.InvalidRequest}}, "429": {busy}, "529": {{Class: provider.Overloaded, Scope: provider.ModelScope}},
		"529, and an answer to the same lease": {{Class: provider.Overloaded, Scope: provider.ModelScope}, fine},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(limits(plenty, plenty, 8000))})
			for range 8 {
				g := s.lease("h", output(4000))
				for _, a := range answers[:len(answers)-1] {
					s.answers(g, "h", a)
				}
				s.ends(g, "h", answers[len(answers)-1], provider.Amounts{1, 0, 10, 10, 1})
				s.now += 2 * minute
			}
			assert.EqualValues(t, 4000, s.setsAside("h", output(4000)))
		})
	}
	t.Run("nothing, as its holder states", func(t *testing.T) {
		s := begin(t, setup{Keys: one(limits(plenty, plenty, 8000))})
		for range 8 {
			s.answersWith("h", 0, output(4000))
			s.now += minute
		}
		assert.EqualValues(t, 4000, s.setsAside("h", output(4000)))
	})
	t.Run("of nobody knows how many requests", func(t *testing.T) {
		s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
		for range 8 {
			s.ends(s.lease("h", output(4000), several(10)), "h", fine, provider.Amounts{-1, 0, 400, 400, 1})
		}
		assert.EqualValues(t, 4000, s.setsAside("h", output(4000)))
	})
}

// Of a lease for several requests, what was sent counts.
func TestOutputOfFewerRequests(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	for range 32 {
		g := s.lease("h", output(1000), several(10))
		s.ends(g, "h", fine, provider.Amounts{1, 0, 400, 400, 1})
	}
	assert.EqualValues(t, 500, s.setsAside("h", output(1000)))
}

// Where a provider does not ask whether max_tokens would fit, neither do we.
func TestMostMayBeAboveTheLimit(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 8000))})
	g := s.lease("h", output(64_000))
	assert.EqualValues(t, 8000, g.Reserved[provider.OutputTokens])
	s.ends(g, "h", fine, provider.Amounts{1, 0, 500, 500, 1})
	for range 3 {
		s.now += minute
		s.answersWith("h", 500, output(64_000))
	}
	s.now += minute
	assert.EqualValues(t, 1000, s.setsAside("h", output(64_000)))
}

// Who uses more than was set aside owes it.
func TestMoreThanExpectedIsDebt(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 6000))})
	for range 32 {
		s.answersWith("h", 10, output(100))
		s.now += sec
	}
	s.now += minute
	s.answersWith("h", 6100, output(6000)) // 13 were set aside
	assert.Equal(t, provider.OutputTokens, s.refused("h", output(1)).Dimension)
	s.now += 2 * sec
	s.lease("h", output(1))
}

// Where a provider counts what an answer may use, that is what is set aside.
func TestOutputThatCountsInFull(t *testing.T) {
	for _, typ := range []string{"openai", "generic", "gemini", "bedrock"} {
		t.Run(typ, func(t *testing.T) {
			s := begin(t, setup{Dialect: dialect(t, typ), Keys: one(nil)})
			for range 40 {
				s.answersWith("h", 10, output(100))
				s.now += minute
			}
			assert.EqualValues(t, 100, s.setsAside("h", output(100)))
		})
	}
}

// A lease for several requests teaches what one of them used.
func TestOutputOfSeveralRequests(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	for range 32 {
		g := s.lease("h", output(1000), several(10))
		s.ends(g, "h", fine, provider.Amounts{int64(g.Count), 0, 100 * int64(g.Count), 100 * int64(g.Count), 1})
	}
	g := s.lease("h", output(1000), several(10))
	assert.EqualValues(t, 125*int64(g.Count), g.Reserved[provider.OutputTokens])
}

// Who waits profits as well, also if it came before anything was known.
func TestWaitersAskForWhatIsLikely(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 8000))})
	for range 4 {
		s.waits("h", output(64_000))
	}
	var known []*pool.Waiter
	for range 20 {
		known = append(known, s.waits("h", output(64_000)))
	}
	s.waits("other", output(64_000))
	n := 0
	s.until(10*minute, func(w *pool.Waiter) {
		n++
		s.ends(w.Grant(), w.Ask.Holder, fine, provider.Amounts{1, 0, 100, 100, 1})
	})
	assert.Equal(t, 25, n)
	for _, w := range known {
		assert.EqualValues(t, 200, w.Grant().Reserved[provider.OutputTokens])
	}
	s.lease("h", output(64_000), func(a *pool.Ask) { a.Caps.Tokens = 200 })
}

// A group whose limit is smaller than the answer may be serves it as well: with all it
// has.
func TestSmallerGroupsServeLongAnswers(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "big", Limits: limits(plenty, plenty, 8000)}, {ID: "small", Limits: limits(plenty, plenty, 4000)},
	}})
	assert.EqualValues(t, 8000, s.lease("h", output(64_000), without("small")).Reserved[provider.OutputTokens])
	assert.EqualValues(t, 4000, s.lease("h", output(64_000)).Reserved[provider.OutputTokens])
	assert.Equal(t, provider.OutputTokens, s.refused("h", output(1)).Dimension)
}

// A limit that clamps makes no ask too large, whatever other groups have or the limit was.
func TestNoAskIsTooLargeForALimitThatClamps(t *testing.T) {
	t.Run("of the group that is demanded", func(t *testing.T) {
		s := begin(t, setup{Keys: []pool.Key{
			{ID: "small", Limits: limits(plenty, plenty, 50)}, {ID: "large", Limits: limits(plenty, plenty, 100)},
		}})
		assert.EqualValues(t, 50, s.lease("h", output(80), inGroup("small")).Reserved[provider.OutputTokens])
		assert.EqualValues(t, 80, s.lease("h", output(80), withKey("large")).Reserved[provider.OutputTokens])
		_, err := s.Acquire(s.now, ask("h", output(80), input(plenty+1), inGroup("small")))
		var e *pool.TooLargeError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, pool.TooLargeError{Dimension: provider.InputTokens, Limit: plenty}, *e)
	})
	t.Run("that is lower than before", func(t *testing.T) {
		cfg := setup{Dialect: dialect(t, "anthropic"), Flat: true, Keys: one(limits(plenty, plenty, 100))}
		s := begin(t, cfg)
		g := s.lease("x", output(100))
		w := s.waits("h", output(200))
		cfg.Keys = one(limits(plenty, plenty, 50))
		dropped, err := s.Reconfigure(s.now, cfg.config())
		require.NoError(t, err)
		require.Empty(t, dropped)
		s.ends(g, "x", fine, provider.Amounts{1, 0, 0, 0, 1})
		served, _ := s.serves()
		assert.Equal(t, []string{"h"}, served)
		assert.EqualValues(t, 50, w.Grant().Reserved[provider.OutputTokens])
	})
}

// Nobody gets more for having short answers first, and long ones then.
func TestMoreThanExpectedIsPaidForInLine(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, 8000))})
	const most = 2000
	type call struct {
		pool.Grant
		holder string
		end    pool.Time
	}
	var open []call
	used, n := map[string]int64{}, 0
	waits := func(h string) { s.waits(h, output(most)) }
	for _, h := range []string{"a", "b", "c"} {
		for range 200 {
			waits(h)
		}
	}
	for ; s.now < 300*minute; s.now += sec {
		for len(open) > 0 && open[0].end <= s.now {
			c, uses := open[0], int64(most)
			if c.holder == "a" {
				if n++; n/100%2 == 0 {
					uses = 20
				}
			}
			s.ends(c.Grant, c.holder, fine, provider.Amounts{1, 0, uses, uses, 1})
			used[c.holder] += uses
			open = open[1:]
		}
		served, _ := s.Next(s.now)
		for _, w := range served {
			open = append(open, call{w.Grant(), w.Ask.Holder, s.now + 10*sec})
			waits(w.Ask.Holder)
		}
	}
	assert.LessOrEqual(t, used["a"], used["b"]*11/10)
	assert.InEpsilon(t, used["b"], used["c"], 0.1)
	assert.Greater(t, used["a"]+used["b"]+used["c"], int64(300*8000*9/10))
}

// It is no turn of the others': those who come back after each call are served as often
// as those who always have some in line.
func TestOverUseOfOneIsPaidForByNobodyElse(t *testing.T) {
	var keys []pool.Key
	for i := range 4 {
		keys = append(keys, pool.Key{ID: fmt.Sprint(i), Limits: limits(plenty, plenty, 8000)})
	}
	s := begin(t, setup{Keys: keys})
	var held []pool.Grant
	for range 2 {
		held = append(held, s.lease("far back", output(100), without("1", "2", "3"), func(a *pool.Ask) { a.TTL = 3 * time.Hour }))
	}
	s.now = 59 * minute
	for i := range keys { // room comes in one of them after the other
		others := slices.Delete([]string{"0", "1", "2", "3"}, i, i+1)
		s.lease("x", output(7000), without(others...), func(a *pool.Ask) { a.TTL = 1 })
		s.now += 1875 * sec / 1000
		s.serves()
	}
	got := map[string]int{}
	serve := func(w *pool.Waiter) {
		h, n := w.Ask.Holder, w.Grant().Reserved[provider.OutputTokens]
		got[h]++
		s.ends(w.Grant(), h, fine, provider.Amounts{1, 0, n, n, 1})
		s.waits(h, output(1000))
	}
	s.waits("far back", output(8000))
	for range 100 {
		s.waits("many", output(1000))
	}
	s.waits("one by one", output(1000))
	s.until(s.now, serve)
	for _, g := range held {
		s.ends(g, "far back", fine, provider.Amounts{1, 0, 1 << 40, 1 << 40, 1})
	}
	s.until(s.now+60*minute, serve)
	assert.InEpsilon(t, got["many"], got["one by one"], 0.05)
}

// Reports are cumulative: a last one that says less than one before is not the truth.
func TestAllReportsTeach(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, plenty, plenty))})
	for range 4 {
		g := s.lease("h", output(4000))
		_, err := s.Report(s.now, g.Lease, "h", fine, provider.Amounts{1, 0, 1500, 1500, 1}, false)
		assert.NoError(t, err)
		s.ends(g, "h", fine, provider.Amounts{1, 0, 1, 1, 1})
	}
	assert.EqualValues(t, 3000, s.setsAside("h", output(4000)))
}
