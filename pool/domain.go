package pool

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Counters count what happened to a pool since it was made.
type Counters struct {
	Granted, Released, Expired, RateLimited, AuthFailed int64
}

// maxClasses and maxAccounts bound what models that nobody declared can create. Beyond
// that, such models share one class: they get less than they could, and never more than
// they may.
const (
	maxClasses  = 256
	maxAccounts = 100_000
	otherModels = "(other models)"
	allModels   = "(all models)"
	formerlyAll = "(all models, formerly)" // limits counted all models together, and do so no more
	noModel     = "(no model)"
)

// Domain holds quota groups with their keys, and the pools that draw on them. Its methods
// must not be called at the same time.
type Domain struct {
	cfg   Config
	delta time.Duration // the longest StartWithin of a pool
	// Requests of leases that were granted before late may take longer: wasDelta.
	late     Time
	wasDelta time.Duration
	single   bool // some pool leases one key only
	now      Time
	pools    []*pool // in the order of the configuration
	groups   []*group
	retired  []*group // not configured any more, but something may still count there
	keys     []*key
	drained  []*key            // not configured any more, but something may still count there
	classes  map[string]*class // by name
	inOrder  []*class
	byModel  map[string]*class
	random   *rand.Rand

	choices []*choice // of all pools, in the order in which they were made
	lines   []*choice // scratch: those in which somebody waits
	given   int64     // virtual time of the lines

	lastID     LeaseID
	lastWaiter int64
	leases     map[LeaseID]*lease // also lapsed ones
	order      lease              // the ends of the list of leases, oldest first
	due        heap[*lease]
	resting    heap[*key]
	holders    map[holderKey]*holder
	requests   map[requestKey]*lease
	experience experience
	waiting    int // in all queues
	served     []*Waiter
	events     []Event
	warnings   map[Event]*Warning
	keeps      bool // states are saved
	dirty      bool // something has changed that must outlive the owner
	changes    changes
	marks      marks
	fading     fading
	lookedAt   Time // when forgetUnused last looked at a class
	lookNext   int  // its place in inOrder, about
	forgotAt   Time // when a class was last forgotten; long ago if none was
	orphans    heap[*orphan]
	before     *recovery // with which we began; nil if there was nothing to recover
	speakers   speakers
	known      []stated // scratch of learn
	configured Time     // when another configuration came into force, 0 if none did
	unflat     Time     // when Flat last changed; below 0 if it never did

	predecessors predecessors
}

// New makes a domain of which nothing is used. It is an error if there is no dialect or no
// pool, if a strategy is unknown, if a key or pool names a group that is not configured, if a
// name is there twice, or if a model is in two classes.
func New(cfg Config) (*Domain, error) {
	dom := &Domain{
		classes:  map[string]*class{},
		random:   rand.New(rand.NewPCG(cfg.Seed, 0)), // #nosec G404 -- chooses among keys, and is to be repeatable
		leases:   map[LeaseID]*lease{},
		holders:  map[holderKey]*holder{},
		requests: map[requestKey]*lease{},
		warnings: map[Event]*Warning{},
	}
	dom.order.prev, dom.order.next, dom.unflat = &dom.order, &dom.order, -Time(remembered)
	dom.forgotAt = -Never / 4
	if err := cfg.check(); err != nil {
		return nil, err
	}
	dom.configure(0, cfg)
	return dom, nil
}

type requestKey struct {
	pool            *pool
	holder, request string
}

// pool is what holders ask: rules of choice over some of a domain's groups.
type pool struct {
	Rules
	groups   []*group
	byName   map[string]*group // of groups
	keys     []*key
	choices  map[*class]*choice
	counters Counters
	open     int // leases
	waiting  int
}

