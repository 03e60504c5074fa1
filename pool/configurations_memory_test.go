package pool

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

// What is kept for configurations that are gone: no more than for those of the time for which
// they are remembered. One comes every hour, each with names of its own, and some that come
// again.
func TestManyConfigurationsStaySmall(t *testing.T) {
	d, _ := provider.Lookup("anthropic")
	few := []Limit{
		{Dimension: provider.Requests, Window: time.Minute, Amount: 10, Kind: provider.Refilling},
		{Dimension: provider.InputTokens, Window: time.Minute, Amount: 1000, Kind: provider.Refilling},
		{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 1000, Kind: provider.Refilling},
	}
	slots := func(n int64) Limit { return Limit{Dimension: provider.Concurrency, Amount: n} }
	config := func(i int) Config {
		cfg := Config{
			Dialect: d, Flat: i%7 == 6,
			Groups: []Group{{Name: "g", Limits: few}}, Keys: []Key{{ID: "a", Group: "g"}, {ID: fmt.Sprint("k", i), Limits: few[:1+i%3]}},
			Pools: []Rules{{Name: "p"}, {Name: fmt.Sprint("p", i)}},
		}
		switch i % 4 {
		case 1:
			cfg.Groups = append(cfg.Groups, Group{Name: fmt.Sprint("g", i), Limits: append(few, slots(3))})
			cfg.Keys = append(cfg.Keys, Key{ID: "b", Group: fmt.Sprint("g", i)})
		case 2:
			cfg.Classes = []Class{{Name: fmt.Sprint("c", i), Models: []string{"m0", "m1"}}}
		case 3:
			cfg.Classes = []Class{{Name: "d", Models: []string{"m1", "m2"}, Limits: []Limit{slots(2)}}}
		}
		return cfg
	}
	dom, err := New(config(0))
	require.NoError(t, err)
	for i := range 3000 {
		now := Time(i) * Time(time.Hour)
		for n := range 25 { // more than there is room for
			a := Ask{
				Holder: fmt.Sprint("h", i), Instance: fmt.Sprint(n), Model: fmt.Sprint("m", i%5), TTL: 30 * time.Second,
				Request: fmt.Sprint(i, n), Amounts: provider.Amounts{provider.Requests: 1, provider.Concurrency: 1},
			}
			g, err := dom.Acquire(now, a)
			if err != nil {
				a.Pool = fmt.Sprint("p", i)
				_, _ = dom.Wait(now, a)
				continue
			}
			_, err = dom.Report(now, g.Lease, a.Holder, provider.Signal{Organization: fmt.Sprint("o", i%2)}, provider.Amounts{1}, n%2 == 0)
			require.NoError(t, err)
		}
		_, err := dom.Reconfigure(now, config(i+1))
		require.NoError(t, err)
		dom.Next(now)
		for what, n := range dom.kept() {
			require.LessOrEqual(t, n, 128, "%s after %d configurations", what, i)
		}
	}
}

// kept counts what a domain keeps of those who may be gone.
func (dom *Domain) kept() map[string]int {
	n := map[string]int{
		"classes": len(dom.classes), "classes in order": len(dom.inOrder), "models": len(dom.byModel), "choices": len(dom.choices),
		"keys that are gone": len(dom.drained), "groups that are gone": len(dom.retired),
		"holders": len(dom.holders), "leases": len(dom.leases), "requests": len(dom.requests), "warnings": len(dom.warnings),
		"keys out of use": dom.resting.len(), "holds of a predecessor": dom.orphans.len(),
	}
	for _, g := range slices.Concat(dom.groups, dom.retired) {
		n["accounts of "+g.name] = len(g.accounts)
		for _, a := range g.accounts {
			n["buckets of "+g.name] = max(n["buckets of "+g.name], len(a.buckets))
		}
	}
	for _, p := range dom.pools {
		n["choices of "+p.Name] = len(p.choices)
	}
	return n
}
