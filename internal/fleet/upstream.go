package fleet

import (
	"net/http"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
)

// upstream is the provider as it runs.
type upstream struct {
	run     *run
	dialect *provider.Dialect
	groups  []*quota
	keys    []*credential // in order of their groups
	byID    map[string]*credential
}

// quota is a quota group.
type quota struct {
	name     string
	unknown  bool
	limits   Limits
	factor   float64 // that limits are cut by
	overload float64
	foreign  float64
	keys     []*credential
	models   map[string]*account
	order    []*account
}

// credential is a key.
type credential struct {
	id      string
	group   *quota
	revoked bool
}

// account is what a group has of one model.
type account struct {
	group   *quota
	model   string
	buckets []*bucket
	open    int64         // calls
	busy    float64       // calls times seconds, since the warm-up
	since   time.Duration // busy is counted up to then
	seen    []past        // what headers said of late
}

// bucket is one limit with what is counted in it.
type bucket struct {
	sim.Limiter
	dimension provider.Dimension
	window    time.Duration
	kind      provider.Kind
	limit     int64
	total     int64         // used by the fleet
	used      int64         // since the warm-up
	foreign   int64         // by others, likewise
	overrun   float64       // the most that was used above the limit, as a part of it
	stock     float64       // that there was then
	allowed   float64       // since then: the stock, and what came
	since     time.Duration // allowed is counted up to then
}

// past is what the buckets had at a moment.
type past struct {
	at        time.Duration
	remaining []int64
}

func newUpstream(r *run) *upstream {
	p := &r.scenario.Provider
	d, _ := provider.Lookup(p.Type)
	u := &upstream{run: r, dialect: d, byID: map[string]*credential{}}
	for _, g := range p.Groups {
		for n := range g.Count {
			q := &quota{name: numbered(g.Name, n, g.Count), unknown: g.Unknown, limits: g.Limits, factor: 1, models: map[string]*account{}}
			for k := range g.Keys {
				c := &credential{id: numbered(q.name+"-key", k, 2), group: q}
				q.keys = append(q.keys, c)
				u.keys, u.byID[c.id] = append(u.keys, c), c
			}
			u.groups = append(u.groups, q)
		}
	}
	return u
}

// account finds or opens one.
func (u *upstream) account(q *quota, model string) *account {
	a := q.models[model]
	if a != nil {
		return a
	}
	a = &account{group: q, model: model}
	for _, l := range u.dialectLimits(q.limits) {
		a.buckets = append(a.buckets, u.bucket(l, q.factor))
	}
	q.models[model] = a
	q.order = append(q.order, a)
	return a
}

// limited is a limit by what it counts.
type limited struct {
	dimension provider.Dimension
	window    time.Duration
	amount    int64
	fixed     bool
}

// dialectLimits lists the limits that are set.
func (u *upstream) dialectLimits(l Limits) (all []limited) {
	for _, x := range []limited{
		{provider.Requests, time.Minute, l.RPM, false}, {provider.InputTokens, time.Minute, l.ITPM, false},
		{provider.OutputTokens, time.Minute, l.OTPM, false}, {provider.Tokens, time.Minute, l.TPM, false},
		{provider.Requests, 24 * time.Hour, l.RPD, false}, {provider.Tokens, 24 * time.Hour, l.TPD, false},
		{provider.Requests, time.Hour, l.RPH, true},
	} {
		if x.amount > 0 {
			all = append(all, x)
		}
	}
	return all
}

func (u *upstream) bucket(l limited, factor float64) *bucket {
	b := &bucket{dimension: l.dimension, window: l.window, kind: u.dialect.Kind, limit: max(1, int64(float64(l.amount)*factor))}
	if l.fixed {
		b.kind = provider.Fixed
	}
	switch b.kind {
	case provider.Fixed:
		b.Limiter = sim.NewFixedWindow(b.limit, b.window, b.window)
	case provider.Sliding:
		b.Limiter = sim.NewSlidingWindow(b.limit, b.window)
	default:
		b.Limiter = sim.NewTokenBucket(b.limit, b.window)
	}
	return b
}

