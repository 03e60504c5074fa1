package pool_test

// Histories that TestGrantsFitWhateverIsStated has found, at their shortest: one statement,
// and more is granted than a configured limit allows.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// five allows five requests in a window, counted in some way.
func five(window time.Duration, kind provider.Kind, reset pool.Time) []pool.Limit {
	return append(limits(1, plenty, plenty)[1:], pool.Limit{Dimension: provider.Requests, Window: window, Amount: 5, Kind: kind, Reset: reset})
}

// takes gets leases until there are no more, and returns how many.
func (s *story) takes(holder string) (n int) {
	for ; n < 100; n++ {
		if _, err := s.Acquire(s.now, ask(holder)); err != nil {
			break
		}
	}
	return n
}

func TestOneStatementPassesNoConfiguredLimit(t *testing.T) {
	five := five(time.Minute, provider.Sliding, 0)
	window := provider.Window{Dimension: provider.Requests, Length: time.Minute, Limit: 5, Remaining: provider.Unknown, Rounding: 1, Reset: provider.Unknown}
	with := func(change func(*provider.Window)) provider.Signal {
		w := window
		change(&w)
		return provider.Signal{Windows: []provider.Window{w}}
	}
	refused := limited(0)
	refused.Refused = &provider.Refusal{Dimension: provider.Requests, Length: time.Minute, Limit: 5, Used: 0, Requested: provider.Unknown}
	for name, lie := range map[string]provider.Signal{
		"next to all of it is left":           with(func(w *provider.Window) { w.Remaining = 4 }),
		"nothing is left":                     with(func(w *provider.Window) { w.Remaining = 0 }),
		"the limit is lower":                  with(func(w *provider.Window) { w.Limit = 1 }),
		"it was refused, with nothing used":   refused,
		"too many at a time":                  {Class: provider.ConcurrencyLimited, Scope: provider.ClassScope},
		"another limit, of which all is left": with(func(w *provider.Window) { w.Length, w.Limit, w.Remaining = time.Hour, plenty, plenty }),
	} {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", early ", early), func(t *testing.T) {
				s := begin(t, setup{Keys: one(five)})
				truth := sim.NewSlidingWindow(5, time.Minute)
				refused := 0
				takes := func(holder string) (g pool.Grant, ok bool) {
					g, err := s.Acquire(s.now, ask(holder))
					if err == nil && !truth.Take(time.Duration(s.now), 1) {
						refused++
					}
					return g, err == nil
				}
				g, _ := takes("liar")
				s.answers(g, "liar", with(func(w *provider.Window) { w.Remaining = 4 })) // which is true
				if early {
					s.answers(g, "liar", lie)
				}
				s.now += sec
				for range 3 {
					takes("honest")
				}
				s.now += sec
				g, ok := takes("liar")
				if ok && !early {
					s.answers(g, "liar", lie)
				}
				for ; s.now < 3*minute; s.now += sec {
					for ok := true; ok; {
						_, ok = takes("honest")
					}
				}
				assert.Zero(t, refused, "leases that the provider refuses")
			})
		}
	}
}

// A reset that is configured is where it is.
func TestOneStatementMovesNoConfiguredReset(t *testing.T) {
	s := begin(t, setup{Keys: one(five(time.Minute, provider.Fixed, 60*sec))})
	s.now = 35 * sec
	g := s.lease("liar")
	for range 4 {
		s.lease("honest")
	}
	taken := 5
	s.answers(g, "liar", provider.Signal{Windows: []provider.Window{{
		Dimension: provider.Requests, Length: time.Minute, Kind: provider.Fixed, Limit: 5, Remaining: provider.Unknown, Rounding: 1, Reset: time.Second,
	}}})
	for ; s.now < 59*sec; s.now += sec {
		taken += s.takes("honest")
	}
	assert.LessOrEqual(t, taken, 5)
}

