package fleet

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

// small is a scenario in which everything happens, in a few minutes.
const small = `
name: small
duration: 6m
warm_up: 1m
provider:
  type: anthropic
  late: 2s
  groups:
    - {name: org, count: 2, keys: 2, limits: {rpm: 300, itpm: 600000, otpm: 120000}}
    - {name: new, unknown: true, limits: {rpm: 60, itpm: 100000, otpm: 20000}}
services:
  - {name: web, count: 10, workers: 2, vanish: 0.02}
  - {name: batch, count: 2, rate: 2, burst: 10, from: 30s}
events:
  - {at: 90s, for: 30s, overload: 0.8}
  - {at: 150s, for: 30s, group: org-1, cut: 0.5}
  - {at: 4m, group: org-2, revoke: 1}
  - {at: 1m, group: org-1, foreign: 0.2}
`

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse([]byte(text))
	require.NoError(t, err)
	return s
}

func result(t *testing.T, s *Scenario, strategy string, seed uint64) *Result {
	t.Helper()
	r, err := Run(s, strategy, seed)
	require.NoError(t, err)
	return r
}

// The same seed gives the same result to the last digit, and another one another.
func TestRunsAreRepeatable(t *testing.T) {
	s := parse(t, small)
	for _, x := range Strategies {
		t.Run(x.Name, func(t *testing.T) {
			text := func(seed uint64) string {
				b, err := json.Marshal(result(t, s, x.Name, seed))
				require.NoError(t, err)
				return string(b)
			}
			first := text(1)
			assert.Equal(t, first, text(1))
			assert.NotEqual(t, first, text(2))
		})
	}
	_, err := Run(s, "hope", 1)
	require.ErrorContains(t, err, `no strategy "hope"`)
}

// Whatever the strategy, the provider lets through no more than its limits, but for
// what it counts while it answers; and each request ends in one way.
func TestProviderIsExact(t *testing.T) {
	for _, typ := range []string{"anthropic", "openai", "generic"} {
		for _, x := range Strategies {
			t.Run(typ+"/"+x.Name, func(t *testing.T) {
				s := parse(t, `
duration: 6m
warm_up: 2m
provider: {type: `+typ+`, groups: [{name: org, count: 2, keys: 2, limits: {rpm: 300, tpm: 2000000}}]}
services: [{name: web, count: 10, workers: 8}]
`)
				r := result(t, s, x.Name, 1)
				for _, a := range r.Accounts {
					assert.LessOrEqual(t, a.Used, a.Allowed+301, "what refilled, and a full bucket")
					assert.Equal(t, "requests/min", a.Binding)
				}
				assert.Equal(t, r.Sent, r.Served+r.Refused+r.Busy+r.Denied)
				if x.Name != "static split" {
					assert.Greater(t, r.Share, 0.8)
				}
			})
		}
	}
}

func TestWhatTheBrokerMakesOfTrouble(t *testing.T) {
	s := parse(t, small)
	r := result(t, s, "broker", 1)
	assert.Empty(t, r.Blamed)
	assert.Zero(t, r.Starved)
	assert.Greater(t, r.Share, 0.8)
	assert.Less(t, r.RefusedRate, 0.02)
	assert.Positive(t, r.Denied, "the revoked key was met")
	assert.Less(t, r.Denied, 10, "and not again and again")
	require.Len(t, r.Recoveries, 4)
	for _, name := range []string{"random", "round robin"} {
		assert.Greater(t, result(t, s, name, 1).RefusedRate, 10*r.RefusedRate, name)
	}
}

