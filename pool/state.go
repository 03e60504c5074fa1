package pool

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// State is what outlives the owner of a pool, as plain data. Moments are told as
// the time that is left: whoever restores it need not know how long it has lain,
// and that time earns nothing. Buckets that would be made as they are anyway are
// left out.
type State struct {
	// Stopped is true of the last state of an owner that has stopped in order:
	// nothing was granted after it. It has all amounts; any other has those of
	// long windows, and amounts ahead of them.
	Stopped bool         `json:"stopped,omitempty"`
	Keys    []KeyState   `json:"keys"`
	Groups  []GroupState `json:"groups"`
	Classes []ClassState `json:"classes,omitempty"`
}

// KeyState is a key's.
type KeyState struct {
	ID           string                `json:"id"`
	Group        string                `json:"group,omitempty"` // empty: it is one of its own
	Health       Health                `json:"health,omitempty"`
	Rest         time.Duration         `json:"rest,omitempty"` // that is left
	By           string                `json:"by,omitempty"`   // the holder on whose word alone
	Backoff      time.Duration         `json:"backoff,omitempty"`
	Organization string                `json:"organization,omitempty"`
	Barred       map[string]RestState  `json:"barred,omitempty"` // by class
	Shared       []BucketState         `json:"shared,omitempty"`
	Own          map[string]OwnBuckets `json:"own,omitempty"` // by class
}

// OwnBuckets are those of one key for one class.
type OwnBuckets []BucketState

// GroupState is a quota group's.
type GroupState struct {
	Name     string         `json:"name"`
	Rest     *RestState     `json:"rest,omitempty"`
	Shared   []BucketState  `json:"shared,omitempty"`
	Accounts []AccountState `json:"accounts,omitempty"`
}

// AccountState is a group's for one class.
type AccountState struct {
	Class   string        `json:"class"`
	Rest    *RestState    `json:"rest,omitempty"`
	Window  int           `json:"window,omitempty"`
	Capped  bool          `json:"capped,omitempty"`
	Steady  bool          `json:"steady,omitempty"`
	Buckets []BucketState `json:"buckets,omitempty"`
}

// ClassState is a class of models.
type ClassState struct {
	Name   string     `json:"name"`
	Models []string   `json:"models,omitempty"` // unless it is the one it is named for
	Rest   *RestState `json:"rest,omitempty"`
}

// RestState is a time out of use.
type RestState struct {
	Left     time.Duration      `json:"left"`
	By       string             `json:"by,omitempty"` // the holder on whose word alone
	Only     provider.Dimension `json:"only"`
	Class    provider.Class     `json:"class"`
	Operator bool               `json:"operator,omitempty"`
	Backoff  time.Duration      `json:"backoff,omitempty"`
}

// BucketState is a limit and what is used of it.
type BucketState struct {
	Dimension provider.Dimension `json:"dimension"`
	Name      string             `json:"name,omitempty"`
	Window    time.Duration      `json:"window"`
	Kind      provider.Kind      `json:"kind"`
	Limit     int64              `json:"limit"`
	Learned   bool               `json:"learned,omitempty"` // and not configured
	Lowered   bool               `json:"lowered,omitempty"` // below what is configured
	Amounts
	Held  int64 `json:"held,omitempty"`
	Ahead int64 `json:"ahead,omitempty"` // that may have been charged since
}

// State gives what is to be written down. From the first time on, leases tell by
// Covered whether they may be given out before the next one is, which Saved says.
// It is also when the pool is to be asked again for the sake of time alone: what is
// used of long windows is less by then. Never means that it is not.
func (p *Pool) State(now Time, stopped bool) (s *State, again Time) {
	now = p.tick(now)
	p.keeps, p.dirty = true, false
	k := keeper{p: p, now: now, stopped: stopped, again: Never}
	s = &State{Stopped: stopped}
	for _, key := range p.keys {
		s.Keys = append(s.Keys, k.key(key))
	}
	for _, g := range p.groups {
		s.Groups = append(s.Groups, k.group(g))
	}
	for _, c := range p.inOrder {
		cs := ClassState{Name: c.name, Rest: k.rest(&c.rest)}
		if len(c.models) != 1 || c.models[0] != c.name {
			cs.Models = c.models
		}
		s.Classes = append(s.Classes, cs)
		c.stated = true
	}
	return s, k.again
}

