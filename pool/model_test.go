package pool_test

// The books of a pool against an obvious model of them: who holds what, until
// when, and what the engine says of leases that have ended, have run out of time,
// are another's, or are asked for twice.

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	modelSlots = 5
	modelDelta = 2 * sec
)

// books are those that anybody would keep.
type books struct {
	*rapid.T
	pool    *pool.Domain
	now     pool.Time
	open    map[pool.LeaseID]*entry
	lapsed  map[pool.LeaseID]*entry // their time is over, and late reports are taken
	ever    []pool.LeaseID
	granted int64
	expired int64
	ended   int64
}

type entry struct {
	holder, request  string
	granted, expires pool.Time
	ttl              time.Duration
}

func TestBooksAgreeWithAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, _ := provider.Lookup("generic")
		p, err := newPool(setup{
			Dialect: d, Flat: true, StartWithin: time.Duration(modelDelta),
			Keys: []pool.Key{{ID: "k", Limits: []pool.Limit{
				slots(modelSlots), {Dimension: provider.Requests, Window: time.Minute, Amount: plenty, Kind: provider.Sliding},
			}}},
		})
		require.NoError(t, err)
		b := &books{T: t, pool: p, open: map[pool.LeaseID]*entry{}, lapsed: map[pool.LeaseID]*entry{}}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": b.acquire, "report": b.report, "release": b.release, "advance": b.advance, "": b.check,
		})
	})
}

func (b *books) holder() string { return rapid.SampledFrom([]string{"a", "b"}).Draw(b.T, "holder") }

func (b *books) advance(t *rapid.T) {
	b.now += sec * pool.Time(rapid.SampledFrom([]int{1, 3, 10, 60}).Draw(t, "seconds"))
	for id, e := range b.open {
		if e.expires <= b.now {
			delete(b.open, id)
			b.lapsed[id] = e
			b.expired++
		}
	}
	for id, e := range b.lapsed {
		if e.expires.Add(e.ttl) <= b.now {
			delete(b.lapsed, id)
		}
	}
}

func (b *books) acquire(t *rapid.T) {
	a := ask(b.holder(), request(rapid.SampledFrom([]string{"", "", "r1", "r2"}).Draw(t, "request")))
	a.TTL = rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute}).Draw(t, "ttl")
	g, err := b.pool.Acquire(b.now, a)
	for id, e := range b.open {
		if a.Request != "" && e.request == a.Request && e.holder == a.Holder {
			if b.now < e.granted+modelDelta {
				require.NoError(t, err)
				require.Equal(t, id, g.Lease, "the same ask gets the same lease")
				return
			}
			e.request = "" // its time to start is over: the next gets another
		}
	}
	if len(b.open) == modelSlots {
		require.ErrorIs(t, err, pool.ErrAllKeysExhausted)
		return
	}
	require.NoError(t, err)
	require.NotContains(t, b.ever, g.Lease)
	require.Equal(t, []pool.Time{b.now, b.now + modelDelta, b.now.Add(a.TTL)}, []pool.Time{g.Granted, g.StartBy, g.Expires})
	b.open[g.Lease] = &entry{a.Holder, a.Request, b.now, g.Expires, a.TTL}
	b.ever = append(b.ever, g.Lease)
	b.granted++
}

// any picks a lease, ended or not, and tells what must come of a report on it.
func (b *books) any(t *rapid.T, holder string) (pool.LeaseID, *entry, error) {
	if len(b.ever) == 0 {
		return 99, nil, pool.ErrLeaseEnded
	}
	id := rapid.SampledFrom(b.ever).Draw(t, "lease")
	switch e := cmp.Or(b.open[id], b.lapsed[id]); {
	case e == nil:
		return id, nil, pool.ErrLeaseEnded
	case e.holder != holder:
		return id, nil, pool.ErrNotHolder
	default:
		return id, e, nil
	}
}

func (b *books) report(t *rapid.T) {
	holder, final := b.holder(), rapid.Bool().Draw(t, "final")
	id, e, want := b.any(t, holder)
	expires, err := b.pool.Report(b.now, id, holder, provider.Signal{}, unknown, final)
	require.ErrorIs(t, err, want)
	switch {
	case want != nil:
	case b.lapsed[id] != nil:
		require.Equal(t, b.now, expires, "nothing renews it")
		if final {
			delete(b.lapsed, id)
		}
	case final:
		delete(b.open, id)
		b.ended++
	default:
		e.expires = max(e.expires, b.now.Add(e.ttl))
		require.Equal(t, e.expires, expires)
	}
}

func (b *books) release(t *rapid.T) {
	holder := b.holder()
	id, _, want := b.any(t, holder)
	if want == nil && b.lapsed[id] != nil {
		want = pool.ErrLeaseEnded // and nothing more will be said of it
		delete(b.lapsed, id)
	}
	require.ErrorIs(t, b.pool.Release(b.now, id, holder, rapid.Bool().Draw(t, "unused")), want)
	if want == nil {
		delete(b.open, id)
		b.ended++
	}
}

func (b *books) check(t *rapid.T) {
	var listed []pool.LeaseID
	for _, l := range b.pool.Leases(b.now, "", 0, 100) {
		require.Equal(t, b.open[l.ID].holder, l.Holder)
		require.Equal(t, b.open[l.ID].expires, l.Expires)
		listed = append(listed, l.ID)
	}
	require.Equal(t, slices.SortedFunc(maps.Keys(b.open), cmp.Compare), listed)
	s := b.pool.Inspect(b.now, "")
	require.Equal(t, pool.Counters{Granted: b.granted, Released: b.ended, Expired: b.expired}, s.Counters)
	require.EqualValues(t, len(b.open), s.Quotas[0].Limits[0].Held, "slots that are taken")
}