// pool finds a pool by its name; the empty name is the first.
func (dom *Domain) pool(name string) *pool {
	if name == "" {
		return dom.pools[0]
	}
	i := slices.IndexFunc(dom.pools, func(p *pool) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return dom.pools[i]
}

// choice is what one pool chooses from for one class of models, and the line of those who
// wait for it.
type choice struct {
	pool    *pool
	class   *class
	tiers   []*tier // highest priority first
	largest bounds  // of all keys
	queue   queue
}

// choiceFor finds what an ask chooses from: ErrNoPool, ErrModelRequired or
// ErrModelNotServed.
func (dom *Domain) choiceFor(ask *Ask) (*choice, error) {
	p := dom.pool(ask.Pool)
	if p == nil {
		return nil, ErrNoPool
	}
	c, err := dom.class(p, ask.Model)
	if err != nil {
		return nil, err
	}
	return p.choices[c], nil
}

// class finds the class of a model that a pool is asked for, or makes it.
func (dom *Domain) class(p *pool, model string) (*class, error) {
	switch {
	case dom.cfg.Flat:
		return dom.classes[allModels], nil
	case model == provider.NoModel:
		if c := dom.classes[noModel]; c != nil {
			c.usedAt = dom.now
			return c, nil
		}
		return dom.addClass(Class{Name: noModel}), nil
	case model == "" && len(p.Models) == 1:
		model = p.Models[0]
	case model == "":
		return nil, ErrModelRequired
	}
	if !p.Serves(model) {
		return nil, ErrModelNotServed
	}
	if c := dom.byModel[model]; c != nil {
		c.usedAt = dom.now
		return c, nil
	}
	name := model
	// As long as some models share a class, nobody knows what of it each of them has used.
	if n := len(dom.classes); dom.classes[otherModels] != nil || n >= maxClasses || n > 4 && n*len(dom.groups) >= maxAccounts {
		name = otherModels
	}
	if c := dom.classes[name]; c != nil { // and no entry in byModel: there may be any number of such names
		c.usedAt = dom.now
		return c, nil
	}
	return dom.addClass(Class{Name: name, Models: []string{model}}), nil
}

// addClass opens an account for a new class with every group, and lets every pool choose
// among them.
func (dom *Domain) addClass(cfg Class) *class {
	c := &class{name: cfg.Name, limits: cfg.Limits, models: cfg.Models, index: len(dom.inOrder), strain: strained, usedAt: dom.now}
	dom.classes[c.name] = c
	dom.inOrder = append(dom.inOrder, c)
	for _, m := range cfg.Models {
		dom.byModel[m] = c
	}
	dom.note(c)
	for _, g := range dom.groups {
		g.accounts = append(g.accounts, dom.newAccount(dom.now, g, c))
	}
	dom.partOfFlat(c)
	if dom.configured > 0 {
		dom.takeHolds(dom.now)
	}
	for _, p := range dom.pools {
		dom.choose(p, c)
	}
	return c
}

// choose makes what a pool chooses from for a class. The line of those who wait stays.
func (dom *Domain) choose(p *pool, c *class) {
	ch := p.choices[c]
	if ch == nil {
		ch = &choice{pool: p, class: c}
		p.choices[c] = ch
		dom.choices = append(dom.choices, ch)
	}
	ch.tiers, ch.largest = nil, bounds{}
	tiers := map[int]*tier{}
	for _, g := range p.groups {
		a := g.accounts[c.index]
		for _, k := range g.keys {
			ch.largest.raise(k, a)
		}
		for _, s := range g.seats {
			t := tiers[s.priority]
			if t == nil {
				sel, _ := NewSelector(p.Strategy, dom.random.Uint64) // check has seen that there is one
				t = &tier{choice: ch, priority: s.priority, ready: sel}
				tiers[s.priority] = t
				ch.tiers = append(ch.tiers, t)
			}
			cand := &Candidate{account: a, seat: s, tier: t, index: -1}
			a.candidates = append(a.candidates, cand)
			t.ready.Add(dom.now, cand)
		}
	}
	if len(p.keys) == 0 {
		ch.largest = unbounded()
	}
	slices.SortFunc(ch.tiers, func(a, b *tier) int { return b.priority - a.priority })
}
