package pool_test

// What an owner begins with: after a crash, after an orderly stop, and without a
// record.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

var after = pool.Recovery{Overlap: overlap, TTL: 5 * time.Minute}

// kept begins a story whose states are written down.
func kept(t *testing.T, cfg setup) *story {
	s := begin(t, cfg)
	s.now = origin
	s.Recover(s.now, nil, after)
	s.save()
	return s
}

// save writes down what has changed. It returns what a successor would read.
func (s *story) save() *pool.State {
	s.Helper()
	state, _ := s.State(s.now, false)
	s.journal.write(state)
	s.Saved()
	return s.journal.stored.state(s)
}

// state is what a successor would read if what has changed were saved now, and the owner never
// heard of it.
func (s *story) state(stopped bool) *pool.State {
	s.Helper()
	state, _ := s.State(s.now, stopped)
	return s.journal.stored.with(s.journal.change(state)).state(s)
}

// succeeds begins another owner, on a clock of its own.
func succeeds(t *testing.T, cfg setup, state *pool.State, r pool.Recovery) *story {
	s := begin(t, cfg)
	s.now = origin + 12345
	s.Recover(s.now, state, r)
	s.save()
	return s
}

func perDay(n int64, kind provider.Kind) []pool.Limit {
	return append(limits(plenty, plenty, plenty), pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: n, Kind: kind})
}

func (s *story) limit(i int) pool.LimitState { return s.Inspect(s.now, "").Quotas[0].Limits[i] }

func TestShortWindowsAreEmptyAfterACrash(t *testing.T) {
	cfg := setup{Keys: one(rpm(60)), StartWithin: time.Second}
	record := kept(t, cfg).state(false)
	s := succeeds(t, cfg, record, after)
	began := s.now
	assert.Equal(t, began+2*sec+2*sec, s.refused("h").RetryAt, "the other's time, one to refill, one to send in")
	s.now = began + 4*sec
	s.lease("h")
	s.refused("h")
	s.now = began + 65*sec
	assert.Equal(t, 59, s.granted("h"), "and a window later it is as it was")
}

func TestHeldOutputStaysHeldForHalfAWindow(t *testing.T) {
	cfg := setup{Keys: one(limits(plenty, plenty, 60))}
	s := succeeds(t, cfg, kept(t, cfg).state(false), after)
	began := s.now
	assert.EqualValues(t, 60, s.limit(2).Held)
	s.now = began + 32*sec - 1
	s.refused("h", output(1))
	s.now = began + 33*sec
	s.lease("h", output(1))
	s.refused("h", output(1))
	s.now = began + 92*sec
	s.lease("h", output(59))
}

// However late anybody looks, what was held began to refill when its time came.
func TestOrphansEndInTime(t *testing.T) {
	cfg := setup{Keys: one(limits(plenty, plenty, 60))}
	s := succeeds(t, cfg, kept(t, cfg).state(false), after)
	s.now += 92 * sec
	s.lease("h", output(60))
}

func TestAfterAStopAmountsAreAsTheyWere(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Refilling, provider.Sliding} {
		cfg := setup{Keys: one([]pool.Limit{
			{Dimension: provider.Requests, Window: time.Minute, Amount: 60, Kind: kind},
			{Dimension: provider.InputTokens, Window: time.Minute, Amount: plenty},
			{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 100, Kind: kind},
			slots(9),
		})}
		s := kept(t, cfg)
		for range 7 {
			s.lease("h")
		}
		s.lease("h", output(30))
		s = succeeds(t, cfg, s.state(true), after)
		assert.EqualValues(t, 8, s.limit(0).Used)
		assert.EqualValues(t, 30, s.limit(2).Held)
		assert.EqualValues(t, 8, s.limit(3).Held, "calls that are still open")
		s.now += pool.Time(after.TTL)
		assert.EqualValues(t, 0, s.limit(0).Used)
		assert.EqualValues(t, 0, s.limit(2).Held)
		assert.EqualValues(t, 0, s.limit(3).Held)
	}
}

func TestSlotsStayTakenUntilTheirLeasesHaveEnded(t *testing.T) {
	cfg := setup{Keys: one(append(rpm(plenty), slots(2)))}
	s := succeeds(t, cfg, kept(t, cfg).state(false), after)
	s.now += 5*minute + 2*sec - 1
	s.refused("h")
	s.now++
	s.lease("h")
}

func TestLongWindowsComeBackAheadOfWhatIsWritten(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Refilling, provider.Sliding} {
		cfg := setup{Keys: one(perDay(1000, kind))}
		s := kept(t, cfg)
		for range 50 {
			s.lease("h")
		}
		record := s.save()
		for range 10 {
			assert.True(t, s.lease("h").Durable)
		}
		assert.False(t, s.lease("h").Durable, "beyond it somebody has to write first")
		s = succeeds(t, cfg, record, after)
		assert.EqualValues(t, 60, s.limit(3).Used)
	}
}

