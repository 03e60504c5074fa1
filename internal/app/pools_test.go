package app_test

// From a configuration to pools, and to the accounts of a simulated provider.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/pool"
)

// parse reads providers as a file would have them.
func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text), plaintext())
	require.NoError(t, err)
	return cfg
}

// plaintext are options for files that do not say how they are served.
func plaintext() config.Options {
	o := app.ConfigOptions()
	o.Plaintext = true
	return o
}

// provide is a file with one provider.
func provide(t *testing.T, typ, rest string) *config.Config {
	t.Helper()
	return parse(t, "store: {type: memory}\nproviders:\n- name: p\n  type: "+typ+"\n  "+rest)
}

func limit(d provider.Dimension, window time.Duration, n int64, k provider.Kind) pool.Limit {
	return pool.Limit{Dimension: d, Window: window, Amount: n, Kind: k}
}

func TestLimitsBecomeBuckets(t *testing.T) {
	const minute, day, refilling, sliding = time.Minute, 24 * time.Hour, provider.Refilling, provider.Sliding
	for _, c := range []struct {
		name, typ, key string
		want           []pool.Limit
	}{
		{"none: all are learned", "anthropic", "", nil},
		{"each by itself", "anthropic", "rpm_limit: 10, itpm_limit: 20, otpm_limit: 30, max_concurrency: 4", []pool.Limit{
			limit(provider.Requests, minute, 10, refilling), limit(provider.InputTokens, minute, 20, refilling),
			limit(provider.OutputTokens, minute, 30, refilling), {Dimension: provider.Concurrency, Amount: 4, Kind: refilling, Shared: true}}},
		{"by the day", "anthropic", "rpd_limit: 5, tpd_limit: 6", []pool.Limit{
			limit(provider.Requests, day, 5, refilling), limit(provider.Tokens, day, 6, refilling)}},
		{"legacy tpm is split, and no token lost", "anthropic", "tpm_limit: 1001", []pool.Limit{
			limit(provider.InputTokens, minute, 501, refilling), limit(provider.OutputTokens, minute, 500, refilling)}},
		{"legacy tpm yields to itpm", "anthropic", "tpm_limit: 1000, itpm_limit: 70", []pool.Limit{
			limit(provider.InputTokens, minute, 70, refilling)}},
		{"tpm is one account where the provider has one", "openai", "rpm_limit: 3, tpm_limit: 1001", []pool.Limit{
			limit(provider.Requests, minute, 3, refilling), limit(provider.Tokens, minute, 1001, refilling)}},
		{"what is unknown counts in the strictest way", "generic", "rpm_limit: 3, tpm_limit: 9", []pool.Limit{
			limit(provider.Requests, minute, 3, sliding), limit(provider.Tokens, minute, 9, sliding)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fields := "key: sk-cnry7f3a-app-1"
			if c.key != "" {
				fields += ", " + c.key
			}
			pools := app.Domains(provide(t, c.typ, "base_url: http://x.test\n  keys:\n  - {"+fields+"}"))
			require.Len(t, pools, 1)
			assert.Equal(t, c.want, pools[0].Keys[0].Limits)
		})
	}
}

