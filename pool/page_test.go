package pool_test

// A pool page by page: nothing is left out or shown twice, and no page costs more than it may.

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

// pages follows a query from page to page.
func pages(t require.TestingT, p *pool.Domain, now pool.Time, q pool.Query) (all []pool.Page) {
	for {
		page, err := p.Page(now, "", q)
		require.NoError(t, err)
		all = append(all, page)
		if q.From = page.Next; q.From == (pool.Cursor{}) {
			return all
		}
	}
}

// names lists what is on pages: keys by their ids, quotas as group/class or group/class/key.
func names(pages ...pool.Page) (all []string) {
	for _, p := range pages {
		for _, k := range p.Keys {
			all = append(all, k.ID)
		}
		for _, q := range p.Quotas {
			name := q.Group + "/" + q.Class
			if q.Key != "" {
				name += "/" + q.Key
			}
			all = append(all, name)
		}
	}
	return all
}

// mixed is a pool with a group of two keys, one of which has limits of its own, and two keys
// that are groups of their own.
func mixed() setup {
	return setup{
		Classes: []pool.Class{{Name: "large", Models: []string{"l"}}, {Name: "small", Models: []string{"s"}}},
		Groups:  []pool.Group{{Name: "g", Limits: rpm(10)}},
		Keys: []pool.Key{
			{ID: "a", Limits: rpm(10)}, {ID: "b", Group: "g"}, {ID: "c", Group: "g", Limits: rpm(5)}, {ID: "d", Limits: rpm(10)},
		},
	}
}

func TestPagesTogetherAreTheWhole(t *testing.T) {
	s := begin(t, mixed())
	keys := []string{"a", "b", "c", "d"}
	quotas := []string{"g/large", "g/large/c", "g/small", "g/small/c", "a/large", "a/small", "d/large", "d/small"}
	for _, c := range []struct {
		name  string
		query pool.Query
		want  []string
	}{
		{"all", pool.Query{}, slices.Concat(keys, quotas)},
		{"a group", pool.Query{Group: "g"}, slices.Concat(keys[1:3], quotas[:4])},
		{"a class", pool.Query{Class: "small"}, []string{"g/small", "g/small/c", "a/small", "d/small"}},
		{"both", pool.Query{Group: "g", Class: "large"}, quotas[:2]},
		{"no such group", pool.Query{Group: "ghost"}, nil},
		{"no such class", pool.Query{Class: "ghost"}, nil},
		{"no key alone is a group", pool.Query{Group: "b"}, nil},
		{"quotas alone", pool.Query{From: pool.Cursor{Quotas: true}}, quotas},
		{"what is limited", pool.Query{OnlyLimited: true}, nil},
		{"what has changed", pool.Query{Since: 1 << 60}, nil},
	} {
		for size := range 14 {
			c.query.Size = size
			all := pages(t, s.Domain, 0, c.query)
			assert.Equal(t, c.want, names(all...), "%s, by %d", c.name, size)
			for _, p := range all {
				if size > 0 {
					assert.LessOrEqual(t, len(names(p)), size, c.name)
				}
			}
		}
	}
	assert.Len(t, pages(t, s.Domain, 0, pool.Query{}), 1, "a small pool comes in one page")
}

