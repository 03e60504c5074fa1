package pool_test

// The provider's accounts for a domain whose configuration changes. An account counts
// all that a quota group or key has used of some models, however they were configured when
// it was granted. What is granted while a limit is configured must fit it, together with
// what is still counted from before.

import (
	"cmp"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// ledger is what a provider keeps for one limit.
type ledger struct {
	group, key, in, class string // in: the group of the key
	models                uint
	dimension             provider.Dimension
	name                  string
	window                time.Duration
}

// stretch is a limit in force from a moment on; 0 if it is not configured.
type stretch struct {
	from  pool.Time
	limit pool.Limit
}

// classOf is the class of a model, with all its models.
func classOf(cfg *pool.Config, model string) (name string, models []string) {
	if cfg.Flat {
		return "all", domainModels
	}
	for _, c := range cfg.Classes {
		if slices.Contains(c.Models, model) {
			return c.Name, c.Models
		}
	}
	return model, []string{model}
}

// eachLimit goes through the limits of a configuration with the books that they are about.
func eachLimit(cfg *pool.Config, f func(b ledger, l pool.Limit)) {
	seen := map[string]bool{}
	each := func(group, key, in string, limits []pool.Limit) {
		for _, l := range limits {
			b := ledger{group: group, key: key, in: in, dimension: l.Dimension, name: l.Name, window: l.Window}
			if l.Shared {
				b.class, b.models = "shared", maskOf(domainModels...)
				f(b, l)
				continue
			}
			clear(seen)
			for _, m := range domainModels {
				name, models := classOf(cfg, m)
				if b.class, b.models = name, maskOf(models...); !seen[name] {
					seen[name] = true
					f(b, l)
				}
			}
		}
	}
	ofClasses := func(group, key string) {
		for _, c := range cfg.Classes {
			for _, l := range c.Limits {
				f(ledger{group, key, "", c.Name, maskOf(c.Models...), l.Dimension, l.Name, l.Window}, l)
			}
		}
	}
	for _, g := range cfg.Groups {
		each(g.Name, "", "", g.Limits)
		ofClasses(g.Name, "")
	}
	for _, k := range cfg.Keys {
		each("", k.ID, k.Group, k.Limits)
		if k.Group == "" {
			ofClasses("", k.ID)
		}
	}
}

// counts reports whether a call counts in the books.
func (b *ledger) counts(c *domainCall) bool {
	return (b.key == "" || c.key == b.key) && (b.group == "" || c.group == b.group) && b.models&maskOf(c.ask.Model) != 0
}

// maskOf is a set of models.
func maskOf(models ...string) (mask uint) {
	for _, m := range models {
		mask |= 1 << slices.Index(domainModels, m)
	}
	return mask
}

// countSlots counts the calls that are open at one time when one is granted.
func (w *domainWorld) countSlots(c *domainCall) {
	eachLimit(&w.epochs[len(w.epochs)-1].cfg, func(b ledger, l pool.Limit) {
		if l.Dimension != provider.Concurrency || !b.counts(c) {
			return
		}
		var open int64
		for _, o := range w.open() {
			if b.counts(o) {
				open += o.planned[provider.Requests]
			}
		}
		if open > l.Amount {
			w.Fatalf("at %v: %d calls open of %d: %+v", time.Duration(w.now), open, l.Amount, b)
		}
	})
}

// domainUse is an amount that the provider counts at some moment from lo to hi.
type domainUse struct {
	granted, lo, hi pool.Time
	epoch           int
	n               int64
}

// uses are the amounts that a call has used, as a limit counts them.
func (w *domainWorld) uses(c *domainCall, d provider.Dimension, window time.Duration) (uses []domainUse) {
	if c.unused || c.planned[d] == 0 {
		return nil
	}
	start := c.grant.Granted
	if !w.dialect.Held[d] {
		return []domainUse{{start, start, c.grant.StartBy, c.epoch, c.planned[d]}}
	}
	since, told := start, int64(0)
	for _, m := range c.marks {
		used, hi := m.used[d], m.at
		if late := since + pool.Time(window/2); hi >= late {
			// Half a window without a report is as far as the promise goes.
			hi, used = late, max(used, c.planned[d])
		}
		if used > told {
			uses = append(uses, domainUse{start, since, hi, c.epoch, used - told})
			told = used
		}
		since = m.at
	}
	return uses
}

// judge asks the provider's accounts whether all that was granted fits.
func (w *domainWorld) judge() {
	accounts := map[ledger][]stretch{}
	var order []ledger
	for i := range w.epochs {
		e := &w.epochs[i]
		now := map[ledger]pool.Limit{}
		eachLimit(&e.cfg, func(b ledger, l pool.Limit) {
			if l.Dimension == provider.Concurrency {
				return
			}
			now[b] = l
			if accounts[b] == nil {
				order = append(order, b)
				accounts[b] = make([]stretch, i, len(w.epochs))
				for j := range i {
					accounts[b][j].from = w.epochs[j].from
				}
			}
		})
		for b, s := range accounts {
			accounts[b] = append(s, stretch{e.from, now[b]})
		}
	}
	for _, b := range order {
		var uses []domainUse
		for _, c := range w.calls {
			if b.counts(c) {
				uses = append(uses, w.uses(c, b.dimension, b.window)...)
			}
		}
		a := domainAccount{w, b, accounts[b], accounts[b], uses}
		for o, s := range accounts { // while the class had other models
			if o.models = b.models; o == b {
				a.then = slices.Clone(a.then)
				for i := range a.then {
					if s[i].limit.Amount > a.then[i].limit.Amount {
						a.then[i].limit = s[i].limit
					}
				}
			}
		}
		for _, u := range uses {
			a.judge(u.hi, false)
			a.judge(u.hi, true)
			a.judge(u.lo, true)
		}
	}
}

type domainAccount struct {
	w         *domainWorld
	books     ledger
	stretches []stretch
	then      []stretch // the same, with those of a class that had other models
	uses      []domainUse
}

// judge places what was used so that as much as possible arrives at one moment; late says
// where what was to arrive before goes.
func (a *domainAccount) judge(moment pool.Time, late bool) {
	type arrival struct {
		at    pool.Time
		use   *domainUse // nil: another configuration comes into force
		epoch int
	}
	var all []arrival
	for i := range a.stretches {
		all = append(all, arrival{at: a.stretches[i].from, epoch: i})
	}
	for i := range a.uses {
		u := &a.uses[i]
		at := min(max(moment, u.lo), u.hi)
		if u.hi < moment && !late {
			at = u.lo
		}
		all = append(all, arrival{at: at, use: u, epoch: u.epoch})
	}
	slices.SortStableFunc(all, func(x, y arrival) int { return cmp.Compare(x.at, y.at) })
	var account sim.Limiter // nil while there is no limit
	through := func(account sim.Limiter, at pool.Time, n int64) {
		account.Charge(time.Duration(at), min(n, max(0, account.Remaining(time.Duration(at)))))
	}
	// fresh is an account in which that counts which came before a limit was configured, as far as
	// the limit would have let it through.
	fresh := func(l pool.Limit, arrivals []arrival) sim.Limiter {
		account := provides(l)
		for _, y := range arrivals {
			if y.use != nil {
				through(account, y.at, y.use.n)
			}
		}
		return account
	}
	// as is one with the limits that were configured before, in spite of the gap.
	as := func(l pool.Limit, at pool.Time, arrivals []arrival) (account sim.Limiter) {
		for i, y := range arrivals {
			switch was := a.then[y.epoch].limit; {
			case y.use == nil && was.Amount > 0 && account == nil:
				account = fresh(was, arrivals[:i])
			case y.use == nil && was.Amount > 0:
				account.SetLimit(time.Duration(y.at), was.Amount)
			case y.use != nil && account != nil && (was.Amount > 0 || !a.changed(a.first(y.epoch), len(a.stretches)-1)):
				through(account, y.at, y.use.n)
			}
		}
		if account == nil {
			return fresh(l, arrivals)
		}
		account.SetLimit(time.Duration(at), l.Amount)
		return account
	}
	epoch := 0
	for i, x := range all {
		at := time.Duration(x.at)
		switch {
		case x.use == nil:
			epoch = x.epoch
			switch l := a.stretches[epoch].limit; {
			case l.Amount == 0:
				account = nil
			case account != nil:
				account.SetLimit(at, l.Amount)
			default: // in a gap the broker may take it for used up, and no more
				account = fresh(l, all[:i])
				then := as(l, x.at, all[:i])
				if more := then.Remaining(at) - account.Remaining(at); more > 0 || more == 0 && then.UntilFull(at) < account.UntilFull(at) {
					account = then
				}
			}
		case account == nil:
		case a.since(epoch) > x.epoch:
			// It was granted before the limit was configured, which then was taken for used
			// up: it counts as far as it fits the limit that was configured then.
			if !a.changed(a.first(x.epoch), epoch) {
				through(account, x.at, x.use.n)
			}
		case a.changed(x.epoch, epoch):
			account.Charge(at, x.use.n)
		case !account.Take(at, x.use.n):
			a.w.Fatalf("%+v: the provider refused %+v at %v, has %d;\nlimits %+v\nuses %+v",
				a.books, *x.use, at, account.Remaining(at), a.stretches, a.uses)
		}
	}
}

// changed reports whether the limit has been another one since an epoch. What arrives then
// of what was granted before counts, and need not fit.
func (a *domainAccount) changed(granted, now int) bool {
	for i := granted + 1; i <= now; i++ {
		if n := a.stretches[i].limit.Amount; n > 0 && n != a.stretches[granted].limit.Amount {
			return true
		}
	}
	return false
}

// first is the first epoch after another in which there is the limit.
func (a *domainAccount) first(after int) int {
	for after++; a.stretches[after].limit.Amount == 0; after++ {
	}
	return after
}

// since is the epoch since which there has been the limit.
func (a *domainAccount) since(epoch int) int {
	for epoch > 0 && a.stretches[epoch-1].limit.Amount > 0 {
		epoch--
	}
	return epoch
}

func provides(l pool.Limit) sim.Limiter {
	switch l.Kind {
	case provider.Refilling:
		return sim.NewTokenBucket(l.Amount, l.Window)
	case provider.Fixed:
		return sim.NewFixedWindow(l.Amount, l.Window, time.Duration(nextReset(0, l.Window)))
	}
	return sim.NewSlidingWindow(l.Amount, l.Window)
}
