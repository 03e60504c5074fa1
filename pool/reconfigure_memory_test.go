package pool_test

// What a change of the configuration must not forget, and must not keep.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// becomes puts another configuration in force.
func (s *story) becomes(cfg setup) []*pool.Waiter {
	s.Helper()
	if cfg.Dialect == nil {
		cfg.Dialect = dialect(s, "anthropic")
	}
	dropped, err := s.Reconfigure(s.now, cfg.config())
	require.NoError(s, err)
	return dropped
}

// slotted is a group of one key with so many slots for each class of models.
func slotted(n int64, classes ...pool.Class) setup {
	return setup{
		Classes: classes, Groups: []pool.Group{{Name: "g", Limits: []pool.Limit{slots(n)}}},
		Keys: []pool.Key{{ID: "a", Group: "g"}},
	}
}

func TestOpenLeasesKeepTheirSlotsWhenModelsChangeClass(t *testing.T) {
	apart := []pool.Class{{Name: "opus", Models: []string{"opus"}}, {Name: "haiku", Models: []string{"haiku"}}}
	together := []pool.Class{{Name: "both", Models: []string{"opus", "haiku"}}}
	for name, c := range map[string]struct{ before, after setup }{
		"joined":       {slotted(1, apart...), slotted(1, together...)},
		"parted":       {slotted(1, together...), slotted(1, apart...)},
		"flat":         {slotted(1, apart...), func() setup { s := slotted(1); s.Flat = true; return s }()},
		"flat no more": {func() setup { s := slotted(1); s.Flat = true; return s }(), slotted(1)},
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{T: t}
			c.before.Dialect = dialect(t, "anthropic")
			var err error
			s.Domain, err = newPool(c.before)
			require.NoError(t, err)
			g := s.lease("h", model("opus"))
			s.becomes(c.after)
			s.refused("h", model("opus"))
			require.NoError(t, s.Release(s.now, g.Lease, "h", false))
			s.now = 2 * minute
			s.lease("h", model("opus"))
		})
	}
}

// A class that is made by the first ask for a model counts what was used while all models
// were one.
func TestFlatNoMoreForgetsNothing(t *testing.T) {
	cfg := setup{Keys: one(rpm(1))}
	s := begin(t, cfg)
	s.lease("h", model("opus"))
	s.becomes(cfg)
	s.refused("h", model("opus"))
	s.now = minute
	s.lease("h", model("opus"))
}

// What was granted before may arrive by the longer time.
func TestShorterStartWithinHoldsForNewLeasesOnly(t *testing.T) {
	cfg := setup{StartWithin: 2 * time.Second, Keys: one(limits(plenty, 60, plenty))}
	s := begin(t, cfg)
	s.lease("h", input(10)) // is sent at 2 s
	cfg.Flat, cfg.StartWithin = true, 0
	s.becomes(cfg)
	s.now = 10 * sec // the provider has had 8 s to refill 10
	s.refused("h", input(60))
	s.now = 12 * sec
	s.lease("h", input(60))
}

func TestKeyPutBackIsNotNew(t *testing.T) {
	cfg := setup{Flat: true, Groups: []pool.Group{{Name: "g"}}, Keys: []pool.Key{
		{ID: "a", Group: "g", Limits: append(rpm(2), slots(1))}, {ID: "b", Group: "g", Limits: rpm(plenty)},
	}}
	without := cfg
	without.Keys = cfg.Keys[1:]
	s := begin(t, cfg)
	s.lease("h", func(a *pool.Ask) { a.Key = "a" })
	s.becomes(without)
	s.becomes(cfg)
	s.refused("h", func(a *pool.Ask) { a.Key = "a" })
}

func TestDissolvedClassBindsNobody(t *testing.T) {
	cfg := setup{Classes: []pool.Class{{Name: "both", Models: []string{"opus", "haiku"}}}, Keys: one(rpm(1))}
	s := begin(t, cfg)
	cfg.Classes = nil
	s.becomes(cfg)
	s.now = 2 * minute
	s.lease("h", model("opus"))
	s.lease("h", model("haiku"))
	assert.Equal(t, provider.Requests, s.refused("h", model("haiku")).Dimension)
}

