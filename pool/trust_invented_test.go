package pool_test

// Where no limit is configured, limits are learned from answers. Whoever invents many must
// neither open the account nor keep the true ones from being learned.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// policies is how many limits one report invents.
const policies = 15

// invented are limits that no provider has: each has a name of its own.
func invented(d *provider.Dialect, limit func(i int) int64, length func(i int) time.Duration) (ws []provider.Window) {
	var limited []provider.Dimension // by the time
	for _, x := range d.Limited {
		if x != provider.Concurrency {
			limited = append(limited, x)
		}
	}
	for i := range policies {
		if len(limited) == 0 {
			break
		}
		ws = append(ws, provider.Window{
			Dimension: limited[i%len(limited)], Name: fmt.Sprint("policy ", i), Length: length(i), Kind: d.Kind,
			Limit: limit(i), Remaining: limit(i), Rounding: 1, Reset: provider.Unknown,
		})
	}
	return ws
}

// allLeases takes all there are for one holder, and returns how many.
func (s *story) allLeases(holder string) (n int) {
	for n < 1000 {
		if _, err := s.Acquire(s.now, ask(holder, input(1), output(1), bothTokens(2))); err != nil {
			break
		}
		n++
	}
	return n
}

func bothTokens(n int64) func(*pool.Ask) {
	return func(a *pool.Ask) { a.Amounts[provider.Tokens] = n }
}

// An answer that states 15 policies opens no more leases than one that states nothing.
func TestInventedLimitsDoNotEndTheCarefulStart(t *testing.T) {
	lengths := map[string]func(int) time.Duration{
		"minutes":         func(int) time.Duration { return time.Minute },
		"many lengths":    func(i int) time.Duration { return time.Duration(i+1) * time.Second },
		"without lengths": func(int) time.Duration { return 0 },
	}
	for _, typ := range provider.Types() {
		d := dialect(t, typ)
		for name, length := range lengths {
			for _, final := range []bool{false, true} {
				t.Run(fmt.Sprint(typ, " ", name, " final ", final), func(t *testing.T) {
					opens := func(s provider.Signal) int {
						w := begin(t, setup{Dialect: d, Keys: []pool.Key{{ID: "k"}}, StartWithin: 2 * time.Second})
						g := w.lease("liar", input(1), output(1), bothTokens(2))
						before := w.allLeases("honest")
						require.Less(t, before, 1000, "the start is careful")
						_, err := w.Report(w.now, g.Lease, "liar", s, unknown, final)
						require.NoError(t, err)
						return before + w.allLeases("honest")
					}
					windows := invented(d, func(int) int64 { return plenty }, length)
					assert.LessOrEqual(t, opens(provider.Signal{Windows: windows}), opens(fine))
				})
			}
		}
	}
}

// market is an account without configured limits at a provider that allows so many requests
// a minute and says so. Its honest holders take what they get.
type market struct {
	*testing.T
	pool     *pool.Domain
	dialect  *provider.Dialect
	provider sim.Limiter
	now      pool.Time
	served   int64 // by the provider
	refused  int64
	probes   int64 // of the leases that the provider refused
}

const trueLimit = 299

// call asks for a lease and calls the provider with it at once.
func (m *market) call(holder string) (ok bool) {
	a := ask(holder, input(1), output(1), bothTokens(2))
	g, err := m.pool.Acquire(m.now, a)
	if err != nil {
		return false
	}
	at := time.Duration(m.now)
	ok = m.provider.Take(at, 1)
	s := provider.Signal{Windows: []provider.Window{{
		Dimension: provider.Requests, Length: time.Minute, Kind: m.dialect.Kind, Limit: trueLimit,
		Remaining: m.provider.Remaining(at), Rounding: 1, Reset: provider.Unknown,
	}}}
	for _, d := range m.dialect.Limited {
		if d != provider.Requests && d != provider.Concurrency {
			s.Windows = append(s.Windows, provider.Window{Dimension: d, Length: time.Minute, Kind: m.dialect.Kind, Limit: plenty, Remaining: plenty, Rounding: 1, Reset: provider.Unknown})
		}
	}
	used := a.Amounts
	if ok {
		m.served++
	} else {
		m.refused++
		if g.Probe {
			m.probes++
		}
		s.Class, s.Scope, s.Wait, s.Source = provider.RateLimited, provider.ClassScope, max(m.provider.Until(at, 1), time.Millisecond), provider.RetryAfter
		used = provider.Amounts{}
	}
	_, err = m.pool.Report(m.now, g.Lease, holder, s, used, true)
	require.NoError(m, err)
	return ok
}

