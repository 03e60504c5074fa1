package pool_test

// A world for domains whose configuration changes while leases are open and asks wait.
// It keeps what was granted and used, and knows nothing of how the engine decides; the
// provider's accounts are in domain_judge_test.go.

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// epoch is a configuration that was in force from a moment on.
type epoch struct {
	from pool.Time
	cfg  pool.Config
}

// mark is what a call had used at a moment.
type mark struct {
	at   pool.Time
	used provider.Amounts
}

// domainCall is a lease in a domain with what its holder does.
type domainCall struct {
	grant         pool.Grant
	ask           pool.Ask
	key, group    string
	epoch         int
	planned, told provider.Amounts
	marks         []mark
	expires       pool.Time
	ended, unused bool
}

type domainWorld struct {
	*rapid.T
	dom     *pool.Domain
	dialect *provider.Dialect
	cfg     pool.Config
	past    []pool.Config // before each change
	epochs  []epoch
	now     pool.Time
	wake    pool.Time
	kinds   map[string]provider.Kind // by dimension and window, so that a limit stays what it is
	groups  map[string][]pool.Limit  // those that are gone, as they were last
	calls   []*domainCall
	waiting []*pool.Waiter
}

var (
	domainModels  = []string{"m0", "m1", "m2"}
	domainGroups  = []string{"g0", "g1", "g2"}
	domainKeys    = []string{"k0", "k1", "k2", "k3"}
	domainDeltas  = []time.Duration{100 * time.Millisecond, 2 * time.Second, 5 * time.Second}
	domainWindows = []time.Duration{time.Minute, time.Minute, time.Minute, time.Hour, 24 * time.Hour}
)

func newDomainWorld(t *rapid.T) *domainWorld {
	w := &domainWorld{
		T: t, dialect: pool.Exact(rapid.SampledFrom(provider.Types()).Draw(t, "dialect")),
		kinds: map[string]provider.Kind{}, groups: map[string][]pool.Limit{},
	}
	w.cfg = pool.Config{Name: "d", Dialect: w.dialect, Flat: w.one(3, "flat"), Seed: 1}
	for _, g := range domainGroups[:rapid.IntRange(1, 3).Draw(t, "groups")] {
		w.cfg.Groups = append(w.cfg.Groups, pool.Group{Name: g, Limits: w.limits()})
	}
	for _, k := range domainKeys[:rapid.IntRange(1, 4).Draw(t, "keys")] {
		w.addKey(k)
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "pools") {
		w.cfg.Pools = append(w.cfg.Pools, w.rules(fmt.Sprint("p", i)))
	}
	w.drawClasses()
	w.tidy()
	dom, err := pool.New(w.config())
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	w.dom = dom
	w.epochs = []epoch{{0, w.config()}}
	return w
}

// one is true once in n.
func (w *domainWorld) one(n int, what string) bool { return rapid.IntRange(1, n).Draw(w.T, what) == n }

func (w *domainWorld) pick(from []string, what string) string {
	return rapid.SampledFrom(from).Draw(w.T, what)
}

// limits draws those of a group, a key or a class.
func (w *domainWorld) limits() (limits []pool.Limit) {
	for d := range provider.NumDimensions {
		if w.one(3, "limited") {
			limits = append(limits, w.limit(d))
		}
	}
	return limits
}

func (w *domainWorld) limit(d provider.Dimension) pool.Limit {
	l := pool.Limit{Dimension: d, Shared: w.one(5, "shared")}
	if d == provider.Concurrency {
		l.Amount = rapid.Int64Range(1, 5).Draw(w.T, "slots")
		return l
	}
	l.Window = rapid.SampledFrom(domainWindows).Draw(w.T, "window")
	l.Amount = rapid.Int64Range(1, 40).Draw(w.T, "limit")
	name := fmt.Sprint(d, l.Window)
	kind, ok := w.kinds[name]
	if !ok {
		kind = rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed}).Draw(w.T, "kind")
		w.kinds[name] = kind
	}
	l.Kind = kind
	return l
}

