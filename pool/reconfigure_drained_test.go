package pool_test

// What is not configured any more may be put back: what counts there is remembered, by the
// domain and by its records.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// restarts begins another owner with the last state of this one.
func (s *story) restarts(cfg setup) *story {
	s.Helper()
	return succeeds(s.T, cfg, s.state(true), pool.Recovery{})
}

// byKey demands a key.
func byKey(key string) func(*pool.Ask) { return func(a *pool.Ask) { a.Key = key } }

// apart is a class that nobody asks for. With it, models that nobody declared are counted
// each by itself.
var apart = []pool.Class{{Name: "apart", Models: []string{"apart"}}}

func TestWhatIsPutBackIsRemembered(t *testing.T) {
	type step func(s *story, cfg setup) *story
	goes := func(s *story, cfg setup) *story { s.becomes(cfg); return s }
	restarts := func(s *story, cfg setup) *story { return s.restarts(cfg) }
	for name, shared := range map[string]bool{"for each class": false, "for all models": true} {
		all := []pool.Limit{daily(3, provider.Sliding)}
		all[0].Shared = shared
		for name, with := range map[string]setup{
			"key " + name: {Flat: true, Groups: []pool.Group{{Name: "g"}}, Keys: []pool.Key{
				{ID: "a", Group: "g", Limits: all}, {ID: "b", Group: "g", Limits: rpm(plenty)},
			}},
			"group " + name: {Flat: true, Groups: []pool.Group{{Name: "g", Limits: all}, {Name: "h", Limits: rpm(plenty)}}, Keys: []pool.Key{
				{ID: "a", Group: "g"}, {ID: "b", Group: "h"},
			}},
		} {
			without := with
			without.Keys, without.Groups = with.Keys[1:], with.Groups[len(with.Groups)-1:]
			for how, steps := range map[string][]step{
				"at once":                        {goes, goes},
				"by restarts":                    {restarts, restarts},
				"gone, then a restart":           {goes, func(s *story, _ setup) *story { return restarts(s, with) }},
				"gone by a restart, put back":    {restarts, goes},
				"gone, a restart, then put back": {func(s *story, cfg setup) *story { return restarts(goes(s, cfg), cfg) }, goes},
				"gone for two restarts":          {func(s *story, cfg setup) *story { return restarts(restarts(s, cfg), cfg) }, goes},
			} {
				t.Run(name+", "+how, func(t *testing.T) {
					s := begin(t, with)
					s.lease("h", byKey("a"))
					s.lease("h", byKey("a"))
					s = steps[0](s, without)
					s = steps[1](s, with)
					s.lease("h", byKey("a"))
					s.refused("h", byKey("a"))
				})
			}
		}
	}
}

func TestLimitOfAKeyThatIsPutBackIsOnRecord(t *testing.T) {
	all := []pool.Limit{daily(1000, provider.Sliding)}
	all[0].Shared = true
	with := setup{Flat: true, Groups: []pool.Group{{Name: "g"}}, Keys: []pool.Key{{ID: "a", Group: "g", Limits: all}, {ID: "b", Group: "g"}}}
	without := with
	without.Keys = with.Keys[1:]
	s := kept(t, with)
	s.becomes(without)
	s.becomes(with)
	s.save()
	for range 500 {
		g := s.lease("h", byKey("a"))
		if !g.Durable {
			s.save()
			require.True(t, s.MarkDurable(g.Lease))
		}
		s.ends(g, "h", provider.Signal{}, provider.Amounts{provider.Requests: 1})
	}
	s = succeeds(t, with, s.save(), after)
	assert.LessOrEqual(t, s.Inspect(s.now, "").Keys[0].Limits[0].Remaining, int64(500))
}

func TestForgottenClassOfAKeyThatIsGone(t *testing.T) {
	with := setup{Classes: apart, Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}}, Keys: []pool.Key{
		{ID: "a", Group: "g", Limits: []pool.Limit{daily(1, provider.Sliding)}}, {ID: "b", Group: "g"},
	}}
	without := with
	without.Keys = with.Keys[1:]
	s := begin(t, with)
	g := s.lease("h", byKey("a"), model("made up"))
	s.ends(g, "h", provider.Signal{}, provider.Amounts{provider.Requests: 1})
	s.becomes(without)
	for range 3 * 3600 {
		s.now += sec
		s.Next(s.now)
		_, _ = s.Acquire(s.now, ask("x", model("another")))
	}
	s.becomes(with)
	s.refused("h", byKey("a"), model("made up"))
}

// A domain that counted all models together once, and does so no more, is a usual one after a
// restart.
func TestFlatNoMoreLosesNothingAtRestarts(t *testing.T) {
	cfg := setup{Classes: apart, Keys: one([]pool.Limit{daily(2, provider.Sliding)})}
	flat := cfg
	flat.Flat, flat.Classes = true, nil
	s := begin(t, flat)
	s.now = pool.Time(2 * day)
	s = s.restarts(cfg)
	for range 2 { // at the first, nobody knows what is used of each model
		s.now += pool.Time(2 * day)
		s.lease("h", model("opus"))
		s = s.restarts(cfg)
	}
	s.lease("h", model("opus"))
	s.refused("h", model("opus"))
}

