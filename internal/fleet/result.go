package fleet

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"
)

// tally counts what became of requests.
type tally struct {
	served, failed int
	refused        int // 429
	busy           int // 529
	denied         int // 401
	sent           int
	waits          []time.Duration
}

// point is what happened in a second.
type point struct {
	at              time.Duration
	used            float64 // of what refilled in that second, of the binding limits
	debt            bool    // some limit was overdrawn all the time: the provider could let nothing through
	served, refused int
}

// Result is what came of a run, after the warm-up.
type Result struct {
	Scenario string `json:"scenario"`
	Strategy string `json:"strategy"`
	Seed     uint64 `json:"seed"`

	Share       float64 `json:"share"` // of what the binding limits allowed, and nobody else used
	Served      int     `json:"served"`
	Failed      int     `json:"failed"` // given up
	Sent        int     `json:"sent"`
	Refused     int     `json:"refused"` // 429
	RefusedRate float64 `json:"refused_rate"`
	Busy        int     `json:"busy"`   // 529
	Denied      int     `json:"denied"` // 401
	Fairness    float64 `json:"fairness"`
	Starved     int     `json:"starved"` // services that got nothing
	Wait        Waits   `json:"wait"`

	Accounts   []AccountResult `json:"accounts"`
	Recoveries []Recovery      `json:"recoveries,omitempty"`
	Blamed     []string        `json:"blamed,omitempty"` // keys put out of use that were good
	Missed     []string        `json:"missed,omitempty"` // what the scenario expects
	Trail      []Point         `json:"trail"`
}

// Waits are in seconds, from when a request was wanted to when it reached the provider
// and was let in.
type Waits struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// AccountResult is what was used of one group's limits for a model.
type AccountResult struct {
	Group   string  `json:"group"`
	Model   string  `json:"model"`
	Binding string  `json:"binding"` // the limit of which the largest share was used
	Allowed float64 `json:"allowed"`
	Used    float64 `json:"used"`
	Foreign float64 `json:"foreign,omitempty"`
	Share   float64 `json:"share"`
}

// Recovery is how long it took after an event until what is allowed was used again.
type Recovery struct {
	Event   string  `json:"event"`
	Seconds float64 `json:"seconds"` // negative: never
}

// Point is a second of the run.
type Point struct {
	At      float64 `json:"at"`
	Used    float64 `json:"used"`
	Served  int     `json:"served"`
	Refused int     `json:"refused"`
}

// attempt counts a try.
func (r *run) attempt(q *request, a *answer) {
	q.sent = r.now
	last := &r.trail[len(r.trail)-1]
	switch a.status {
	case http.StatusOK:
		last.served++
	case http.StatusTooManyRequests:
		last.refused++
	}
	if r.now < r.scenario.WarmUp {
		return
	}
	for _, t := range []*tally{&r.total, &q.service.tally} {
		t.sent++
		switch a.status {
		case http.StatusOK:
			t.served++
			t.waits = append(t.waits, r.now-q.born)
		case http.StatusTooManyRequests:
			t.refused++
		case http.StatusUnauthorized:
			t.denied++
		default:
			t.busy++
		}
	}
}

// sample notes each second what was used in it.
func (r *run) sample() {
	before := map[*bucket]int64{}
	var tick func()
	tick = func() {
		if n := len(r.trail); n > 0 {
			r.trail[n-1].used, r.trail[n-1].debt = r.usedSince(before), r.inDebt()
		}
		r.trail = append(r.trail, point{at: r.now})
		for _, b := range r.allBuckets() {
			before[b] = b.total
		}
		r.after(time.Second, tick)
	}
	tick()
}

// inDebt reports whether some limit is overdrawn, as it is for a while when it is cut.
func (r *run) inDebt() bool {
	return slices.ContainsFunc(r.allBuckets(), func(b *bucket) bool { return b.Remaining(r.now) < 0 })
}

func (r *run) allBuckets() (all []*bucket) {
	for _, g := range r.upstream.groups {
		for _, a := range g.order {
			all = append(all, a.buckets...)
		}
	}
	return all
}

// usedSince is the part used of what refills in a second, the binding limit of each
// account taken, and all accounts together.
func (r *run) usedSince(before map[*bucket]int64) float64 {
	used, allowed := 0.0, 0.0
	for _, g := range r.upstream.groups {
		for _, a := range g.order {
			most, weight := 0.0, 0.0
			for _, b := range a.buckets {
				rate := float64(b.limit) / b.window.Seconds() * (1 - g.foreign)
				if share := float64(b.total-before[b]) / rate; share > most || weight == 0 {
					most, weight = share, 1
				}
			}
			used += most * weight
			allowed += weight
		}
	}
	if allowed == 0 {
		return 0
	}
	return used / allowed
}

