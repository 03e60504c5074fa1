package pool_test

// What holders report is the word of one holder each. Here all of them are hostile: they
// state every limit, wait, reset, date and use that a report can say, in any order, late,
// and again. Whatever they say, what the engine grants fits every configured limit, however
// unluckily the requests arrive.

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func TestGrantsFitWhateverIsStated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newHostileWorld(t, false).run() })
}

// A lease reserves no less than its ask because of what somebody has stated: the provider
// counts the request and not the reservation.
func TestAsksFitWhateverIsStated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { newHostileWorld(t, true).run() })
}

// hostileWorld is one account at a provider, whose holders say what they like.
type hostileWorld struct {
	*rapid.T
	dialect   *provider.Dialect
	cfg       setup
	asked     bool // judge what was asked for, and not what the engine says it reserved
	delta     pool.Time
	ttl       time.Duration
	models    []string
	about     subjects
	colluding bool // more than one holder states resets
	restarts  bool
	restores  bool

	pool    *pool.Domain
	owner   int // the number of the present owner
	until   pool.Time
	journal *journal

	now    pool.Time
	limits []*counted // that are configured and bind
	phases map[*counted]*phase
	// forgotten: resets were configured once, and then not. They are what they were.
	forgotten bool
	claims    []*claim
	waiting   []*pool.Waiter
	judged    int // so many claims were judged before
}

func newHostileWorld(t *rapid.T, asked bool) *hostileWorld {
	w := &hostileWorld{
		T: t, asked: asked, now: origin, phases: map[*counted]*phase{}, models: []string{""},
		dialect:   pool.Exact(rapid.SampledFrom(provider.Types()).Draw(t, "dialect")),
		delta:     pool.Time(rapid.SampledFrom([]time.Duration{0, 100 * time.Millisecond, 2 * time.Second, 5 * time.Second}).Draw(t, "delta")),
		ttl:       rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "ttl"),
		about:     drawSubjects(t),
		colluding: rapid.IntRange(0, 3).Draw(t, "colluding") == 0,
		restarts:  rapid.IntRange(0, 2).Draw(t, "restarts") == 0,
		restores:  rapid.IntRange(0, 7).Draw(t, "restores") == 0,
	}
	flat := rapid.IntRange(0, 3).Draw(t, "classes") > 0
	if !flat {
		w.models = []string{"m1", "m2"}
	}
	group := w.drawLimits("")
	var own []pool.Limit
	if rapid.IntRange(0, 3).Draw(t, "own") == 0 {
		own = w.drawLimits("a")
	}
	if rapid.IntRange(0, 3).Draw(t, "careful") > 0 { // else the start is careful, and few leases are open
		for _, d := range w.dialect.Limited {
			if !slices.ContainsFunc(group, func(l pool.Limit) bool { return l.Dimension == d && l.Window <= time.Minute }) {
				group = append(group, pool.Limit{Dimension: d, Window: time.Minute, Amount: plenty})
			}
		}
	}
	w.cfg = setup{
		Dialect: w.dialect, Flat: flat, StartWithin: time.Duration(w.delta),
		Groups: []pool.Group{{Name: "g", Limits: group}},
		Keys:   []pool.Key{{ID: "a", Group: "g", Priority: 1, Limits: own}, {ID: "b", Group: "g"}},
	}
	w.begin(nil)
	return w
}

// drawLimits are a few that bind, of the group or a key.
func (w *hostileWorld) drawLimits(key string) (ls []pool.Limit) {
	ask := w.dialect.Reserve(provider.Demand{InputTokens: 1, MaxOutputTokens: 1})
	kinds, windows := anyKind, rapid.SampledFrom([]time.Duration{time.Minute, time.Minute, day})
	if w.restarts { // what outlives an owner is long, and most is to be said of fixed windows
		kinds, windows = rapid.SampledFrom([]provider.Kind{provider.Fixed, provider.Refilling, provider.Fixed, provider.Sliding}), rapid.SampledFrom([]time.Duration{day, time.Minute, day})
	}
	for range rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(w.T, "limits") {
		d := provider.Dimension(rapid.IntRange(0, int(provider.Concurrency)).Draw(w.T, "dimension"))
		l := pool.Limit{
			Dimension: d, Window: windows.Draw(w.T, "window"), Kind: kinds.Draw(w.T, "kind"), Amount: rapid.SampledFrom([]int64{1, 5, 20, 60, 150}).Draw(w.T, "limit"),
		}
		if d == provider.Concurrency {
			l.Window, l.Amount, l.Kind = 0, min(l.Amount, 7), provider.Refilling
		}
		if ask[d] == 0 || slices.ContainsFunc(ls, func(o pool.Limit) bool { return o.Dimension == d && o.Window == l.Window }) {
			continue
		}
		if l.Kind == provider.Fixed && rapid.Bool().Draw(w.T, "reset is known") {
			l.Reset = origin + pool.Time(rapid.Int64Range(1, int64(l.Window)).Draw(w.T, "reset"))
		}
		ls = append(ls, l)
		for _, m := range w.models {
			c := &counted{account: account{limit: l}, model: m, key: key}
			w.limits = append(w.limits, c)
			w.phases[c] = &phase{}
		}
	}
	return ls
}

