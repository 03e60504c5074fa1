package app

import (
	"fmt"

	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/fleet"
	"github.com/keybroker/keybroker/internal/provider"
)

// Scenarios turns the providers of a configuration into scenarios in which some services
// want all they can get of them. Keys whose limits it does not state have those that
// a sandbox would give them, which the broker has to learn.
func Scenarios(cfg *config.Config, services fleet.Service) (all []*fleet.Scenario, err error) {
	for _, p := range cfg.Providers {
		if !p.IsEnabled() {
			continue
		}
		d, _ := provider.Lookup(p.Type)
		s := &fleet.Scenario{
			Name: p.Name, About: fmt.Sprintf("%d services want all they can get of the keys of %s", services.Count, p.Name),
			Provider: fleet.Provider{Type: p.Type}, Services: []fleet.Service{services},
		}
		groups := map[string]int{}
		add := func(name string, l config.Limits) {
			groups[name] = len(s.Provider.Groups)
			g := fleet.Group{Name: name, Limits: fleetLimits(l, d)}
			if g.Limits == (fleet.Limits{}) {
				u := unstated(d)
				g.Unknown, g.Limits = true, fleet.Limits{RPM: u.RPM, ITPM: u.ITPM, OTPM: u.OTPM, TPM: u.TPM, RPH: u.RPH}
			}
			s.Provider.Groups = append(s.Provider.Groups, g)
		}
		for _, g := range p.Groups {
			add(g.Name, g.Limits)
		}
		for _, k := range p.Keys {
			name := k.Group
			if name == "" {
				name = k.ID
				add(name, k.Limits)
			}
			s.Provider.Groups[groups[name]].Keys++
		}
		if err := s.Complete(); err != nil {
			return nil, fmt.Errorf("provider %q: %w", p.Name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func fleetLimits(l config.Limits, d *provider.Dialect) (out fleet.Limits) {
	e := enforced(l, d)
	return fleet.Limits{RPM: e.RPM, ITPM: e.ITPM, OTPM: e.OTPM, TPM: e.TPM, RPD: e.RPD}
}
