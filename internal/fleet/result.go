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
	settled        int // served after the warm-up
	refused        int // 429
	busy           int // 529
	denied         int // 401
	sent           int
	waits          []time.Duration // of those settled
}

// point is what happened in a second.
type point struct {
	at              time.Duration
	groups          []second
	served, refused int
}

// second is what a group used in a second.
type second struct {
	used float64 // of what refilled meanwhile, of the binding limits
	debt bool    // some limit is overdrawn: the provider can let nothing through
}

// Result is what came of a run. Calls are counted from the beginning; what was used,
// waits and fairness are those after the warm-up.
type Result struct {
	Scenario string `json:"scenario"`
	Strategy string `json:"strategy"`
	Seed     uint64 `json:"seed"`

	Share       float64 `json:"share"` // of what the binding limits allowed, and nobody else used
	Served      int     `json:"served"`
	Failed      int     `json:"failed"` // given up
	GivenUpRate float64 `json:"given_up_rate"`
	Sent        int     `json:"sent"`
	Refused     int     `json:"refused"` // 429
	RefusedRate float64 `json:"refused_rate"`
	Busy        int     `json:"busy"`    // 529
	Denied      int     `json:"denied"`  // 401
	Overrun     float64 `json:"overrun"` // the most that was counted above a limit while answers were written, as a part of it
	Fairness    float64 `json:"fairness"`
	Starved     int     `json:"starved"` // services that got nothing
	Wait        Waits   `json:"wait"`
	// Kept is what a service got that no Answers concern, as a part of what it gets in a run
	// without any, by requests served after the warm-up; the least of all such services. Nil if
	// there are no Answers.
	Kept *float64 `json:"kept,omitempty"`

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
	Allowed float64 `json:"allowed"` // what came after the warm-up and what was used of the stock of then, less Foreign
	Used    float64 `json:"used"`
	Foreign float64 `json:"foreign,omitempty"`
	Share   float64 `json:"share"`
}

// Recovery is how long it took after an event began or ended until what is allowed was
// used again.
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
	for _, t := range []*tally{&r.total, &q.service.tally} {
		t.sent++
		switch a.status {
		case http.StatusOK:
			t.served++
			if r.now >= r.scenario.WarmUp {
				t.settled++
				t.waits = append(t.waits, r.now-q.born)
			}
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
			for _, g := range r.upstream.groups {
				r.trail[n-1].groups = append(r.trail[n-1].groups, g.second(r.now, before))
			}
		}
		r.trail = append(r.trail, point{at: r.now})
		for _, b := range r.allBuckets() {
			before[b] = b.total
		}
		r.after(time.Second, tick)
	}
	tick()
}

func (r *run) allBuckets() (all []*bucket) {
	for _, g := range r.upstream.groups {
		for _, a := range g.order {
			all = append(all, a.buckets...)
		}
	}
	return all
}

// second is the part used of what refills in a second, the binding limit of each account
// taken, and all accounts together.
func (q *quota) second(now time.Duration, before map[*bucket]int64) (s second) {
	for _, a := range q.order {
		most := 0.0
		for _, b := range a.buckets {
			rate := float64(b.limit) / b.window.Seconds() * (1 - q.foreign)
			most = max(most, float64(b.total-before[b])/rate)
			s.debt = s.debt || b.Remaining(now) < 0
		}
		if n := q.limits.Concurrency; n > 0 {
			most = max(most, float64(a.open)/float64(n))
		}
		s.used += most / float64(len(q.order))
	}
	return s
}

// used is that of all groups together.
func (p *point) used() (sum float64) {
	for _, s := range p.groups {
		sum += s.used / float64(len(p.groups))
	}
	return sum
}