// addKey puts a key into the configuration that is not there.
func (w *domainWorld) addKey(id string) {
	k := pool.Key{ID: id, Priority: rapid.IntRange(0, 1).Draw(w.T, "priority"), Weight: rapid.IntRange(1, 3).Draw(w.T, "weight")}
	if len(w.cfg.Groups) > 0 && !w.one(5, "alone") {
		k.Group = w.cfg.Groups[rapid.IntRange(0, len(w.cfg.Groups)-1).Draw(w.T, "group")].Name
	}
	if k.Group == "" || w.one(3, "own") {
		k.Limits = w.limits()
	}
	w.cfg.Keys = append(w.cfg.Keys, k)
}

func (w *domainWorld) rules(name string) pool.Rules {
	r := pool.Rules{
		Name: name, Strategy: w.pick([]string{pool.LeastLoaded, pool.RoundRobin, pool.Random, pool.Weighted}, "strategy"),
		StartWithin: rapid.SampledFrom(domainDeltas).Draw(w.T, "start within"), Single: w.one(8, "single"),
	}
	if w.one(3, "some groups") {
		r.Groups = []string{w.pick(domainGroups, "of group")}
	}
	if w.one(4, "some models") {
		r.Models = domainModels[:2]
	}
	return r
}

func (w *domainWorld) drawClasses() {
	w.cfg.Classes = nil
	for _, c := range rapid.SampledFrom([][]pool.Class{
		nil, nil, {{Name: "c", Models: []string{"m0", "m1"}}}, {{Name: "c", Models: domainModels}},
		{{Name: "c", Models: []string{"m0"}}, {Name: "d", Models: []string{"m1", "m2"}}}, {{Name: "m0", Models: []string{"m0", "m2"}}},
	}).Draw(w.T, "classes") {
		if w.one(2, "class limits") {
			c.Limits = w.limits()
			for i := range c.Limits {
				c.Limits[i].Name, c.Limits[i].Shared = "of class", false
			}
		}
		w.cfg.Classes = append(w.cfg.Classes, c)
	}
}

// tidy makes the configuration one that is allowed, after parts have gone.
func (w *domainWorld) tidy() {
	has := func(name string) bool {
		return slices.ContainsFunc(w.cfg.Groups, func(g pool.Group) bool { return g.Name == name })
	}
	w.cfg.Keys, w.cfg.Pools = slices.Clone(w.cfg.Keys), slices.Clone(w.cfg.Pools)
	for i := range w.cfg.Keys {
		if k := &w.cfg.Keys[i]; k.Group != "" && !has(k.Group) {
			k.Group = ""
		}
	}
	for i := range w.cfg.Pools {
		p := &w.cfg.Pools[i]
		p.Groups = slices.DeleteFunc(slices.Clone(p.Groups), func(g string) bool { return !has(g) })
	}
	if len(w.cfg.Pools) == 0 {
		w.cfg.Pools = append(w.cfg.Pools, w.rules("p0"))
		w.tidy()
	}
}

// config is a copy that shares nothing with the world's own. The resets of fixed windows
// are the next ones, as a configuration that is read now has them.
func (w *domainWorld) config() pool.Config {
	cfg := w.cfg
	copied := func(ls []pool.Limit) []pool.Limit {
		ls = slices.Clone(ls)
		for i := range ls {
			if ls[i].Kind == provider.Fixed && ls[i].Window > 0 {
				ls[i].Reset = nextReset(w.now, ls[i].Window)
			}
		}
		return ls
	}
	cfg.Classes, cfg.Groups, cfg.Keys, cfg.Pools = slices.Clone(cfg.Classes), slices.Clone(cfg.Groups), slices.Clone(cfg.Keys), slices.Clone(cfg.Pools)
	for i := range cfg.Classes {
		cfg.Classes[i].Models, cfg.Classes[i].Limits = slices.Clone(cfg.Classes[i].Models), copied(cfg.Classes[i].Limits)
	}
	for i := range cfg.Groups {
		cfg.Groups[i].Limits = copied(cfg.Groups[i].Limits)
	}
	for i := range cfg.Keys {
		cfg.Keys[i].Limits = copied(cfg.Keys[i].Limits)
	}
	if cfg.Flat {
		cfg.Classes = nil
	}
	return cfg
}