// Whoever restores slices has others, which begin at other moments.
func TestSlicesLastWhateverTheClock(t *testing.T) {
	cfg := setup{Keys: one(append(limits(plenty, plenty, plenty)[1:], pool.Limit{
		Dimension: provider.Requests, Window: time.Minute, Amount: 60, Kind: provider.Sliding,
	}))}
	const slice = minute / 32
	s := kept(t, cfg)
	s.now = origin + slice - sec/100
	for range 60 {
		s.lease("h")
	}
	s.now = origin + slice
	record := s.state(true)
	s = begin(t, cfg)
	s.now = origin + slice - 1
	s.Recover(s.now, record, after)
	s.now += minute - sec/100 - 1
	assert.EqualValues(t, 60, s.limit(2).Used, "they have not left the provider's window")
}

// Debt is more than empty.
func TestDebtIsWrittenDown(t *testing.T) {
	cfg := setup{Keys: one(limits(plenty, 100, plenty))}
	s := kept(t, cfg)
	g := s.lease("h", input(100))
	s.save()
	used := unknown
	used[provider.InputTokens] = 180
	s.ends(g, "h", fine, used)
	require.True(t, s.Dirty())
	s = succeeds(t, cfg, s.save(), after)
	assert.EqualValues(t, 180, s.limit(1).Used, "debt")
}

func TestNewKeysAreFull(t *testing.T) {
	cfg := setup{Keys: one(rpm(60))}
	record := kept(t, cfg).state(false)
	cfg.Keys = append(cfg.Keys, pool.Key{ID: "new", Limits: rpm(60)})
	s := succeeds(t, cfg, record, after)
	for range 60 {
		assert.Equal(t, "new", s.key("h"))
	}
	s.refused("h")
}

func TestKeysThatMovedTakeTheirUseAlong(t *testing.T) {
	for name, groups := range map[string][2]string{"into one that was there": {"g", "h"}, "into a new one": {"new", ""}} {
		t.Run(name, func(t *testing.T) {
			cfg := setup{
				Groups: []pool.Group{{Name: "g", Limits: rpm(60)}, {Name: "h", Limits: rpm(60)}},
				Keys:   []pool.Key{{ID: "a", Group: "g"}, {ID: "b", Group: "h"}},
			}
			record := kept(t, cfg).state(false)
			cfg.Groups = append(cfg.Groups, pool.Group{Name: "new", Limits: rpm(60)})
			cfg.Keys = []pool.Key{{ID: "b", Group: groups[0]}}
			succeeds(t, cfg, record, after).refused("h")
		})
	}
}

// Of a class that is not in the record nothing was given out.
func TestANewClassIsWrittenDownBeforeItIsUsed(t *testing.T) {
	cfg := setup{Models: []string{"opus"}, Keys: one(rpm(60))}
	assert.True(t, kept(t, cfg).lease("h", model("opus")).Durable)
	cfg = setup{Classes: []pool.Class{{Name: "known", Models: []string{"known"}}}, Keys: one(rpm(60))}
	s := kept(t, cfg)
	record := s.state(false)
	assert.False(t, s.lease("h", model("unheard of")).Durable)
	s = succeeds(t, cfg, record, after)
	s.refused("h", model("known"))
	s.lease("h", model("unheard of"))
	s.save()
	assert.True(t, s.lease("h", model("unheard of")).Durable)
}

func TestModelsThatMovedTakeTheirUseAlong(t *testing.T) {
	keys := one(rpm(60))
	for name, c := range map[string]struct{ was, is setup }{
		"declared since":        {setup{Classes: []pool.Class{{Name: "x"}}}, setup{Classes: []pool.Class{{Name: "c", Models: []string{"m"}}}}},
		"declared no more":      {setup{Classes: []pool.Class{{Name: "c", Models: []string{"m"}}}}, setup{Classes: []pool.Class{{Name: "x"}}}},
		"for all models before": {setup{}, setup{Classes: []pool.Class{{Name: "x"}}}},
		"for all models since":  {setup{Classes: []pool.Class{{Name: "x"}}}, setup{}},
	} {
		t.Run(name, func(t *testing.T) {
			c.was.Keys, c.is.Keys = keys, keys
			s := kept(t, c.was)
			s.lease("h", model("m"))
			succeeds(t, c.is, s.state(false), after).refused("h", model("m"))
		})
	}
}

