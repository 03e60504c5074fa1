// Package pool is the engine: it decides who gets which key, who waits, and
// until when. It holds no lock, reads no clock, does no I/O and knows no secret;
// every call is given its moment, and one owner makes the calls one at a time.
package pool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Config describes a pool. It is taken as valid, except where New says so.
type Config struct {
	Name     string
	Dialect  *provider.Dialect
	Strategy string   // as NewSelector takes it
	Models   []string // that it serves; all if empty
	Flat     bool     // limits hold for all models together
	Single   bool     // no pooling: only the first usable key is leased
	Classes  []Class  // models that share a limit; others have a class each
	Groups   []Group
	Keys     []Key
	// StartWithin is the time within which a lease's request must be sent.
	StartWithin time.Duration
	// Seed makes the random strategy repeatable.
	Seed uint64
}

// Class is a class of models. Its limits hold in each quota group, together
// with the group's own.
type Class struct {
	Name   string
	Models []string
	Limits []Limit
}

// Group is a quota group: its limits are shared by its keys, per class.
type Group struct {
	Name   string
	Limits []Limit
}

// Key is a credential, by name.
type Key struct {
	ID       string
	Group    string // empty: the key is a group of its own, and its limits the group's
	Priority int    // the highest that has room is used first
	Weight   int    // for Weighted; at least 1
	Limits   []Limit
}

// Counters count what happened since the pool was made.
type Counters struct {
	Granted, Released, Expired, RateLimited, AuthFailed int64
}

// maxClasses bounds the accounts that models nobody declared can bring about.
// Beyond it, such models share one class: they get less than they could, never
// more than they may.
const (
	maxClasses  = 256
	maxAccounts = 100_000
	otherModels = "(other models)"
	allModels   = "(all models)"
	noModel     = "(no model)"
)

// Pool holds the accounts of one pool. Its methods must not be called at the
// same time.
type Pool struct {
	cfg      Config
	now      Time
	groups   []*group
	keys     []*key
	classes  map[string]*class // by name
	inOrder  []*class
	byModel  map[string]*class
	random   *rand.Rand
	counters Counters

	lastID     LeaseID
	leases     map[LeaseID]*lease // also lapsed ones
	open       int
	order      lease // the ends of the list of leases, oldest first
	due        heap[*lease]
	resting    heap[*key]
	holders    map[string]*holder
	requests   map[requestKey]*lease
	experience experience
	waiting    int // in all queues
	served     []*Waiter
	notices    []Notice
	warnings   map[Notice]*Warning
	keeps      bool // states are written down
	dirty      bool // something has changed that is to outlive us
	orphans    heap[*orphan]
	before     *recovery // from which we began
	known      []stated  // scratch of learn

	predecessors predecessors
}

type requestKey struct{ holder, request string }

// New makes a pool whose buckets are full. The only errors are an unknown
// strategy and a key of an unknown group.
func New(cfg Config) (*Pool, error) {
	p := &Pool{
		cfg:      cfg,
		classes:  map[string]*class{},
		byModel:  map[string]*class{},
		random:   rand.New(rand.NewPCG(cfg.Seed, 0)), // #nosec G404 -- chooses among keys, and is to be repeatable
		leases:   map[LeaseID]*lease{},
		holders:  map[string]*holder{},
		requests: map[requestKey]*lease{},
		warnings: map[Notice]*Warning{},
	}
	p.order.prev, p.order.next = &p.order, &p.order
	if err := p.addKeys(); err != nil {
		return nil, err
	}
	if _, err := NewSelector(cfg.Strategy, nil); err != nil {
		return nil, err
	}
	if cfg.Flat {
		p.addClass(Class{Name: allModels})
	}
	for _, c := range cfg.Classes {
		p.addClass(c)
	}
	for _, m := range cfg.Models { // so that their limits are there to be seen
		_, _ = p.class(m) // which is served
	}
	return p, nil
}