// nextReset is when a fixed window ends that begins with the world, and 17 s later.
func nextReset(now pool.Time, window time.Duration) pool.Time {
	const phase = 17 * sec
	n := pool.Time(window)
	if now < phase {
		return phase
	}
	return phase + ((now-phase)/n+1)*n
}

// edit changes the configuration in one thing.
func (w *domainWorld) edit() {
	t := w.T
	switch rapid.IntRange(0, 18).Draw(t, "edit") {
	case 0, 1:
		if ls := w.someLimits(); ls != nil && len(*ls) > 0 {
			*ls = slices.Clone(*ls)
			l := &(*ls)[rapid.IntRange(0, len(*ls)-1).Draw(t, "which")]
			l.Amount = rapid.Int64Range(1, 60).Draw(t, "limit")
			if l.Dimension == provider.Concurrency {
				l.Amount = 1 + l.Amount/12
			}
		}
	case 2:
		if ls := w.someLimits(); ls != nil && len(*ls) > 0 {
			i := rapid.IntRange(0, len(*ls)-1).Draw(t, "which")
			*ls = slices.Delete(slices.Clone(*ls), i, i+1)
		}
	case 3, 4:
		w.addLimit()
	case 5:
		if n := len(w.cfg.Keys); n > 0 {
			i := rapid.IntRange(0, n-1).Draw(t, "key")
			w.cfg.Keys = slices.Delete(slices.Clone(w.cfg.Keys), i, i+1)
		}
	case 6, 7:
		id := w.pick(domainKeys, "key")
		if !slices.ContainsFunc(w.cfg.Keys, func(k pool.Key) bool { return k.ID == id }) {
			w.cfg.Keys = slices.Clone(w.cfg.Keys)
			w.addKey(id)
		}
	case 8:
		if n, m := len(w.cfg.Keys), len(w.cfg.Groups); n > 0 && m > 0 {
			w.cfg.Keys = slices.Clone(w.cfg.Keys)
			w.cfg.Keys[rapid.IntRange(0, n-1).Draw(t, "key")].Group = w.cfg.Groups[rapid.IntRange(0, m-1).Draw(t, "group")].Name
		}
	case 9:
		if n := len(w.cfg.Groups); n > 0 {
			i := rapid.IntRange(0, n-1).Draw(t, "group")
			name := w.cfg.Groups[i].Name
			w.groups[name] = w.cfg.Groups[i].Limits
			w.cfg.Groups = slices.Delete(slices.Clone(w.cfg.Groups), i, i+1)
			if w.one(2, "with its keys") {
				w.cfg.Keys = slices.DeleteFunc(slices.Clone(w.cfg.Keys), func(k pool.Key) bool { return k.Group == name })
			} else {
				w.cfg.Keys = slices.Clone(w.cfg.Keys)
			}
		}
	case 10, 11:
		name := w.pick(domainGroups, "group")
		if !slices.ContainsFunc(w.cfg.Groups, func(g pool.Group) bool { return g.Name == name }) {
			ls, ok := w.groups[name]
			if !ok {
				ls = w.limits()
			}
			w.cfg.Groups = append(slices.Clone(w.cfg.Groups), pool.Group{Name: name, Limits: ls})
			w.cfg.Keys = slices.Clone(w.cfg.Keys)
			for i := range w.cfg.Keys {
				if w.one(2, "into it") {
					w.cfg.Keys[i].Group = name
				}
			}
		}
	case 12:
		w.drawClasses()
	case 13:
		w.cfg.Flat = !w.cfg.Flat
	case 14:
		w.cfg.Pools = slices.Clone(w.cfg.Pools)
		name := w.pick([]string{"p0", "p1", "p2"}, "pool")
		i := slices.IndexFunc(w.cfg.Pools, func(r pool.Rules) bool { return r.Name == name })
		switch {
		case i < 0:
			w.cfg.Pools = append(w.cfg.Pools, w.rules(name))
		case w.one(2, "gone") && len(w.cfg.Pools) > 1:
			w.cfg.Pools = slices.Delete(w.cfg.Pools, i, i+1)
		default:
			w.cfg.Pools[i] = w.rules(name)
		}
	case 16, 17, 18: // all is put back as it was
		w.cfg = w.past[rapid.IntRange(max(0, len(w.past)-3), len(w.past)-1).Draw(t, "back to")]
	case 15:
		w.cfg.Keys = slices.Clone(w.cfg.Keys)
		for i := range w.cfg.Keys {
			w.cfg.Keys[i].Priority = rapid.IntRange(0, 1).Draw(t, "priority")
		}
	}
}