func TestFlatNoMoreIsOnRecord(t *testing.T) {
	cfg := setup{Classes: apart, Keys: one([]pool.Limit{daily(1, provider.Sliding)})}
	flat := cfg
	flat.Flat, flat.Classes = true, nil
	s := begin(t, flat)
	s.lease("h", model("opus"))
	s.becomes(cfg)
	for range 2 {
		s = s.restarts(cfg)
	}
	s.refused("h", model("opus"))
}

// A class that no pool serves at a restart may be served again.
func TestClassThatNobodyServesIsRemembered(t *testing.T) {
	both := setup{Models: []string{"opus", "haiku"}, Keys: one([]pool.Limit{daily(1, provider.Sliding)})}
	less := both
	less.Models = []string{"haiku"}
	s := begin(t, both)
	s.lease("h", model("opus"))
	s = s.restarts(less)
	s.becomes(both)
	s.refused("h", model("opus"))
	s.lease("h", model("haiku"))
}

// A lease may hold a slot in a third group, if its key moves twice.
func TestSlotsOfAThirdGroupComeFree(t *testing.T) {
	at := func(g string) setup {
		var groups []pool.Group
		for _, name := range []string{"g1", "g2", "g3"} {
			groups = append(groups, pool.Group{Name: name, Limits: []pool.Limit{slots(1)}})
		}
		return setup{Flat: true, Groups: groups, Keys: []pool.Key{{ID: "a", Group: g}, {ID: "b", Group: "g2"}}}
	}
	for name, trim := range map[string]bool{"by an end": false, "by a last report": true} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, at("g1"))
			g := s.lease("h", byKey("a"))
			s.becomes(at("g2"))
			s.becomes(at("g3"))
			w := s.waits("h", byKey("b"))
			served, _ := s.Next(s.now)
			require.Empty(t, served)
			if trim {
				_, err := s.ReportLast(s.now, g.Lease, "h", provider.Signal{}, unknown, true)
				require.NoError(t, err)
			} else {
				require.NoError(t, s.Release(s.now, g.Lease, "h", false))
			}
			served, _ = s.Next(s.now)
			assert.Equal(t, []*pool.Waiter{w}, served)
		})
	}
}

// The calls of a predecessor may be open in a class that another configuration joins.
func TestSlotsOfAPredecessorCountInAnotherClass(t *testing.T) {
	each := []pool.Class{{Name: "opus", Models: []string{"opus"}}, {Name: "haiku", Models: []string{"haiku"}}}
	together := []pool.Class{{Name: "haiku", Models: []string{"haiku", "opus"}}}
	s := begin(t, slotted(1, each...))
	s.lease("h", model("opus"))
	s = succeeds(t, slotted(1, each...), s.state(true), pool.Recovery{TTL: time.Minute})
	s.becomes(slotted(1, together...))
	s.refused("h", model("opus"))
	s.now += minute
	s.lease("h", model("opus"))
}

// What a lease may still use counts in the class that its model has joined for as long as the
// lease is renewed.
func TestHeldTokensCountInAnotherClass(t *testing.T) {
	ls := []pool.Limit{{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 100, Kind: provider.Refilling}}
	cfg := setup{Classes: []pool.Class{{Name: "a", Models: []string{"m1"}}, {Name: "b", Models: []string{"m2"}}}, Keys: one(ls)}
	s := begin(t, cfg)
	g := s.lease("h", model("m1"), output(100))
	s.now = 5 * sec
	cfg.Classes = []pool.Class{{Name: "b", Models: []string{"m1", "m2"}}}
	s.becomes(cfg)
	nothing := unknown
	nothing[provider.OutputTokens] = 0
	for s.now = 20 * sec; s.now < 100*sec; s.now += 25 * sec {
		_, err := s.Report(s.now, g.Lease, "h", provider.Signal{}, nothing, false)
		require.NoError(t, err)
	}
	s.refused("h", model("m2"), output(100))
}

// Requests of leases from before a shorter StartWithin may arrive by the longer one, so no
// header that has not counted them makes room.
func TestHeadersKnowOfLeasesThatMayTakeLonger(t *testing.T) {
	cfg := setup{StartWithin: 10 * time.Second, Flat: true, Keys: one(limits(plenty, 60, plenty))}
	says := func(remaining int64) provider.Signal {
		return provider.Signal{Windows: []provider.Window{{
			Dimension: provider.InputTokens, Length: time.Minute, Kind: provider.Refilling, Limit: 60, Remaining: remaining, Rounding: 1, Reset: provider.Unknown,
		}}}
	}
	s := begin(t, cfg)
	s.answers(s.lease("h", input(1)), "h", says(59))
	s.lease("h", input(40))
	s.now = sec
	cfg.StartWithin = 0
	s.becomes(cfg)
	s.now = 2 * sec
	g := s.lease("h", input(5))
	s.answers(g, "h", says(54))
	assert.GreaterOrEqual(t, s.input().Used, int64(40))
}