func TestWithoutARecordAllCountsAsUsed(t *testing.T) {
	cfg := setup{Classes: []pool.Class{{Name: "known"}}, Keys: one(append(perDay(1000, provider.Sliding), slots(5)))}
	s := begin(t, cfg)
	s.now = origin
	s.RecoverLost(s.now, after)
	s.refused("h", model("known"))
	s.refused("h", model("unheard of"))
	s.now += 25 * 60 * minute
	s.lease("h", model("known"))
	s.lease("h", model("unheard of"))
}

// What one holder has said keeps the others out no longer than it did.
func TestCooldownsComeBack(t *testing.T) {
	cfg := scopes()
	s := kept(t, cfg)
	s.answers(s.lease("h", model("opus"), without("b", "other")), "h", limited(time.Hour))
	s.ends(s.lease("h", model("haiku"), without("a", "other")), "h", refusal(provider.QuotaExhausted, provider.KeyScope, 2*time.Hour), unknown)
	require.True(t, s.Dirty())
	s.now += 10 * sec
	s = succeeds(t, cfg, s.save(), after)
	began := s.now
	s.now += minute
	assert.Equal(t, began+3590*sec, s.refused("h", model("opus"), without("other")).RetryAt)
	assert.Equal(t, "a", s.key("h", model("haiku"), without("other")))
	assert.Equal(t, pool.Quarantined, s.health(1))
	assert.Equal(t, "a", s.key("x", model("opus"), without("other", "b")), "another may see for itself")
}

func TestLearnedAndLoweredLimitsComeBack(t *testing.T) {
	cfg := setup{Keys: one(limits(100, 0x10000, plenty)[:1])}
	s := kept(t, cfg)
	s.answers(s.lease("h"), "h", states(provider.InputTokens, 5000, 5000))
	s.answers(s.lease("h"), "h", states(provider.Requests, 50, 40))
	require.True(t, s.Dirty())
	s = succeeds(t, cfg, s.save(), after)
	assert.EqualValues(t, 50, s.limit(0).Limit)
	assert.EqualValues(t, 5000, s.limit(1).Limit)
	s = succeeds(t, cfg, s.save(), after)
	assert.EqualValues(t, 5000, s.limit(1).Limit, "and once more")
}

// A limit that is new in the configuration was one before.
func TestNewLongLimitsCountAsUsed(t *testing.T) {
	cfg := setup{Keys: one(rpm(60))}
	record := kept(t, cfg).state(true)
	cfg.Keys = one(perDay(1000, provider.Refilling))
	s := succeeds(t, cfg, record, after)
	s.refused("h")
	s.Restore(s.now, "", "a")
	s.lease("h")
}

// A record says how many calls were open at most, and how much output was held, since the one
// before.
func TestPeaksAreOnRecord(t *testing.T) {
	cfg := setup{Keys: one(append(limits(plenty, plenty, 60), slots(9)))}
	s := kept(t, cfg)
	peaks := func(state *pool.State) (output, slots int64) {
		for _, b := range state.Accounts[0].Buckets {
			switch b.Dimension {
			case provider.OutputTokens:
				output = b.Peak
			case provider.Concurrency:
				slots = b.Peak
			}
		}
		return output, slots
	}
	for _, failed := range []bool{true, false} {
		var gs []pool.Grant
		for range 4 {
			gs = append(gs, s.lease("h", output(5)))
		}
		for _, g := range gs {
			require.NoError(t, s.Release(s.now, g.Lease, "h", true))
		}
		require.True(t, s.Dirty())
		state := s.state(false)
		if !failed {
			state = s.save()
		}
		output, slots := peaks(state)
		assert.EqualValues(t, 20, output)
		assert.EqualValues(t, 4, slots)
	}
	s.lease("h", output(7))
	output, slots := peaks(s.save())
	assert.EqualValues(t, 20, output, "no more than is on record is no news")
	assert.EqualValues(t, 4, slots)
}

// A limit that is new to a successor must not be given out before it is on record: else the one
// after would take it for unused.
func TestANewKeyIsOnRecordBeforeItIsUsed(t *testing.T) {
	cfg := setup{Keys: one(rpm(60)), Dialect: dialect(t, "anthropic"), Flat: true}
	s := kept(t, cfg)
	assert.True(t, s.lease("h").Durable)
	cfg.Keys = append(cfg.Keys, pool.Key{ID: "new", Priority: 1, Limits: rpm(60)})
	_, err := s.Reconfigure(s.now, cfg.config())
	require.NoError(t, err)
	g := s.lease("h")
	assert.Equal(t, "new", g.Key)
	assert.False(t, g.Durable)
	s.save()
	assert.True(t, s.lease("h").Durable)
}
