package fleet

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/testing/long"
	"github.com/keybroker/keybroker/scenarios"
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
  - {name: odd, workers: 1}
events:
  - {at: 90s, for: 30s, overload: 0.8}
  - {at: 150s, for: 30s, group: org-1, cut: 0.5}
  - {at: 4m, group: org-2, revoke: 1}
  - {at: 1m, group: org-1, foreign: 0.2}
  - {at: 3m, for: 20s, service: odd, idle: true}
  - {at: 200s, service: odd, answers: [{status: 401}, {status: 429, headers: {Retry-After: 60}}, {headers: {}}, {used: 1e15}]}
`

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse([]byte(text))
	require.NoError(t, err)
	return s
}

func result(t *testing.T, s *Scenario, strategy string, seed uint64) *Result {
	t.Helper()
	r, err := Run(t.Context(), s, strategy, seed)
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
	_, err := Run(t.Context(), s, "hope", 1)
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
					assert.LessOrEqual(t, a.Used, a.Allowed+1)
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
	require.NotNil(t, r.Kept)
	assert.Greater(t, *r.Kept, 0.9)
	require.Len(t, r.Recoveries, 4, "the end of an overload, both ends of the cut, and the revocation")
	for _, name := range []string{"random", "round robin"} {
		assert.Greater(t, result(t, s, name, 1).RefusedRate, 10*r.RefusedRate, name)
	}
}

// A check that cannot fail proves nothing.
func TestCheckFindsWhatIsMissed(t *testing.T) {
	none, part := 0, 0.001
	s := &Scenario{Expect: []Expect{
		{Share: 0.9}, {Refusals: &none}, {Refused: &part}, {Fairness: 0.9}, {Everyone: true}, {Recovery: 10 * time.Second},
		{Overrun: &part}, {GivenUp: &part}, {Kept: 0.9},
	}}
	all, most := 0.9, 0.89
	good := &Result{Accounts: []AccountResult{{Share: 0.9}, {Share: 1}}, Fairness: 0.9, Kept: &all, Recoveries: []Recovery{{"e", 10}}}
	assert.Empty(t, s.Check(good))
	bad := &Result{
		Accounts: []AccountResult{{Share: 1}, {Share: 0.89}}, Refused: 1, RefusedRate: 0.002, Fairness: 0.89, Starved: 1, Overrun: 0.01, GivenUpRate: 0.01,
		Kept: &most, Recoveries: []Recovery{{"e", 11}, {"f", -1}}, Blamed: []string{"k"},
	}
	assert.Len(t, s.Check(bad), 11)
	bad.Kept = nil
	assert.Len(t, s.Check(bad), 11, "what was not measured is not kept")
}

func TestScenariosThatAreWrong(t *testing.T) {
	const good = "provider: {type: anthropic, groups: [{limits: {rpm: 1}}]}\nservices: [{workers: 1}]\n"
	parse(t, good)
	for text, want := range map[string]string{
		"provider: {type: pear, groups: [{limits: {rpm: 1}}]}\nservices: [{workers: 1}]": `"pear" is none of anthropic`,
		good + "speed: 3":     "speed not found",
		good + "duration: 1m": "warm_up: 2m0s must be 0 or more, and shorter than the duration, 1m0s",
		good + "warm_up: -1s": "warm_up: -1s must be 0 or more",
		"":                    "it is empty",
		good + "---\na: 1":    "more than one document",
		good + "events: [{at: 1m, cut: 0.5, group: nobody}]":                                                                   `there is no group "nobody"`,
		good + "events: [{at: 1m, revoke: 2, group: group1}]":                                                                  "one of its 1 keys",
		good + "events: [{at: 1m, revoke: 1}]":                                                                                 "revoke names a group",
		good + "events: [{at: 1m, overload: 1}]":                                                                               "needs a time to last",
		good + "events: [{at: 1h, cut: 0.5}]":                                                                                  "is out of bounds",
		good + "events: [{at: 1m, for: 1m, overload: 2}]":                                                                      "is out of bounds",
		strings.Replace(good, "rpm: 1", "rpm: -1", 1):                                                                          "no number may be negative",
		strings.Replace(good, "workers: 1", "workers: 1, vanish: 2", 1):                                                        "nor vanish above 1",
		strings.Replace(good, "workers: 1", "workers: 1, input: {mean: -1}", 1):                                                "services: service1: input: no number may be negative",
		strings.Replace(good, "workers: 1", "workers: 1, output: {mean: 5, max: 4}", 1):                                        "nor max below mean",
		strings.Replace(good, "{workers: 1}", "{name: a, workers: 1}, {name: a, workers: 1}", 1):                               "two called a",
		strings.Replace(good, "{limits: {rpm: 1}}", "{name: a-1, limits: {rpm: 1}}, {name: a, count: 2, limits: {rpm: 1}}", 1): "two called a-1",
		strings.Replace(good, "type: anthropic", "type: anthropic, speed: 0", 1):                                               "speed must be above 0",
		"provider: {type: anthropic}":                                                                                          "there must be at least one of each",
		strings.Replace(good, "rpm: 1", "", 1):                                                                                 "has no limits",
		strings.Replace(good, "workers: 1", "", 1):                                                                             "either workers or rate",
		good + "events: [{at: 1m}]":                                                                                            "give one of overload",
		good + "events: [{at: 1m, cut: 0.5, overload: 1}]":                                                                     "give one of overload",
		good + "events: [{at: 1m, answers: [{status: 429}]}]":                                                                  "name a service that there is",
		good + "events: [{at: 1m, idle: true, service: nobody}]":                                                               "name a service that there is",
		good + "events: [{at: 1m, idle: true, service: service1, group: group1}]":                                              "and no group",
		good + "events: [{at: 1m, cut: 0.5, service: service1}]":                                                               "answers and idle, and no others",
		good + "events: [{at: 1m, service: service1, answers: []}]":                                                            "give one of overload",
		good + "events: [{at: 1m, service: service1, answers: [{status: 200}]}]":                                               "is an error, 400 to 599",
		good + "events: [{at: 1m, service: service1, answers: [{status: 429, used: 1}]}]":                                      "uses nothing",
		good + "events: [{at: 1m, service: service1, idle: true}, {at: 2m, service: service1, idle: true}]":                    "are of one kind, and overlap",
		"[": "did not find expected",
		strings.Replace(good, "workers: 1", "workers: 2000000000", 1):                              "at most 10000 workers",
		strings.Replace(good, "workers: 1", "workers: 200, count: 200", 1):                         "at most 10000 workers",
		strings.Replace(good, "workers: 1", "rate: .inf", 1):                                       "10000 requests a second",
		strings.Replace(good, "workers: 1", "rate: .nan", 1):                                       "10000 requests a second",
		strings.Replace(good, "workers: 1", "workers: 1, input: {mean: .nan}", 1):                  "NaN is too much",
		strings.Replace(good, "workers: 1", "workers: 1, input: {mean: 500, dev: 200}", 1):         "a dev of 200 is too much",
		strings.Replace(good, "workers: 1", "workers: 1, input: {mean: 1e30}", 1):                  "1e+30 is too much",
		strings.Replace(good, "{limits:", "{count: 2000000000, limits:", 1):                        "at most 10000 keys",
		good + "expect: [{share: 99}]":                                                             "expect: 99 is not between 0 and 1",
		good + "expect: [{refused: -1}]":                                                           "expect: -1 is not between",
		good + "events: [{at: 3m, for: 9m, cut: 0.5}, {at: 5m, for: 1m, group: group1, cut: 0.5}]": "those at 3m0s and 5m0s are of one kind, and overlap",
	} {
		_, err := Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestChanceHasTheRightMean(t *testing.T) {
	c := newChance(1, 0)
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
	require.NoError(t, c.run(t.Context(), 5))
	assert.Equal(t, []int{1, 2, 3, 4}, got)
	assert.EqualValues(t, 5, c.now)
}

// What is reserved of a provider that counts what is really used is not what is counted.
func TestProviderCountsAsItsDialectSays(t *testing.T) {
	for typ, want := range map[string][2]int64{"anthropic": {0, 150}, "openai": {5000, 5000}} { // at first, and at the end
		r := &run{scenario: parse(t, "provider: {type: "+typ+", groups: [{limits: {rpm: 10, tpm: 100000}}]}\nservices: [{workers: 1, max_tokens: 5000}]"), chance: newChance(1, 0), trail: make([]point, 1)}
		r.upstream = newUpstream(r)
		m := &member{Service: &r.scenario.Services[0]}
		a := r.upstream.arrive(&request{service: m, key: r.upstream.keys[0], input: 100, output: 50})
		assert.Equal(t, 200, a.status)
		buckets := r.upstream.groups[0].models["m"].buckets
		tokens := buckets[slices.IndexFunc(buckets, func(b *bucket) bool { return b.dimension == provider.Tokens })]
		assert.Equal(t, want[0], tokens.total, typ)
		require.NoError(t, r.clock.run(t.Context(), time.Minute))
		assert.Equal(t, want[1], tokens.total, typ)
	}
}

// What is allowed is what there was when counting began, and what came since: nobody
// gets more.
func TestAllowedIsAllThereWas(t *testing.T) {
	for typ, limits := range map[string]string{"anthropic": "rpm: 60, rpd: 300", "generic": "rpm: 60, rpd: 300", "github": "rph: 300"} {
		warms := []string{"2m"}
		if long.Enabled {
			warms = []string{"0s", "2m", "9m"}
		}
		for _, warm := range warms {
			s := parse(t, "duration: 3h\nwarm_up: "+warm+"\nprovider: {type: "+typ+", groups: [{name: org, limits: {"+limits+"}}]}\nservices: [{count: 5, workers: 3}]\n")
			for _, x := range Strategies {
				a := result(t, s, x.Name, 1).Accounts[0]
				assert.Less(t, a.Used, a.Allowed+1, "%s after %s by %s", typ, warm, x.Name)
				if x.Name == "broker" || x.Name == "random" {
					assert.Greater(t, a.Share, 0.9, "%s after %s by %s", typ, warm, x.Name)
				}
			}
		}
	}
}

// What services want is the same whatever the strategy.
func TestStrategiesFaceTheSameDemand(t *testing.T) {
	s := parse(t, small)
	wanted := func(strategy string) (all []int64) {
		r := &run{scenario: s, chance: newChance(1, 0)}
		r.upstream = newUpstream(r)
		r.members = []*member{{Service: &s.Services[0], chance: newChance(1, 1)}}
		r.strategy = noting{&all, r, strategy == "other"}
		r.begin(r.members[0])
		require.NoError(t, r.clock.run(t.Context(), time.Minute))
		return all
	}
	assert.Equal(t, wanted("one"), wanted("other"))
}

// noting notes what is wanted, and draws on the strategy's chance or not.
type noting struct {
	all   *[]int64
	run   *run
	draws bool
}

func (n noting) Begin(q *request) {
	*n.all = append(*n.all, q.input, q.output, q.guess)
	if n.draws {
		n.run.chance.Float64()
	}
	n.run.after(time.Second, q.done)
}
func (noting) Answered(*request, *answer) {}
func (noting) Finished(*request)          {}

// A recovery is that of the groups concerned, lasts, and counts from when the provider
// could let something through.
func TestRecovery(t *testing.T) {
	s := parse(t, small)
	r := &run{scenario: s, chance: newChance(1, 0)}
	r.upstream = newUpstream(r)
	e := &Event{Group: "org-1"}
	of := func(text string) float64 { // a letter a second, of org-1: . nothing, u used, o overmuch, d debt
		r.trail = nil
		for i, c := range text + "." {
			x := map[rune]second{'.': {}, 'u': {used: 0.95}, 'o': {used: 3}, 'd': {debt: true}}[c]
			r.trail = append(r.trail, point{at: seconds(float64(i)), groups: []second{x, {used: 1}, {used: 1}}})
		}
		return r.recovery(e, seconds(2.5))
	}
	assert.InDelta(t, 0.5, of("uuuuuuuuuuuu"), 1e-9)
	assert.InDelta(t, 3.5, of("uu....uuuuuu"), 1e-9)
	assert.InDelta(t, 2.0, of("uu.ddd.uuuuuu"), 1e-9, "two seconds after the last of debt")
	assert.InDelta(t, -1, of("uu.o.o.o.o.o"), 1e-9, "what is too much does not make up for too little")
	assert.InDelta(t, 5.5, of("uu.u..u.uuuuu"), 1e-9)
	assert.InDelta(t, -1, of("uu.........uu"), 1e-9)
}

// The scenarios of this repository are right, and two of them show what they expect;
// long tests run all.
func TestScenarios(t *testing.T) {
	names, err := fs.Glob(scenarios.Files, "*.yaml")
	require.NoError(t, err)
	var all []string
	for _, name := range names {
		text, err := scenarios.Files.ReadFile(name)
		require.NoError(t, err)
		s := parse(t, string(text))
		all = append(all, s.Name)
		if s.Name == "small-limit" || s.Name == "foreign-sliding" {
			assert.Empty(t, s.Check(result(t, s, "broker", 1)), s.Name)
		}
	}
	assert.Subset(t, all, []string{"small-limit", "foreign-sliding"})
}

// tiny is one group with one service, whose calls are all alike.
const tiny = `
duration: 12m
provider: {type: TYPE, latency: {mean: 1, dev: 0}, speed: 100, groups: [{name: org, limits: {LIMITS}}]}
services: [{count: COUNT, workers: 1, input: {mean: 1000, dev: 0}, output: {mean: 100, dev: 0}, max_tokens: 100, network: {mean: 0.5, dev: 0}, MORE}]
`

func tinyRun(t *testing.T, strategy, typ, limits, count, more string) *Result {
	t.Helper()
	text := strings.NewReplacer("TYPE", typ, "LIMITS", limits, "COUNT", count, "MORE", more).Replace(tiny)
	return result(t, parse(t, text), strategy, 1)
}

// Without rivals a request waits for the network alone: to the broker, back, and to the
// provider; without a broker, to the provider.
func TestWaitsAreThoseOfTheNetwork(t *testing.T) {
	for strategy, want := range map[string]float64{"broker": 1.5, "minute counter": 1.5, "random": 0.5, "headers": 0.5} {
		w := tinyRun(t, strategy, "anthropic", "rpm: 600", "1", "pause: {mean: 1}").Wait
		assert.InDelta(t, want, w.P50, 1e-3, strategy)
		assert.InDelta(t, want, w.Max, 1e-3, strategy)
	}
	w := tinyRun(t, "broker", "anthropic", "rpm: 6", "3", "max_wait: 5m").Wait
	assert.InDelta(t, 30, w.P50, 3, "three in a line that moves every ten seconds")
}

// A service whose reports are lost keeps its share of what is counted in full only.
func TestVanishedReportsCostWhatIsHeld(t *testing.T) {
	all := tinyRun(t, "broker", "anthropic", "rpm: 600, otpm: 2000", "20", "vanish: 0")
	none := tinyRun(t, "broker", "anthropic", "rpm: 600, otpm: 2000", "20", "vanish: 1")
	assert.Greater(t, all.Share, 0.95)
	assert.Less(t, none.Share, 0.9*all.Share)
}

// Who takes its input for half of what it is has the broker grant too much.
func TestWrongGuessesAreRefused(t *testing.T) {
	right := tinyRun(t, "broker", "anthropic", "rpm: 600, itpm: 60000", "20", "guess: {mean: 1}")
	wrong := tinyRun(t, "broker", "anthropic", "rpm: 600, itpm: 60000", "20", "guess: {mean: 0.5}")
	assert.Zero(t, right.Refused)
	assert.Positive(t, wrong.Refused)
}

// What headers say is rounded as the provider does, and of some time ago.
func TestHeadersAreLateAndRounded(t *testing.T) {
	for _, late := range []string{"0s", "10s"} {
		s := parse(t, "provider: {type: anthropic, late: "+late+", groups: [{limits: {rpm: 600, itpm: 100000}}]}\nservices: [{workers: 1}]")
		r := &run{scenario: s, chance: newChance(1, 0), trail: make([]point, 1)}
		r.upstream = newUpstream(r)
		a := r.upstream.account(r.upstream.groups[0], "m")
		a.buckets[1].charge(r, 1700)
		old := 0
		for range 50 {
			r.now += time.Second
			a.buckets[0].charge(r, 15) // 10 have come back
			w := a.windows(r.upstream, r.now)
			assert.EqualValues(t, 1, w[0].Rounding)
			assert.EqualValues(t, 1000, w[1].Rounding)
			assert.Zero(t, w[1].Remaining%1000)
			assert.LessOrEqual(t, w[0].Remaining, a.buckets[0].Remaining(r.now)+11*5, "eleven seconds old at most")
			if w[0].Remaining != a.buckets[0].Remaining(r.now) {
				old++
			}
		}
		assert.Equal(t, late != "0s", old > 20, "%d of 50 are old", old)
	}
}

// A provider that counts output while it is written lets calls in as long as there is
// room, and so more than its limit.
func TestOverrunIsSeen(t *testing.T) {
	more := "output: {mean: 1000, dev: 0}, max_tokens: 1000"
	text := strings.NewReplacer("TYPE", "anthropic", "LIMITS", "rpm: 600, otpm: 2000", "COUNT", "50", "MORE", "pause: {mean: 1}").Replace(tiny)
	s := parse(t, strings.Replace(text, "output: {mean: 100, dev: 0}, max_tokens: 100", more, 1))
	assert.Greater(t, result(t, s, "random", 1).Overrun, 0.5)
	assert.Zero(t, result(t, s, "broker", 1).Overrun)
}

// What a gateway answers in the provider's stead does not reach the provider; what it passes
// on does, whatever headers and use it states.
func TestAnswersInTheProvidersStead(t *testing.T) {
	s := parse(t, `
