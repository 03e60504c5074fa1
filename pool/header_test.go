package pool_test

// Headers come late, twice, in another order or never. However they come, what
// the engine makes of them never leaves more room than the provider has, and
// never keeps it from being found again.

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// upstream is a provider's account of one quota group, with those who use it.
type upstream struct {
	*rapid.T
	pool     *pool.Domain
	dialect  *provider.Dialect
	delta    time.Duration
	window   time.Duration
	rounding int64
	limiters map[provider.Dimension]sim.Limiter
	limits   map[provider.Dimension]int64
	now      pool.Time
	events   []event
	foreign  bool // somebody else uses the key, too
}

// event is something that happens at its time.
type event struct {
	at pool.Time
	do func()
}

func newUpstream(t *rapid.T, window time.Duration, foreign bool) *upstream {
	d := pool.Exact(rapid.SampledFrom([]string{"anthropic", "openai", "generic"}).Draw(t, "dialect"))
	u := &upstream{
		T: t, dialect: d, window: window, foreign: foreign,
		delta:    rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 2 * time.Second, 5 * time.Second}).Draw(t, "delta"),
		rounding: rapid.SampledFrom([]int64{1, 1, 10}).Draw(t, "rounding"),
		limiters: map[provider.Dimension]sim.Limiter{}, limits: map[provider.Dimension]int64{},
	}
	kind := rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind")
	var limits []pool.Limit
	for x := range provider.Concurrency {
		if rapid.IntRange(0, 2).Draw(t, "limited") == 0 {
			continue
		}
		n := rapid.Int64Range(5, 100).Draw(t, "limit") * int64(window/time.Minute)
		l := pool.Limit{Dimension: x, Window: window, Kind: kind, Amount: n}
		u.limits[x] = n
		switch kind {
		case provider.Refilling:
			u.limiters[x] = sim.NewTokenBucket(n, window)
		case provider.Sliding:
			u.limiters[x] = sim.NewSlidingWindow(n, window)
		case provider.Fixed:
			l.Reset = pool.Time(rapid.Int64Range(int64(time.Second), int64(window)).Draw(t, "reset"))
			u.limiters[x] = sim.NewFixedWindow(n, window, time.Duration(l.Reset))
		}
		limits = append(limits, l)
	}
	p, err := newPool(setup{
		Dialect: d, Flat: true, StartWithin: u.delta,
		Groups: []pool.Group{{Name: "g", Limits: limits}}, Keys: []pool.Key{{ID: "k", Group: "g"}},
	})
	require.NoError(t, err)
	u.pool = p
	return u
}

func (u *upstream) in(d time.Duration, f func()) {
	u.events = append(u.events, event{u.now.Add(d), f})
}

// advance lets what is due happen, in its order.
func (u *upstream) advance(d time.Duration) {
	until := u.now.Add(d)
	for len(u.events) > 0 {
		i := 0
		for j := range u.events {
			if u.events[j].at < u.events[i].at {
				i = j
			}
		}
		e := u.events[i]
		if e.at > until {
			break
		}
		u.events = slices.Delete(u.events, i, i+1)
		u.now = max(u.now, e.at)
		e.do()
	}
	u.now = until
}

// part draws what may be anything up to most, and is an extreme more often than
// not.
func (u *upstream) part(what string, most int64) int64 {
	switch rapid.IntRange(0, 3).Draw(u.T, what) {
	case 0:
		return 0
	case 1:
		return most
	}
	return rapid.Int64Range(0, most).Draw(u.T, what)
}

func (u *upstream) while(what string, most time.Duration) time.Duration {
	return time.Duration(u.part(what, int64(most)))
}

// use counts an amount at the provider, which must have room for it, unless
// somebody else is about.
func (u *upstream) use(d provider.Dimension, n int64) {
	l := u.limiters[d]
	if l == nil || n == 0 || l.Take(time.Duration(u.now), n) || u.foreign {
		return
	}
	u.Fatalf("at %v: the provider refuses %d of %v, has %d of %d",
		time.Duration(u.now), n, d, l.Remaining(time.Duration(u.now)), u.limits[d])
}

// headers is what the provider says of its limits now.
func (u *upstream) headers() (s provider.Signal) {
	for d, l := range u.limiters {
		r := max(l.Remaining(time.Duration(u.now)), 0)
		r = min((r+u.rounding/2)/u.rounding*u.rounding, u.limits[d])
		s.Windows = append(s.Windows, provider.Window{
			Dimension: d, Length: u.window, Limit: u.limits[d], Remaining: r, Rounding: u.rounding, Reset: provider.Unknown,
		})
	}
	slices.SortFunc(s.Windows, func(a, b provider.Window) int { return cmp.Compare(a.Dimension, b.Dimension) })
	return s
}

