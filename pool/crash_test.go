package pool_test

// The second property that judges the engine: owners crash, stop, start anew and
// overlap, their writing fails before, after, or nobody knows; and the provider
// still refuses nothing that was given out.

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	overlap = 2 * time.Second
	origin  = pool.Time(62 * 24 * time.Hour) // so that what was charged before has room
)

func TestNothingIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.SampledFrom([]int{20, 50, 80}).Draw(t, "steps") {
			h.step()
		}
		h.judge()
	})
}

// owner is a pool on its own clock.
type owner struct {
	*pool.Domain
	epoch   uint64
	began   pool.Time // by the world's clock
	at      pool.Time // by its own
	journal *journal
	writing *change
	states  int       // so many have been taken
	until   pool.Time // and it does not grant any more
}

// given is a lease, with what its holder does.
type given struct {
	call
	owner   *owner
	model   string
	key     string
	needs   int  // that state
	waiting bool // for what it was charged to be written down
}

// counted is what the provider counts against one limit.
type counted struct {
	account
	model, key string
}

// past is a world with one account at a provider, and owners that come and go.
type past struct {
	*rapid.T
	cfg     setup
	dialect *provider.Dialect
	delta   pool.Time
	ttl     time.Duration
	fixed   bool
	models  []string
	counted []*counted
	now     pool.Time
	noon    time.Time // by the provider's clock, at the world's time 0
	owner   *owner
	before  *owner // still alive, as it may be
	stored  stored
	open    []*given
}

func newHistory(t *rapid.T) *past {
	dialect := pool.Exact(rapid.SampledFrom(provider.Types()).Draw(t, "dialect"))
	h := &past{
		T: t, dialect: dialect,
		delta:  pool.Time(rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 2 * time.Second}).Draw(t, "delta")),
		ttl:    rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "ttl"),
		models: []string{""}, noon: time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC),
	}
	flat := rapid.Bool().Draw(t, "flat")
	if !flat {
		h.models = []string{"m1", "m2"}
	}
	group := h.limits(t, "")
	var own []pool.Limit
	if rapid.IntRange(0, 3).Draw(t, "own") == 0 {
		own = h.limits(t, "a")
	}
	h.cfg = setup{
		Dialect: dialect, Flat: flat, StartWithin: time.Duration(h.delta),
		Groups: []pool.Group{{Name: "g", Limits: group}},
		Keys:   []pool.Key{{ID: "a", Group: "g", Priority: 1, Limits: own}, {ID: "b", Group: "g"}},
	}
	h.begin()
	return h
}

// limits are a few that bind, of a group or a key.
func (h *past) limits(t *rapid.T, key string) (ls []pool.Limit) {
	for range rapid.IntRange(1, 2).Draw(t, "limits") {
		d := rapid.SampledFrom(h.dimensions()).Draw(t, "dimension")
		l := pool.Limit{
			Dimension: d, Window: rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "window"),
			Kind:   rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(t, "kind"),
			Amount: rapid.SampledFrom([]int64{1, 60, 200, 1000, 1000}).Draw(t, "limit"),
		}
		if d == provider.Concurrency {
			l.Window, l.Amount = 0, min(l.Amount, 7)
		}
		if slices.ContainsFunc(ls, func(o pool.Limit) bool { return o.Dimension == d && o.Window == l.Window }) {
			continue
		}
		if l.Kind == provider.Fixed && l.Window > 0 { // in the world's time
			l.Reset = pool.Time(rapid.Int64Range(int64(time.Second), int64(l.Window)).Draw(t, "reset"))
			h.fixed = true
		}
		ls = append(ls, l)
		for _, m := range h.models {
			h.counted = append(h.counted, &counted{account: account{limit: l}, model: m, key: key})
		}
	}
	if key != "" {
		return ls
	}
	for _, d := range h.dialect.Limited { // so that it need not feel its way
		if !slices.ContainsFunc(ls, func(l pool.Limit) bool { return l.Dimension == d && l.Window <= time.Minute }) {
			ls = append(ls, pool.Limit{Dimension: d, Window: time.Minute, Amount: plenty})
		}
	}
	return ls
}

