package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/keybroker/keybroker/internal/provider"
)

// Scenario is a provider with its keys, the services that want them, and what happens
// meanwhile.
type Scenario struct {
	Name     string        `yaml:"name"`
	About    string        `yaml:"about"`    // one sentence, for people
	Duration time.Duration `yaml:"duration"` // of the run. Default 20m
	WarmUp   time.Duration `yaml:"warm_up"`  // calls are counted, but not what was used, waits and fairness. Default 2m
	Provider Provider      `yaml:"provider"`
	Services []Service     `yaml:"services"`
	Events   []Event       `yaml:"events"`
	Expect   []Expect      `yaml:"expect"`
}

// Provider is who is called. It enforces its limits exactly.
type Provider struct {
	Type    string        `yaml:"type"` // a dialect
	Groups  []Group       `yaml:"groups"`
	Latency Spread        `yaml:"latency"` // to the first byte, in seconds. Default 0.5
	Speed   float64       `yaml:"speed"`   // output tokens a second, above 0. Default 80
	Late    time.Duration `yaml:"late"`    // how old what headers say is, at most
}

// Group is a quota group, or several alike.
type Group struct {
	Name   string `yaml:"name"`
	Count  int    `yaml:"count"`  // groups of this kind. Default 1
	Keys   int    `yaml:"keys"`   // of each. Default 1
	Limits Limits `yaml:"limits"` // of each model
	// Unknown leaves the limits out of the broker's configuration: it has to learn them.
	Unknown bool `yaml:"unknown"`
}

// Limits are those of a group for each model; 0 is none.
type Limits struct {
	RPM  int64 `yaml:"rpm,omitempty"`
	ITPM int64 `yaml:"itpm,omitempty"`
	OTPM int64 `yaml:"otpm,omitempty"`
	TPM  int64 `yaml:"tpm,omitempty"`
	RPD  int64 `yaml:"rpd,omitempty"`
	TPD  int64 `yaml:"tpd,omitempty"`
	RPH  int64 `yaml:"rph,omitempty"` // in windows that begin at the hour
	// Concurrency is how many calls there may be at one time.
	Concurrency int64 `yaml:"concurrency,omitempty"`
}

// String lists those that there are, as in a scenario.
func (l Limits) String() string {
	text, err := yaml.Marshal(l)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
}

// Service is a service, or several alike; each is a holder.
type Service struct {
	Name  string `yaml:"name"`
	Count int    `yaml:"count"` // Default 1
	Model string `yaml:"model"` // Default m
	// Workers send one request after the other, with Pause seconds in between. Or, if
	// Rate is given, requests come by chance, so many a second; Burst at once, if given.
	Workers int     `yaml:"workers"`
	Pause   Spread  `yaml:"pause"`
	Rate    float64 `yaml:"rate"`
	Burst   int     `yaml:"burst"`

	Input     Spread        `yaml:"input"`      // tokens. Default 1000
	Guess     Spread        `yaml:"guess"`      // what it takes its input for, as a part of what it is. Default 1
	Output    Spread        `yaml:"output"`     // tokens. Default 200
	MaxTokens int64         `yaml:"max_tokens"` // as it says to the provider. Default: four times the mean output
	MaxWait   time.Duration `yaml:"max_wait"`   // for a key, tries included. Default 30s
	Network   Spread        `yaml:"network"`    // seconds, one way, to anybody. Default 0.005 to 0.2
	Vanish    float64       `yaml:"vanish"`     // the part of requests after which nothing is reported
	From      time.Duration `yaml:"from"`       // begins then
}

// Spread is a number by chance: lognormal about a mean, with a relative deviation, or
// evenly between two bounds.
type Spread struct {
	Mean float64 `yaml:"mean"`
	Dev  float64 `yaml:"dev"`
	Min  float64 `yaml:"min"`
	Max  float64 `yaml:"max"`
}