// someLimits picks a list of limits, nil if there is none.
func (w *domainWorld) someLimits() *[]pool.Limit {
	w.cfg.Groups, w.cfg.Keys, w.cfg.Classes = slices.Clone(w.cfg.Groups), slices.Clone(w.cfg.Keys), slices.Clone(w.cfg.Classes)
	var all []*[]pool.Limit
	for i := range w.cfg.Groups {
		all = append(all, &w.cfg.Groups[i].Limits)
	}
	for i := range w.cfg.Keys {
		if k := &w.cfg.Keys[i]; len(k.Limits) > 0 {
			all = append(all, &k.Limits)
		}
	}
	for i := range w.cfg.Classes {
		if c := &w.cfg.Classes[i]; len(c.Limits) > 0 {
			all = append(all, &c.Limits)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(w.T, "list")]
}

func (w *domainWorld) addLimit() {
	ls := w.someLimits()
	if ls == nil {
		return
	}
	l := w.limit(provider.Dimension(rapid.IntRange(0, int(provider.NumDimensions)-1).Draw(w.T, "dimension")))
	if len(*ls) > 0 {
		l.Name = (*ls)[0].Name
		l.Shared = l.Shared && l.Name == ""
	}
	if !slices.ContainsFunc(*ls, func(o pool.Limit) bool { return o.Dimension == l.Dimension && o.Window == l.Window }) {
		*ls = append(slices.Clone(*ls), l)
	}
}

// reconfigure puts another configuration in force, and looks at whom that leaves without
// a place.
func (w *domainWorld) reconfigure() {
	w.past = append(w.past, w.cfg)
	for range rapid.IntRange(0, 3).Draw(w.T, "edits") {
		w.edit()
	}
	w.tidy()
	dropped, err := w.dom.Reconfigure(w.now, w.config())
	if err != nil {
		w.Fatalf("reconfigure: %v", err)
	}
	w.epochs = append(w.epochs, epoch{w.now, w.config()})
	for _, wt := range dropped {
		if !w.leaves(wt) {
			w.Fatalf("dropped a waiter that was not in line: %+v", wt.Ask)
		}
		var large *pool.TooLargeError
		if want := w.place(&wt.Ask); want != nil && !errors.Is(wt.Err, want) || want == nil && !errors.As(wt.Err, &large) {
			w.Fatalf("dropped with %v, want %v: %+v", wt.Err, want, wt.Ask)
		}
	}
	for _, wt := range w.waiting {
		if want := w.place(&wt.Ask); want != nil || wt.Err != nil {
			w.Fatalf("kept in line with %v, want %v: %+v", wt.Err, want, wt.Ask)
		}
	}
}

func (w *domainWorld) poolOf(ask *pool.Ask) *pool.Rules {
	for i := range w.cfg.Pools {
		if p := &w.cfg.Pools[i]; p.Name == ask.Pool {
			return p
		}
	}
	return nil
}

// has reports whether a pool draws on a key.
func has(p *pool.Rules, k *pool.Key) bool {
	return len(p.Groups) == 0 || slices.Contains(p.Groups, k.GroupName())
}

// place is why there is no place for an ask in the configuration, nil if there is.
func (w *domainWorld) place(ask *pool.Ask) error {
	p := w.poolOf(ask)
	switch {
	case p == nil:
		return pool.ErrNoPool
	case !w.cfg.Flat && !p.Serves(ask.Model):
		return pool.ErrModelNotServed
	}
	if ask.Group == "" && ask.Key == "" {
		return nil
	}
	for i := range w.cfg.Keys {
		k := &w.cfg.Keys[i]
		if has(p, k) && (ask.Key == "" || k.ID == ask.Key) && (ask.Group == "" || k.GroupName() == ask.Group) {
			return nil
		}
	}
	return pool.ErrNoKey
}

func (w *domainWorld) step() {
	switch rapid.IntRange(0, 13).Draw(w.T, "step") {
	case 0, 1, 2:
		w.advance()
	case 3, 4, 5, 6:
		w.acquire()
	case 7:
		w.report(false)
	case 8, 9:
		w.report(true)
	case 10:
		w.release()
	case 11:
		w.cancel()
	case 12, 13:
		w.reconfigure()
	}
	w.serve()
}

func (w *domainWorld) advance() {
	unit := rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, time.Second, 7 * time.Second, 30 * time.Second, 10 * time.Minute}).Draw(w.T, "unit")
	to := w.now.Add(time.Duration(rapid.Int64Range(0, 10).Draw(w.T, "units")) * unit)
	if w.wake < to { // on the way there is somebody to be served
		if w.wake > w.now+1 && w.one(2, "before") {
			w.now = w.wake - 1
			w.expire()
			if served, _ := w.dom.Next(w.now); len(served) > 0 {
				w.Fatalf("at %v: %d served before %v, when it wanted to be called", time.Duration(w.now), len(served), time.Duration(w.wake))
			}
		}
		to = max(w.now, w.wake)
	}
	w.now = to
	w.expire()
}