// Between any two pages, keys come and go. Those that stay are shown once each.
func TestPagesAcrossAnotherConfiguration(t *testing.T) {
	cfg := func(keys ...string) pool.Config {
		c := mixed()
		c.Dialect, c.Keys = dialect(t, "anthropic"), nil
		for _, id := range keys {
			k := pool.Key{ID: id, Limits: rpm(10)}
			if id[0] == 'g' {
				k.Group = "g"
			}
			c.Keys = append(c.Keys, k)
		}
		return c.config()
	}
	before, later := cfg("g1", "a", "g2", "b", "c", "g3"), cfg("new", "g0", "g1", "b", "c", "new2", "g3", "new3")
	stay := []string{
		"g1", "b", "c", "g3", "g/large", "g/large/g1", "g/large/g3", "g/small", "g/small/g1", "g/small/g3",
		"b/large", "b/small", "c/large", "c/small",
	}
	gone := []string{"a", "g2", "g/large/g2", "g/small/g2", "a/large", "a/small"}
	whole := func() []string {
		p, err := pool.New(before)
		require.NoError(t, err)
		return names(pages(t, p, 0, pool.Query{})...)
	}()
	for n, last := range whole {
		p, err := pool.New(before)
		require.NoError(t, err)
		first, err := p.Page(0, "", pool.Query{Size: n + 1})
		require.NoError(t, err)
		require.Equal(t, whole[:n+1], names(first))
		if first.Next == (pool.Cursor{}) {
			continue
		}
		_, err = p.Reconfigure(0, later)
		require.NoError(t, err)
		if slices.Contains(gone, last) {
			_, err := p.Page(0, "", pool.Query{From: first.Next})
			assert.ErrorIs(t, err, pool.ErrCursor, "after %s, which has gone", last)
			continue
		}
		shown := names(first)
		for _, page := range pages(t, p, 0, pool.Query{From: first.Next, Size: 2}) {
			shown = append(shown, names(page)...)
		}
		for _, name := range stay {
			count := 0
			for _, s := range shown {
				if s == name {
					count++
				}
			}
			assert.Equal(t, 1, count, "%s, when the first page ends after %s", name, last)
		}
	}
}

func TestCursorsThatNobodyHasGiven(t *testing.T) {
	s := begin(t, mixed())
	for _, c := range []pool.Cursor{
		{Key: "ghost"}, {Key: "ghost", Place: -1 << 62}, {Key: "ghost", Place: 1 << 62},
		{Quotas: true, Group: "ghost", Class: "large"}, {Quotas: true, Group: "g", Class: "ghost"},
		{Quotas: true, Group: "g", Class: "large", Key: "a"},
	} {
		_, err := s.Page(0, "", pool.Query{From: c})
		assert.ErrorIs(t, err, pool.ErrCursor, "%+v", c)
	}
	for _, c := range []pool.Cursor{{Place: -5}, {Key: "b", Place: 9999}, {Quotas: true, Place: 7}, {Quotas: true, Group: "a"}} {
		_, err := s.Page(0, "", pool.Query{From: c})
		assert.NoError(t, err, "%+v", c)
	}
}

// limited names what is limited.
func (s *story) limited() []string {
	return names(pages(s.T, s.Domain, s.now, pool.Query{OnlyLimited: true})...)
}

func TestOnlyLimited(t *testing.T) {
	cfg := setup{Keys: []pool.Key{{ID: "one", Limits: rpm(2)}, {ID: "two", Limits: append(rpm(plenty), slots(1))}}}
	both := []string{"one", "one/(all models)"}
	two := []string{"two", "two/(all models)"}
	on := func(key string) func(*pool.Ask) {
		return func(a *pool.Ask) { a.Exclude = []string{map[string]string{"one": "two", "two": "one"}[key]} }
	}
	s := begin(t, cfg)
	s.lease("h", on("one"))
	assert.Empty(t, s.limited(), "something remains")
	s.lease("h", on("one"))
	assert.Equal(t, both, s.limited(), "nothing remains")
	s.now += 30 * sec
	assert.Empty(t, s.limited(), "half has refilled")
	g := s.lease("h", on("two"))
	assert.Equal(t, two, s.limited(), "its slot is taken")
	s.ends(g, "h", provider.Signal{}, unknown)
	assert.Empty(t, s.limited())

	s = begin(t, cfg)
	s.answers(s.lease("h", on("one")), "h", provider.Signal{Class: provider.RateLimited, Scope: provider.ClassScope, Wait: 20 * time.Second, Source: provider.RetryAfter})
	assert.Equal(t, both, s.limited(), "it cools down")
	s.now += 20 * sec
	assert.Empty(t, s.limited(), "what is over is not shown")
	s.ends(s.lease("h", on("two")), "h", provider.Signal{Class: provider.AuthInvalid, Scope: provider.KeyScope}, unknown)
	assert.Equal(t, two[:1], s.limited(), "a key that does not work has its limits")

	s = begin(t, cfg)
	g = s.lease("h", on("one"))
	s.ends(g, "h", provider.Signal{}, provider.Amounts{provider.Requests: 5})
	s.now += 30 * sec
	assert.Equal(t, both, s.limited(), "in debt")
}