func TestPoolsTakeOverWhatIsConfigured(t *testing.T) {
	cfg := parse(t, `
pooling: {strategy: random}
providers:
- name: first
  type: anthropic
  base_url: https://x.test/api
  models: [m1, m2, m3]
  fallback: [off, second]
  lease: {start_within: 1s, default_ttl: 3s, max_ttl: 4s, max_wait: 5s}
  classes:
  - {name: c, models: [m1, m2], rpm_limit: 7}
  groups:
  - {name: org, rpm_limit: 8}
  keys:
  - {id: one, key: sk-cnry7f3a-app-1, group: org, priority: 2, itpm_limit: 9}
  - {id: two, key: sk-cnry7f3a-app-2, weight: 5}
  pools:
  - {name: further, groups: [two], models: [m1], pooling: {strategy: weighted, enabled: false}, fallback: [first], lease: {max_wait: 1m}}
  - {name: same}
- name: off
  type: openai
  enabled: false
  keys: [{key: sk-cnry7f3a-app-3}]
- name: second
  type: openai
  flat_limits: true
  pooling: {strategy: weighted}
  keys: [{id: k, key: sk-cnry7f3a-app-4}]
`)
	pools := app.Domains(cfg)
	require.Equal(t, []string{"first", "second"}, []string{pools[0].Name, pools[1].Name}, "a provider that is switched off is no pool")
	first, second := pools[0], pools[1]
	rpm := func(n int64) []pool.Limit {
		return []pool.Limit{limit(provider.Requests, time.Minute, n, provider.Refilling)}
	}
	assert.Equal(t, []string{"second"}, first.Pools[0].Fallback, "nor a fallback")
	assert.Equal(t, []string{"m1", "m2", "m3"}, first.Pools[0].Models)
	assert.Equal(t, []pool.Class{{Name: "c", Models: []string{"m1", "m2"}, Limits: rpm(7)}}, first.Classes)
	assert.Equal(t, []pool.Group{{Name: "org", Limits: rpm(8)}}, first.Groups)
	assert.Equal(t, []pool.Key{
		{ID: "one", Group: "org", Priority: 2, Weight: 1, Limits: []pool.Limit{limit(provider.InputTokens, time.Minute, 9, provider.Refilling)}},
		{ID: "two", Priority: 1, Weight: 5},
	}, first.Keys)
	assert.Equal(t, []time.Duration{1e9, 3e9, 4e9, 5e9}, []time.Duration{first.Pools[0].StartWithin, first.Pools[0].DefaultTTL, first.Pools[0].MaxTTL, first.Pools[0].MaxWait})
	assert.Equal(t, "https://x.test/api", first.Pools[0].BaseURL)
	assert.Equal(t, "https://api.openai.com/v1", second.Pools[0].BaseURL, "the type's own")
	assert.Equal(t, []string{"random", "weighted"}, []string{first.Pools[0].Strategy, second.Pools[0].Strategy})
	assert.Equal(t, []bool{false, true}, []bool{first.Flat, second.Flat})
	further, same := first.Pools[1], first.Pools[2]
	assert.Equal(t, pool.Rules{Name: "further", Groups: []string{"two"}, Models: []string{"m1"}, Strategy: "weighted", Single: true, StartWithin: 1e9}, further.Rules)
	assert.Equal(t, []string{"first"}, further.Fallback)
	assert.Equal(t, []time.Duration{3e9, 4e9, 60e9}, []time.Duration{further.DefaultTTL, further.MaxTTL, further.MaxWait})
	assert.Equal(t, []string{"random", "https://x.test/api"}, []string{same.Strategy, same.BaseURL})
	assert.Equal(t, []string{"m1", "m2", "m3"}, same.Models)
	values := map[app.KeyName]string{}
	for name, value := range app.Keys(cfg) {
		values[name] = value.Reveal()
	}
	assert.Equal(t, map[app.KeyName]string{
		{Pool: "first", ID: "one"}: "sk-cnry7f3a-app-1", {Pool: "first", ID: "two"}: "sk-cnry7f3a-app-2", {Pool: "second", ID: "k"}: "sk-cnry7f3a-app-4",
		{Pool: "further", ID: "one"}: "sk-cnry7f3a-app-1", {Pool: "further", ID: "two"}: "sk-cnry7f3a-app-2", {Pool: "same", ID: "one"}: "sk-cnry7f3a-app-1", {Pool: "same", ID: "two"}: "sk-cnry7f3a-app-2",
	}, values)
}

func TestWithoutPoolingOnlyTheFirstKeyIsLeased(t *testing.T) {
	for _, c := range []struct {
		name, rest string
		want       bool
	}{
		{"one key", "keys: [{key: sk-cnry7f3a-app-1}]", true},
		{"one key and pooling", "pooling: {enabled: true}\n  keys: [{key: sk-cnry7f3a-app-1}]", false},
		{"two keys", "keys: [{key: sk-cnry7f3a-app-1}, {key: sk-cnry7f3a-app-2}]", false},
		{"two keys and no pooling", "pooling: {enabled: false}\n  keys: [{key: sk-cnry7f3a-app-1}, {key: sk-cnry7f3a-app-2}]", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			pools := app.Domains(provide(t, "anthropic", c.rest))
			assert.Equal(t, c.want, pools[0].Pools[0].Single)
		})
	}

	pools := app.Domains(provide(t, "anthropic", "flat_limits: true\n  pooling: {enabled: false}\n  keys: [{key: sk-cnry7f3a-app-1, rpm_limit: 1000}, {key: sk-cnry7f3a-app-2, rpm_limit: 1000}]"))
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	defer b.Close()
	for range 4 { // as many as the first key's limits that are not known let through
		l, err := b.Acquire(t.Context(), broker.Request{Holder: "alice", Pool: "p"})
		require.NoError(t, err)
		assert.Equal(t, pools[0].Keys[0].ID, l.Key)
	}
}