// A limit that was learned takes the terms of another configuration.
func TestLearnedLimitsTakeALongerStartWithin(t *testing.T) {
	cfg := setup{Flat: true, Keys: one(nil)}
	s := begin(t, cfg)
	g := s.lease("h", input(1))
	s.ends(g, "h", provider.Signal{Windows: []provider.Window{{
		Dimension: provider.InputTokens, Length: time.Minute, Kind: provider.Refilling, Limit: 60, Remaining: 60, Rounding: 1, Reset: provider.Unknown,
	}}}, unknown)
	cfg.StartWithin = 10 * time.Second
	s.becomes(cfg)
	s.now = 5 * minute
	s.lease("h", input(50)) // what is granted in 70 s may arrive in 60
	s.refused("h", input(5))
}

// What a restart knows of models that nobody has asked for since is on record, too.
func TestTwoRestartsForgetNoMoreThanOne(t *testing.T) {
	plain := setup{Classes: apart, Keys: one([]pool.Limit{daily(1, provider.Sliding)})}
	flat := plain
	flat.Flat, flat.Classes = true, nil
	classed := plain
	classed.Classes = append([]pool.Class{{Name: "c", Models: []string{"opus", "haiku"}}}, apart...)
	for name, was := range map[string]setup{"counted with all": flat, "counted in a class": classed} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, was)
			s.lease("h", model("opus"))
			s = s.restarts(plain)
			s = s.restarts(plain)
			s.refused("h", model("opus"))
			s.refused("h", model("haiku"))
			s.now += pool.Time(2 * day)
			s.lease("h", model("opus"))
		})
	}
}

func TestFlatAgainHasOneClass(t *testing.T) {
	cfg := setup{Classes: apart, Keys: one([]pool.Limit{daily(2, provider.Sliding)})}
	flat := cfg
	flat.Flat, flat.Classes = true, nil
	s := begin(t, flat)
	s.becomes(cfg)
	s = s.restarts(flat)
	s.now += pool.Time(2 * day)
	s.lease("h")
	s.becomes(flat)
	assert.Len(t, s.Inspect(s.now, "").Quotas, 1)
	s.lease("h")
	s.refused("h")
}

// Calls of a predecessor that has stopped may still be open.
func TestSlotsThatAreNewAtARestart(t *testing.T) {
	cfg := setup{Keys: one(rpm(plenty))}
	s := begin(t, cfg)
	for range 7 {
		s.lease("h")
	}
	cfg.Keys = one(append(rpm(plenty), slots(3)))
	s = succeeds(t, cfg, s.state(true), pool.Recovery{TTL: time.Hour})
	s.refused("h")
	again := succeeds(t, cfg, s.state(true), pool.Recovery{TTL: time.Hour})
	again.refused("h")
	s.now += 60 * minute
	s.lease("h")
	unused := succeeds(t, cfg, begin(t, cfg).state(true), pool.Recovery{TTL: time.Hour})
	unused.lease("h")
}

// What a token bucket has refilled counts in a window that slides.
func TestOtherWayOfCountingForgetsNothing(t *testing.T) {
	cfg := setup{Flat: true, Keys: one(limits(plenty, 60, plenty))}
	sliding := cfg
	sliding.Keys = one(limits(plenty, 60, plenty))
	sliding.Keys[0].Limits[1].Kind = provider.Sliding
	for name, changes := range map[string]func(*story) *story{
		"reconfigured": func(s *story) *story { s.becomes(sliding); return s },
		"restarted":    func(s *story) *story { return s.restarts(sliding) },
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, cfg)
			s.lease("h", input(60))
			s.now = 30 * sec
			s = changes(s)
			s.refused("h", input(1))
			s.now += minute + 2*sec
			s.lease("h", input(60))
		})
	}
}

// Of a class that was forgotten nobody knows what it had used of a long limit that is new.
func TestForgottenClassHasUsedWhatIsNew(t *testing.T) {
	cfg := setup{Classes: apart, Keys: one(rpm(plenty))}
	s := begin(t, cfg)
	s.ends(s.lease("h", model("idle")), "h", fine, unknown)
	for range 100 {
		s.now += minute
		_, _ = s.Acquire(s.now, ask("x", model("other")))
	}
	cfg.Keys = one(append(rpm(plenty), daily(1, provider.Sliding)))
	s.becomes(cfg)
	s.refused("h", model("idle"))
	s.now += pool.Time(2 * day)
	s.lease("h", model("idle"))
}