func (r *run) result(strategy string, seed uint64) *Result {
	res := &Result{
		Scenario: r.scenario.Name, Strategy: strategy, Seed: seed,
		Served: r.total.served, Failed: r.total.failed, Sent: r.total.sent, Refused: r.total.refused, Busy: r.total.busy, Denied: r.total.denied,
	}
	if r.total.sent > 0 {
		res.RefusedRate = float64(r.total.refused) / float64(r.total.sent)
	}
	if n := r.total.served + r.total.failed; n > 0 {
		res.GivenUpRate = float64(r.total.failed) / float64(n)
	}
	var shares, weights float64
	for _, g := range r.upstream.groups {
		for _, a := range g.order {
			x := AccountResult{Group: g.name, Model: a.model}
			for _, b := range a.buckets {
				b.allow(r)
				res.Overrun = max(res.Overrun, b.overrun)
				allowed := b.allowed - float64(b.foreign) - b.left(r)
				share := 1.0 // there was nothing to waste
				if allowed >= 1 {
					share = float64(b.used) / allowed
				}
				if share > x.Share || x.Binding == "" {
					x.Binding, x.Allowed, x.Used, x.Foreign, x.Share = binding(b), allowed, float64(b.used), float64(b.foreign), share
				}
			}
			if n := g.limits.Concurrency; n > 0 {
				a.opened(r, 0)
				allowed := float64(n) * (r.now - r.scenario.WarmUp).Seconds()
				if share := a.busy / allowed; share > x.Share || x.Binding == "" {
					x.Binding, x.Allowed, x.Used, x.Foreign, x.Share = "calls at a time, seconds", allowed, a.busy, 0, share
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
		res.Recoveries = append(res.Recoveries, r.recoveries(&e)...)
	}
	if b, ok := r.strategy.(*brokered); ok {
		res.Blamed = b.blamed
	}
	for _, p := range r.trail {
		res.Trail = append(res.Trail, Point{p.at.Seconds(), round(p.used()), p.served, p.refused})
	}
	return res
}

func round(x float64) float64 { return math.Round(x*1e4) / 1e4 }

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
		kinds[m.Service] = append(kinds[m.Service], float64(m.settled))
		if m.settled == 0 {
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

// kept compares the services that no answers concern with themselves in another run.
func (r *run) kept(reference *run) (least *float64) {
	for i, m := range r.members {
		misled := slices.ContainsFunc(r.scenario.Events, func(e Event) bool { return len(e.Answers) > 0 && e.Service == m.Service.Name })
		if n := reference.members[i].settled; n > 0 && !misled {
			if part := float64(m.settled) / float64(n); least == nil || part < *least {
				least = &part
			}
		}
	}
	return least
}

// regained is the part of what is allowed that has to be used again, over some seconds.
const (
	regained = 0.9
	smooth   = 5
)

// recoveries gives one for each moment from which the provider allows more or less: an
// event's beginning, but not that of an overload or of somebody else's use, and its end.
func (r *run) recoveries(e *Event) (all []Recovery) {
	if e.Service != "" {
		return nil
	}
	if e.Overload == 0 && e.Foreign == 0 {
		all = append(all, Recovery{e.String(), r.recovery(e, e.At)})
	}
	if end := e.At + e.For; end < r.scenario.Duration {
		all = append(all, Recovery{e.String() + ", until " + end.String(), r.recovery(e, end)})
	}
	return all
}

// recovery gives the seconds from a moment to the first of which the groups concerned
// used most of what is allowed, and of the next few as well. It counts from when the
// provider can let something through, which after a cut takes until the debt is paid.
func (r *run) recovery(e *Event, from time.Duration) float64 {
	var concerned []int
	for i, g := range r.upstream.groups {
		if e.Group == "" || e.Group == g.name {
			concerned = append(concerned, i)
		}
	}
	used := func(p *point) (sum float64, debt bool) {
		for _, i := range concerned {
			sum += min(p.groups[i].used, 1) / float64(len(concerned)) // too much does not make up for too little
			debt = debt || p.groups[i].debt
		}
		return sum, debt
	}
	trail := r.trail[:len(r.trail)-1] // the last second has just begun
	first := int(from/time.Second) + 1
	for ; first < len(trail); first++ {
		if _, debt := used(&trail[first]); !debt {
			break
		}
		from = trail[first].at
	}
	for i := first; i+smooth <= len(trail); i++ {
		now, _ := used(&trail[i])
		sum := 0.0
		for j := range smooth {
			x, _ := used(&trail[i+j])
			sum += x
		}
		if now >= regained && sum/smooth >= regained {
			return trail[i].at.Seconds() - from.Seconds()
		}
	}
	return -1
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