// begin makes an owner that knows what is on record.
func (w *hostileWorld) begin(record stored) {
	cfg := w.cfg
	known := record == nil || rapid.Bool().Draw(w.T, "resets are configured still")
	w.forgotten = w.forgotten || !known
	cfg.Groups = []pool.Group{{Name: "g", Limits: w.upcoming(cfg.Groups[0].Limits, known)}}
	cfg.Keys = slices.Clone(cfg.Keys)
	cfg.Keys[0].Limits = w.upcoming(cfg.Keys[0].Limits, known)
	p, err := newPool(cfg)
	require.NoError(w, err)
	w.pool = p
	defer w.witnessed()
	if !w.restarts {
		return
	}
	w.owner++
	w.journal = newJournal(uint64(w.owner), record)
	p.Recover(w.now, record.state(w.T), pool.Recovery{Overlap: overlap, TTL: w.ttl, Wall: w.date(w.now)})
	w.save()
}

// witnessed has somebody else wait for as long as the owner lasts. A holder that is alone for a
// window may say of its own use what it likes: nobody else has used anything.
func (w *hostileWorld) witnessed() {
	if _, err := w.pool.Wait(w.now, pool.Ask{Holder: "witness", Model: w.models[0], TTL: w.ttl, Exclude: []string{"a", "b"}}); err != nil {
		w.Fatal(err)
	}
}

// upcoming are limits with their next resets, or without any.
func (w *hostileWorld) upcoming(ls []pool.Limit, known bool) []pool.Limit {
	ls = slices.Clone(ls)
	for i := range ls {
		if l := &ls[i]; l.Reset > 0 && l.Reset <= w.now {
			l.Reset += ((w.now-l.Reset)/pool.Time(l.Window) + 1) * pool.Time(l.Window)
		}
		if !known {
			ls[i].Reset = 0
		}
	}
	return ls
}

func (w *hostileWorld) date(at pool.Time) time.Time {
	return time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC).Add(time.Duration(at)).Truncate(time.Second)
}

func (w *hostileWorld) save() {
	s, _ := w.pool.State(w.now, false)
	w.journal.write(s)
	w.pool.Saved()
}

func (w *hostileWorld) run() {
	for range rapid.SampledFrom([]int{5, 10, 20, 40, 80, 160}).Draw(w.T, "steps") {
		w.step()
	}
	w.judge()
}

func (w *hostileWorld) step() {
	switch step := rapid.SampledFrom([]string{
		"time", "time", "time", "acquire", "acquire", "acquire", "drain", "drain", "drain",
		"report", "report", "report", "report", "end", "end", "same", "release", "cancel", "restore", "restart", "save", "judge",
	}).Draw(w.T, "step"); step {
	case "time":
		unit := rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, time.Second, 7 * time.Second, 30 * time.Second, time.Hour, time.Duration(w.delta)}).Draw(w.T, "unit")
		w.advance(pool.Time(rapid.Int64Range(0, 10).Draw(w.T, "units")) * pool.Time(unit))
	case "acquire":
		w.acquire()
	case "drain":
		w.drain()
	case "report", "end":
		if c, ok := w.draw(); ok {
			w.report(c, w.signal(c), w.used(c), step == "end")
		}
	case "same":
		w.same()
	case "release":
		w.release()
	case "cancel":
		if len(w.waiting) > 0 {
			w.pool.Cancel(w.waiting[0])
			w.waiting = w.waiting[1:]
		}
	case "restore":
		w.restore()
	case "restart":
		w.restart()
	case "save":
		if w.restarts {
			w.save()
		}
	case "judge":
		w.judge()
	}
	w.serve()
}