func (r *run) result(strategy string) *Result {
	res := &Result{
		Scenario: r.scenario.Name, Strategy: strategy,
		Served: r.total.served, Failed: r.total.failed, Sent: r.total.sent, Refused: r.total.refused, Busy: r.total.busy, Denied: r.total.denied,
	}
	if r.total.sent > 0 {
		res.RefusedRate = float64(r.total.refused) / float64(r.total.sent)
	}
	var shares, weights float64
	for _, g := range r.upstream.groups {
		for model, a := range byModel(g) {
			x := AccountResult{Group: g.name, Model: model}
			for _, b := range a.buckets {
				b.allow(r)
				allowed := b.allowed - float64(b.foreign)
				if share := float64(b.used) / allowed; allowed > 0 && (share > x.Share || x.Binding == "") {
					x.Binding, x.Allowed, x.Used, x.Foreign, x.Share = binding(b), allowed, float64(b.used), float64(b.foreign), share
				}
			}
			shares += x.Share
			weights++
			res.Accounts = append(res.Accounts, x)
		}
	}
	res.Share = shares / max(weights, 1)
	res.Wait = waits(r.total.waits)
	res.Fairness, res.Starved = r.fairness()
	for _, e := range r.scenario.Events {
		res.Recoveries = append(res.Recoveries, r.recovery(&e))
	}
	if b, ok := r.strategy.(*brokered); ok {
		res.Blamed = b.blamed
	}
	for _, p := range r.trail {
		res.Trail = append(res.Trail, Point{p.at.Seconds(), round(p.used), p.served, p.refused})
	}
	return res
}

func round(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// byModel gives a group's accounts in a fixed order.
func byModel(g *quota) func(yield func(string, *account) bool) {
	return func(yield func(string, *account) bool) {
		for _, a := range g.order {
			if !yield(a.model, a) {
				return
			}
		}
	}
}

func binding(b *bucket) string {
	if b.window == time.Minute {
		return b.dimension.String() + "/min"
	}
	return fmt.Sprintf("%s/%v", b.dimension, b.window)
}

func waits(all []time.Duration) (w Waits) {
	if len(all) == 0 {
		return w
	}
	slices.Sort(all)
	at := func(percent int) float64 {
		return round(all[min(len(all)*percent/100, len(all)-1)].Seconds())
	}
	return Waits{at(50), at(95), at(99), at(100)}
}

// fairness is Jain's index over services of one kind, of which the least is taken.
func (r *run) fairness() (index float64, starved int) {
	kinds := map[*Service][]float64{}
	for _, m := range r.members {
		kinds[m.Service] = append(kinds[m.Service], float64(m.served))
		if m.served == 0 {
			starved++
		}
	}
	index = 1
	for _, xs := range kinds {
		sum, squares := 0.0, 0.0
		for _, x := range xs {
			sum += x
			squares += x * x
		}
		if squares > 0 {
			index = min(index, sum*sum/(float64(len(xs))*squares))
		}
	}
	return round(index), starved
}

// regained is the part of what is allowed that has to be used again, over some seconds.
const (
	regained = 0.9
	smooth   = 5
)

// recovery finds how long it took until what is allowed was used again: from the end of
// an overload, or from the beginning of anything else; but not before the provider
// could let something through again, which after a cut takes until the debt is paid.
func (r *run) recovery(e *Event) Recovery {
	from := e.At
	if e.Overload > 0 {
		from += e.For
	}
	x := Recovery{Event: e.String(), Seconds: -1}
	first := int(from/time.Second) + 1
	for first < len(r.trail) && r.trail[first].debt {
		first++
	}
	from = max(from, time.Duration(first-1)*time.Second)
	for i := first; i+smooth <= len(r.trail); i++ {
		sum := 0.0
		for _, p := range r.trail[i : i+smooth] {
			sum += p.used
		}
		if sum/smooth >= regained {
			x.Seconds = r.trail[i].at.Seconds() - from.Seconds()
			break
		}
	}
	return x
}

// String says what happens.
func (e *Event) String() string {
	whom := e.Group
	if whom == "" {
		whom = "all"
	}
	switch {
	case e.Overload > 0:
		return fmt.Sprintf("%v: %s busy for %v (%.0f %%)", e.At, whom, e.For, 100*e.Overload)
	case e.Cut > 0:
		return fmt.Sprintf("%v: limits of %s times %v", e.At, whom, e.Cut)
	case e.Foreign > 0:
		return fmt.Sprintf("%v: somebody else uses %.0f %% of %s", e.At, 100*e.Foreign, whom)
	}
	return fmt.Sprintf("%v: key %d of %s revoked", e.At, e.Revoke, whom)
}