func TestTypeWithoutAnAddressNeedsOne(t *testing.T) {
	for rest, want := range map[string]string{
		"keys: [{key: sk-cnry7f3a-app-1}]":                            `test.yaml:2: provider "p": base_url is missing; type generic has no address of its own`,
		"base_url: http://x.test\n  keys: [{key: sk-cnry7f3a-app-1}]": "",
		"enabled: false\n  keys: [{key: sk-cnry7f3a-app-1}]":          "",
	} {
		_, err := config.Parse("test.yaml", []byte("providers:\n- name: p\n  type: generic\n  "+rest), plaintext())
		if want == "" {
			assert.NoError(t, err, rest)
		} else {
			assert.EqualError(t, err, want)
		}
	}
}

func TestSandboxEnforcesWhatIsConfigured(t *testing.T) {
	unstated := sandbox.Limits{RPM: 50, ITPM: 40_000, OTPM: 8_000, TPM: 0}
	with := func(change func(*sandbox.Limits)) sandbox.Limits {
		l := unstated
		change(&l)
		return l
	}
	for _, c := range []struct {
		name, typ, rest string
		want            []sandbox.Account
	}{
		{"what is not stated is there to be learned", "anthropic", "keys: [{id: k, key: sk-cnry7f3a-app-1}]",
			[]sandbox.Account{{Type: "anthropic", Name: "p-k", Keys: []string{"sk-cnry7f3a-app-1"}, Default: unstated}}},
		{"of a combined account too", "openai", "keys: [{id: k, key: sk-cnry7f3a-app-1, rpm_limit: 9}]",
			[]sandbox.Account{{Type: "openai", Name: "p-k", Keys: []string{"sk-cnry7f3a-app-1"}, Default: sandbox.Limits{RPM: 9, TPM: 40_000}}}},
		{"keys of a group share one account", "anthropic",
			"flat_limits: true\n  groups: [{name: org, rpm_limit: 7}]\n  keys: [{id: a, key: sk-cnry7f3a-app-1, group: org}, {id: b, key: sk-cnry7f3a-app-2, tpm_limit: 9}, {id: c, key: sk-cnry7f3a-app-3, group: org}]",
			[]sandbox.Account{
				{Type: "anthropic", Name: "p-org", Keys: []string{"sk-cnry7f3a-app-1", "sk-cnry7f3a-app-3"}, Flat: true, Default: with(func(l *sandbox.Limits) { l.RPM = 7 })},
				{Type: "anthropic", Name: "p-b", Keys: []string{"sk-cnry7f3a-app-2"}, Flat: true, Default: with(func(l *sandbox.Limits) { l.ITPM, l.OTPM = 5, 4 })},
			}},
		{"the tighter of class and group holds", "anthropic",
			"models: [m1, m2]\n  classes: [{name: c, models: [m1], rpm_limit: 5, itpm_limit: 90}]\n  keys: [{id: k, key: sk-cnry7f3a-app-1, rpm_limit: 6, itpm_limit: 80, max_concurrency: 3}]",
			[]sandbox.Account{{Type: "anthropic", Name: "p-k", Keys: []string{"sk-cnry7f3a-app-1"},
				Classes: []sandbox.Class{{Name: "c", Models: []string{"m1"}, Limits: with(func(l *sandbox.Limits) { l.RPM, l.ITPM, l.Concurrency = 5, 80, 3 })}},
				Default: with(func(l *sandbox.Limits) { l.RPM, l.ITPM, l.Concurrency = 6, 80, 3 }),
			}}},
		{"nothing of what is switched off", "anthropic", "enabled: false\n  keys: [{key: sk-cnry7f3a-app-1}]", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, app.SandboxAccounts(provide(t, c.typ, c.rest)))
		})
	}
}