// What one holder states of a reset and of the date does not end the window of a predecessor:
// neither a wrong end on record with a true date, nor a true end on record with a wrong date.
func TestOneDateEndsNoRecordedWindow(t *testing.T) {
	noon := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		reset time.Duration
		date  time.Time
	}{
		"the end was wrong":  {time.Minute, noon.Add(2 * time.Minute)},
		"the date is wrong":  {day - 3*time.Second, noon.Add(2 * day)},
		"neither of the two": {day - 3*time.Second, noon.Add(2 * time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := setup{Keys: one(five(day, provider.Fixed, origin+pool.Time(day)))}
			s := kept(t, cfg)
			s.now += 3 * sec // since then a lease is certainly of this window
			g := s.lease("liar")
			s.lease("honest")
			s.lease("honest")
			s.answers(g, "liar", provider.Signal{Date: noon, Windows: []provider.Window{{
				Dimension: provider.Requests, Length: day, Kind: provider.Fixed, Limit: 5, Remaining: provider.Unknown, Rounding: 1, Reset: c.reset,
			}}})
			cfg.Keys = one(five(day, provider.Fixed, 0))
			r := after
			r.Wall = noon
			s = succeeds(t, cfg, s.state(true), r)
			s.now += 2 * minute
			s.answers(s.lease("liar"), "liar", provider.Signal{Date: c.date})
			assert.LessOrEqual(t, 4+s.takes("honest"), 5)
		})
	}
}

// What a report has said was sent, no later report takes back.
func TestWhatWasSentIsNotTakenBack(t *testing.T) {
	tokens := func(n int64) pool.Limit {
		return pool.Limit{Dimension: provider.Tokens, Window: time.Minute, Amount: n, Kind: provider.Refilling}
	}
	s := begin(t, setup{Dialect: pool.Exact("openai"), Keys: one([]pool.Limit{tokens(100), limits(plenty, 0, 0)[0]})})
	g := s.lease("h", bothTokens(100))
	used := unknown
	used[provider.Requests] = 1
	s.answers(g, "h", fine)
	_, err := s.Report(s.now, g.Lease, "h", fine, used, false)
	require.NoError(t, err)
	s.ends(g, "h", fine, provider.Amounts{})
	s.refused("h", bothTokens(100))
}

// The provider counts the request, and not what a made-up limit leaves of its reservation.
func TestAnInventedLimitCutsNoReservation(t *testing.T) {
	s := begin(t, setup{Dialect: pool.Exact("anthropic"), Keys: one(limits(plenty, 100, plenty))})
	s.ends(s.lease("liar"), "liar", provider.Signal{Windows: []provider.Window{{
		Dimension: provider.InputTokens, Name: "invented", Length: time.Second, Kind: provider.Refilling, Limit: 1, Remaining: 1, Rounding: 1, Reset: provider.Unknown,
	}}}, provider.Amounts{})
	asked := int64(0)
	for ; s.now < 30*sec; s.now += sec {
		if _, err := s.Acquire(s.now, ask("honest", input(50))); err == nil {
			asked += 50
		}
	}
	assert.LessOrEqual(t, asked, int64(150), "in half a minute, of 100 a minute")
}

// A refusal that names a limit says nothing of when its window ends.
func TestARefusalStatesNoReset(t *testing.T) {
	s := begin(t, setup{Dialect: dialect(t, "github"), Keys: one(five(time.Minute, provider.Fixed, 60*sec))})
	s.now = 50 * sec
	first := s.lease("one")
	second := s.lease("two")
	taken := 2 + s.takes("third")
	named := limited(0)
	named.Refused = &provider.Refusal{Dimension: provider.Requests, Length: time.Minute, Limit: 5, Used: 5, Requested: provider.Unknown}
	s.now = 59 * sec
	s.answers(first, "one", named)
	s.answers(second, "two", named)
	s.now = 60*sec + sec/2 // which is before it has certainly ended
	assert.LessOrEqual(t, taken+s.takes("third"), 5)
}