func (p *Pool) addKeys() error {
	byName := map[string]*group{}
	add := func(name string, limits []Limit) *group {
		g := &group{name: name}
		g.limits, g.shared = p.share(limits)
		g.shares = len(g.shared) > 0
		p.groups = append(p.groups, g)
		return g
	}
	for _, g := range p.cfg.Groups {
		byName[g.Name] = add(g.Name, g.Limits)
	}
	for _, c := range p.cfg.Keys {
		k := &key{id: c.ID, weight: int64(max(c.Weight, 1)), index: -1}
		switch g, ok := byName[c.Group]; {
		case c.Group == "":
			k.group = add(c.ID, c.Limits)
		case !ok:
			return fmt.Errorf("key %q: unknown group %q", c.ID, c.Group)
		default:
			k.group = g
			if len(c.Limits) > 0 {
				k.limited = map[*class]*keyLimits{}
				k.limits, k.shared = p.share(c.Limits)
				g.shares = g.shares || len(k.shared) > 0
			}
		}
		k.group.keys = append(k.group.keys, k)
		k.seat = k.group.seat(c.Priority)
		k.seat.all = append(k.seat.all, k)
		k.seat.add(k)
		p.keys = append(p.keys, k)
	}
	return nil
}

// share makes the buckets of those limits that hold for all models together, and
// leaves the others.
func (p *Pool) share(limits []Limit) (each []Limit, shared []*bucket) {
	for _, l := range limits {
		if l.Shared {
			shared = append(shared, p.newBuckets(p.now, l)...)
		} else {
			each = append(each, l)
		}
	}
	return each, shared
}

func (g *group) seat(priority int) *seat {
	for _, s := range g.seats {
		if s.priority == priority {
			return s
		}
	}
	s := &seat{priority: priority}
	g.seats = append(g.seats, s)
	return s
}

// addClass opens an account for the class with every group.
func (p *Pool) addClass(cfg Class) *class {
	p.dirty = true
	c := &class{name: cfg.Name, limits: cfg.Limits, models: cfg.Models, index: len(p.inOrder), strain: strained}
	p.classes[c.name] = c
	p.inOrder = append(p.inOrder, c)
	for _, m := range cfg.Models {
		p.byModel[m] = c
	}
	tiers := map[int]*tier{}
	for _, g := range p.groups {
		a := p.newAccount(p.now, g, c)
		g.accounts = append(g.accounts, a)
		if p.before != nil {
			p.before.created(g, a)
		}
		c.raise(a)
		for _, s := range g.seats {
			t := tiers[s.priority]
			if t == nil {
				sel, _ := NewSelector(p.cfg.Strategy, p.random.Uint64) // New has checked it
				t = &tier{priority: s.priority, ready: sel}
				tiers[s.priority] = t
				c.tiers = append(c.tiers, t)
			}
			cand := &Candidate{account: a, seat: s, tier: t, index: -1}
			a.candidates = append(a.candidates, cand)
			t.ready.Add(p.now, cand)
		}
	}
	slices.SortFunc(c.tiers, func(a, b *tier) int { return b.priority - a.priority })
	return c
}

// class finds the class of a model, or makes it.
func (p *Pool) class(model string) (*class, error) {
	switch {
	case p.cfg.Flat:
		return p.classes[allModels], nil
	case model == provider.NoModel:
		if c := p.classes[noModel]; c != nil {
			return c, nil
		}
		return p.addClass(Class{Name: noModel}), nil
	case model == "" && len(p.cfg.Models) == 1:
		model = p.cfg.Models[0]
	case model == "":
		return nil, ErrModelRequired
	}
	if c := p.byModel[model]; c != nil {
		return c, nil
	}
	if !p.Serves(model) {
		return nil, ErrModelNotServed
	}
	name := model
	if n := len(p.classes); n >= maxClasses || n > 4 && n*len(p.groups) >= maxAccounts {
		name = otherModels
	}
	if c := p.classes[name]; c != nil { // and no entry in byModel: there may be any number of such names
		return c, nil
	}
	return p.addClass(Class{Name: name, Models: []string{model}}), nil
}

// Serves reports whether the pool serves a model.
func (p *Pool) Serves(model string) bool {
	return len(p.cfg.Models) == 0 || slices.Contains(p.cfg.Models, model)
}
