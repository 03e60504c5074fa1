package pool_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// The property that judges the engine: whatever holders do, and however
// adversarially what they use is placed in time, a provider's own bucket,
// written independently of this package, never refuses.
func TestProviderNeverRefuses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.SampledFrom([]int{10, 50, 100, 200}).Draw(t, "steps") {
			w.step()
		}
		w.finish()
		w.judge()
	})
}

// use is an amount that the provider counts at some moment from lo to hi.
type use struct {
	lo, hi pool.Time
	n      int64
	probe  bool // may be refused
}

// limitChange is the provider's change of a limit.
type limitChange struct {
	at    pool.Time
	limit int64
}

// account is what the provider counts against one limit.
type account struct {
	limit   pool.Limit
	uses    []use
	changes []limitChange
}

// call is a lease with what its holder does.
type call struct {
	grant    pool.Grant
	holder   string
	planned  provider.Amounts // what it will have used in the end
	reported provider.Amounts
	since    pool.Time // the grant or the last report
	expires  pool.Time
}

type world struct {
	*rapid.T
	pool     *pool.Domain
	dialect  *provider.Dialect
	delta    pool.Time
	ttl      time.Duration
	now      pool.Time
	accounts map[provider.Dimension]*account
	open     []*call
	waiting  map[*pool.Waiter]provider.Amounts
}