// Saved says that the last State has been written down. There is no other one in
// between: one is written after the other.
func (p *Pool) Saved() {
	p.buckets(func(b *bucket) { b.saved() })
	for _, c := range p.inOrder {
		c.kept = c.stated
	}
}

// Dirty reports whether something has changed since the last State that is to
// outlive the owner.
func (p *Pool) Dirty() bool { return p.dirty }

// buckets calls f for each bucket.
func (p *Pool) buckets(f func(*bucket)) {
	for _, g := range p.groups {
		p.groupBuckets(g, f)
	}
}

func (*Pool) groupBuckets(g *group, f func(*bucket)) {
	each := func(bs []*bucket) {
		for _, b := range bs {
			f(b)
		}
	}
	each(g.shared)
	for _, k := range g.keys {
		each(k.shared)
		for _, own := range k.own {
			each(own[:len(own)-len(k.shared)])
		}
	}
	for _, a := range g.accounts {
		each(a.notShared())
	}
}

// notShared are the buckets of an account alone. Those of its group stand behind
// the configured ones, and before those that were learned.
func (a *account) notShared() []*bucket {
	return slices.DeleteFunc(slices.Clone(a.buckets), func(b *bucket) bool { return slices.Contains(a.group.shared, b) })
}

// keeper collects a State.
type keeper struct {
	p       *Pool
	now     Time
	stopped bool
	again   Time
}

func (k *keeper) key(key *key) KeyState {
	s := KeyState{ID: key.id, Health: key.health, Organization: key.organization, Shared: k.buckets(key.shared)}
	if key.group.name != key.id {
		s.Group = key.group.name
	}
	if key.health != Healthy {
		s.Rest, s.Backoff, s.By = max(0, max(key.restedAt, key.until).Sub(k.now)), key.backoff, key.accuser
	}
	for c, r := range key.barred {
		if r := k.rest(r); r != nil {
			put(&s.Barred, c.name, *r)
		}
	}
	for c, own := range key.own {
		if bs := k.buckets(own[:len(own)-len(key.shared)]); len(bs) > 0 {
			put(&s.Own, c.name, OwnBuckets(bs))
		}
	}
	return s
}

func put[V any](m *map[string]V, name string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[name] = v
}

func (k *keeper) group(g *group) GroupState {
	s := GroupState{Name: g.name, Rest: k.rest(&g.rest), Shared: k.buckets(g.shared)}
	for _, a := range g.accounts {
		as := AccountState{Class: a.class.name, Rest: k.rest(&a.rest), Buckets: k.buckets(a.notShared())}
		if a.felt() {
			as.Window, as.Capped, as.Steady = a.window, a.capped, a.steady
		}
		s.Accounts = append(s.Accounts, as)
	}
	return s
}

func (k *keeper) rest(r *rest) *RestState {
	if !r.on || r.back > 0 || r.until <= k.now {
		return nil
	}
	return &RestState{r.until.Sub(k.now), r.by, r.only, r.class, r.operator, r.backoff}
}

func (k *keeper) buckets(bs []*bucket) (out []BucketState) {
	for _, b := range bs {
		if s, ok := k.bucket(b); ok {
			out = append(out, s)
		}
	}
	return out
}

// bucket gives the state of one that must be remembered.
func (k *keeper) bucket(b *bucket) (s BucketState, ok bool) {
	s = BucketState{
		Dimension: b.dimension, Name: b.name, Window: b.window, Kind: b.meter.kind(), Limit: b.limit,
		Learned: b.ceiling == 0, Lowered: b.limit < b.ceiling,
	}
	used := b.meter.used(k.now)
	if long(b.window) {
		s.Ahead = b.ahead(&k.p.dirty)
		if used > 0 {
			k.again = min(k.again, k.now.Add(b.window/(2*escrowPart)))
		}
	}
	if k.stopped { // nobody grants any more
		s.Ahead = 0
	}
	if long(b.window) || k.stopped || used > b.limit {
		s.Amounts, s.Held = b.amounts(k.now), b.held
	}
	return s, long(b.window) || s.Used > 0 || s.Held > 0 || s.Learned || s.Lowered
}