// dimensions are those that an ask has something of.
func (h *past) dimensions() (ds []provider.Dimension) {
	for d, n := range h.dialect.Reserve(provider.Demand{InputTokens: 1, MaxOutputTokens: 1}) {
		if n > 0 {
			ds = append(ds, provider.Dimension(d))
		}
	}
	return ds
}

// begin makes an owner that knows what is written down, and no more.
func (h *past) begin() {
	o := &owner{began: h.now, at: origin + pool.Time(rapid.Int64Range(0, int64(time.Hour)).Draw(h.T, "clock"))}
	if h.owner != nil {
		o.epoch = h.owner.epoch + 1
	}
	known := h.stored == nil || rapid.Bool().Draw(h.T, "resets are known")
	cfg := h.cfg
	cfg.Groups = []pool.Group{{Name: "g", Limits: h.clocked(o, cfg.Groups[0].Limits, known)}}
	cfg.Keys = slices.Clone(cfg.Keys)
	cfg.Keys[0].Limits = h.clocked(o, cfg.Keys[0].Limits, known)
	p, err := newPool(cfg)
	if err != nil {
		h.Fatal(err)
	}
	o.Domain, o.journal = p, newJournal(o.epoch+1, h.stored)
	step := rapid.SampledFrom([]time.Duration{0, 0, time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour}).Draw(h.T, "the clock is off by")
	p.Recover(o.at, h.stored.state(h.T), pool.Recovery{Overlap: overlap, TTL: h.ttl, Wall: h.date(h.now).Add(step)})
	h.owner = o
	h.save()
}

// clocked are limits with their resets in an owner's time.
func (h *past) clocked(o *owner, ls []pool.Limit, known bool) []pool.Limit {
	ls = slices.Clone(ls)
	for i := range ls {
		if l := &ls[i]; l.Reset > 0 {
			for l.Reset <= h.now {
				l.Reset += pool.Time(l.Window)
			}
			l.Reset = o.time(l.Reset)
			if !known {
				l.Reset = 0
			}
		}
	}
	return ls
}

func (o *owner) time(t pool.Time) pool.Time  { return t - o.began + o.at }
func (o *owner) world(t pool.Time) pool.Time { return t - o.at + o.began }

func (h *past) date(at pool.Time) time.Time {
	return h.noon.Add(time.Duration(at)).Truncate(time.Second)
}

func (h *past) step() {
	switch step := rapid.SampledFrom([]string{
		"wait", "wait", "wait", "wait", "wait",
		"acquire", "acquire", "acquire", "acquire", "acquire", "acquire", "drain", "drain", "drain",
		"report", "report", "report", "end", "end", "release", "release",
		"write", "write", "write", "write", "save", "save", "save", "crash", "stop", "succeed",
	}).Draw(h.T, "step"); step {
	case "wait":
		h.wait()
	case "acquire":
		h.acquire()
	case "drain":
		h.drain()
	case "report", "end":
		h.report(step == "end")
	case "release":
		h.release()
	case "write":
		h.write()
	case "save":
		h.save()
	case "crash":
		h.crash()
	case "stop":
		h.stop()
	case "succeed":
		h.succeed()
	}
}

// wait lets some time pass.
func (h *past) wait() {
	unit := rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, time.Second, 7 * time.Second, time.Minute, 10 * time.Minute}).Draw(h.T, "unit")
	h.advance(rapid.Int64Range(0, 10).Draw(h.T, "units") * int64(unit))
}

// advance lets time pass, up to the end of each lease in its turn.
func (h *past) advance(d int64) {
	h.now += pool.Time(d)
	if h.before != nil && h.now > h.before.until {
		h.before = nil
	}
	for _, c := range slices.Clone(h.open) {
		if c.expires <= h.now {
			h.settle(c, c.expires, c.planned)
			h.close(c, c.expires)
		}
	}
}