func TestOpenLeasesOfMovedKeysKeepTheirSlots(t *testing.T) {
	own := []pool.Limit{slots(1)}
	inGroup := setup{Flat: true, Groups: []pool.Group{{Name: "g"}}, Keys: []pool.Key{{ID: "a", Group: "g", Limits: own}}}
	alone := setup{Flat: true, Keys: []pool.Key{{ID: "a", Limits: own}}}
	away := setup{Flat: true}
	for name, steps := range map[string][]setup{
		"out of a group":          {inGroup, alone},
		"into a group":            {alone, inGroup},
		"out of it, after a time": {inGroup, away, alone},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, steps[0])
			g := s.lease("h")
			for _, cfg := range steps[1:] {
				s.becomes(cfg)
			}
			s.refused("h")
			w := s.waits("h")
			require.NoError(t, s.Release(s.now, g.Lease, "h", false))
			served, _ := s.Next(s.now)
			assert.Equal(t, []*pool.Waiter{w}, served)
		})
	}
}

// Nobody knows what is used of a class that has got another model. What a lease of before
// gives back was used beside that.
func TestRefundsMakeNoRoomInWhatIsUnknown(t *testing.T) {
	for d, of := range map[provider.Dimension]func(int64) func(*pool.Ask){provider.InputTokens: input, provider.OutputTokens: output} {
		t.Run(d.String(), func(t *testing.T) {
			cfg := setup{
				Dialect: pool.Exact("anthropic"), Keys: one(limits(0, 60, 60)[d : d+1]),
				Classes: []pool.Class{{Name: "opus", Models: []string{"opus"}}},
			}
			s := begin(t, cfg)
			g := s.lease("h", model("opus"), of(60))
			s.ends(s.lease("h", model("haiku"), of(60)), "h", fine, provider.Amounts{1, 60, 60, 120, 1})
			cfg.Classes = []pool.Class{{Name: "opus", Models: []string{"opus", "haiku"}}}
			s.becomes(cfg)
			s.ends(g, "h", fine, provider.Amounts{1, 0, 0, 0, 1})
			s.refused("h", model("haiku"), of(60))
			s.now = 2 * minute
			s.lease("h", model("haiku"), of(60))
		})
	}
}

// A limit that is new counts as used up by all that may still be on its way, also from before the
// last configuration, whose leases had more time to start.
func TestLeasesOfTheConfigurationBeforeLastCount(t *testing.T) {
	s := begin(t, keys(nil, "a"))
	slow := keys(nil, "a")
	slow.StartWithin = 2 * time.Second
	s.reload(slow)
	s.lease("h")
	s.reload(keys(nil, "a"))
	s.reload(keys(rpm(1), "a"))
	s.now = minute + 2*sec - 1
	s.refused("h")
	s.now++
	s.lease("h")
}

// Nobody knows any more what a class used that was forgotten.
func TestALimitCountsWhatAForgottenClassUsed(t *testing.T) {
	daily := pool.Limit{Dimension: provider.Requests, Window: day, Amount: 2, Kind: provider.Refilling}
	s := kept(t, undeclared())
	for range 2 {
		s.ends(s.lease("h", model("m")), "h", fine, unknown)
	}
	s.passes(62 * minute)
	require.Equal(t, []string{"declared"}, s.classes())
	cfg := undeclared()
	cfg.Classes = append(cfg.Classes, pool.Class{Name: "c", Models: []string{"m"}, Limits: []pool.Limit{daily}})
	s.reload(cfg)
	s.refused("h", model("m"))
}

// What was used while limits counted all models together may have been any model's, as much as the
// limit was then.
func TestALimitThatWasLowMeanwhile(t *testing.T) {
	s := begin(t, keys(rpm(6), "a"))
	for range 5 {
		s.lease("h", model("m"))
	}
	apart := func(limit int64) setup {
		cfg := keys(rpm(limit), "a")
		cfg.Classes = []pool.Class{{Name: "other", Models: []string{"o"}}}
		return cfg
	}
	s.reload(apart(6))
	s.reload(apart(1))
	s.refused("h", model("m"))
	s.reload(apart(6))
	s.refused("h", model("m"))
}