// run has the holders take what they get for ten minutes. The liar states its limits in an
// answer before all others, and perhaps again and again.
func (m *market) run(lies []provider.Window, again bool) {
	m.lie(lies)
	m.call("h1") // now the true limit has been stated
	const step = 200 * pool.Time(time.Millisecond)
	for range 10 * minute / step {
		m.now += step
		if again && m.now%(10*sec) == 0 {
			m.lie(lies)
		}
		for more := true; more; {
			more = false
			for _, h := range []string{"h1", "h2", "h3"} {
				more = m.call(h) || more
			}
		}
	}
}

// lie takes a lease, calls the provider with it, and states limits that nobody has.
func (m *market) lie(lies []provider.Window) {
	g, err := m.pool.Acquire(m.now, ask("liar", input(1), output(1), bothTokens(2)))
	if err != nil {
		return
	}
	if m.provider.Take(time.Duration(m.now), 1) {
		m.served++
	}
	_, err = m.pool.Report(m.now, g.Lease, "liar", provider.Signal{Windows: lies}, unknown, true)
	require.NoError(m, err)
}

// After honest answers have stated the true limit, the grants of ten minutes stay near it,
// whatever limits somebody invents beside it: the provider refuses next to nothing but probes,
// of which a dispute has one every few seconds. Small ones may keep much of it unused, until
// it is known that they are invented.
func TestInventedLimitsHideNoTrueOne(t *testing.T) {
	for _, typ := range []string{"anthropic", "openai", "generic", "github"} {
		d := pool.Exact(typ)
		for name, lies := range map[string][]provider.Window{
			"none":                       nil,
			"large ones by the minute":   invented(d, func(int) int64 { return plenty }, func(int) time.Duration { return time.Minute }),
			"large ones of many lengths": invented(d, func(int) int64 { return plenty }, func(i int) time.Duration { return time.Minute + time.Duration(i)*time.Second }),
			"large ones without lengths": invented(d, func(int) int64 { return plenty }, func(int) time.Duration { return 0 }),
			"some above the true one":    invented(d, func(i int) int64 { return trueLimit + int64(1+i*100) }, func(i int) time.Duration { return time.Minute + time.Duration(i)*time.Second }),
			"small ones":                 invented(d, func(i int) int64 { return int64(1 + i) }, func(i int) time.Duration { return time.Minute + time.Duration(i)*time.Second }),
			"small ones by the day":      invented(d, func(i int) int64 { return int64(1 + i) }, func(i int) time.Duration { return day + time.Duration(i)*time.Second }),
		} {
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprint(typ, " ", name, " again ", again), func(t *testing.T) {
					p, err := newPool(setup{Dialect: d, Flat: true, StartWithin: 2 * time.Second, Keys: []pool.Key{{ID: "k"}}})
					require.NoError(t, err)
					truth := account{limit: pool.Limit{Amount: trueLimit, Window: time.Minute, Kind: d.Kind, Reset: 17 * sec}}
					m := &market{T: t, pool: p, dialect: d, provider: truth.provider()}
					m.run(lies, again)
					t.Logf("served %d, refused %d, of them probes %d", m.served, m.refused, m.probes)
					assert.LessOrEqual(t, m.refused-m.probes, int64(10), "refused, and no probes")
					assert.LessOrEqual(t, m.probes, int64(10*60/5), "probes that were refused")
					if !strings.HasPrefix(name, "small") {
						assert.GreaterOrEqual(t, m.served, int64(10*trueLimit*3/4), "served")
					}
				})
			}
		}
	}
}