// acquire takes a lease, or all there are.
func (h *past) acquire() {
	o := h.owner
	if h.before != nil && rapid.Bool().Draw(h.T, "of the one before") {
		o = h.before
	}
	ask := pool.Ask{
		Holder: rapid.SampledFrom([]string{"h1", "h2"}).Draw(h.T, "holder"), TTL: h.ttl,
		Model: rapid.SampledFrom(h.models).Draw(h.T, "model"),
		Count: rapid.SampledFrom([]int{1, 1, 3, 100}).Draw(h.T, "count"),
		Amounts: h.dialect.Reserve(provider.Demand{
			InputTokens:     rapid.SampledFrom([]int64{0, 1, 10, 60}).Draw(h.T, "input"),
			MaxOutputTokens: rapid.SampledFrom([]int64{0, 1, 10, 60}).Draw(h.T, "output"),
		}),
	}
	spare := rapid.IntRange(0, 3).Draw(h.T, "spare") == 0
	for range rapid.SampledFrom([]int{1, 5, 70}).Draw(h.T, "times") {
		g, err := o.Acquire(o.time(h.now), ask)
		if err != nil {
			return
		}
		h.granted(o, g, &ask, spare)
	}
}

// drain takes what there is, at the first moment that there is.
func (h *past) drain() {
	ask := pool.Ask{
		Holder: "h1", TTL: h.ttl, Model: rapid.SampledFrom(h.models).Draw(h.T, "model"),
		Amounts: h.dialect.Reserve(provider.Demand{InputTokens: 10, MaxOutputTokens: 10}),
	}
	for range rapid.SampledFrom([]int{5, 40}).Draw(h.T, "times") {
		o := h.owner
		if h.before != nil {
			if g, err := h.before.Acquire(h.before.time(h.now), ask); err == nil {
				h.granted(h.before, g, &ask, false)
			}
		}
		g, err := o.Acquire(o.time(h.now), ask)
		var e *pool.ExhaustedError
		switch {
		case err == nil:
			h.granted(o, g, &ask, false)
		case errors.As(err, &e) && e.RetryAt < o.time(h.now)+2*minute:
			h.advance(int64(o.world(e.RetryAt) - h.now))
		default:
			return
		}
	}
}

func (h *past) granted(o *owner, g pool.Grant, ask *pool.Ask, spare bool) {
	c := &given{owner: o, model: ask.Model, key: g.Key, waiting: !g.Durable, needs: o.states + 1}
	c.call = call{grant: g, holder: ask.Holder, since: h.now, expires: o.world(g.Expires)}
	c.grant.Granted = h.now
	c.planned = g.Reserved
	c.planned[provider.Requests], c.planned[provider.Concurrency] = int64(g.Count), int64(g.Count)
	if spare {
		sent := rapid.Int64Range(1, int64(g.Count)).Draw(h.T, "sent")
		for d, n := range ask.Amounts {
			c.planned[d] = sent*n - rapid.Int64Range(0, sent*n).Draw(h.T, "spared")
			if h.dialect.Kept[d] {
				c.planned[d] = sent * n
			}
		}
		c.planned[provider.Requests] = sent
	}
	h.open = append(h.open, c)
}

// write begins to write down what the owner knows, or ends it.
func (h *past) write() {
	if h.owner.writing != nil {
		h.wrote(rapid.IntRange(0, 3).Draw(h.T, "durable") > 0, rapid.IntRange(0, 3).Draw(h.T, "known") > 0)
		return
	}
	h.state()
}

func (h *past) state() {
	o := h.owner
	s, _ := o.State(o.time(h.now), false)
	c := o.journal.change(s)
	o.writing = &c
	o.states++
}

// save is a writing that takes no time.
func (h *past) save() {
	if h.owner.writing == nil {
		h.state()
	}
	h.wrote(true, true)
}

