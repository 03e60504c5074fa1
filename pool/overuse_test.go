package pool_test

// Over-use is the holder's doing, and the provider may refuse it. This property
// holds what the engine owes the others: what was declared delays every grant
// that follows, so that the provider refuses none of them.

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func TestOverUseDelaysGrants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOverUse(t)
		for range rapid.SampledFrom([]int{5, 20, 60}).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				unit := rapid.SampledFrom([]time.Duration{1, time.Second, 5 * time.Second}).Draw(t, "unit")
				o.now = o.now.Add(unit * time.Duration(rapid.IntRange(1, 10).Draw(t, "units")))
			case 2, 3:
				o.acquire()
			case 4:
				o.report()
			}
		}
		o.judge()
	})
}

// spend is an amount that arrives within its span. A grant's must find room,
// unless an over-use became known while it was on its way.
type spend struct {
	granted, lo, hi pool.Time
	n               int64
	over            bool
}

// held marks the one dimension that is limited: input counts on arrival, output
// while the provider answers.
type overUser struct {
	*rapid.T
	pool      *pool.Domain
	now       pool.Time
	account   account
	held      bool
	delta     time.Duration
	dimension provider.Dimension
	open      []*spend
	ids       []pool.LeaseID
	spent     []*spend
}

func newOverUse(t *rapid.T) *overUser {
	dialect := pool.Exact("anthropic")
	o := &overUser{T: t, dimension: rapid.SampledFrom([]provider.Dimension{provider.InputTokens, provider.OutputTokens}).Draw(t, "dimension")}
	o.held = dialect.Held[o.dimension]
	o.delta = rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 5 * time.Second}).Draw(t, "delta")
	o.account.limit = pool.Limit{
		Dimension: o.dimension, Window: time.Minute, Amount: rapid.Int64Range(1, 60).Draw(t, "limit"), Reset: pool.Time(17 * time.Second),
		Kind: rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind"),
	}
	generous := pool.Limit{Window: time.Minute, Amount: 1e6, Kind: provider.Refilling} // none is left to be learned
	limits := []pool.Limit{o.account.limit}
	for _, d := range dialect.Limited {
		if generous.Dimension = d; d != o.dimension {
			limits = append(limits, generous)
		}
	}
	p, err := newPool(setup{
		Dialect: dialect, Flat: true, StartWithin: o.delta, Keys: []pool.Key{{ID: "a", Limits: limits}},
	})
	require.NoError(t, err)
	o.pool = p
	return o
}

func (o *overUser) acquire() {
	n := rapid.Int64Range(1, o.account.limit.Amount).Draw(o.T, "n")
	ask := pool.Ask{Holder: "h", TTL: time.Hour, Amounts: provider.Amounts{provider.Requests: 1}}
	ask.Amounts[o.dimension] = n
	g, err := o.pool.Acquire(o.now, ask)
	if err != nil {
		return
	}
	o.open = append(o.open, &spend{granted: o.now, lo: o.now, hi: o.now.Add(o.delta), n: n})
	o.ids = append(o.ids, g.Lease)
}

// report settles a lease within the time that its output is held for.
func (o *overUser) report() {
	if len(o.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(o.open)-1).Draw(o.T, "call")
	s := o.open[i]
	o.settle(s)
	more := rapid.Int64Range(0, o.account.limit.Amount).Draw(o.T, "more")
	used := provider.Amounts{provider.Requests: 1}
	used[o.dimension] = s.n + more
	_, err := o.pool.Report(o.now, o.ids[i], "h", provider.Signal{}, used, true)
	require.NoError(o.T, err)
	o.spent = append(o.spent, &spend{granted: o.now, lo: o.now, hi: o.now, n: more, over: true})
	o.open, o.ids = slices.Delete(o.open, i, i+1), slices.Delete(o.ids, i, i+1)
}

func (o *overUser) settle(s *spend) {
	if o.held {
		s.hi = min(o.now, s.granted.Add(o.account.limit.Window/2))
	}
	o.spent = append(o.spent, s)
}

func (o *overUser) judge() {
	for _, s := range o.open {
		o.settle(s)
	}
	for _, s := range o.spent {
		o.arrive(s.hi)
	}
}

// arrive lets as much as can be arrive at one moment.
func (o *overUser) arrive(moment pool.Time) {
	at := func(s *spend) pool.Time {
		if s.hi < moment || s.lo > moment {
			return s.lo
		}
		return moment
	}
	slices.SortStableFunc(o.spent, func(a, b *spend) int {
		return cmp.Or(cmp.Compare(at(a), at(b)), cmp.Compare(a.granted, b.granted))
	})
	bucket := o.account.provider()
	known := pool.Time(-1) // the last over-use
	for _, s := range o.spent {
		when := time.Duration(at(s))
		switch {
		case s.over:
			bucket.Charge(when, s.n)
			known = s.granted
		case s.granted <= known:
			bucket.Charge(when, s.n)
		case !bucket.Take(when, s.n):
			o.Fatalf("%v of %d: the provider refused %d at %v, has %d", o.dimension, o.account.limit.Amount, s.n, when, bucket.Remaining(when))
		}
	}
}