provider: {type: anthropic, groups: [{limits: {rpm: 600, itpm: 100000}}]}
services: [{name: a, workers: 1}, {name: b, workers: 1}]
events:
  - at: 1m
    service: a
    answers: [{status: 429, headers: {Retry-After: 7}}, {headers: {Anthropic-Ratelimit-Requests-Limit: 3}}, {used: 5000}]
`)
	r := &run{scenario: s, chance: newChance(1, 0), trail: make([]point, 1)}
	r.upstream = newUpstream(r)
	m := &member{Service: &s.Services[0], answers: s.Events[0].Answers}
	q := &request{service: m, key: r.upstream.keys[0], input: 100, output: 50}
	total := func() int64 { return r.upstream.account(r.upstream.groups[0], "m").buckets[0].total }

	a := r.hear(q)
	assert.Equal(t, 429, a.status)
	assert.Equal(t, provider.RateLimited, a.signal.Class)
	assert.Equal(t, 7*time.Second, a.signal.Wait)
	assert.Zero(t, total())
	assert.Zero(t, m.sent)

	a = r.hear(q)
	assert.Equal(t, 200, a.status)
	require.Len(t, a.signal.Windows, 1)
	assert.EqualValues(t, 3, a.signal.Windows[0].Limit)
	assert.EqualValues(t, 1, total())
	assert.Equal(t, r.counted(q), r.reported(q))

	a = r.hear(q)
	assert.Len(t, a.signal.Windows, 2, "the provider's own")
	assert.EqualValues(t, 5000, r.reported(q)[provider.InputTokens])
	assert.EqualValues(t, 100, r.counted(q)[provider.InputTokens])

	assert.Equal(t, 429, r.hear(q).status, "in turn")
	m.answers = nil
	a = r.hear(q)
	assert.Len(t, a.signal.Windows, 2)
	assert.Equal(t, r.counted(q), r.reported(q))
	assert.EqualValues(t, 3, total())
	assert.Equal(t, 3, m.sent)
}

// What others keep is compared with a run in which nobody is misled, service by service.
func TestKept(t *testing.T) {
	s := parse(t, `