// many is a pool with very many accounts.
func many(t testing.TB, keys, classes int, key func(i int) pool.Key) *pool.Domain {
	cfg := setup{Dialect: dialect(t, "anthropic"), Groups: []pool.Group{{Name: "all", Limits: limits(1000, 1e6, 1e6)}}}
	for i := range keys {
		cfg.Keys = append(cfg.Keys, key(i))
	}
	for i := range classes {
		cfg.Classes = append(cfg.Classes, pool.Class{Name: fmt.Sprint("class-", i), Models: []string{fmt.Sprint("model-", i)}})
	}
	p, err := newPool(cfg)
	require.NoError(t, err)
	return p
}

// The shapes that a hundred thousand accounts can have, and ten thousand keys in one group.
var large = []struct {
	name          string
	keys, classes int
	key           func(i int) pool.Key
	quotas        int
}{
	{"groups with many classes", 400, 250, alone, 401 * 250},
	{"many groups", 25_000, 4, alone, 25_001 * 4},
	{"one group", 10_000, 250, func(i int) pool.Key { return pool.Key{ID: fmt.Sprint("key-", i), Group: "all"} }, 250},
	{"keys with limits of their own", 1000, 50, func(i int) pool.Key {
		return pool.Key{ID: fmt.Sprint("key-", i), Group: "all", Limits: rpm(10)}
	}, 50 * 1001},
}

func alone(i int) pool.Key {
	return pool.Key{ID: fmt.Sprint("key-", i), Limits: limits(1000, 1e6, 1e6)}
}

// What is looked at for a page is bounded by a number, whatever the query leaves out. (A test of
// the time would say more of the machine.)
func TestAPageIsBoundedWork(t *testing.T) {
	for _, c := range large {
		t.Run(c.name, func(t *testing.T) {
			p := many(t, c.keys, c.classes, c.key)
			most := 20_000 + 1 + c.classes*(1+6) // more by one key
			for _, q := range []pool.Query{{}, {OnlyLimited: true}, {Since: 1 << 60}, {Class: "class-1"}, {Group: "key-399"}, {Group: "all"}} {
				keys, quotas, n := 0, 0, 0
				for _, page := range pages(t, p, 0, q) {
					require.LessOrEqual(t, page.Visited, most, "%+v", q)
					require.LessOrEqual(t, len(page.Keys)+len(page.Quotas), 1000, "%+v", q)
					keys, quotas, n = keys+len(page.Keys), quotas+len(page.Quotas), n+1
				}
				if q == (pool.Query{}) {
					assert.Equal(t, []int{c.keys, c.quotas}, []int{keys, quotas})
				}
				t.Logf("%+v: %d pages, %d keys, %d quotas", q, n, keys, quotas)
			}
			s := p.Summary(0, "")
			assert.Equal(t, []int{c.keys, c.keys}, []int{s.KeyCount, s.Available})
		})
	}
}

// An operation is what the owner's lock is held for.
func BenchmarkPage(b *testing.B) {
	for _, c := range large {
		p := many(b, c.keys, c.classes, c.key)
		for _, q := range []struct {
			name string
			pool.Query
		}{
			{"keys", pool.Query{}},
			{"quotas", pool.Query{From: pool.Cursor{Quotas: true}}},
			{"only limited, none is", pool.Query{From: pool.Cursor{Quotas: true}, OnlyLimited: true}},
			{"changed, nothing has", pool.Query{Since: 1 << 60}},
		} {
			b.Run(c.name+"/"+q.name, func(b *testing.B) {
				var count pool.Count
				for b.Loop() {
					p.Glance(0, "", &count)
					_, _ = p.Page(0, "", q.Query)
					p.Queues(0, "")
					p.Warnings()
				}
			})
		}
	}
}
