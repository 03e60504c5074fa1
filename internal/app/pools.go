package app

import (
	"cmp"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const day = 24 * time.Hour

// Domains turns a configuration into domains, one for each provider. Providers that are
// switched off are left out, as pools and as fallbacks.
func Domains(cfg *config.Config) (domains []broker.DomainConfig) {
	enabled := map[string]bool{}
	for _, p := range cfg.Providers {
		enabled[p.Name] = p.IsEnabled()
		for _, further := range p.Pools {
			enabled[further.Name] = p.IsEnabled()
		}
	}
	for _, p := range cfg.Providers {
		if !p.IsEnabled() {
			continue
		}
		d := domainConfig(&p)
		own := config.PoolConfig{Name: p.Name, Models: p.Models, Pooling: p.Pooling, Fallback: p.Fallback, Lease: p.Lease}
		for _, c := range append([]config.PoolConfig{own}, p.Pools...) {
			d.Pools = append(d.Pools, poolConfig(&p, &c, cfg.Pooling.Strategy, enabled))
		}
		domains = append(domains, d)
	}
	return domains
}

// poolConfig is one pool of a provider. strategy is that of pools which name none.
func poolConfig(p *config.ProviderConfig, c *config.PoolConfig, strategy string, enabled map[string]bool) broker.PoolConfig {
	pc := broker.PoolConfig{
		Rules: pool.Rules{
			Name: c.Name, Models: c.Models, Groups: c.Groups,
			Strategy: cmp.Or(c.Pooling.Strategy, p.GetEffectiveStrategy(strategy)), Single: !c.Pooling.IsEnabled(len(p.Keys)),
			StartWithin: c.Lease.StartWithin,
		},
		BaseURL:    p.BaseURL,
		DefaultTTL: c.Lease.DefaultTTL, MaxTTL: c.Lease.MaxTTL, MaxWait: c.Lease.MaxWait,
	}
	for _, name := range c.Fallback {
		if enabled[name] {
			pc.Fallback = append(pc.Fallback, name)
		}
	}
	return pc
}

func domainConfig(p *config.ProviderConfig) broker.DomainConfig {
	dialect, _ := provider.Lookup(p.Type) // the configuration has checked it
	pc := broker.DomainConfig{Config: pool.Config{
		Name: p.Name, Dialect: dialect, Flat: p.FlatLimits, Seed: uint64(time.Now().UnixNano()),
	}}
	for _, c := range p.ModelClasses {
		pc.Classes = append(pc.Classes, pool.Class{Name: c.Name, Models: c.Models, Limits: limits(&c.Limits, dialect)})
	}
	for _, g := range p.Groups {
		pc.Groups = append(pc.Groups, pool.Group{Name: g.Name, Limits: shared(limits(&g.Limits, dialect))})
	}
	for _, k := range p.Keys {
		pc.Keys = append(pc.Keys, pool.Key{
			ID: k.ID, Group: k.Group, Priority: k.GetPriority(), Weight: k.GetWeight(), Limits: shared(limits(&k.Limits, dialect)),
		})
	}
	return pc
}

// shared makes a group's or key's limit on calls at a time hold for all models
// together. Providers count everything else by model.
func shared(limits []pool.Limit) []pool.Limit {
	for i := range limits {
		limits[i].Shared = limits[i].Dimension == provider.Concurrency
	}
	return limits
}

// limits lists the limits that are set. The legacy tpm_limit is one account
// where the provider counts that way, the input's where it limits nothing else,
// and is split elsewhere.
func limits(l *config.Limits, d *provider.Dialect) []pool.Limit {
	itpm, otpm, tpm := l.ITPMLimit, l.OTPMLimit, l.TPMLimit
	switch {
	case !d.CombinedTokens:
		itpm, otpm = l.GetEffectiveTPM()
		tpm = 0
	case tpm > 0 && itpm == 0 && slices.Contains(d.Limited, provider.InputTokens) && !slices.Contains(d.Limited, provider.Tokens):
		itpm, tpm = tpm, 0
	}
	var all []pool.Limit
	for _, x := range []pool.Limit{
		{Dimension: provider.Requests, Window: time.Minute, Amount: l.RPMLimit},
		{Dimension: provider.InputTokens, Window: time.Minute, Amount: itpm},
		{Dimension: provider.OutputTokens, Window: time.Minute, Amount: otpm},
		{Dimension: provider.Tokens, Window: time.Minute, Amount: tpm},
		{Dimension: provider.Requests, Window: day, Amount: l.RPDLimit},
		{Dimension: provider.Tokens, Window: day, Amount: l.TPDLimit},
		{Dimension: provider.Concurrency, Amount: l.MaxConcurrency},
	} {
		if x.Amount > 0 {
			x.Kind = d.Kind
			all = append(all, x)
		}
	}
	return all
}
