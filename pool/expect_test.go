package pool_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func learns(a *pool.Ask) { a.Learn = true }

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
	s := begin(t, pool.Config{Models: []string{"opus", "haiku"}, Keys: one(limits(plenty, plenty, plenty))})
	most := func(a *pool.Ask) {
		a.Model, a.Learn = "opus", true
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
	assert.EqualValues(t, 8000, s.setsAside("h", most, func(a *pool.Ask) { a.Learn = false }), "who does not ask for it")
	assert.EqualValues(t, 60, s.setsAside("h", most, output(60)), "never more than the answer can use")

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

// Errors are no answers: who has met some first is not taken for somebody whose answers
// are empty, and neither is who says so.
func TestErrorsTeachNothing(t *testing.T) {
	none := provider.Amounts{1, 0, 0, 0, 1}
	for name, answer := range map[string]provider.Signal{
		"400": {Class: provider.InvalidRequest}, "429": busy, "529": {Class: provider.Overloaded, Scope: provider.ModelScope},
		"nothing, by its holder's word": fine,
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, pool.Config{Keys: one(limits(plenty, plenty, 8000))})
			for range 8 {
				g := s.lease("h", learns, output(4000))
				s.ends(g, "h", answer, none)
				s.now += 2 * minute
			}
			assert.EqualValues(t, 4000, s.setsAside("h", learns, output(4000)))
		})
	}
}

// Of a lease for several requests, what was sent counts.
func TestOutputOfFewerRequests(t *testing.T) {
	s := begin(t, pool.Config{Keys: one(limits(plenty, plenty, plenty))})
	for range 32 {
		g := s.lease("h", learns, output(1000), several(10))
		s.ends(g, "h", fine, provider.Amounts{1, 0, 400, 400, 1})
	}
	assert.EqualValues(t, 500, s.setsAside("h", learns, output(1000)))
}

// Where a provider does not ask whether max_tokens would fit, neither do we.
func TestMostMayBeAboveTheLimit(t *testing.T) {
	s := begin(t, pool.Config{Keys: one(limits(plenty, plenty, 8000))})
	_, err := s.Acquire(s.now, ask("h", output(64_000)))
	require.ErrorIs(t, err, pool.ErrTooLarge, "who does not learn")
	g := s.lease("h", learns, output(64_000))
	assert.EqualValues(t, 8000, g.Reserved[provider.OutputTokens])
	s.ends(g, "h", fine, provider.Amounts{1, 0, 500, 500, 1})
	for range 3 {
		s.now += minute
		s.answersWith("h", 500, learns, output(64_000))
	}
	s.now += minute
	assert.EqualValues(t, 1000, s.setsAside("h", learns, output(64_000)))
}

// Who uses more than was set aside owes it.
func TestMoreThanExpectedIsDebt(t *testing.T) {
	s := begin(t, pool.Config{Keys: one(limits(plenty, plenty, 6000))})
	for range 32 {
		s.answersWith("h", 10, learns, output(100))
		s.now += sec
	}
	s.now += minute
	s.answersWith("h", 6100, learns, output(6000)) // 13 were set aside
	assert.Equal(t, provider.OutputTokens, s.refused("h", output(1)).Dimension)
	s.now += 2 * sec
	s.lease("h", output(1))
}

// Where a provider counts what an answer may use, that is what is set aside.
func TestOutputThatCountsInFull(t *testing.T) {
	for _, typ := range []string{"openai", "generic", "gemini", "bedrock"} {
		t.Run(typ, func(t *testing.T) {
			s := begin(t, pool.Config{Dialect: dialect(t, typ), Keys: one(nil)})
			for range 40 {
				s.answersWith("h", 10, learns, output(100))
				s.now += minute
			}
			assert.EqualValues(t, 100, s.setsAside("h", learns, output(100)))
		})
	}
}

// A lease for several requests teaches what one of them used.
func TestOutputOfSeveralRequests(t *testing.T) {
	s := begin(t, pool.Config{Keys: one(limits(plenty, plenty, plenty))})
	for range 32 {
		g := s.lease("h", learns, output(1000), several(10))
		s.ends(g, "h", fine, provider.Amounts{int64(g.Count), 0, 100 * int64(g.Count), 100 * int64(g.Count), 1})
	}
	g := s.lease("h", learns, output(1000), several(10))
	assert.EqualValues(t, 125*int64(g.Count), g.Reserved[provider.OutputTokens])
}