// advance lets time pass, up to the end of each lease in its turn.
func (w *hostileWorld) advance(d pool.Time) {
	w.now += d
	w.pass()
}

func (w *hostileWorld) pass() {
	for _, c := range w.claims {
		c.pass(w.now)
	}
}

func (w *hostileWorld) ask() pool.Ask {
	a := pool.Ask{
		Holder:   rapid.SampledFrom([]string{"h1", "h1", "h2", "h3"}).Draw(w.T, "holder"),
		Instance: rapid.SampledFrom([]string{"i1", "i2"}).Draw(w.T, "instance"),
		Model:    rapid.SampledFrom(w.models).Draw(w.T, "model"), TTL: w.ttl,
		Count: rapid.SampledFrom([]int{1, 1, 3, 100}).Draw(w.T, "count"),
		Amounts: w.dialect.Reserve(provider.Demand{
			InputTokens:     rapid.SampledFrom([]int64{1, 0, 5, 20}).Draw(w.T, "input"),
			MaxOutputTokens: rapid.SampledFrom([]int64{1, 0, 5, 20}).Draw(w.T, "output"),
		}),
	}
	if rapid.IntRange(0, 7).Draw(w.T, "exclude") == 0 {
		a.Exclude = []string{"a"}
	}
	return a
}

func (w *hostileWorld) acquire() {
	ask := w.ask()
	if g, err := w.pool.Acquire(w.now, ask); err == nil {
		w.granted(g, &ask)
	} else if rapid.Bool().Draw(w.T, "wait") {
		if wt, err := w.pool.Wait(w.now, ask); err == nil {
			w.waiting = append(w.waiting, wt)
		}
	}
}

// drain takes what there is, at the first moment that there is.
func (w *hostileWorld) drain() {
	ask := w.ask()
	patience := rapid.SampledFrom([]pool.Time{0, 0, 10 * sec, 2 * minute}).Draw(w.T, "patience")
	for range rapid.SampledFrom([]int{5, 30, 100}).Draw(w.T, "times") {
		g, err := w.pool.Acquire(w.now, ask)
		if err == nil {
			w.granted(g, &ask)
		}
		w.serve()
		var e *pool.ExhaustedError
		switch {
		case err == nil:
		case errors.As(err, &e) && e.RetryAt <= w.now+patience:
			w.advance(e.RetryAt - w.now)
		default:
			return
		}
	}
}

func (w *hostileWorld) granted(g pool.Grant, ask *pool.Ask) {
	if !g.Durable { // it may be given out when it is on record
		w.save()
		require.True(w, w.pool.MarkDurable(g.Lease))
	}
	c := &claim{
		grant: g, owner: w.owner, holder: ask.Holder, model: ask.Model, requests: int64(g.Count), told: unknown,
		since: w.now, expires: g.Expires, open: true,
	}
	require.Equal(w, w.now, g.Granted)
	for _, l := range w.limits {
		d := l.limit.Dimension
		n := g.Reserved[d]
		if w.asked {
			n = ask.Amounts[d] * int64(g.Count)
		}
		if n > 0 && l.model == ask.Model && (l.key == "" || l.key == g.Key) {
			c.stakes = append(c.stakes, &stake{limit: l, n: n, held: w.dialect.Held[d]})
		}
	}
	w.claims = append(w.claims, c)
	w.Logf("%v: lease %d to %s/%s: key %s, count %d, asked %v, reserved %v, probe %v", w.at(), g.Lease, ask.Holder, ask.Instance, g.Key, g.Count, ask.Amounts, g.Reserved, g.Probe)
}

func (w *hostileWorld) at() time.Duration { return time.Duration(w.now - origin) }

func (w *hostileWorld) serve() {
	served, _ := w.pool.Next(w.now)
	for _, wt := range slices.Clone(served) {
		w.waiting = slices.DeleteFunc(w.waiting, func(o *pool.Waiter) bool { return o == wt })
		w.granted(wt.Grant(), &wt.Ask)
	}
}

// draw picks a lease, which may have ended.
func (w *hostileWorld) draw() (*claim, bool) {
	if len(w.claims) == 0 {
		return nil, false
	}
	back := rapid.IntRange(0, min(len(w.claims), 30)-1).Draw(w.T, "lease, from the last")
	return w.claims[len(w.claims)-1-back], true
}