func (w *domainWorld) expire() {
	for _, c := range w.open() {
		if c.expires <= w.now {
			w.end(c, c.expires)
		}
	}
}

// open are the calls whose leases have not ended.
func (w *domainWorld) open() (open []*domainCall) {
	for _, c := range w.calls {
		if !c.ended {
			open = append(open, c)
		}
	}
	return open
}

func (w *domainWorld) end(c *domainCall, at pool.Time) {
	c.marks = append(c.marks, mark{at, c.planned})
	c.ended = true
}

func (w *domainWorld) ask() pool.Ask {
	a := pool.Ask{
		Pool: w.pick([]string{"p0", "p0", "p0", "p1", "p1", "p2"}, "pool"), Holder: w.pick([]string{"h1", "h2", "h3"}, "holder"),
		Instance: w.pick([]string{"", "i1", "i2"}, "instance"), Model: w.pick(domainModels, "model"),
		TTL: rapid.SampledFrom([]time.Duration{5 * time.Second, time.Minute, 5 * time.Minute}).Draw(w.T, "ttl"),
		Amounts: w.dialect.Reserve(provider.Demand{
			InputTokens: rapid.Int64Range(0, 6).Draw(w.T, "input"), MaxOutputTokens: rapid.Int64Range(0, 6).Draw(w.T, "output"),
		}),
		Count: rapid.SampledFrom([]int{0, 1, 1, 3, 100}).Draw(w.T, "count"),
	}
	switch rapid.IntRange(0, 7).Draw(w.T, "preference") {
	case 4:
		a.Prefer = w.pick(domainGroups, "prefer")
	case 5:
		a.Group = w.pick(domainGroups, "demand")
	case 6:
		a.Key = w.pick(domainKeys, "demand")
	case 7:
		a.Exclude = []string{w.pick(domainKeys, "exclude")}
	}
	return a
}

func (w *domainWorld) acquire() {
	ask := w.ask()
	want := w.place(&ask)
	g, err := w.dom.Acquire(w.now, ask)
	if want != nil || errors.Is(err, pool.ErrNoPool) || errors.Is(err, pool.ErrModelNotServed) || errors.Is(err, pool.ErrNoKey) {
		if !errors.Is(err, want) || want == nil {
			w.Fatalf("acquire: %v, want %v: %+v", err, want, ask)
		}
		return
	}
	if err == nil {
		w.granted(g, ask)
		return
	}
	w.refused(&ask, err)
	if rapid.Bool().Draw(w.T, "wait") {
		if wt, err := w.dom.Wait(w.now, ask); err == nil {
			w.waiting = append(w.waiting, wt)
		}
	}
}