// wrote ends that: it has become durable or not, and the owner knows or takes it
// for failed.
func (h *past) wrote(durable, known bool) {
	o := h.owner
	if durable {
		h.stored = h.stored.with(*o.writing)
	}
	for _, c := range slices.Clone(h.open) {
		switch {
		case c.owner != o || !c.waiting || c.needs > o.states:
		case durable && known && h.now < c.grant.Granted+h.delta:
			c.waiting = false
		default: // it is too late, or nobody knows
			if err := o.Release(o.time(h.now), c.grant.Lease, c.holder, true); err != nil {
				h.Fatalf("release: %v", err)
			}
			h.drop(c)
		}
	}
	if durable && known {
		o.journal.log.Saved()
		o.Saved()
	}
	o.writing = nil
}

// drop forgets a lease that was never given out.
func (h *past) drop(c *given) {
	h.open = slices.DeleteFunc(h.open, func(o *given) bool { return o == c })
}

// lose forgets what an owner had not given out yet.
func (h *past) lose(o *owner) {
	for _, c := range slices.Clone(h.open) {
		if c.owner == o && c.waiting {
			h.drop(c)
		}
	}
}

func (h *past) crash() {
	if h.owner.writing != nil && rapid.Bool().Draw(h.T, "written at last") {
		h.stored = h.stored.with(*h.owner.writing)
	}
	h.lose(h.owner)
	if h.before != nil {
		h.lose(h.before)
		h.before = nil
	}
	h.down()
	h.begin()
}

func (h *past) down() {
	unit := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, 20 * time.Second, 10 * time.Minute, 3 * time.Hour}).Draw(h.T, "down for")
	h.advance(rapid.Int64Range(0, 10).Draw(h.T, "units") * int64(unit))
}

func (h *past) stop() {
	if h.owner.writing != nil || h.before != nil {
		return
	}
	for _, c := range slices.Clone(h.open) {
		if o := h.owner; c.owner == o && c.waiting {
			if err := o.Release(o.time(h.now), c.grant.Lease, c.holder, true); err != nil {
				h.Fatalf("release: %v", err)
			}
			h.drop(c)
		}
	}
	s, _ := h.owner.State(h.owner.time(h.now), true)
	if rapid.IntRange(0, 3).Draw(h.T, "written") > 0 {
		h.stored = h.stored.with(h.owner.journal.change(s))
	}
	h.down()
	h.begin()
}

// succeed begins another owner while the one before still lives, and grants what
// need not be written down.
func (h *past) succeed() {
	if h.owner.writing != nil && rapid.Bool().Draw(h.T, "written at last") {
		h.stored = h.stored.with(*h.owner.writing)
	}
	h.lose(h.owner)
	o := h.owner
	o.until, o.writing = h.now.Add(overlap), nil
	h.begin()
	h.before = o
}

func (h *past) report(final bool) {
	c, ok := h.draw()
	if !ok {
		return
	}
	used := c.planned
	used.Raise(&c.reported)
	if !final {
		for d := range used {
			used[d] = rapid.Int64Range(c.reported[d], used[d]).Draw(h.T, "part")
		}
		used[provider.Requests] = c.planned[provider.Requests]
	}
	told := used
	if rapid.IntRange(0, 5).Draw(h.T, "silent") == 0 {
		told[provider.OutputTokens], told[provider.Tokens] = provider.Unknown, provider.Unknown
	}
	expires, err := h.tell(c, told, final)
	if err == nil && rapid.IntRange(0, 3).Draw(h.T, "again") == 0 {
		h.tell(c, told, final)
	}
	h.settle(c, h.now, used)
	switch {
	case err != nil: // it was too late
		h.settle(c, h.now, c.planned)
		h.close(c, h.now)
	case final:
		h.close(c, h.now)
	default:
		c.since, c.expires = h.now, max(c.expires, expires)
	}
}

// tell reports to the owner that granted a lease, or to the one there is now.
func (h *past) tell(c *given, used provider.Amounts, final bool) (expires pool.Time, err error) {
	o := h.owner
	if c.owner == h.before { // the one after waits until this one does not grant any more
		o = h.before
	}
	s := h.answer(c)
	if c.owner == o {
		expires, err = o.Report(o.time(h.now), c.grant.Lease, c.holder, s, used, final)
	} else {
		expires, err = o.ReportPredecessor(o.time(h.now), &pool.PredecessorLease{
			Epoch: c.owner.epoch, Lease: c.grant.Lease, Key: pool.Hash(c.key), Class: pool.Hash(c.grant.Class),
			Holder: c.holder, TTL: h.ttl, Count: c.grant.Count, Reserved: c.grant.Reserved,
		}, s, used, final)
	}
	return o.world(expires), err
}

