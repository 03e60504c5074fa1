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

func TestLearnedLimitMakesNoAskTooLarge(t *testing.T) {
	cfg := setup{Keys: one(nil)}
	s := begin(t, cfg)
	s.ends(s.lease("h"), "h", states(provider.InputTokens, 50, 50), unknown)
	w := s.waits("h", input(1000))
	cfg.Flat = true
	assert.Empty(t, s.becomes(cfg))
	served, _ := s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{w}, served)
	s.now = 2 * minute
	s.lease("h", input(40))
}

// A bucket that was full long ago does not become full anew.
func TestTheSameLimitDelaysNobody(t *testing.T) {
	cfg := setup{StartWithin: 2 * time.Second, Keys: one(limits(plenty, 60, plenty))}
	s := begin(t, cfg)
	cfg.Flat = true
	s.now = minute
	s.becomes(cfg)
	s.lease("h", input(60))
}

// Who demands a group is bound by its limits alone.
func TestTooLargeForWhatIsDemanded(t *testing.T) {
	groups := func(small int64) setup {
		return setup{
			Groups: []pool.Group{{Name: "small", Limits: limits(plenty, small, plenty)}, {Name: "large", Limits: limits(plenty, 100, plenty)}},
			Keys:   []pool.Key{{ID: "a", Group: "small"}, {ID: "b", Group: "large"}}, Flat: true,
		}
	}
	demand := func(a *pool.Ask) { a.Group = "small" }
	s := begin(t, groups(50))
	s.lease("h", input(50), demand)
	waiting := s.waits("h", input(50), demand)
	assert.Equal(t, []*pool.Waiter{waiting}, s.becomes(groups(10)))
	_, acquired := s.Acquire(s.now, ask("h", input(50), demand))
	_, waited := s.Wait(s.now, ask("h", input(50), demand))
	for _, err := range []error{waiting.Err, acquired, waited} {
		assert.Equal(t, &pool.TooLargeError{Dimension: provider.InputTokens, Limit: 10}, err)
	}
}
