package fleet

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Bounds of what a run can be asked to do, so that a slip does not use up all memory.
const (
	most        = 1e9 // the largest mean, deviation or bound of a Spread
	mostDev     = 10  // a deviation is a multiple of the mean
	mostMembers = 10_000
	mostKeys    = 10_000
	mostRate    = 10_000 // requests a second of one service
)

// problems is what is wrong with a scenario.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// Complete fills in defaults and returns everything that is wrong, as one error.
func (s *Scenario) Complete() error {
	var p problems
	s.checkRun(&p)
	keys := s.completeGroups(&p)
	services := s.completeServices(&p)
	s.completeEvents(&p, keys, services)
	s.checkExpectations(&p)
	return errors.Join(p...)
}

// checkRun checks what concerns the run and the provider as a whole.
func (s *Scenario) checkRun(p *problems) {
	if _, ok := provider.Lookup(s.Provider.Type); !ok {
		p.add("provider.type: %q is none of %s", s.Provider.Type, strings.Join(provider.Types(), ", "))
	}
	if s.WarmUp >= s.Duration || s.WarmUp < 0 {
		p.add("warm_up: %v must be 0 or more, and shorter than the duration, %v", s.WarmUp, s.Duration)
	}
	if s.Provider.Speed <= 0 || s.Provider.Late < 0 {
		p.add("provider: speed must be above 0, and late 0 or more")
	}
	s.Provider.Latency.check(p, "provider.latency")
	if len(s.Provider.Groups) == 0 || len(s.Services) == 0 {
		p.add("provider.groups and services: there must be at least one of each")
	}
}

// completeGroups returns how many keys each group has, by the group's name.
func (s *Scenario) completeGroups(p *problems) map[string]int {
	keys := map[string]int{}
	for i := range s.Provider.Groups {
		g := &s.Provider.Groups[i]
		fill(&g.Name, fmt.Sprint("group", i+1))
		fill(&g.Count, 1)
		fill(&g.Keys, 1)
		g.check(p)
		for n := range max(g.Count, 0) {
			name := numbered(g.Name, n, g.Count)
			if keys[name] > 0 {
				p.add("provider.groups: there are two called %s", name)
			}
			keys[name] = g.Keys
		}
	}
	return keys
}

// check adds what is wrong with a group. If it has too many keys, it sets Count to 0, so that
// completeGroups does not loop over them.
func (g *Group) check(p *problems) {
	l := g.Limits
	if l == (Limits{}) {
		p.add("provider.groups: %s has no limits", g.Name)
	}
	if g.Count > mostKeys || g.Keys > mostKeys || g.Count*g.Keys > mostKeys {
		p.add("provider.groups: %s: at most %d keys", g.Name, mostKeys)
		g.Count = 0
	}
	if min(l.RPM, l.ITPM, l.OTPM, l.TPM, l.RPD, l.TPD, l.RPH, l.Concurrency, int64(g.Count), int64(g.Keys)) < 0 {
		p.add("provider.groups: %s: no number may be negative", g.Name)
	}
}

// completeServices returns the names that there are.
func (s *Scenario) completeServices(p *problems) (named map[string]bool) {
	named = map[string]bool{}
	for i := range s.Services {
		v := &s.Services[i]
		fill(&v.Name, fmt.Sprint("service", i+1))
		fill(&v.Count, 1)
		fill(&v.Model, "m")
		fill(&v.Input, Spread{Mean: 1000, Dev: 0.5})
		fill(&v.Output, Spread{Mean: 200, Dev: 0.5})
		fill(&v.MaxTokens, int64(4*v.Output.mean()))
		fill(&v.MaxWait, 30*time.Second)
		fill(&v.Network, Spread{Min: 0.005, Max: 0.2})
		fill(&v.Guess, Spread{Mean: 1})
		if named[v.Name] {
			p.add("services: there are two called %s", v.Name)
		}
		named[v.Name] = true
		v.check(p)
		fill(&v.Burst, 1)
	}
	return named
}

func (v *Service) check(p *problems) {
	for what, x := range map[string]Spread{"pause": v.Pause, "input": v.Input, "guess": v.Guess, "output": v.Output, "network": v.Network} {
		x.check(p, "services: "+v.Name+": "+what)
	}
	if max(v.Count, v.Workers, v.Count*v.Workers, v.Burst) > mostMembers || !(v.Rate <= mostRate) || !(v.Rate*float64(v.Count) <= mostRate) {
		p.add("services: %s: at most %d workers or services, bursts of %d, and %d requests a second in all", v.Name, mostMembers, mostMembers, mostRate)
	}
	if min(v.Count, v.Workers, v.Burst) < 0 || v.MaxTokens < 0 || min(v.MaxWait, v.From) < 0 || v.Rate < 0 || v.Vanish < 0 || v.Vanish > 1 {
		p.add("services: %s: no number may be negative, nor vanish above 1", v.Name)
	}
	if (v.Workers > 0) == (v.Rate > 0) {
		p.add("services: %s: give either workers or rate", v.Name)
	}
}

