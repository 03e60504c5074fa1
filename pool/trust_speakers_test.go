package pool_test

// What speakers say in the provider's stead, and what the provider says in truth.

import (
	"fmt"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// speaker answers the requests of a service in the provider's stead, or changes what the
// provider has answered. It has no state: what it says follows from the world and the
// number of the call.
type speaker struct {
	name     string
	sends    bool // its requests reach the provider, whose answer it may change
	says     func(w *trustWorld, c *trustCall, answer provider.Signal) provider.Signal
	uses     func(used *provider.Amounts) // changes what it reports as used
	instance func(leases int) string      // names the instance that asks
}

// answerOf is how a dialect reads a status with a stated wait; without one if it is 0.
func answerOf(d *provider.Dialect, status int, wait time.Duration) provider.Signal {
	r := provider.Response{Status: status, Header: http.Header{}}
	if wait > 0 {
		seconds := (wait + time.Second - 1) / time.Second
		r.Header.Set("Retry-After", fmt.Sprint(int64(seconds)))
	}
	return d.Read(r)
}

// answers is a speaker that gives every request one answer.
func answers(name string, status int, wait time.Duration) *speaker {
	return &speaker{name: name, says: func(w *trustWorld, _ *trustCall, _ provider.Signal) provider.Signal {
		return answerOf(w.dialect, status, wait)
	}}
}

// htmlPage is what a filter in between answers with.
var htmlPage = []byte("<html><head><title>403 Forbidden</title></head><body><h1>Forbidden</h1></body></html>")

func forbidden(name string, scope provider.Scope) *speaker {
	return &speaker{name: name, says: func(w *trustWorld, _ *trustCall, _ provider.Signal) provider.Signal {
		s := w.dialect.Read(provider.Response{Status: http.StatusForbidden, Header: http.Header{"Content-Type": {"text/html"}}, Body: htmlPage})
		s.Scope = scope
		return s
	}}
}

// namesLowerLimit is a 429 that names a limit of 15 a minute.
func namesLowerLimit(w *trustWorld, _ *trustCall, _ provider.Signal) provider.Signal {
	s := answerOf(w.dialect, 429, 0)
	s.Refused = &provider.Refusal{
		Dimension: provider.Requests, Length: time.Minute, Limit: 15, Used: provider.Unknown, Requested: provider.Unknown,
	}
	return s
}

// brokenGateways each give one answer for ever.
var brokenGateways = []*speaker{
	answers("402", 402, 0),
	forbidden("403 of the key for the model", provider.KeyModelScope),
	forbidden("403 of the group", provider.GroupScope),
	answers("429 for an hour", 429, time.Hour),
	answers("429 bare", 429, 0),
	answers("503 for two minutes", 503, 2*time.Minute),
	answers("503 bare", 503, 0),
	answers("401", 401, 0),
	{name: "429 with a limit of 15", says: namesLowerLimit},
}

// gateway finds a broken gateway by its name.
func gateway(name string) *speaker {
	for _, s := range brokenGateways {
		if s.name == name {
			return s
		}
	}
	panic("no gateway " + name)
}

// inTurn says what each gateway says, for 30 s each.
func inTurn(w *trustWorld, c *trustCall, answer provider.Signal) provider.Signal {
	i := int(w.now/(30*sec)) % len(brokenGateways)
	return brokenGateways[i].says(w, c, answer)
}

// liesOnceIn says that all is well but for every nth time.
func liesOnceIn(name string, n, status int, wait time.Duration) *speaker {
	return &speaker{name: name, says: func(w *trustWorld, c *trustCall, _ provider.Signal) provider.Signal {
		if c.number%n == n-1 {
			return answerOf(w.dialect, status, wait)
		}
		return provider.Signal{}
	}}
}

// newNames makes each lease that of another instance.
func newNames(leases int) string { return fmt.Sprintf("made-up-%d", leases) }

// agrees says of every key what somebody else has last said of any.
func agrees(w *trustWorld, _ *trustCall, _ provider.Signal) provider.Signal { return w.refusal }

// allIsWell says so whatever the provider has answered.
func allIsWell(_ *trustWorld, _ *trustCall, answer provider.Signal) provider.Signal {
	return provider.Signal{Windows: answer.Windows}
}

var (
	agreesWithAll = &speaker{name: "agrees with whatever was said", says: agrees}
	saysAllIsWell = &speaker{name: "says that all is well", sends: true, says: allIsWell}
)

// hostiles say what does the most harm.
var hostiles = []*speaker{
	{name: "every refusal in turn", says: inTurn},
	liesOnceIn("429 and OK in turn", 2, 429, 0),
	liesOnceIn("429 for an hour and OK in turn", 2, 429, time.Hour),
	liesOnceIn("four OK and then a 402", 5, 402, 0),
	liesOnceIn("four OK and then a 503 for two minutes", 5, 503, 2*time.Minute),
	{name: "401, a new instance every lease", says: gateway("401").says, instance: newNames},
	{name: "every refusal in turn, a new instance every lease", says: inTurn, instance: newNames},
	answers("402 of every lease", 402, 0),
	answers("429 bare of every lease", 429, 0),
}

// headersOf makes the windows that a call's answer states, from those that it truly states.
type headersOf func(w *trustWorld, c *trustCall, truly []provider.Window) []provider.Window

// figures is a speaker that passes requests on and changes the headers of good answers.
func figures(name string, windows headersOf) *speaker {
	return &speaker{name: name, sends: true, says: func(w *trustWorld, c *trustCall, answer provider.Signal) provider.Signal {
		if answer.Class == provider.OK {
			answer.Windows = windows(w, c, answer.Windows)
		}
		return answer
	}}
}

// stated is a header's limit on requests by the minute.
func stated(w *trustWorld, limit, remaining int64, reset time.Duration) []provider.Window {
	return []provider.Window{{
		Dimension: provider.Requests, Length: time.Minute, Kind: w.Kind, Limit: limit, Remaining: remaining, Rounding: 1, Reset: reset,
	}}
}

func limitOne(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	return stated(w, 1, 0, 30*time.Second)
}

func halfTheLimit(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	return stated(w, w.PerGroup/2, w.PerGroup/4, 30*time.Second)
}

func nothingRemains(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	return stated(w, w.PerGroup, 0, time.Minute)
}

func allIsFree(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	return stated(w, w.PerGroup, w.PerGroup, 0)
}

func earlierReset(w *trustWorld, c *trustCall, _ []provider.Window) []provider.Window {
	return stated(w, w.PerGroup, w.PerGroup-1, time.Duration(1+c.number%5)*time.Second)
}

// madeUpPolicies are 15 policies that no provider has; those of another number have other names
// and lengths.
func madeUpPolicies(number int) (windows []provider.Window) {
	for i := range 15 {
		windows = append(windows, provider.Window{
			Dimension: provider.Dimension(i % 4), Name: fmt.Sprintf("policy-%d-%d", number, i), Kind: provider.Sliding,
			Length: time.Duration(7+13*i+number%97) * time.Second, Limit: 1 + int64(i), Remaining: 0, Rounding: 1, Reset: time.Minute,
		})
	}
	return windows
}

func samePolicies(*trustWorld, *trustCall, []provider.Window) []provider.Window {
	return madeUpPolicies(0)
}

func newPolicies(_ *trustWorld, c *trustCall, _ []provider.Window) []provider.Window {
	return madeUpPolicies(1 + c.number)
}

// phantom is an ordinary 200 of another account, whose headers do not state a length: one
// in a hundred is used, and comes back within 36 s, as if the limit were an hour's.
func phantom(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	return []provider.Window{{
		Dimension: provider.Requests, Kind: w.Kind, Limit: w.PerGroup, Remaining: w.PerGroup - w.PerGroup/100, Rounding: 1,
		Reset: 36 * time.Second,
	}}
}

// phantomRead is the same as the dialect reads it from headers, which may infer a length.
func phantomRead(w *trustWorld, _ *trustCall, _ []provider.Window) []provider.Window {
	h := http.Header{}
	h.Set("X-Ratelimit-Limit-Requests", fmt.Sprint(w.PerGroup))
	h.Set("X-Ratelimit-Remaining-Requests", fmt.Sprint(w.PerGroup-w.PerGroup/100))
	h.Set("X-Ratelimit-Reset-Requests", "36s")
	return w.dialect.Read(provider.Response{Status: 200, Header: h}).Windows
}

// once says something with the tenth answer only, and otherwise passes on the truth.
func once(says headersOf) headersOf {
	return func(w *trustWorld, c *trustCall, truly []provider.Window) []provider.Window {
		if c.number == 10 {
			return says(w, c, truly)
		}
		return truly
	}
}

// hugeUse reports 10¹⁵ tokens a call.
func hugeUse(used *provider.Amounts) {
	for _, d := range []provider.Dimension{provider.InputTokens, provider.OutputTokens, provider.Tokens} {
		used[d] = 1e15
	}
}

// passesOn is honest about the answer.
func passesOn(_ *trustWorld, _ *trustCall, answer provider.Signal) provider.Signal { return answer }

// falseFigures are gateways that pass requests on, and state or report figures that are
// not so.
var falseFigures = []*speaker{
	figures("limit 1", limitOne),
	figures("half the limit", halfTheLimit),
	figures("remaining 0", nothingRemains),
	{name: "use of 10¹⁵ tokens", sends: true, says: passesOn, uses: hugeUse},
	figures("15 made-up policies", samePolicies),
	figures("new made-up policies each time", newPolicies),
	figures("all is free", allIsFree),
}

// truthNames are what a provider may truly say, each of which happens after two minutes.
var truthNames = []string{
	"rate limit for 40 s, stated", "rate limit for 20 s, bare", "quota gone for 5 min", "key revoked",
	"key forbidden for the model", "overload for 30 s, stated", "overload for 30 s, bare", "limit cut to half",
}

// manyTruths is a provider with troubles of every kind, one after the other.
const manyTruths = "many truths"

// truthsNamed makes what happens in a setting.
func truthsNamed(set *trustSetting) []*truth {
	const t, end = 2 * minute, trustSpan
	switch set.Truths {
	case "":
		return nil
	case manyTruths:
		return []*truth{
			{from: minute, until: 3 * minute, key: "g0a", status: 401},
			{from: 4 * minute, until: 4*minute + 20*sec, group: "g0", status: 429, states: true},
			{from: 5 * minute, until: 5*minute + 10*sec, group: "g0", status: 429},
			{from: 6 * minute, until: 6*minute + 10*sec, status: 503},
			{from: 7 * minute, until: 8 * minute, group: "g0", status: 402},
		}
	case truthNames[0]:
		return []*truth{{from: t, until: t + 40*sec, group: "g0", status: 429, states: true}}
	case truthNames[1]:
		return []*truth{{from: t, until: t + 20*sec, group: "g0", status: 429}}
	case truthNames[2]:
		return []*truth{{from: t, until: t + 5*minute, group: "g0", status: 402}}
	case truthNames[3]:
		return []*truth{{from: t, until: end, key: "g0a", status: 401}}
	case truthNames[4]:
		return []*truth{{from: t, until: end, key: "g0a", status: 403}}
	case truthNames[5]:
		return []*truth{{from: t, until: t + 30*sec, status: 503, states: true}}
	case truthNames[6]:
		return []*truth{{from: t, until: t + 30*sec, status: 503}}
	case truthNames[7]:
		return []*truth{{from: t, until: end, group: "g0", cut: set.PerGroup / 2}}
	}
	panic("no truth " + set.Truths)
}