// same makes one statement with several leases.
func (w *hostileWorld) same() {
	c, ok := w.draw()
	if !ok {
		return
	}
	s, final := w.signal(c), rapid.Bool().Draw(w.T, "final")
	n := rapid.IntRange(2, 10).Draw(w.T, "leases")
	for _, o := range w.claims[max(0, len(w.claims)-n):] {
		if o.holder == c.holder {
			w.report(o, s, o.grant.Reserved, final)
		}
	}
}

func (w *hostileWorld) report(c *claim, s provider.Signal, used provider.Amounts, final bool) {
	last := w.about.use && c.grant.Count > 1 && rapid.Bool().Draw(w.T, "last")
	var expires pool.Time
	var err error
	switch {
	case c.owner == w.owner && last:
		expires, err = w.pool.ReportLast(w.now, c.grant.Lease, c.holder, s, used, final)
	case c.owner == w.owner:
		expires, err = w.pool.Report(w.now, c.grant.Lease, c.holder, s, used, final)
	case w.now < w.until: // the owner delays it
		return
	default:
		last = false
		expires, err = w.pool.ReportPredecessor(w.now, &pool.PredecessorLease{
			Epoch: uint64(c.owner), Lease: c.grant.Lease, Key: pool.Hash(c.grant.Key), Class: pool.Hash(c.grant.Class),
			Holder: c.holder, TTL: w.ttl, Count: c.grant.Count, Reserved: c.grant.Reserved,
		}, s, used, final)
	}
	w.Logf("%v: %s reports lease %d: %+v, refused %+v, used %v, last %v, final %v: %v", w.at(), c.holder, c.grant.Lease, s, s.Refused, used, last, final, err)
	if err != nil {
		return
	}
	c.report(w.now, expires, used, &w.dialect.Kept, last, final)
	w.resets(c, &s)
}

// resets takes in what an answer says about fixed windows whose resets may not be configured.
func (w *hostileWorld) resets(c *claim, s *provider.Signal) {
	for i := range s.Windows {
		x := &s.Windows[i]
		for _, l := range w.limits {
			if l.limit.Kind == provider.Fixed && (l.limit.Reset == 0 || w.forgotten) && x.Reset >= 0 && x.Dimension == l.limit.Dimension && (x.Length == 0 || x.Length == l.limit.Window) {
				in := pool.Time(x.Reset)
				w.phases[l].state(w.now, statedReset{c.holder, c.grant.Granted + in, w.now + in}, pool.Time(l.limit.Window))
			}
		}
	}
}

func (w *hostileWorld) release() {
	c, ok := w.draw()
	if !ok || c.owner != w.owner {
		return
	}
	unused := w.about.use && rapid.Bool().Draw(w.T, "unused")
	err := w.pool.Release(w.now, c.grant.Lease, c.holder, unused)
	w.Logf("%v: %s releases lease %d, unused %v: %v", w.at(), c.holder, c.grant.Lease, unused, err)
	switch {
	case err != nil:
	case unused:
		c.unused(w.now)
	default:
		c.end(w.now)
	}
}

// restore is an operator's: what was used of long windows is forgotten on purpose.
func (w *hostileWorld) restore() {
	if !w.restores {
		return
	}
	w.pool.Restore(w.now, "", "")
	w.Logf("%v: restore", w.at())
	for _, c := range w.claims {
		c.stakes = slices.DeleteFunc(c.stakes, func(s *stake) bool { return s.limit.limit.Window > time.Minute })
	}
}

// restart ends the owner, orderly or not, and begins the next one.
func (w *hostileWorld) restart() {
	if !w.restarts {
		return
	}
	w.judge()
	orderly := rapid.Bool().Draw(w.T, "orderly")
	if orderly {
		s, _ := w.pool.State(w.now, true)
		w.journal.write(s)
	}
	w.waiting = nil
	unit := rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Second, time.Hour}).Draw(w.T, "down for")
	w.advance(pool.Time(rapid.Int64Range(0, 10).Draw(w.T, "units")) * pool.Time(unit))
	w.until = w.now
	if !orderly {
		w.until += pool.Time(overlap)
	}
	w.Logf("%v: restart, orderly %v", w.at(), orderly)
	w.begin(w.journal.stored)
}

// judge holds everything that was granted so far against every configured limit.
func (w *hostileWorld) judge() {
	if len(w.claims) == w.judged {
		return
	}
	w.judged = len(w.claims)
	w.pass()
	for _, l := range w.limits {
		l.judgeClaims(w.T, w.claims, w.delta, w.phases[l])
	}
}