func (s Spread) check(p *problems, where string) {
	for _, n := range []float64{s.Mean, s.Dev, s.Min, s.Max} {
		if !(n <= most) { // which is also true of NaN
			p.add("%s: %v is too much: at most %v", where, n, most)
		}
	}
	if s.Dev > mostDev {
		p.add("%s: a dev of %v is too much: it is a part of the mean", where, s.Dev)
	}
	if s.Mean < 0 || s.Dev < 0 || s.Min < 0 || s.Max < 0 || s.Max > 0 && s.Max < max(s.Min, s.Mean) {
		p.add("%s: no number may be negative, nor max below mean or min", where)
	}
}

func (s *Scenario) completeEvents(p *problems, keys map[string]int, services map[string]bool) {
	for i := range s.Events {
		e := &s.Events[i]
		s.checkEvent(p, e, keys)
		e.checkService(p, services)
		fill(&e.For, s.Duration)
		for j := range s.Events[:i] {
			if o := &s.Events[j]; o.overlaps(e) {
				p.add("events: those at %v and %v are of one kind, and overlap", o.At, e.At)
			}
		}
	}
}

func (s *Scenario) checkEvent(p *problems, e *Event, keys map[string]int) {
	if e.Overload > 0 && e.For == 0 {
		p.add("events: the one at %v: an overload needs a time to last: for", e.At)
	}
	if n, ok := keys[e.Group]; e.Group != "" && !ok {
		p.add("events: the one at %v: there is no group %q", e.At, e.Group)
	} else if e.Revoke > n { // no group has the empty name, and so no key to revoke
		p.add("events: the one at %v: revoke names a group, and one of its %d keys by number", e.At, n)
	}
	if e.At < 0 || e.At >= s.Duration || e.For < 0 || e.Overload > 1 || e.Foreign > 1 || min(e.Overload, e.Foreign, e.Cut, float64(e.Revoke)) < 0 {
		p.add("events: the one at %v: is out of bounds", e.At)
	}
	if bits.OnesCount8(e.kind()) != 1 {
		p.add("events: the one at %v: give one of overload, cut, foreign, revoke, answers and idle", e.At)
	}
}

// checkService checks what concerns services.
func (e *Event) checkService(p *problems, services map[string]bool) {
	if (e.Idle || len(e.Answers) > 0) != (e.Service != "") || e.Service != "" && (e.Group != "" || !services[e.Service]) {
		p.add("events: the one at %v: answers and idle, and no others, name a service that there is, and no group", e.At)
	}
	for _, a := range e.Answers {
		if a.Used < 0 || a.Status != 0 && (a.Status < 400 || a.Status > 599 || a.Used > 0) {
			p.add("events: the one at %v: an answer with a status is an error, 400 to 599, and uses nothing", e.At)
		}
	}
}

// overlaps reports whether two events do the same to the same group or services at the
// same time.
func (e *Event) overlaps(o *Event) bool {
	same := e.Service == o.Service && (e.Group == o.Group || e.Group == "" || o.Group == "")
	return same && e.kind() == o.kind() && e.Revoke == o.Revoke && e.At < o.At+o.For && o.At < e.At+e.For
}

// kind has a bit for each thing that an event does.
func (e *Event) kind() (is uint8) {
	for i, does := range []bool{e.Overload > 0, e.Cut > 0, e.Foreign > 0, e.Revoke > 0, len(e.Answers) > 0, e.Idle} {
		if does {
			is |= 1 << i
		}
	}
	return is
}

func (s *Scenario) checkExpectations(p *problems) {
	for _, e := range s.Expect {
		for _, part := range []*float64{&e.Share, &e.Fairness, &e.Kept, e.Refused, e.Overrun, e.GivenUp} {
			if part != nil && !(*part >= 0 && *part <= 1) {
				p.add("expect: %v is not between 0 and 1", *part)
			}
		}
		if e.Recovery < 0 || e.Refusals != nil && *e.Refusals < 0 {
			p.add("expect: no number may be negative")
		}
	}
}

// fill sets a field that is zero to its default.
func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
