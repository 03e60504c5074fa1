package pool_test

// The words in which this package's tests tell their stories: a pool, a moment,
// and what holders do and get.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	sec    = pool.Time(time.Second)
	minute = 60 * sec
	plenty = 1_000_000_000 // a limit that never binds
)

func dialect(t testing.TB, typ string) *provider.Dialect {
	d, ok := provider.Lookup(typ)
	require.True(t, ok)
	return d
}

// limits are those that Anthropic has, by the minute.
func limits(requests, input, output int64) []pool.Limit {
	var ls []pool.Limit
	for d, n := range []int64{requests, input, output} {
		ls = append(ls, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	return ls
}

// rpm limits requests only.
func rpm(n int64) []pool.Limit { return limits(n, plenty, plenty) }

func slots(n int64) pool.Limit { return pool.Limit{Dimension: provider.Concurrency, Amount: n} }

// setup is a domain of one pool.
type setup struct {
	Dialect     *provider.Dialect
	Strategy    string
	Models      []string
	Flat        bool
	Single      bool
	Classes     []pool.Class
	Groups      []pool.Group
	Keys        []pool.Key
	StartWithin time.Duration
	Seed        uint64
}

func (s setup) config() pool.Config {
	return pool.Config{
		Dialect: s.Dialect, Flat: s.Flat, Classes: s.Classes, Groups: s.Groups, Keys: s.Keys, Seed: s.Seed,
		Pools: []pool.Rules{{Strategy: s.Strategy, Models: s.Models, Single: s.Single, StartWithin: s.StartWithin}},
	}
}

func newPool(s setup) (*pool.Domain, error) { return pool.New(s.config()) }

// story is a pool at a moment. Unless it says otherwise, the request of a lease
// must be sent at once, which makes for round numbers.
type story struct {
	*testing.T
	*pool.Domain
	now     pool.Time
	keys    []pool.Key
	journal *journal
}

func begin(t *testing.T, cfg setup) *story {
	cfg.Flat = len(cfg.Classes) == 0 && len(cfg.Models) == 0
	if cfg.Dialect == nil {
		cfg.Dialect = dialect(t, "anthropic")
	}
	p, err := newPool(cfg)
	require.NoError(t, err)
	return &story{T: t, Domain: p, keys: cfg.Keys, journal: newJournal(1, nil)}
}

// ask is for one request and what else is said.
func ask(holder string, more ...func(*pool.Ask)) pool.Ask {
	a := pool.Ask{Holder: holder, TTL: time.Hour, Amounts: provider.Amounts{provider.Requests: 1, provider.Concurrency: 1}}
	for _, f := range more {
		f(&a)
	}
	return a
}

func input(n int64) func(*pool.Ask) {
	return func(a *pool.Ask) { a.Amounts[provider.InputTokens] = n }
}

func output(n int64) func(*pool.Ask) {
	return func(a *pool.Ask) { a.Amounts[provider.OutputTokens] = n }
}

func model(m string) func(*pool.Ask) { return func(a *pool.Ask) { a.Model = m } }

func without(keys ...string) func(*pool.Ask) {
	return func(a *pool.Ask) { a.Exclude = keys }
}

// request makes the ask one that may be repeated.
func request(id string) func(*pool.Ask) { return func(a *pool.Ask) { a.Request = id } }

// lease gets one, now.
func (s *story) lease(holder string, more ...func(*pool.Ask)) pool.Grant {
	s.Helper()
	g, err := s.Acquire(s.now, ask(holder, more...))
	require.NoError(s, err)
	return g
}

// key gets a lease and gives the name of its key.
func (s *story) key(holder string, more ...func(*pool.Ask)) string {
	s.Helper()
	return s.lease(holder, more...).Key
}

// refused asks in vain.
func (s *story) refused(holder string, more ...func(*pool.Ask)) *pool.ExhaustedError {
	s.Helper()
	_, err := s.Acquire(s.now, ask(holder, more...))
	var e *pool.ExhaustedError
	require.ErrorAs(s, err, &e)
	require.ErrorIs(s, err, pool.ErrAllKeysExhausted)
	return e
}

func (s *story) waits(holder string, more ...func(*pool.Ask)) *pool.Waiter {
	s.Helper()
	w, err := s.Wait(s.now, ask(holder, more...))
	require.NoError(s, err)
	return w
}

// serves gives who is served now, and when to look again.
func (s *story) serves() (holders []string, wake pool.Time) {
	served, wake := s.Next(s.now)
	for _, w := range served {
		holders = append(holders, w.Ask.Holder)
	}
	return holders, wake
}

// answers reports an answer that does not end the lease.
func (s *story) answers(g pool.Grant, holder string, answer provider.Signal) {
	s.Helper()
	_, err := s.Report(s.now, g.Lease, holder, answer, unknown, false)
	require.NoError(s, err)
}

// ends reports the last of a lease: the answer and all that was used.
func (s *story) ends(g pool.Grant, holder string, answer provider.Signal, used provider.Amounts) {
	s.Helper()
	_, err := s.Report(s.now, g.Lease, holder, answer, used, true)
	require.NoError(s, err)
}

var (
	unknown = provider.Amounts{provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown}
	fine    = provider.Signal{}
	invalid = provider.Signal{Class: provider.AuthInvalid, Scope: provider.KeyScope}
)

// limited is a 429 that states a wait, or none.
func limited(wait time.Duration) provider.Signal {
	s := provider.Signal{Class: provider.RateLimited, Scope: provider.ClassScope, Wait: wait}
	if wait > 0 {
		s.Source = provider.RetryAfter
	}
	return s
}

// states is an answer whose headers give a limit by the minute.
func states(d provider.Dimension, limit, remaining int64) provider.Signal {
	return provider.Signal{Windows: []provider.Window{
		{Dimension: d, Length: time.Minute, Limit: limit, Remaining: remaining, Rounding: 1},
	}}
}
