package sandbox

import (
	"sync"
	"time"
)

// account keeps the books of one Account: a provider's view of one quota
// group. Times are virtual, since the server's start.
type account struct {
	Account // as declared; Keys is dropped, so that no account holds a secret
	dialect *dialect
	began   time.Time // when virtual time did

	mu           sync.Mutex
	overloaded   bool
	exhausted    bool
	classes      map[string]*class // by name
	byModel      map[string]*class // declared models only
	unauthorized int64
}

// class is the state of one model class, guarded by its account's mutex.
type class struct {
	name     string
	dialect  *dialect
	began    time.Time
	buckets  [dimensions]*bucket // nil: not limited
	limits   Limits
	charged  [dimensions]int64 // in all, by requests
	inFlight int64
	others   int64 // slots that somebody else uses
	stats    ClassStats
}

// longest is the furthest reset that headers announce; it keeps a huge debt
// within the range of dates.
const longest = 10 * 365 * 24 * time.Hour

// level is what a header tells about one dimension.
type level struct {
	limit, remaining int64
	reset            time.Duration // until it is full, or its window ends
}

// levels are those of the dimensions that are limited.
type levels [dimensions]*level

// refusal says which limit a request did not fit.
type refusal struct {
	dim         dimension
	concurrency bool // the limit on concurrent requests; dim means nothing

	limit, used, requested int64

	// wait is the time until the request fits all limits, or sim.Never if it
	// is larger than one of them.
	wait time.Duration
}

func newAccount(a Account, began time.Time) *account {
	a.Keys = nil
	acct := &account{Account: a, dialect: dialectOf(a.Type), began: began, classes: map[string]*class{}, byModel: map[string]*class{}}
	if a.Flat {
		acct.class("all").setLimits(0, a.Default)
		return acct
	}
	for _, declared := range a.Classes {
		c := acct.class(declared.Name)
		c.setLimits(0, declared.Limits)
		for _, model := range declared.Models {
			acct.byModel[model] = c
		}
	}
	return acct
}

// class returns the class of that name, and makes it if there is none. The
// caller holds mu.
func (a *account) class(name string) *class {
	c, ok := a.classes[name]
	if !ok {
		c = &class{name: name, dialect: a.dialect, began: a.began}
		c.setLimits(0, a.Default)
		a.classes[name] = c
	}
	return c
}

// classOf finds the class of a model.
func (a *account) classOf(model string) *class {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Flat {
		return a.class("all")
	}
	if c, ok := a.byModel[model]; ok {
		return c
	}
	return a.class(model)
}

// admit charges what d asks for on arrival and takes a slot, all or nothing.
// Of several limits in the way it names the one to wait for longest, so that
// a client that waits as told gets through. An admitted request must be ended
// by release.
func (a *account) admit(c *class, at time.Duration, d demand) *refusal {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := c.check(at, d); r != nil {
		c.stats.Limited++
		return r
	}
	for dim, b := range c.buckets {
		if b != nil {
			c.charge(at, dim, d.upfront[dim])
		}
	}
	c.inFlight++
	c.stats.Admitted++
	c.stats.InputTokens += d.upfront[itpm]
	return nil
}

func (c *class) check(at time.Duration, d demand) *refusal {
	var worst *refusal
	for dim, b := range c.buckets {
		if b == nil {
			continue
		}
		wait := b.Until(at, d.need[dim])
		if wait == 0 || worst != nil && wait <= worst.wait {
			continue
		}
		worst = &refusal{
			dim:       dimension(dim),
			limit:     b.limit,
			used:      b.limit - b.Remaining(at),
			requested: d.need[dim],
			wait:      wait,
		}
	}
	if limit := c.limits.Concurrency; worst == nil && limit > 0 && c.inFlight+c.others >= limit {
		// Nobody knows when an answer ends; a second is a guess.
		worst = &refusal{concurrency: true, limit: limit, used: c.inFlight + c.others, requested: 1, wait: time.Second}
	}
	return worst
}

// generated charges n tokens of output.
func (a *account) generated(c *class, at time.Duration, d demand, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.stats.OutputTokens += n
	for dim, b := range c.buckets {
		if b == nil || d.output[dim] == 0 {
			continue
		}
		c.charge(at, dim, d.output[dim]*n)
		if b.Remaining(at) < 0 {
			c.stats.OverLimit++
		}
	}
}

func (c *class) charge(at time.Duration, dim int, n int64) {
	c.buckets[dim].Charge(at, n)
	c.charged[dim] += n
}

// release gives an admitted request's slot back.
func (a *account) release(c *class) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.inFlight--
}

// levels is a snapshot for the headers; nil where there is no limit.
func (a *account) levels(c *class, at time.Duration) (ls levels) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for dim, b := range c.buckets {
		if b != nil {
			ls[dim] = &level{
				limit:     b.limit,
				remaining: max(b.Remaining(at), 0),
				reset:     min(b.reset(at), longest),
			}
		}
	}
	return ls
}

// setLimits replaces the limits. What is used stays used; a dimension that
// was not limited before starts full.
func (c *class) setLimits(at time.Duration, l Limits) {
	c.limits = l
	for dim := range dimensions {
		switch limit := l.of(dim); {
		case limit <= 0:
			c.buckets[dim] = nil
		case c.buckets[dim] == nil:
			c.buckets[dim] = c.dialect.bucket(dim, limit, c.began)
		default:
			b := c.buckets[dim]
			b.limit = c.dialect.amount(dim, limit)
			b.SetLimit(at, b.limit)
		}
	}
}

// use is for somebody else: it charges what there is room for, as far as l asks,
// and takes slots or gives them back.
func (c *class) use(at time.Duration, l Limits) {
	for dim, b := range c.buckets {
		if b != nil {
			b.Charge(at, max(0, min(l.of(dimension(dim)), b.Remaining(at))))
		}
	}
	c.others = max(0, c.others+l.Concurrency)
}