// answer is what a request gets.
type answer struct {
	status   int
	signal   provider.Signal
	first    time.Duration // to its first byte, at the provider
	complete time.Duration // to its last
}

// arrive lets a request in, or not.
func (u *upstream) arrive(q *request) answer {
	r, c := u.run, q.key
	g := c.group
	first := r.chance.seconds(r.scenario.Provider.Latency)
	switch {
	case c.revoked:
		return answer{status: http.StatusUnauthorized, first: first / 10, signal: provider.Signal{
			Class: provider.AuthInvalid, Scope: provider.KeyScope, Operator: true,
		}}
	case r.chance.hit(g.overload):
		return answer{status: 529, first: first / 10, signal: provider.Signal{Class: provider.Overloaded, Scope: provider.ModelScope}}
	}
	a := u.account(g, q.service.Model)
	counted := r.counted(q)
	need, charge := u.dialect.Reserve(provider.Demand{InputTokens: q.input, MaxOutputTokens: q.service.MaxTokens}), counted
	for d := range need {
		switch {
		case u.dialect.Held[d]: // counted while it answers; there must be some room
			need[d], charge[d] = min(need[d], 1), 0
		case u.dialect.Kept[d]:
			charge[d] = need[d]
		default:
			need[d] = charge[d]
		}
	}
	if refusal, wait := a.refuses(r.now, &need); refusal != nil {
		return answer{status: http.StatusTooManyRequests, first: first / 10, signal: provider.Signal{
			Class: provider.RateLimited, Scope: provider.ClassScope, Wait: wait.Truncate(time.Second) + time.Second, Source: provider.RetryAfter,
			Windows: a.windows(u, r.now), Refused: refusal,
		}}
	}
	for _, b := range a.buckets {
		b.charge(r, charge[b.dimension])
	}
	write := seconds(float64(q.output) / r.scenario.Provider.Speed)
	u.produce(a, q, counted, first, write)
	a.opened(r, 1)
	r.after(first+write, func() { a.opened(r, -1) })
	return answer{status: http.StatusOK, signal: provider.Signal{Windows: a.windows(u, r.now)}, first: first, complete: first + write}
}

// opened counts n more open calls.
func (a *account) opened(r *run, n int64) {
	if from := max(a.since, r.scenario.WarmUp); r.now > from {
		a.busy += float64(a.open) * (r.now - from).Seconds()
	}
	a.since = r.now
	a.open += n
}

// refuses names the limit that has no room for longest, nil if all have room.
func (a *account) refuses(now time.Duration, need *provider.Amounts) (*provider.Refusal, time.Duration) {
	refusal := &provider.Refusal{Limit: provider.Unknown, Used: provider.Unknown, Requested: provider.Unknown}
	if most := a.group.limits.Concurrency; most > 0 && a.open >= most {
		refusal.Dimension = provider.Concurrency
		return refusal, 0
	}
	var wait time.Duration
	for _, b := range a.buckets {
		if w := b.Until(now, need[b.dimension]); w > wait {
			wait, refusal.Dimension, refusal.Length = w, b.dimension, b.window
		}
	}
	if wait == 0 {
		return nil, 0
	}
	return refusal, wait
}

// produce counts what is counted while the answer is written, a second at a time.
func (u *upstream) produce(a *account, q *request, counted provider.Amounts, first, write time.Duration) {
	for _, b := range a.buckets {
		if !u.dialect.Held[b.dimension] || counted[b.dimension] <= 0 {
			continue
		}
		parts := int64(write/time.Second) + 1
		for i := range parts {
			n := counted[b.dimension]*(i+1)/parts - counted[b.dimension]*i/parts
			u.run.after(first+write*time.Duration(i+1)/time.Duration(parts), func() { b.charge(u.run, n) })
		}
	}
}

