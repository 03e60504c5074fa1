package pool

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// State is what outlives the owner of a domain, as plain data. Moments are told as the time
// left: whoever restores them need not know how long the record has been kept, and that
// time brings no room. Buckets that a new domain would have anyway are left out.
type State struct {
	// Stopped is true of the last state of an owner that has stopped in order: nothing was
	// granted after it. It has all amounts. Any other state has those of long windows, and
	// what may be charged ahead of them.
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
	Rest         time.Duration         `json:"rest,omitempty"` // out of use for so long
	By           string                `json:"by,omitempty"`   // the holder on whose statement alone
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
	Models []string   `json:"models,omitempty"` // unless it is just the one that the class is named after
	Rest   *RestState `json:"rest,omitempty"`
}

// RestState is a time out of use.
type RestState struct {
	Left     time.Duration      `json:"left"`
	By       string             `json:"by,omitempty"` // the holder on whose statement alone
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
	limit.Snapshot
	Held  int64 `json:"held,omitempty"`
	Ahead int64 `json:"ahead,omitempty"` // may have been charged since
}

// State returns what is to be saved. From the first time on, leases tell by Durable
// whether they may be given out before the next State is saved, which Saved says. again
// is when the pool wants to be asked for the sake of time alone: what is used of long
// windows is less by then. Never means that it is not.
func (dom *Domain) State(now Time, stopped bool) (s *State, again Time) {
	now = dom.tick(now)
	dom.keeps, dom.dirty = true, false
	r := recorder{dom: dom, now: now, stopped: stopped, again: Never}
	s = &State{Stopped: stopped}
	for _, key := range dom.keys {
		s.Keys = append(s.Keys, r.key(key))
	}
	dom.dropRetired(now)
	for _, g := range slices.Concat(dom.groups, dom.retired) {
		s.Groups = append(s.Groups, r.group(g))
	}
	for _, c := range dom.inOrder {
		cs := ClassState{Name: c.name, Rest: r.cooldown(&c.cooldown)}
		if len(c.models) != 1 || c.models[0] != c.name {
			cs.Models = c.models
		}
		s.Classes = append(s.Classes, cs)
		c.stated = true
	}
	return s, r.again
}

// Saved says that the last State has been saved. There is no other one in between: one
// is saved after the other.
func (dom *Domain) Saved() {
	for _, g := range slices.Concat(dom.groups, dom.retired) {
		for b := range g.buckets {
			b.Saved()
		}
	}
	for _, c := range dom.inOrder {
		c.saved = c.stated
	}
}

// Dirty reports whether something has changed since the last State that must outlive the
// owner.
func (dom *Domain) Dirty() bool { return dom.dirty }

// buckets iterates over all buckets of a group and its keys, each once.
func (g *group) buckets(yield func(*bucket) bool) {
	each := func(lists ...[]*bucket) bool {
		for _, bs := range lists {
			for _, b := range bs {
				if !yield(b) {
					return false
				}
			}
		}
		return true
	}
	if !each(g.shared) {
		return
	}
	for _, k := range g.keys {
		if !each(k.shared) {
			return
		}
		for _, l := range k.limited {
			if !each(l.each) {
				return
			}
		}
	}
	for _, a := range g.accounts {
		if !each(a.own) {
			return
		}
	}
}

// recorder collects a State.
type recorder struct {
	dom     *Domain
	now     Time
	stopped bool
	again   Time
}

func (r *recorder) key(k *key) KeyState {
	s := KeyState{ID: k.id, Health: k.health, Organization: k.organization, Shared: r.buckets(k.shared)}
	if k.group.name != k.id {
		s.Group = k.group.name
	}
	if k.health != Healthy {
		s.Rest, s.Backoff, s.By = max(0, max(k.restsUntil, k.accusedUntil).Sub(r.now)), k.backoff, k.accuser
	}
	for class, c := range k.barred {
		if c := r.cooldown(c); c != nil {
			put(&s.Barred, class.name, *c)
		}
	}
	for class, l := range k.limited {
		if bs := r.buckets(l.each); len(bs) > 0 {
			put(&s.Own, class.name, OwnBuckets(bs))
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

func (r *recorder) group(g *group) GroupState {
	s := GroupState{Name: g.name, Rest: r.cooldown(&g.cooldown), Shared: r.buckets(g.shared)}
	for _, a := range g.accounts {
		as := AccountState{Class: a.class.name, Rest: r.cooldown(&a.cooldown), Buckets: r.buckets(a.own)}
		if slow := &a.slowStart; slow.active() {
			as.Window, as.Capped, as.Steady = slow.window, slow.capped, slow.steady
		}
		s.Accounts = append(s.Accounts, as)
	}
	return s
}

func (r *recorder) cooldown(c *cooldown) *RestState {
	if !c.on || c.returnAt > 0 || c.until <= r.now {
		return nil
	}
	return &RestState{c.until.Sub(r.now), c.by, c.only, c.class, c.operator, c.backoff}
}

func (r *recorder) buckets(bs []*bucket) (out []BucketState) {
	for _, b := range bs {
		if s, ok := r.bucket(b); ok {
			out = append(out, s)
		}
	}
	return out
}

// bucket returns the state of a bucket, and whether it has to be remembered.
func (r *recorder) bucket(b *bucket) (s BucketState, ok bool) {
	status := b.Status(r.now)
	s = BucketState{
		Dimension: status.Dimension, Name: status.Name, Window: status.Window, Kind: status.Kind, Limit: status.Limit,
		Learned: status.Configured == 0, Lowered: status.Limit < status.Configured,
	}
	long := limit.Long(b.Window())
	if long {
		b.KeepAhead(&r.dom.dirty)
		s.Ahead = b.Ahead()
		if status.Used > 0 {
			r.again = min(r.again, r.now.Add(b.Window()/(2*limit.AheadPart)))
		}
	}
	if r.stopped { // nobody grants any more
		s.Ahead = 0
	}
	if long || r.stopped || status.Used > status.Limit {
		s.Snapshot, s.Held = b.Snapshot(r.now), status.Held
	}
	return s, long || s.Used > 0 || s.Held > 0 || s.Learned || s.Lowered
}