// lags are how late a report may be.
var lags = []time.Duration{0, 0, 50 * time.Millisecond, time.Second, 10 * time.Second, 40 * time.Second}

// call leases and lets all that follows happen in its time.
func (u *upstream) call() {
	amounts := u.dialect.Reserve(provider.Demand{
		InputTokens:     rapid.Int64Range(0, 20).Draw(u.T, "input"),
		MaxOutputTokens: rapid.Int64Range(0, 20).Draw(u.T, "output"),
	})
	holder := rapid.SampledFrom([]string{"h1", "h2", "h3"}).Draw(u.T, "holder")
	g, err := u.pool.Acquire(u.now, pool.Ask{Holder: holder, TTL: 2 * time.Minute, Amounts: amounts})
	if err != nil || g.Probe { // which may cost a refusal, its own or another's
		return
	}
	used := amounts
	for d, n := range amounts {
		if !u.dialect.Kept[d] && provider.Dimension(d) != provider.Requests {
			used[d] = n - u.part("spared", n)
		}
	}
	report := func(lag time.Duration, s provider.Signal, used provider.Amounts, final bool) {
		u.in(lag, func() {
			_, _ = u.pool.Report(u.now, g.Lease, holder, s, used, final) // it may have ended
		})
	}
	// What counts while the answer is written is promised for half a window.
	answer := u.while("answer", 25*time.Second-u.delta)
	u.in(u.while("sent", u.delta-1), func() {
		for d := range provider.Concurrency {
			if !u.dialect.Held[d] {
				u.use(d, used[d])
				continue
			}
			part := u.part("part", used[d])
			u.in(answer/2, func() { u.use(d, part) })
			u.in(answer, func() { u.use(d, used[d]-part) })
		}
		for range rapid.IntRange(0, 2).Draw(u.T, "copies") {
			report(rapid.SampledFrom(lags).Draw(u.T, "lag"), u.headers(), unknown, false)
		}
		u.in(answer, func() {
			if rapid.IntRange(0, 5).Draw(u.T, "lost") > 0 {
				report(rapid.SampledFrom(lags).Draw(u.T, "lag"), u.headers(), used, true)
			}
		})
	})
}

func (u *upstream) run() {
	for range rapid.SampledFrom([]int{20, 60, 150}).Draw(u.T, "steps") {
		switch rapid.IntRange(0, 9).Draw(u.T, "step") {
		case 0, 1, 2, 7, 8, 9:
			u.call()
		case 3:
			u.advance(u.while("while", time.Second))
		case 4, 5:
			u.advance(u.while("long while", 10*time.Second))
		case 6:
			if u.foreign {
				for d := range provider.Concurrency {
					if n := rapid.Int64Range(0, u.limits[d]).Draw(u.T, "foreign"); u.limiters[d] != nil {
						u.limiters[d].Take(time.Duration(u.now), n)
					}
				}
			}
		}
	}
}

func TestHeadersNeverLoosenBeyondTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := newUpstream(t, time.Minute, false)
		u.run()
		u.advance(2 * time.Minute)
	})
}

// Whatever was said, reserved and used by others: once all is quiet, a few prompt
// answers bring the engine's figure to the provider's, however long the window.
func TestHeadersNeverLeaveItStuckLow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := newUpstream(t, time.Hour, true)
		u.run()
		u.advance(4 * time.Minute) // all reports are in, all leases at an end
		for i := range 6 {
			holder := []string{"last", "another"}[i%2] // what loosens takes two
			g, err := u.pool.Acquire(u.now, pool.Ask{Holder: holder, TTL: time.Minute, Amounts: provider.Amounts{1, 1, 1, 1}})
			if err != nil {
				return // what was reserved and never reported counts as used
			}
			for _, l := range u.limiters {
				l.Take(time.Duration(u.now), 1) // if the others left any
			}
			_, err = u.pool.Report(u.now, g.Lease, holder, u.headers(), provider.Amounts{1, 1, 1, 1}, true)
			require.NoError(u, err)
			u.advance(10 * time.Second)
		}
		for _, l := range u.pool.Inspect(u.now, "").Quotas[0].Limits {
			limiter := u.limiters[l.Dimension]
			if limiter == nil || l.Kind == provider.Fixed && l.ResetAt <= u.now+2*sec { // it may have been reset already
				continue
			}
			truth := max(limiter.Remaining(time.Duration(u.now)), 0)
			slack := 3 + 2*u.rounding + l.Limit*int64(2*u.delta+10*time.Second)/int64(u.window)
			if truth > 0 && (l.Remaining < truth-slack || l.Remaining > truth+slack) {
				u.Fatalf("at %v the provider has %d of %v left, and we think %+v", time.Duration(u.now), truth, l.Dimension, l)
			}
		}
	})
}