// A check that cannot fail proves nothing.
func TestCheckFindsWhatIsMissed(t *testing.T) {
	none, part := 0, 0.001
	s := &Scenario{Expect: []Expect{
		{Share: 0.9}, {Refusals: &none}, {Refused: &part}, {Fairness: 0.9}, {Everyone: true}, {Recovery: 10 * time.Second},
	}}
	good := &Result{Share: 0.9, Fairness: 0.9, Recoveries: []Recovery{{"e", 10}}}
	assert.Empty(t, s.Check(good))
	bad := &Result{
		Share: 0.89, Refused: 1, RefusedRate: 0.002, Fairness: 0.89, Starved: 1,
		Recoveries: []Recovery{{"e", 11}, {"f", -1}}, Blamed: []string{"k"},
	}
	assert.Len(t, s.Check(bad), 8)
}

func TestScenariosThatAreWrong(t *testing.T) {
	const good = "provider: {type: anthropic, groups: [{limits: {rpm: 1}}]}\nservices: [{workers: 1}]\n"
	parse(t, good)
	for text, want := range map[string]string{
		"provider: {type: pear, groups: [{limits: {rpm: 1}}]}\nservices: [{workers: 1}]": `"pear" is none of anthropic`,
		good + "speed: 3":                                  "speed not found",
		good + "duration: 1m":                              "warm_up: must be shorter",
		"provider: {type: anthropic}":                      "there must be at least one of each",
		strings.Replace(good, "rpm: 1", "", 1):             "has no limits",
		strings.Replace(good, "workers: 1", "", 1):         "either workers or rate",
		good + "events: [{at: 1m}]":                        "give one of overload",
		good + "events: [{at: 1m, cut: 0.5, overload: 1}]": "give one of overload",
		"[": "did not find expected",
	} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestChanceHasTheRightMean(t *testing.T) {
	c := newChance(1)
	for _, s := range []Spread{{Mean: 100}, {Mean: 100, Dev: 0.5}, {Mean: 100, Dev: 1}, {Min: 50, Max: 150}} {
		sum := 0.0
		for range 100_000 {
			sum += c.draw(s)
		}
		assert.InDelta(t, 100, sum/100_000, 2, "%+v", s)
	}
}

func TestEventsHappenInOrder(t *testing.T) {
	var c clock
	var got []int
	note := func(i int) func() { return func() { got = append(got, i) } }
	c.at(2, note(3))
	c.at(1, func() { note(1)(); c.at(0, note(2)); c.after(1, note(4)) })
	c.at(9, note(9))
	c.run(5)
	assert.Equal(t, []int{1, 2, 3, 4}, got)
	assert.EqualValues(t, 5, c.now)
}

// What is reserved of a provider that counts what is really used is not what is counted.
func TestProviderCountsAsItsDialectSays(t *testing.T) {
	for typ, want := range map[string]int64{"anthropic": 0, "openai": 0} {
		r := &run{scenario: parse(t, "provider: {type: "+typ+", groups: [{limits: {rpm: 10, tpm: 100000}}]}\nservices: [{workers: 1, max_tokens: 5000}]"), chance: newChance(1), trail: make([]point, 1)}
		r.upstream = newUpstream(r)
		m := &member{Service: &r.scenario.Services[0]}
		a := r.upstream.arrive(&request{service: m, key: r.upstream.keys[0], input: 100, output: 50})
		assert.Equal(t, 200, a.status)
		tokens := int64(0)
		for _, b := range r.upstream.groups[0].models["m"].buckets {
			if b.dimension == provider.Tokens {
				tokens = b.total
			}
		}
		if typ == "openai" {
			want = 5000 // the larger of max_tokens and the estimate, kept
		}
		assert.Equal(t, want, tokens, typ)
	}
}

// The figures that the scenarios of this repository state hold.
func TestScenariosShowWhatTheyExpect(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "keybroker") // without the race detector, which would take ten times as long
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/keybroker")
	build.Dir = filepath.Join("..", "..")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	out, err = exec.CommandContext(t.Context(), binary, "simulate", "--strategy", "broker").CombinedOutput()
	assert.NoError(t, err, string(out))
	assert.Contains(t, string(out), "anthropic-saturated")
}