// count begins to count, with what there is now.
func (b *bucket) count(r *run) {
	b.used, b.foreign, b.since = 0, 0, r.now+1
	b.stock = float64(max(b.Remaining(r.now), 0))
	b.allowed = b.stock
}

// allow counts what has come up to now, since it is counted.
func (b *bucket) allow(r *run) {
	if b.since == 0 {
		return
	}
	passed := float64(r.now-b.since) / float64(b.window)
	switch {
	case b.kind == provider.Fixed: // all at once, and what comes at the very end is of no use
		passed = float64((r.now-1)/b.window - (b.since-1)/b.window)
	case b.kind == provider.Sliding && b.window >= r.scenario.Duration: // none comes back
		passed = 0
	}
	b.allowed += float64(b.limit) * passed
	b.since = r.now
}

// left is what of the stock at first is still there at the end: only what refilled
// meanwhile was to be used, and the rest of the stock if it was. It is not counted where
// the run is too short to tell whether a limit binds.
func (b *bucket) left(r *run) float64 {
	if b.kind != provider.Refilling || 10*b.window > r.now-r.scenario.WarmUp {
		return 0
	}
	return min(b.stock, float64(max(b.Remaining(r.now), 0)))
}

// cut changes a group's limits.
func (q *quota) cut(r *run, factor float64) {
	q.factor = factor
	for _, a := range q.order {
		for i, l := range r.upstream.dialectLimits(q.limits) {
			b := a.buckets[i]
			b.allow(r)
			b.limit = max(1, int64(float64(l.amount)*factor))
			b.SetLimit(r.now, b.limit)
		}
	}
}

// foreignEvery is how often somebody else uses a part of what has refilled.
const foreignEvery = 500 * time.Millisecond

// leak is somebody else's use, from now on.
func (q *quota) leak(r *run) {
	if q.foreign == 0 {
		return
	}
	for _, a := range q.order {
		for _, b := range a.buckets {
			want := q.foreign * float64(b.limit) * float64(foreignEvery) / float64(b.window) * 2 * r.chance.Float64()
			n := int64(want)
			if r.chance.hit(want - float64(n)) {
				n++
			}
			if n = min(n, max(b.Remaining(r.now), 0)); n > 0 {
				b.Charge(r.now, n)
				b.foreign += n
			}
		}
	}
	r.after(foreignEvery, func() { q.leak(r) })
}

func (b *bucket) charge(r *run, n int64) {
	if n <= 0 {
		return
	}
	b.Charge(r.now, n)
	b.total += n
	b.used += n
	b.overrun = max(b.overrun, -float64(b.Remaining(r.now))/float64(b.limit))
}

// windows is what headers say of an account: as it was a while ago, if they are late.
func (a *account) windows(u *upstream, now time.Duration) []provider.Window {
	p := past{at: now}
	for _, b := range a.buckets {
		p.remaining = append(p.remaining, max(b.Remaining(now), 0))
	}
	if late := u.run.scenario.Provider.Late; late > 0 {
		a.seen = append(a.seen, p)
		for len(a.seen) > 1 && a.seen[1].at <= now-late {
			a.seen = a.seen[1:]
		}
		p = a.seen[u.run.chance.IntN(len(a.seen))]
	}
	var all []provider.Window
	for i, b := range a.buckets {
		w := provider.Window{
			Dimension: b.dimension, Length: b.window, Kind: b.kind, Limit: b.limit, Remaining: p.remaining[i], Rounding: 1,
			Reset: b.UntilFull(now),
		}
		if u.dialect.Type == "anthropic" && b.dimension != provider.Requests {
			w.Rounding = 1000
			w.Remaining = (w.Remaining + 500) / 1000 * 1000
		}
		if f, ok := b.Limiter.(*sim.FixedWindow); ok {
			w.Reset = f.Reset(now)
		}
		all = append(all, w)
	}
	return all
}