// answer says when it was given, and when fixed windows end.
func (h *past) answer(c *given) (s provider.Signal) {
	if c.grant.Probe {
		s.Class = provider.NoAnswer
	}
	if !h.fixed || rapid.Bool().Draw(h.T, "undated") {
		return s
	}
	at := pool.Time(rapid.Int64Range(int64(c.grant.Granted), int64(h.now)).Draw(h.T, "answered"))
	s.Date = h.date(at)
	for _, a := range h.counted {
		if l := a.limit; l.Kind == provider.Fixed && l.Window > 0 && a.model == c.model && a.key == "" {
			reset := l.Reset
			for reset <= at {
				reset += pool.Time(l.Window)
			}
			s.Windows = append(s.Windows, provider.Window{
				Dimension: l.Dimension, Length: l.Window, Kind: l.Kind, Limit: l.Amount, Remaining: provider.Unknown, Rounding: 1,
				Reset: h.noon.Add(time.Duration(reset)).Sub(s.Date),
			})
		}
	}
	return s
}

func (h *past) release() {
	c, ok := h.draw()
	if !ok || c.owner != h.owner {
		return
	}
	unused := c.reported == provider.Amounts{} && rapid.Bool().Draw(h.T, "unused")
	if err := h.owner.Release(h.owner.time(h.now), c.grant.Lease, c.holder, unused); err != nil {
		h.Fatalf("release: %v", err)
	}
	if unused {
		h.drop(c)
		return
	}
	h.settle(c, h.now, c.planned)
	h.close(c, h.now)
}

// draw picks a lease that was given out.
func (h *past) draw() (*given, bool) {
	var all []*given
	for _, c := range h.open {
		if !c.waiting {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil, false
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(h.T, "call")], true
}

func (h *past) of(c *given, f func(*counted)) {
	for _, a := range h.counted {
		if a.model == c.model && (a.key == "" || a.key == c.key) {
			f(a)
		}
	}
}

func (h *past) close(c *given, at pool.Time) {
	h.of(c, func(a *counted) {
		if a.limit.Window == 0 && !c.waiting {
			a.uses = append(a.uses, use{c.grant.Granted, at, c.planned[provider.Requests], false})
		}
	})
	h.drop(c)
}

// settle hands the provider what a call has used since its last report.
func (h *past) settle(c *given, now pool.Time, used provider.Amounts) {
	if c.waiting {
		return
	}
	reported := c.reported
	h.of(c, func(a *counted) {
		d := a.limit.Dimension
		if a.limit.Window == 0 {
			return
		}
		lo, hi, n := c.grant.Granted, c.grant.Granted+h.delta, used[d]
		if h.dialect.Held[d] {
			lo, hi = c.since, now
			if late := c.since + pool.Time(a.limit.Window/2); now >= late {
				hi, n = late, max(n, c.planned[d])
			}
		}
		if n > reported[d] {
			a.uses = append(a.uses, use{lo, hi, n - reported[d], c.grant.Probe})
		}
		c.reported[d] = max(c.reported[d], n)
	})
	c.reported.Raise(&used)
}

func (h *past) judge() {
	for _, c := range slices.Clone(h.open) {
		h.settle(c, c.expires, c.planned)
		h.close(c, c.expires)
	}
	for _, a := range h.counted {
		if a.limit.Window == 0 {
			a.judgeSlots(h.T)
			continue
		}
		what := fmt.Sprintf("%v of %d in %v", a.limit.Dimension, a.limit.Amount, a.limit.Window)
		for _, u := range a.uses {
			a.account.judge(h.T, what, u.hi)
		}
	}
}
