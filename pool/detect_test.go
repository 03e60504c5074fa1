package pool_test

// What answers give away of how keys belong together, and what of it is said to
// whom.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// warnings counts the warnings by kind.
func (s *story) warnings() map[pool.EventKind]int {
	n := map[pool.EventKind]int{}
	for _, w := range s.Inspect(s.now, "").Warnings {
		n[w.Kind]++
	}
	return n
}

func owned(organization string) provider.Signal { return provider.Signal{Organization: organization} }

func TestOrganizations(t *testing.T) {
	for name, c := range map[string]struct {
		groups []string // of the keys
		owners []string
		want   map[pool.EventKind]int
	}{
		"two groups of one organisation":   {[]string{"g1", "g2"}, []string{"x", "x"}, map[pool.EventKind]int{pool.SharedOrganization: 1}},
		"two groups of two":                {[]string{"g1", "g2"}, []string{"x", "y"}, map[pool.EventKind]int{}},
		"two groups, and one says nothing": {[]string{"g1", "g2"}, []string{"x", ""}, map[pool.EventKind]int{}},
		"one group of one":                 {[]string{"g1", "g1"}, []string{"x", "x"}, map[pool.EventKind]int{}},
		"one group of two":                 {[]string{"g1", "g1"}, []string{"x", "y"}, map[pool.EventKind]int{pool.SplitOrganization: 1}},
		"both":                             {[]string{"g1", "g1", "g2"}, []string{"x", "y", "x"}, map[pool.EventKind]int{pool.SplitOrganization: 1, pool.SharedOrganization: 1}},
		"nobody says anything":             {[]string{"g1", "g2"}, []string{"", ""}, map[pool.EventKind]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := setup{Groups: []pool.Group{{Name: "g1", Limits: rpm(99)}, {Name: "g2", Limits: rpm(99)}}}
			for i, g := range c.groups {
				cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint("k", i), Group: g})
			}
			s := begin(t, cfg)
			for range 3 {
				for i, o := range c.owners {
					s.ends(s.only(fmt.Sprint("k", i)), "h", owned(o), unknown)
				}
			}
			assert.Equal(t, c.want, s.warnings())
			for i, o := range c.owners {
				assert.Equal(t, o, s.Inspect(s.now, "").Keys[i].Organization)
			}
		})
	}
}

// A long name is cut, and not in the middle of a letter: it would be no text.
func TestLongOrganization(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.ends(s.lease("h"), "h", owned(strings.Repeat("x", 127)+"é"), unknown)
	assert.Equal(t, strings.Repeat("x", 127), s.Inspect(s.now, "").Keys[0].Organization)
}

// A report may say anything, as often as it likes.
func TestWarningsAndNoticesAreBounded(t *testing.T) {
	var keys []pool.Key
	for i := range 100 {
		keys = append(keys, pool.Key{ID: fmt.Sprint("k", i), Limits: rpm(plenty)})
	}
	s := begin(t, setup{Keys: keys})
	for i := range 300 {
		blocked := refusal(provider.QuotaExhausted, provider.GroupScope, 0)
		blocked.Operator, blocked.Organization = true, fmt.Sprint("organisation ", i%7)
		s.ends(s.lease("h"), "h", blocked, unknown)
		s.now += sec
		s.Restore(s.now, "", "")
	}
	assert.LessOrEqual(t, len(s.Inspect(s.now, "").Warnings), 64)
	assert.LessOrEqual(t, len(s.Events()), 64)
	assert.Empty(t, s.Events())
}

func TestWarningsAreNotRepeated(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}, {ID: "b", Limits: rpm(plenty)}}})
	for i := range 100 {
		s.ends(s.only("a"), "h", owned(fmt.Sprint(i%2)), unknown)
		s.ends(s.only("b"), "h", owned("0"), unknown)
		s.now += sec
	}
	assert.Equal(t, map[pool.EventKind]int{pool.SharedOrganization: 1}, func() map[pool.EventKind]int {
		n := s.warnings()
		if n[pool.SharedOrganization] > 1 { // once for each of the two
			n[pool.SharedOrganization] = 1
		}
		return n
	}())
	assert.LessOrEqual(t, len(s.Events()), 2)
	w := s.Inspect(s.now, "").Warnings[0]
	assert.Greater(t, w.Count, int64(1))
	assert.Greater(t, w.Last, w.First)
	s.now += 2 * minute
	s.ends(s.only("a"), "h", owned("1"), unknown)
	s.ends(s.only("a"), "h", owned("0"), unknown)
	assert.Len(t, s.Events(), 1, "but said again after a while")
}

func TestNoticesTellWhatHappens(t *testing.T) {
	kinds := func(s *story) (k []pool.EventKind) {
		for _, n := range s.Events() {
			k = append(k, n.Kind)
		}
		return k
	}
	s := begin(t, setup{Keys: one(rpm(plenty))})
	s.quarantines("a")
	assert.Equal(t, []pool.EventKind{pool.KeySuspect, pool.KeyQuarantined}, kinds(s))
	s.now = 10 * minute
	s.ends(s.lease("h"), "h", fine, unknown)
	assert.Equal(t, []pool.EventKind{pool.KeyBack}, kinds(s))
	one, two := s.lease("h"), s.lease("h")
	s.answers(one, "h", limited(time.Minute))
	s.answers(two, "h", limited(2*time.Minute))
	assert.Equal(t, []pool.EventKind{pool.CoolingDown}, kinds(s))
	for _, scope := range []provider.Scope{provider.KeyModelScope, provider.GroupScope} { // of many calls, once
		s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(plenty)}}})
		for _, g := range []pool.Grant{s.lease("h"), s.lease("h")} {
			s.answers(g, "h", refusal(provider.Forbidden, scope, 0))
		}
		notices := s.Events()
		require.Len(t, notices, 1)
		assert.Equal(t, 10*time.Minute, notices[0].Wait)
	}
}

func TestAllGroupsRefusedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		apart pool.Time
		keys  []string
		want  int
	}{
		"all at once":        {sec, []string{"a", "b", "c"}, 1},
		"all, one by one":    {11 * sec, []string{"a", "b", "c"}, 0},
		"one is not refused": {sec, []string{"a", "b", "b"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{
				Groups: []pool.Group{{Name: "unused"}},
				Keys:   []pool.Key{{ID: "a", Limits: rpm(99)}, {ID: "b", Limits: rpm(99)}, {ID: "c", Limits: rpm(99)}},
			})
			var out []pool.Grant
			for _, k := range c.keys {
				out = append(out, s.only(k))
			}
			for _, g := range out {
				s.now += c.apart
				s.ends(g, "h", limited(0), unknown)
			}
			assert.Equal(t, c.want, s.warnings()[pool.AllRateLimited])
		})
	}
}

// Groups without keys are none that could be refused.
func TestGroupsWithoutKeysDoNotCount(t *testing.T) {
	for want, keys := range map[string][]string{"": {"a"}, "all 2 quota groups were answered 429 within 10s": {"a", "b"}} {
		cfg := setup{Groups: []pool.Group{{Name: "unused"}}}
		for _, k := range keys {
			cfg.Keys = append(cfg.Keys, pool.Key{ID: k, Limits: rpm(99)})
		}
		s := begin(t, cfg)
		for _, k := range keys {
			s.ends(s.lease("h", withKey(k)), "h", limited(0), unknown)
		}
		said := ""
		for _, w := range s.Warnings() {
			said += w.Text
		}
		before, _, _ := strings.Cut(said, ":")
		assert.Equal(t, want, before)
	}
}