// Event changes the provider for a time, or for good.
type Event struct {
	At  time.Duration `yaml:"at"`
	For time.Duration `yaml:"for"` // Default: to the end
	// Group names whom it concerns; empty: all.
	Group string `yaml:"group"`

	Overload float64 `yaml:"overload"` // the part of requests that find it busy
	Cut      float64 `yaml:"cut"`      // limits are multiplied by it
	Foreign  float64 `yaml:"foreign"`  // somebody else uses this part of what refills
	Revoke   int     `yaml:"revoke"`   // the nth key of the group is no longer accepted
}

// Expect is what a scenario is to show with the broker; see Result.Check.
type Expect struct {
	Share    float64       `yaml:"share"`    // at least, of what each account allows
	Refused  *float64      `yaml:"refused"`  // at most, of calls
	Refusals *int          `yaml:"refusals"` // at most, in number
	Overrun  *float64      `yaml:"overrun"`  // at most, of a limit
	GivenUp  *float64      `yaml:"given_up"` // at most, of requests
	Fairness float64       `yaml:"fairness"` // at least
	Everyone bool          `yaml:"everyone"` // is served
	Recovery time.Duration `yaml:"recovery"` // at most, after each event's beginning and end
}

// Load reads a scenario from a file.
func Load(path string) (*Scenario, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	return s, nil
}

// Parse reads a scenario, and fills in defaults.
func Parse(data []byte) (*Scenario, error) {
	s := New()
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	switch err := d.Decode(s); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document in it")
	}
	return s, s.Complete()
}

// New gives a scenario with the defaults of what may be 0.
func New() *Scenario {
	return &Scenario{
		Duration: 20 * time.Minute, WarmUp: 2 * time.Minute,
		Provider: Provider{Latency: Spread{Mean: 0.5, Dev: 0.3}, Speed: 80},
	}
}

// Bounds of what a run can be asked to do, so that a slip does not eat all memory.
const (
	most        = 1e9 // of anything that is drawn by chance
	mostMembers = 10_000
	mostKeys    = 10_000
	mostRate    = 10_000 // requests a second of one service
)