// refused judges a refusal where nobody waits, by asks that are narrower.
func (w *domainWorld) refused(ask *pool.Ask, err error) {
	var e *pool.ExhaustedError
	if !errors.As(err, &e) {
		return
	}
	p := w.poolOf(ask)
	if usable := w.usable(ask); e.NoUsableKey == usable {
		w.Fatalf("some key can be used: %v, but %+v of %+v", usable, *e, *ask)
	}
	if len(w.waiting) > 0 || p.Single {
		return
	}
	for i := range w.cfg.Keys {
		k := &w.cfg.Keys[i]
		if !has(p, k) || ask.Key != "" || ask.Group != "" && k.GroupName() != ask.Group {
			continue
		}
		narrow := *ask
		narrow.Prefer, narrow.Key = "", k.ID
		w.vain(narrow, fmt.Sprintf("refused: %+v", *ask))
	}
	if ask.Prefer != "" {
		wide := *ask
		wide.Prefer = ""
		w.vain(wide, "refused with a preference")
	}
}

// usable reports whether there is a key for an ask.
func (w *domainWorld) usable(ask *pool.Ask) bool {
	p := w.poolOf(ask)
	return slices.ContainsFunc(w.cfg.Keys, func(k pool.Key) bool {
		return has(p, &k) && (ask.Key == "" || k.ID == ask.Key) && (ask.Group == "" || k.GroupName() == ask.Group) && !slices.Contains(ask.Exclude, k.ID)
	})
}

// fitting reports whether each key that an ask may get has limits that are large enough.
// The others are not told that it waits in vain.
func (w *domainWorld) fitting(ask *pool.Ask) bool {
	fits := true
	cfg := &w.epochs[len(w.epochs)-1].cfg
	eachLimit(cfg, func(b ledger, l pool.Limit) {
		c := domainCall{ask: *ask, key: b.key, group: b.group}
		fits = fits && (!b.counts(&c) || l.Amount >= ask.Amounts[l.Dimension])
	})
	return fits
}

// vain asks for what must not be there.
func (w *domainWorld) vain(ask pool.Ask, why string) {
	if g, err := w.dom.Acquire(w.now, ask); err == nil {
		w.Fatalf("at %v: %s; but granted %s: %+v", time.Duration(w.now), why, g.Key, ask)
	}
}

func (w *domainWorld) granted(g pool.Grant, ask pool.Ask) {
	c := &domainCall{grant: g, ask: ask, key: g.Key, epoch: len(w.epochs) - 1, expires: g.Expires}
	i := slices.IndexFunc(w.cfg.Keys, func(k pool.Key) bool { return k.ID == g.Key })
	p := w.poolOf(&ask)
	if w.place(&ask) != nil || i < 0 || p == nil || !has(p, &w.cfg.Keys[i]) || slices.Contains(ask.Exclude, g.Key) {
		w.Fatalf("granted %q, which is not for %+v", g.Key, ask)
	}
	c.group = w.cfg.Keys[i].GroupName()
	if ask.Key != "" && ask.Key != g.Key || ask.Group != "" && ask.Group != c.group {
		w.Fatalf("granted %q of %q in spite of what was demanded: %+v", g.Key, c.group, ask.Preference)
	}
	sent := rapid.Int64Range(1, int64(g.Count)).Draw(w.T, "sent")
	for d, n := range ask.Amounts {
		c.planned[d] = sent * n
		if !w.dialect.Kept[d] {
			c.planned[d] -= rapid.Int64Range(0, sent*n).Draw(w.T, "spared")
		}
	}
	c.planned[provider.Requests], c.planned[provider.Concurrency] = sent, sent
	w.calls = append(w.calls, c)
	w.countSlots(c)
	if ask.Prefer != "" && c.group != ask.Prefer && len(w.waiting) == 0 && !p.Single {
		narrow := ask
		narrow.Prefer, narrow.Group, narrow.Count = "", ask.Prefer, 1
		w.vain(narrow, "served by "+c.group)
	}
}

