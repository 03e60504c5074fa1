package fleet

import (
	"bytes"
	"errors"
	"fmt"
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
	WarmUp   time.Duration `yaml:"warm_up"`  // is not counted. Default 2m
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
	Speed   float64       `yaml:"speed"`   // output tokens a second. Default 80
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
	RPM  int64 `yaml:"rpm"`
	ITPM int64 `yaml:"itpm"`
	OTPM int64 `yaml:"otpm"`
	TPM  int64 `yaml:"tpm"`
	RPD  int64 `yaml:"rpd"`
	RPH  int64 `yaml:"rph"` // in windows that begin at the hour
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
	Share    float64       `yaml:"share"`    // at least, of what is allowed
	Refused  *float64      `yaml:"refused"`  // at most, of requests
	Refusals *int          `yaml:"refusals"` // at most, in number
	Fairness float64       `yaml:"fairness"` // at least
	Everyone bool          `yaml:"everyone"` // is served
	Recovery time.Duration `yaml:"recovery"` // at most, after each event's end or, if it does not end, its beginning
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
	var s Scenario
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	return &s, s.Complete()
}

// Complete fills in defaults, and says what is wrong.
func (s *Scenario) Complete() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	fill(&s.Duration, 20*time.Minute)
	fill(&s.WarmUp, 2*time.Minute)
	fill(&s.Provider.Latency, Spread{Mean: 0.5, Dev: 0.3})
	fill(&s.Provider.Speed, 80)
	if _, ok := provider.Lookup(s.Provider.Type); !ok {
		fail("provider.type: %q is none of %s", s.Provider.Type, strings.Join(provider.Types(), ", "))
	}
	if s.WarmUp >= s.Duration {
		fail("warm_up: must be shorter than duration")
	}
	if len(s.Provider.Groups) == 0 || len(s.Services) == 0 {
		fail("provider.groups and services: there must be at least one of each")
	}
	for i := range s.Provider.Groups {
		g := &s.Provider.Groups[i]
		fill(&g.Name, fmt.Sprint("group", i+1))
		fill(&g.Count, 1)
		fill(&g.Keys, 1)
		if g.Limits == (Limits{}) {
			fail("provider.groups: %s has no limits", g.Name)
		}
	}
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
		if (v.Workers > 0) == (v.Rate > 0) {
			fail("services: %s: give either workers or rate", v.Name)
		}
		fill(&v.Burst, 1)
	}
	for i := range s.Events {
		e := &s.Events[i]
		fill(&e.For, s.Duration)
		kinds := 0
		for _, is := range []bool{e.Overload > 0, e.Cut > 0, e.Foreign > 0, e.Revoke > 0} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			fail("events: the one at %v: give one of overload, cut, foreign and revoke", e.At)
		}
	}
	return errors.Join(errs...)
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