func newWorld(t *rapid.T) *world {
	dialect := pool.Exact(rapid.SampledFrom(provider.Types()).Draw(t, "dialect"))
	kind := rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind")
	w := &world{
		T: t, dialect: dialect,
		delta:    pool.Time(rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 2 * time.Second, 5 * time.Second}).Draw(t, "delta")),
		ttl:      rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "ttl"),
		accounts: map[provider.Dimension]*account{},
		waiting:  map[*pool.Waiter]provider.Amounts{},
	}
	var limits []pool.Limit
	for d := range provider.NumDimensions {
		if rapid.IntRange(0, 2).Draw(t, "limited") == 0 {
			continue
		}
		l := pool.Limit{Dimension: d, Window: time.Minute, Kind: kind, Amount: rapid.Int64Range(1, 100).Draw(t, "limit")}
		if d == provider.Concurrency {
			l.Window = 0
		}
		if kind == provider.Fixed {
			l.Reset = pool.Time(rapid.Int64Range(int64(time.Second), int64(time.Minute)).Draw(t, "reset"))
		}
		limits = append(limits, l)
		w.accounts[d] = &account{limit: l}
	}
	p, err := newPool(setup{
		Dialect: dialect, Flat: true, StartWithin: time.Duration(w.delta),
		Groups: []pool.Group{{Name: "g", Limits: limits}},
		Keys:   []pool.Key{{ID: "a", Group: "g", Priority: 1}, {ID: "b", Group: "g", Priority: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.pool = p
	return w
}

func (w *world) step() {
	switch rapid.IntRange(0, 11).Draw(w.T, "step") {
	case 0, 1, 2:
		unit := rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, time.Second, 7 * time.Second, time.Duration(w.delta)}).Draw(w.T, "unit")
		w.advance(rapid.Int64Range(0, 10).Draw(w.T, "units") * int64(unit))
	case 3, 4, 5, 6:
		w.acquire()
	case 7:
		w.report(false)
	case 8, 9:
		w.report(true)
	case 10:
		w.release()
	case 11:
		w.changeLimit()
	}
	w.serve()
}

// advance lets time pass, up to the end of each lease in its turn.
func (w *world) advance(d int64) {
	w.now += pool.Time(d)
	w.expire(w.now)
}

func (w *world) expire(now pool.Time) {
	w.open = slices.DeleteFunc(w.open, func(c *call) bool {
		if c.expires > now {
			return false
		}
		w.settle(c, c.expires, c.planned) // it was used up, and nobody ever said so
		return true
	})
}

func (w *world) ask() pool.Ask {
	demand := provider.Demand{
		InputTokens:     rapid.Int64Range(0, 10).Draw(w.T, "input") * rapid.SampledFrom([]int64{1, 6}).Draw(w.T, "of"),
		MaxOutputTokens: rapid.Int64Range(0, 10).Draw(w.T, "output") * rapid.SampledFrom([]int64{1, 6}).Draw(w.T, "of"),
	}
	return pool.Ask{
		Holder: rapid.SampledFrom([]string{"h1", "h2", "h3"}).Draw(w.T, "holder"),
		TTL:    w.ttl, Amounts: w.dialect.Reserve(demand), Count: rapid.SampledFrom([]int{0, 1, 3, 100}).Draw(w.T, "count"),
	}
}

func (w *world) acquire() {
	ask := w.ask()
	if g, err := w.pool.Acquire(w.now, ask); err == nil {
		w.granted(g, ask)
	} else if rapid.Bool().Draw(w.T, "wait") {
		if wt, err := w.pool.Wait(w.now, ask); err == nil {
			w.waiting[wt] = ask.Amounts
		}
	}
}

func (w *world) granted(g pool.Grant, ask pool.Ask) {
	c := &call{grant: g, holder: ask.Holder, since: w.now, expires: g.Expires}
	sent := rapid.Int64Range(1, int64(g.Count)).Draw(w.T, "sent")
	for d, n := range ask.Amounts {
		c.planned[d] = sent*n - rapid.Int64Range(0, sent*n).Draw(w.T, "spared")
	}
	c.planned[provider.Requests], c.planned[provider.Concurrency] = sent, int64(g.Count)
	for d, kept := range w.dialect.Kept {
		if kept {
			c.planned[d] = sent * ask.Amounts[d]
		}
	}
	w.open = append(w.open, c)
}

func (w *world) serve() {
	served, _ := w.pool.Next(w.now)
	for _, wt := range served {
		delete(w.waiting, wt)
		w.granted(wt.Grant(), wt.Ask)
	}
}

// draw picks an open call.
func (w *world) draw() (*call, bool) {
	if len(w.open) == 0 {
		return nil, false
	}
	return w.open[rapid.IntRange(0, len(w.open)-1).Draw(w.T, "call")], true
}

func (w *world) report(final bool) {
	c, ok := w.draw()
	if !ok {
		return
	}
	used := c.planned
	used.Raise(&c.reported)
	if !final {
		for d := range used {
			used[d] = rapid.Int64Range(c.reported[d], used[d]).Draw(w.T, "part")
		}
		used[provider.Requests] = c.planned[provider.Requests]
	}
	told := used
	if rapid.IntRange(0, 5).Draw(w.T, "silent") == 0 {
		told[provider.OutputTokens], told[provider.Tokens] = provider.Unknown, provider.Unknown
	}
	report := w.pool.Report
	if rapid.Bool().Draw(w.T, "last") {
		report = w.pool.ReportLast
	}
	expires, err := report(w.now, c.grant.Lease, c.holder, c.answer(), told, final)
	if err != nil {
		w.Fatalf("report: %v", err)
	}
	if rapid.IntRange(0, 3).Draw(w.T, "again") == 0 { // repeated, or an older one late
		w.pool.Report(w.now, c.grant.Lease, c.holder, c.answer(), c.reported, false)
	}
	w.settle(c, w.now, used)
	if final {
		w.forget(c)
	} else {
		c.since, c.expires = w.now, expires
	}
}

// answer is what comes back, of which only the use is of interest here. To a
// probe a provider says more than this one can.
func (c *call) answer() provider.Signal {
	if c.grant.Probe {
		return provider.Signal{Class: provider.NoAnswer}
	}
	return provider.Signal{}
}

func (w *world) release() {
	c, ok := w.draw()
	if !ok {
		return
	}
	unused := c.reported == provider.Amounts{} && rapid.Bool().Draw(w.T, "unused")
	if err := w.pool.Release(w.now, c.grant.Lease, c.holder, unused); err != nil {
		w.Fatalf("release: %v", err)
	}
	if !unused {
		w.settle(c, w.now, c.planned)
	}
	w.forget(c)
}

func (w *world) forget(c *call) {
	if a := w.accounts[provider.Concurrency]; a != nil {
		a.uses = append(a.uses, use{c.grant.Granted, w.now, c.planned[provider.Requests], false})
	}
	w.open = slices.DeleteFunc(w.open, func(o *call) bool { return o == c })
}

// settle hands the provider what a call has used since its last report.
func (w *world) settle(c *call, now pool.Time, used provider.Amounts) {
	for d, a := range w.accounts {
		if d == provider.Concurrency {
			continue
		}
		lo, hi := c.grant.Granted, c.grant.Granted+w.delta
		if w.dialect.Held[d] {
			lo, hi = c.since, now
			if late := c.since + pool.Time(a.limit.Window/2); now >= late {
				// Half a window without a report is as far as the promise goes:
				// what is still to come counts as used by then.
				hi, used[d] = late, max(used[d], c.planned[d])
			}
		}
		if n := used[d] - c.reported[d]; n > 0 {
			a.uses = append(a.uses, use{lo, hi, n, c.grant.Probe})
		}
	}
	c.reported.Raise(&used)
}

// changeLimit changes one limit at the provider, which tells us at once, twice.
// What was granted before has arrived by then; no broker could help that.
func (w *world) changeLimit() {
	a := w.accounts[provider.Requests]
	two := w.twoHolders()
	if a == nil || two == nil || len(a.changes) == 2 { // whose limits go up and down is not believed for long
		return
	}
	limit := min(a.limit.Amount, rapid.Int64Range(1, 100).Draw(w.T, "new limit"))
	s := provider.Signal{Windows: []provider.Window{{
		Dimension: provider.Requests, Length: time.Minute, Limit: limit, Remaining: provider.Unknown, Rounding: 1,
	}}}
	unknown := provider.Amounts{provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown, provider.Unknown}
	for _, c := range w.open {
		w.settle(c, w.now, provider.Amounts{provider.Requests: c.planned[provider.Requests]})
	}
	for _, c := range two {
		s.Class = c.answer().Class
		if expires, err := w.pool.Report(w.now, c.grant.Lease, c.holder, s, unknown, false); err != nil {
			w.Fatalf("report: %v", err)
		} else {
			c.since, c.expires = w.now, expires
		}
	}
	for i := range a.uses {
		if u := &a.uses[i]; u.hi > w.now {
			u.lo, u.hi = min(u.lo, w.now), w.now
		}
	}
	a.changes = append(a.changes, limitChange{w.now, limit})
	w.advance(1) // what is granted from now on arrives under the new limit
}

// twoHolders returns open calls of two holders, nil if there are none.
func (w *world) twoHolders() []*call {
	for _, c := range w.open {
		if c.holder != w.open[0].holder {
			return []*call{w.open[0], c}
		}
	}
	return nil
}

func (w *world) finish() {
	for _, c := range w.open {
		w.settle(c, c.expires, c.planned)
		if a := w.accounts[provider.Concurrency]; a != nil {
			a.uses = append(a.uses, use{c.grant.Granted, c.expires, c.planned[provider.Requests], false})
		}
	}
}

// judge places what was used so that as much as possible arrives at one moment,
// for every moment that can matter, and asks the provider's bucket.
func (w *world) judge() {
	for d, a := range w.accounts {
		if d == provider.Concurrency {
			a.judgeSlots(w.T)
			continue
		}
		for _, u := range a.uses {
			a.judge(w.T, fmt.Sprintf("%v of %d", d, a.limit.Amount), u.hi)
		}
	}
}

func (a *account) judge(t *rapid.T, what string, moment pool.Time) {
	type arrival struct {
		at pool.Time
		n  int64
		// a change of the limit comes after what arrives at the same time
		change int64
	}
	var all []arrival
	for _, u := range a.uses {
		if u.probe { // it may cost a refusal, its own or another's
			continue
		}
		all = append(all, arrival{at: min(max(moment, u.lo), u.hi), n: u.n})
		if u.hi < moment || u.lo > moment {
			all[len(all)-1].at = u.lo
		}
	}
	for _, c := range a.changes {
		all = append(all, arrival{at: c.at, change: c.limit})
	}
	slices.SortStableFunc(all, func(x, y arrival) int { return cmp.Compare(x.at, y.at) })
	bucket := a.provider()
	for _, x := range all {
		at := time.Duration(x.at)
		if x.change > 0 {
			bucket.SetLimit(at, x.change)
		} else if !bucket.Take(at, x.n) {
			t.Fatalf("%s: the provider refused %d at %v, has %d; limit %+v, uses %+v, changes %+v",
				what, x.n, at, bucket.Remaining(at), a.limit, a.uses, a.changes)
		}
	}
}

func (a *account) provider() sim.Limiter {
	switch a.limit.Kind {
	case provider.Refilling:
		return sim.NewTokenBucket(a.limit.Amount, a.limit.Window)
	case provider.Fixed:
		return sim.NewFixedWindow(a.limit.Amount, a.limit.Window, time.Duration(a.limit.Reset))
	}
	return sim.NewSlidingWindow(a.limit.Amount, a.limit.Window)
}

func (a *account) judgeSlots(t *rapid.T) {
	for _, u := range a.uses {
		var open int64
		for _, v := range a.uses {
			if v.lo <= u.lo && u.lo < v.hi {
				open += v.n
			}
		}
		if open > a.limit.Amount {
			t.Fatalf("%d calls at once at %v, limit %d", open, u.lo, a.limit.Amount)
		}
	}
}