func (w *domainWorld) serve() {
	served, wake := w.dom.Next(w.now)
	w.wake = wake
	for _, wt := range served {
		if !w.leaves(wt) || wt.Err != nil {
			w.Fatalf("served %+v, which is not in line: %v", wt.Ask, wt.Err)
		}
	}
	for _, wt := range served {
		w.granted(wt.Grant(), wt.Ask)
	}
	if len(w.waiting) == 1 {
		w.vain(w.waiting[0].Ask, "stands in line alone")
	}
}

func (w *domainWorld) draw() *domainCall {
	open := w.open()
	if len(open) == 0 {
		return nil
	}
	return open[rapid.IntRange(0, len(open)-1).Draw(w.T, "call")]
}

func (w *domainWorld) report(final bool) {
	c := w.draw()
	if c == nil {
		return
	}
	used := c.planned
	if !final {
		for d := range used {
			used[d] = rapid.Int64Range(c.told[d], used[d]).Draw(w.T, "part")
		}
		used[provider.Requests] = c.planned[provider.Requests]
	}
	said := used
	if w.one(6, "silent") {
		said[provider.OutputTokens], said[provider.Tokens] = provider.Unknown, provider.Unknown
	}
	report := w.dom.Report
	if rapid.Bool().Draw(w.T, "last") {
		report = w.dom.ReportLast
	}
	expires, err := report(w.now, c.grant.Lease, c.ask.Holder, c.answer(), said, final)
	if err != nil {
		w.Fatalf("report: %v", err)
	}
	if w.one(4, "again") {
		again, err := w.dom.Report(w.now, c.grant.Lease, c.ask.Holder, c.answer(), c.told, false)
		switch {
		case final && !errors.Is(err, pool.ErrLeaseEnded):
			w.Fatalf("a report after the final one: %v", err)
		case !final && (err != nil || again != expires):
			w.Fatalf("the same report again: %v, until %v instead of %v", err, time.Duration(again), time.Duration(expires))
		}
	}
	c.told.Raise(&used)
	if final {
		w.end(c, w.now)
	} else {
		c.marks = append(c.marks, mark{w.now, used})
		c.expires = expires
	}
}

func (c *domainCall) answer() provider.Signal {
	if c.grant.Probe {
		return provider.Signal{Class: provider.NoAnswer}
	}
	return provider.Signal{}
}

func (w *domainWorld) release() {
	c := w.draw()
	if c == nil {
		return
	}
	c.unused = len(c.marks) == 0 && rapid.Bool().Draw(w.T, "unused")
	if err := w.dom.Release(w.now, c.grant.Lease, c.ask.Holder, c.unused); err != nil {
		w.Fatalf("release: %v", err)
	}
	w.end(c, w.now)
}

func (w *domainWorld) cancel() {
	if len(w.waiting) == 0 {
		return
	}
	wt := w.waiting[rapid.IntRange(0, len(w.waiting)-1).Draw(w.T, "waiter")]
	if !w.dom.Cancel(wt) || !w.leaves(wt) {
		w.Fatalf("cancel: %+v is not in line", wt.Ask)
	}
}

// leaves takes a waiter out of what is known of the line; false if it is not in it.
func (w *domainWorld) leaves(wt *pool.Waiter) bool {
	i := slices.Index(w.waiting, wt)
	if i < 0 {
		return false
	}
	w.waiting = slices.Delete(w.waiting, i, i+1)
	return true
}

// drain lets time pass until all who wait have been served. Only those wait for ever for
// whom there is no key.
func (w *domainWorld) drain() {
	for range 2000 {
		w.serve()
		if len(w.waiting) == 0 || w.wake == pool.Never {
			break
		}
		w.now = max(w.now+1, w.wake)
		w.expire()
	}
	for _, wt := range w.waiting {
		if w.usable(&wt.Ask) && w.fitting(&wt.Ask) {
			w.Fatalf("at %v: still in line, to be looked at again at %v: %+v", time.Duration(w.now), time.Duration(w.wake), wt.Ask)
		}
	}
}

func (w *domainWorld) finish() {
	for _, c := range w.open() {
		w.end(c, c.expires)
	}
}
