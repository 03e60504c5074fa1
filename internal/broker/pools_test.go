package broker_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// errSeen ends a watch.
var errSeen = errors.New("seen")

// twoPools is a domain with two pools: "a" draws on the key x, and "batch" on the key y.
func twoPools() broker.DomainConfig {
	cfg := onePool("a", plenty, plenty)
	x, y := cfg.Keys[0], cfg.Keys[0]
	x.ID, y.ID = "x", "y"
	cfg.Keys = []pool.Key{x, y}
	cfg.Pools = append(cfg.Pools, cfg.Pools[0])
	cfg.Pools[0].Groups = []string{"x"}
	cfg.Pools[1].Name, cfg.Pools[1].Groups = "batch", []string{"y"}
	return cfg
}

// answers leases a key of a pool and reports what the provider answered.
func (p *process) answers(pool string, r provider.Response) {
	p.Helper()
	l, err := p.Acquire(p.Context(), broker.Request{Holder: "h", Pool: pool})
	require.NoError(p, err)
	_, _, err = p.Report(p.Context(), "h", l.ID, broker.Report{Response: r, Usage: provider.NoUsage, Final: true})
	require.NoError(p, err)
}

// healthOf is the health of each key of a pool.
func (p *process) healthOf(name string) (all []pool.Health) {
	p.Helper()
	v, err := p.Inspect(name, pool.Query{})
	require.NoError(p, err)
	for _, k := range v.Snapshot.Keys {
		all = append(all, k.Health)
	}
	return all
}

// Who may restore keys of one pool restores none of another pool of the same domain.
func TestRestoreStaysWithinThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, &broker.Memory{}, twoPools())
		for _, name := range []string{"a", "batch"} {
			p.answers(name, refused.Response)
			require.Equal(t, []pool.Health{pool.Suspect}, p.healthOf(name))
		}
		require.ErrorIs(t, p.Restore("batch", "x"), broker.ErrUnknownKey)
		require.NoError(t, p.Restore("batch", ""))
		assert.Equal(t, []pool.Health{pool.Suspect}, p.healthOf("a"))
		assert.Equal(t, []pool.Health{pool.Healthy}, p.healthOf("batch"))
		require.NoError(t, p.Restore("a", "x"))
		assert.Equal(t, []pool.Health{pool.Healthy}, p.healthOf("a"))
	})
}

func TestAPoolHasTheKeysOfItsGroups(t *testing.T) {
	cfg := twoPools()
	cfg.Pools = append(cfg.Pools, cfg.Pools[0])
	cfg.Pools[2].Name, cfg.Pools[2].Groups = "all", nil
	p := begin(t, &broker.Memory{}, cfg)
	for _, c := range []struct {
		pool, key string
		has       bool
	}{
		{"a", "x", true},
		{"a", "y", false},
		{"a", "", true},
		{"batch", "x", false},
		{"batch", "y", true},
		{"all", "x", true},
		{"all", "y", true},
		{"all", "z", false},
		{"none", "", false},
	} {
		assert.Equal(t, c.has, p.Has(c.pool, c.key), "%+v", c)
	}
}

// A warning about a quota group is shown in the pools that draw on it.
func TestWarningsAreAboutThePoolsGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t, &broker.Memory{}, twoPools())
		fine := provider.Response{Status: 200, Header: http.Header{"Anthropic-Organization-Id": {"one"}}}
		p.answers("batch", fine)
		p.answers("a", fine) // the second of an organization is the one that the warning is about
		warned := map[string]int{}
		for _, name := range []string{"a", "batch"} {
			v, err := p.Inspect(name, pool.Query{})
			require.NoError(t, err)
			warned[name] = len(v.Snapshot.Warnings)
			err = p.Watch(t.Context(), name, pool.Query{}, time.Second, func(c broker.Changes) error {
				assert.Len(t, c.Snapshot.Warnings, warned[name])
				return errSeen
			})
			require.ErrorIs(t, err, errSeen)
		}
		assert.Equal(t, map[string]int{"a": 1, "batch": 0}, warned)
	})
}
