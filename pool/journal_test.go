package pool_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/record"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/pool/limit"
)

// stored is what a store has of a record: chunks, as if no process had ever been.
type stored map[string][]byte

// change is one save on its way into a store.
type change struct {
	put  map[string][]byte
	drop []string
}

// with returns the chunks after a save. Those before it stay what they are.
func (s stored) with(c change) stored {
	after := maps.Clone(s)
	if after == nil {
		after = stored{}
	}
	for _, id := range c.drop {
		delete(after, id)
	}
	maps.Copy(after, c.put)
	return after
}

// bytes is how large a change is.
func (c change) bytes() (n int) {
	for _, b := range c.put {
		n += len(b)
	}
	return n
}

// bytes is how large a record is.
func (s stored) bytes() int { return change{put: s}.bytes() }

// state is what a successor reads, nil if there is nothing.
func (s stored) state(t require.TestingT) *pool.State {
	r, err := record.Decode(s)
	require.NoError(t, err)
	if r == nil {
		return nil
	}
	return r.State
}

// journal writes the states of one owner.
type journal struct {
	log    *record.Log
	stored stored
}

func newJournal(epoch uint64, s stored) *journal { return &journal{record.NewLog(epoch, s), s} }

func (l *journal) change(s *pool.State) (c change) {
	c.put, c.drop = l.log.Change(s, time.Minute)
	return c
}

// write saves a state.
func (l *journal) write(s *pool.State) {
	l.stored = l.stored.with(l.change(s))
	l.log.Saved()
}

// A whole state, and what has changed since at various times, come to what a whole one says.
func TestChangesComeToTheWhole(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Refilling, provider.Sliding} {
		cfg := setup{
			Models: []string{"m1", "m2"},
			Groups: []pool.Group{{Name: "g", Limits: append(limits(60, plenty, 100), slots(5), pool.Limit{Dimension: provider.Requests, Window: time.Hour, Amount: 30, Kind: kind})}},
			Keys: []pool.Key{
				{ID: "a", Group: "g", Limits: []pool.Limit{{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 500, Kind: kind}}},
				{ID: "b", Limits: []pool.Limit{{Dimension: provider.InputTokens, Window: time.Hour, Amount: 5000, Kind: kind, Shared: true}}},
			},
		}
		s := kept(t, cfg)
		for i := range 200 {
			g, err := s.Acquire(s.now, ask("h", model([]string{"m1", "m2"}[i/3%2]), lasting(time.Second), input(10)))
			if err == nil && i%7 == 0 {
				s.answers(g, "h", limited(time.Duration(i)*time.Second))
			}
			s.now += pool.Time(i) * sec / 3
			if i%3 == 0 {
				s.save()
			}
		}
		s.now += 5 * sec // all leases have ended
		parts := s.save()
		_, err := s.Reconfigure(s.now, cfg.with(s).config())
		require.NoError(t, err)
		whole := s.save()
		same(t, whole, parts)
	}
}

// same checks that a state says the same as another one, but for what is allowed for in advance.
func same(t *testing.T, whole, parts *pool.State) {
	var all [2][]pool.BucketState
	for i, s := range []*pool.State{whole, parts} {
		inOrder(s)
		take := func(bs []pool.BucketState) []pool.BucketState {
			for _, b := range bs {
				if b.Window > 0 {
					all[i] = append(all[i], b)
				}
			}
			return nil
		}
		for j := range s.Groups {
			s.Groups[j].Shared = take(s.Groups[j].Shared)
		}
		for j := range s.Keys {
			s.Keys[j].Shared = take(s.Keys[j].Shared)
		}
		for j := range s.Accounts {
			s.Accounts[j].Buckets = take(s.Accounts[j].Buckets)
		}
		for j := range s.Own {
			s.Own[j].Buckets = take(s.Own[j].Buckets)
		}
	}
	require.Equal(t, whole, parts)
	require.Len(t, all[1], len(all[0]))
	for i, w := range all[0] {
		p := all[1][i]
		require.GreaterOrEqual(t, p.Used+p.Ahead, w.Used)
		require.LessOrEqual(t, p.Used, w.Used+1)
		w.Snapshot, p.Snapshot, w.Stated, p.Stated = limit.Snapshot{}, limit.Snapshot{}, limit.Stated{}, limit.Stated{}
		require.Equal(t, w, p)
	}
}

// with is the setup as a story has it.
func (s setup) with(o *story) setup {
	s.Dialect = dialect(o, "anthropic")
	return s
}

func inOrder(s *pool.State) {
	slices.SortFunc(s.Classes, func(a, b pool.ClassState) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Groups, func(a, b pool.GroupState) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Keys, func(a, b pool.KeyState) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Accounts, func(a, b pool.AccountState) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Class, b.Class))
	})
	slices.SortFunc(s.Own, func(a, b pool.OwnState) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Class, b.Class)) })
}
