package config

import (
	"cmp"
	"encoding/json"
	"slices"
)

// Effective returns a copy with every default written out, to show what the broker really does: it marshals to YAML and to JSON,
// always in the same order, with each key as a constant. Limits that are not configured are left out, as 0 would read like "none
// allowed".
func (c *Config) Effective() *Config {
	out := *c
	out.Pooling.Strategy = ProviderConfig{}.GetEffectiveStrategy(c.Pooling.Strategy)
	out.Providers = slices.Clone(c.Providers)
	for i := range out.Providers {
		p := &out.Providers[i]
		p.Pooling = PoolingConfig{Strategy: p.GetEffectiveStrategy(c.Pooling.Strategy), Enabled: new(p.IsPoolingEnabled())}
		p.Enabled = new(p.IsEnabled())
		p.Pools = slices.Clone(p.Pools)
		for j := range p.Pools {
			pool := &p.Pools[j]
			pool.Pooling = PoolingConfig{Strategy: cmp.Or(pool.Pooling.Strategy, p.Pooling.Strategy), Enabled: new(pool.Pooling.IsEnabled(len(p.Keys)))}
		}
		p.Keys = append([]KeyConfig{}, p.Keys...) // Never nil: JSON would say null.
		for j := range p.Keys {
			k := &p.Keys[j]
			k.Priority, k.Weight = new(k.GetPriority()), k.GetWeight()
			if len(k.KeyExec) > 1 {
				k.KeyExec = []string{k.KeyExec[0], "(arguments not shown)"}
			}
		}
	}
	return &out
}

// MarshalJSON writes durations as the file has them, such as "2s", and not as nanoseconds.
func (s ServerConfig) MarshalJSON() ([]byte, error) {
	type plain ServerConfig // Without this method.
	return json.Marshal(struct {
		plain
		DrainTimeout string `json:"drain_timeout"`
	}{plain(s), s.DrainTimeout.String()})
}

// MarshalJSON writes durations as the file has them, such as "2s", and not as nanoseconds.
func (l LeaseConfig) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		StartWithin string `json:"start_within"`
		DefaultTTL  string `json:"default_ttl"`
		MaxTTL      string `json:"max_ttl"`
		MaxWait     string `json:"max_wait"`
	}{l.StartWithin.String(), l.DefaultTTL.String(), l.MaxTTL.String(), l.MaxWait.String()})
}
