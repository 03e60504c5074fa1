package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
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

// Event changes the provider, or a kind of services, for a time or for good.
type Event struct {
	At  time.Duration `yaml:"at"`
	For time.Duration `yaml:"for"` // Default: to the end
	// Group names whom it concerns; empty: all.
	Group string `yaml:"group"`
	// Service names the services that Answers or Idle concern.
	Service string `yaml:"service"`

	Overload float64 `yaml:"overload"` // the part of requests that find it busy
	Cut      float64 `yaml:"cut"`      // limits are multiplied by it
	Foreign  float64 `yaml:"foreign"`  // somebody else uses this part of what refills
	Revoke   int     `yaml:"revoke"`   // the nth key of the group is no longer accepted

	Answers []Answer `yaml:"answers"` // each of the services hears these in turn, one a call
	Idle    bool     `yaml:"idle"`    // the services begin no request; those that they want are begun at the end
}

// Answer is what a service hears, and reports, in the place of the provider's words. The
// provider's refusals are passed on as they are.
type Answer struct {
	// Status is that of an error, 400 to 599. The call does not reach the provider. Default
	// 0: it does.
	Status int `yaml:"status"`
	// Headers are all headers of the answer, as the provider's dialect reads them. Default:
	// the provider's own, or none with a Status.
	Headers map[string]string `yaml:"headers"`
	// Used is stated as used: so many tokens of input, and as many of output. Default: what
	// was used.
	Used int64 `yaml:"used"`
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
	Kept     float64       `yaml:"kept"`     // at least; see Result.Kept
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