// Complete fills in defaults, and says what is wrong.
func (s *Scenario) Complete() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, ok := provider.Lookup(s.Provider.Type); !ok {
		fail("provider.type: %q is none of %s", s.Provider.Type, strings.Join(provider.Types(), ", "))
	}
	if s.WarmUp >= s.Duration || s.WarmUp < 0 {
		fail("warm_up: %v must be 0 or more, and shorter than the duration, %v", s.WarmUp, s.Duration)
	}
	if s.Provider.Speed <= 0 || s.Provider.Late < 0 {
		fail("provider: speed must be above 0, and late 0 or more")
	}
	spread := func(where string, x Spread) {
		for _, n := range []float64{x.Mean, x.Dev, x.Min, x.Max} {
			if !(n <= most) { // nor not a number
				fail("%s: %v is too much: at most %v", where, n, most)
			}
		}
		if x.Dev > 10 {
			fail("%s: a dev of %v is too much: it is a part of the mean", where, x.Dev)
		}
		if x.Mean < 0 || x.Dev < 0 || x.Min < 0 || x.Max < 0 || x.Max > 0 && x.Max < max(x.Min, x.Mean) {
			fail("%s: no number may be negative, nor max below mean or min", where)
		}
	}
	spread("provider.latency", s.Provider.Latency)
	if len(s.Provider.Groups) == 0 || len(s.Services) == 0 {
		fail("provider.groups and services: there must be at least one of each")
	}
	keys := map[string]int{} // of groups, by name
	for i := range s.Provider.Groups {
		g := &s.Provider.Groups[i]
		fill(&g.Name, fmt.Sprint("group", i+1))
		fill(&g.Count, 1)
		fill(&g.Keys, 1)
		l := g.Limits
		if l == (Limits{}) {
			fail("provider.groups: %s has no limits", g.Name)
		}
		if g.Count > mostKeys || g.Keys > mostKeys || g.Count*g.Keys > mostKeys {
			fail("provider.groups: %s: at most %d keys", g.Name, mostKeys)
			g.Count = 0
		}
		if min(l.RPM, l.ITPM, l.OTPM, l.TPM, l.RPD, l.TPD, l.RPH, l.Concurrency, int64(g.Count), int64(g.Keys)) < 0 {
			fail("provider.groups: %s: no number may be negative", g.Name)
		}
		for n := range max(g.Count, 0) {
			name := numbered(g.Name, n, g.Count)
			if keys[name] > 0 {
				fail("provider.groups: there are two called %s", name)
			}
			keys[name] = g.Keys
		}
	}
	named := map[string]bool{}
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
			fail("services: there are two called %s", v.Name)
		}
		named[v.Name] = true
		for what, x := range map[string]Spread{"pause": v.Pause, "input": v.Input, "guess": v.Guess, "output": v.Output, "network": v.Network} {
			spread("services: "+v.Name+": "+what, x)
		}
		if v.Count > mostMembers || v.Workers > mostMembers || v.Count*v.Workers > mostMembers || v.Burst > mostMembers || !(v.Rate <= mostRate) || !(v.Rate*float64(v.Count) <= mostRate) {
			fail("services: %s: at most %d workers or services, bursts of %d, and %d requests a second in all", v.Name, mostMembers, mostMembers, mostRate)
		}
		if v.Count < 0 || v.Workers < 0 || v.Rate < 0 || v.Burst < 0 || v.MaxTokens < 0 || v.MaxWait < 0 || v.Vanish < 0 || v.Vanish > 1 || v.From < 0 {
			fail("services: %s: no number may be negative, nor vanish above 1", v.Name)
		}
		if (v.Workers > 0) == (v.Rate > 0) {
			fail("services: %s: give either workers or rate", v.Name)
		}
		fill(&v.Burst, 1)
	}
	for i := range s.Events {
		e := &s.Events[i]
		if e.Overload > 0 && e.For == 0 {
			fail("events: the one at %v: an overload needs a time to last: for", e.At)
		}
		if n, ok := keys[e.Group]; e.Group != "" && !ok {
			fail("events: the one at %v: there is no group %q", e.At, e.Group)
		} else if e.Group != "" && e.Revoke > n || e.Group == "" && e.Revoke > 0 {
			fail("events: the one at %v: revoke names a group, and one of its %d keys by number", e.At, n)
		}
		if e.At < 0 || e.At >= s.Duration || e.For < 0 || e.Overload > 1 || e.Foreign > 1 || min(e.Overload, e.Foreign, e.Cut, float64(e.Revoke)) < 0 {
			fail("events: the one at %v: is out of bounds", e.At)
		}
		fill(&e.For, s.Duration)
		if bits.OnesCount8(e.kind()) != 1 {
			fail("events: the one at %v: give one of overload, cut, foreign and revoke", e.At)
		}
		for _, o := range s.Events[:i] {
			if (o.Group == e.Group || o.Group == "" || e.Group == "") && o.kind() == e.kind() && o.Revoke == e.Revoke && o.At < e.At+e.For && e.At < o.At+o.For {
				fail("events: those at %v and %v are of one kind, and overlap", o.At, e.At)
			}
		}
	}
	for _, e := range s.Expect {
		for _, part := range []*float64{&e.Share, &e.Fairness, e.Refused, e.Overrun, e.GivenUp} {
			if part != nil && !(*part >= 0 && *part <= 1) {
				fail("expect: %v is not between 0 and 1", *part)
			}
		}
		if e.Recovery < 0 || e.Refusals != nil && *e.Refusals < 0 {
			fail("expect: no number may be negative")
		}
	}
	return errors.Join(errs...)
}

// kind has a bit for each thing that an event does.
func (e *Event) kind() (is uint8) {
	for i, n := range []float64{e.Overload, e.Cut, e.Foreign, float64(e.Revoke)} {
		if n > 0 {
			is |= 1 << i
		}
	}
	return is
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
