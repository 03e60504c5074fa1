package app

import (
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/fleet"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sandbox"
)

// Scenarios turns the providers of a configuration into scenarios in which some services
// want all they can get of them. Groups whose limits it does not state have those that
// a sandbox would give them, which the broker has to learn. notes say what of the
// configuration is left out.
func Scenarios(cfg *config.Config, services fleet.Service) (all []*fleet.Scenario, notes []string, err error) {
	for _, p := range cfg.Providers {
		if !p.IsEnabled() {
			continue
		}
		s := fleet.New()
		s.Name, s.Provider.Type = p.Name, p.Type
		s.About = fmt.Sprintf("%d services want all they can get of the keys of %s", services.Count, p.Name)
		services.MaxWait = max(p.Lease.MaxWait, time.Millisecond) // 0 never waits
		s.Services = []fleet.Service{services}
		s.Provider.Groups = fleetGroups(&p)
		note := func(format string, args ...any) {
			notes = append(notes, fmt.Sprintf("provider %q: ", p.Name)+fmt.Sprintf(format, args...))
		}
		for _, g := range s.Provider.Groups {
			switch missing := missing(&g.Limits, p.Type); {
			case g.Unknown:
				note("the limits of %q are not stated; simulated as %s, which the broker learns", g.Name, g.Limits)
			case len(missing) > 0:
				note("of %q no limit on %s is stated; simulated without one, so the real keys may give less", g.Name, strings.Join(missing, " and "))
			}
		}
		even := p.IsPoolingEnabled() || len(p.Keys) < 2
		for _, k := range p.Keys {
			if k.Group != "" && k.Limits != (config.Limits{}) {
				note("the limits of key %q within its group are not simulated", k.ID)
			}
			even = even && k.GetPriority() == p.Keys[0].GetPriority()
		}
		if len(p.ModelClasses) > 0 {
			note("limits of model classes are not simulated")
		}
		if !even {
			note("all keys are used alike: priorities, and pooling that is disabled, are not simulated")
		}
		if err := s.Complete(); err != nil {
			return nil, nil, fmt.Errorf("provider %q: %w", p.Name, err)
		}
		all = append(all, s)
	}
	return all, notes, nil
}

// missing lists what the provider limits and a configuration does not state.
func missing(l *fleet.Limits, typ string) (names []string) {
	d, _ := provider.Lookup(typ)
	stated := map[provider.Dimension]int64{
		provider.Requests: l.RPM + l.RPD + l.RPH, provider.InputTokens: l.ITPM, provider.OutputTokens: l.OTPM,
		provider.Tokens: l.TPM + l.TPD, provider.Concurrency: l.Concurrency,
	}
	for _, x := range d.Limited {
		if stated[x] == 0 {
			names = append(names, x.String())
		}
	}
	return names
}

// fleetGroups are the quota groups that have keys.
func fleetGroups(p *config.ProviderConfig) (groups []fleet.Group) {
	d, _ := provider.Lookup(p.Type)
	limits, index := map[string]config.Limits{}, map[string]int{}
	for _, g := range p.Groups {
		limits[g.Name] = g.Limits
	}
	for _, k := range p.Keys {
		name, l := k.Group, limits[k.Group]
		if name == "" {
			name, l = k.ID, k.Limits
		}
		i, ok := index[name]
		if !ok {
			i = len(groups)
			index[name] = i
			groups = append(groups, fleetGroup(name, l, d))
		}
		groups[i].Keys++
	}
	return groups
}

func fleetGroup(name string, l config.Limits, d *provider.Dialect) fleet.Group {
	e := enforced(l, d)
	unknown := e == sandbox.Limits{}
	if unknown {
		e = unstated(d)
	}
	return fleet.Group{Name: name, Unknown: unknown, Limits: fleet.Limits{
		RPM: e.RPM, ITPM: e.ITPM, OTPM: e.OTPM, TPM: e.TPM, RPD: e.RPD, TPD: e.TPD, RPH: e.RPH, Concurrency: e.Concurrency,
	}}
}