provider: {type: anthropic, groups: [{limits: {rpm: 600}}]}
services: [{name: a, workers: 1, count: 2}, {name: b, workers: 1, count: 2}]
events: [{at: 1m, service: b, answers: [{status: 401}]}]
`)
	of := func(settled ...int) *run {
		r := &run{scenario: s}
		for i, n := range settled {
			r.members = append(r.members, &member{Service: &s.Services[i/2], tally: tally{settled: n}})
		}
		return r
	}
	kept := of(100, 60, 0, 0).kept(of(90, 80, 90, 90))
	require.NotNil(t, kept)
	assert.InDelta(t, 0.75, *kept, 1e-9)
	assert.Nil(t, of(0, 0, 9, 9).kept(of(0, 0, 9, 9)), "nobody got anything")

	s = parse(t, small)
	assert.NotNil(t, result(t, s, "random", 1).Kept)
	s.Events = slices.DeleteFunc(s.Events, func(e Event) bool { return len(e.Answers) > 0 })
	assert.Nil(t, result(t, s, "random", 1).Kept)
}

// A service that is idle asks afterwards for what it wanted meanwhile.
func TestIdle(t *testing.T) {
	for _, how := range []string{"workers: 3", "rate: 2"} {
		s := parse(t, `
provider: {type: anthropic, groups: [{limits: {rpm: 6000}}]}
services: [{name: a, `+how+`}]
events: [{at: 1m, for: 30s, service: a, idle: true}]
`)
		var idle, after int
		for _, p := range result(t, s, "random", 1).Trail {
			switch {
			case p.At >= 62 && p.At < 90: // calls of before arrive first
				idle += p.Served
			case p.At >= 90 && p.At < 92:
				after += p.Served
			}
		}
		assert.Zero(t, idle, how)
		assert.Positive(t, after, how)
		assert.Equal(t, how == "rate: 2", after > 20, "%s: %d", how, after)
	}
}

// Jain's index is 1 where all get the same, and 1/n where one gets everything; of several
// kinds of services it is that of the most unfair.
func TestFairness(t *testing.T) {
	kinds := []*Service{{Name: "a"}, {Name: "b"}}
	for want, got := range map[float64][2][]int{
		1: {{5, 5, 5, 5}, {9, 9}}, 0.25: {{5, 0, 0, 0}, {9, 9}}, 0.5: {{5, 5, 5, 5}, {9, 0}}, 0.9: {{2, 4}, {1}},
	} {
		r := &run{}
		starved := 0
		for i, all := range got {
			for _, n := range all {
				r.members = append(r.members, &member{Service: kinds[i], tally: tally{settled: n}})
				if n == 0 {
					starved++
				}
			}
		}
		index, none := r.fairness()
		assert.InDelta(t, want, index, 1e-9)
		assert.Equal(t, starved, none)
	}
}

// The scenario that the documentation shows is one, and the broker does what it expects.
func TestDocumentedScenario(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "simulation.md"))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(data), "```yaml\n")
	require.True(t, ok)
	text, _, _ := strings.Cut(rest, "```")
	s := parse(t, text)
	assert.Empty(t, s.Check(result(t, s, "broker", 1)))
}
