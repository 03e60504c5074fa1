package pool

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// State is what outlives the owner of a domain, as plain data: all of it, or what has changed.
// Durations are the time left as of At. The time for which a state was kept frees nothing.
// Limits that a new domain would have anyway are left out.
//
// A state that is not Whole changes the one before it: an element takes the place of the one
// of the same name, and whatever belongs to a class in Gone goes.
type State struct {
	// Stopped is true of the last state of an owner that has stopped in order: nothing was
	// granted after it. It has all amounts. Any other state has those of long windows, and
	// what may be charged ahead of them.
	Stopped  bool
	Whole    bool // nothing of earlier states counts
	At       Time // on the owner's clock
	Gone     []string
	Classes  []ClassState
	Groups   []GroupState
	Keys     []KeyState
	Accounts []AccountState
	Own      []OwnState
}

// ClassState is a class of models.
type ClassState struct {
	Name   string
	Models []string // unless it is just the one that the class is named after
	Rest   *RestState
}

// GroupState is a quota group's.
type GroupState struct {
	Name   string
	Rest   *RestState
	Shared []BucketState
}

// KeyState is a key's.
type KeyState struct {
	ID           string
	Group        string // empty: it is one of its own
	Health       Health
	Rest         time.Duration // out of use for so long
	By           string        // the holder on whose statement alone
	Backoff      time.Duration
	Organization string
	Barred       map[string]RestState // by class
	Shared       []BucketState
}

// AccountState is a group's for one class.
type AccountState struct {
	Group   string
	Class   string
	Rest    *RestState
	Window  int
	Capped  bool
	Steady  bool
	Buckets []BucketState
}

// OwnState is what one key may use of one class, within its group.
type OwnState struct {
	Key     string
	Class   string
	Buckets []BucketState
}

// RestState is a time out of use.
type RestState struct {
	Left     time.Duration
	By       string // the holder on whose statement alone
	Only     provider.Dimension
	Class    provider.Class
	Operator bool
	Backoff  time.Duration
}

// BucketState is a limit and what is used of it.
type BucketState struct {
	Dimension provider.Dimension
	Name      string
	Window    time.Duration
	Kind      provider.Kind
	Limit     int64
	Learned   bool // and not configured
	Lowered   bool // below what is configured
	limit.Snapshot
	limit.Stated
	Held int64
}

// State returns what is to be saved: what has changed since the last State of which Saved was
// called. From the first time on, leases tell by Durable whether they may be given out before
// that is saved. again is when the domain wants to be asked for the sake of time alone: what is
// used of long windows is less by then. Never means that it is not.
func (dom *Domain) State(now Time, stopped bool) (s *State, again Time) {
	now = dom.tick(now)
	dom.keeps, dom.dirty = true, false
	dom.dropRetired(now)
	r := recorder{dom: dom, now: now, State: State{Stopped: stopped, At: now}}
	dom.changes.begin(dom, &r.State)
	if n := len(dom.changes.saving); n > 1000 { // most are accounts
		r.Accounts = make([]AccountState, 0, n)
	}
	for _, u := range dom.changes.saving {
		u.record(&r)
	}
	return &r.State, dom.fading.again(now)
}

// Saved says that the last State has been saved. There is no other one in between: one
// is saved after the other.
func (dom *Domain) Saved() { dom.changes.saved() }

// Dirty reports whether something has changed since the last State that must outlive the
// owner.
func (dom *Domain) Dirty() bool { return dom.dirty }

// recorder collects a State.
type recorder struct {
	State
	dom *Domain
	now Time
}

func (c *class) record(r *recorder) {
	s := ClassState{Name: c.name, Rest: r.cooldown(&c.cooldown)}
	if models := concat(c.models, c.former); len(models) != 1 || models[0] != c.name {
		s.Models = models
	}
	r.Classes = append(r.Classes, s)
}

func (g *group) record(r *recorder) {
	r.Groups = append(r.Groups, GroupState{Name: g.name, Rest: r.cooldown(&g.cooldown), Shared: r.buckets(g, g.shared)})
}

func (k *key) record(r *recorder) {
	s := KeyState{ID: k.id, Health: k.health(), Organization: k.organization, Shared: r.buckets(k, k.shared)}
	if k.group.name != k.id {
		s.Group = k.group.name
	}
	if rest := r.cooldown(&k.cooldown); rest != nil {
		s.Rest, s.Backoff, s.By = rest.Left, rest.Backoff, rest.By
	}
	for class, c := range k.barred {
		if c := r.cooldown(c); c != nil {
			if s.Barred == nil {
				s.Barred = map[string]RestState{}
			}
			s.Barred[class.name] = *c
		}
	}
	r.Keys = append(r.Keys, s)
}

func (a *account) record(r *recorder) {
	s := AccountState{Group: a.group.name, Class: a.class.name, Rest: r.cooldown(&a.cooldown), Buckets: r.buckets(a, a.own)}
	if slow := &a.slowStart; slow.active() {
		s.Window, s.Capped, s.Steady = slow.window, slow.capped, slow.steady
	}
	r.Accounts = append(r.Accounts, s)
}

func (l *keyLimits) record(r *recorder) {
	if bs := r.buckets(l, l.each); len(bs) > 0 || !r.Whole { // what is on record of them is so no more
		r.Own = append(r.Own, OwnState{Key: l.key.id, Class: l.class.name, Buckets: bs})
	}
}

func (r *recorder) cooldown(c *cooldown) *RestState {
	_, d := c.active(r.now)
	if d == nil {
		return nil
	}
	s := &RestState{Left: d.until.Sub(r.now), Only: d.only, Class: d.class, Operator: d.operator, Backoff: d.backoff}
	if d.verdict == open && len(d.voices) > 0 {
		v := &d.voices[0]
		s.Left, s.By = v.until.Sub(r.now), v.holder
	}
	return s
}

// buckets returns the state of the buckets of something that is recorded, as far as they have
// to be remembered.
func (r *recorder) buckets(u unit, bs []*bucket) (out []BucketState) {
	for i, b := range bs {
		s, ok := r.bucket(u, b)
		if !ok {
			continue
		}
		if out == nil {
			out = make([]BucketState, 0, len(bs)-i)
		}
		out = append(out, s)
	}
	return out
}

func (r *recorder) bucket(u unit, b *bucket) (s BucketState, ok bool) {
	r.dom.keep(u, b)
	used, held := b.Used(r.now), b.Held()
	s = BucketState{
		Dimension: b.Dimension(), Name: b.Name(), Window: b.Window(), Kind: b.Kind(), Limit: b.Limit(),
		Learned: b.Ceiling() == 0, Lowered: b.Limit() < b.Ceiling(), Stated: b.State(),
	}
	long := limit.Long(b.Window())
	if long && used > 0 {
		r.dom.fading.note(b.Window(), b.UnusedAt(r.now))
	}
	if r.Stopped { // nobody grants any more
		s.Ahead = 0
	}
	if long || r.Stopped || used > b.Limit() {
		s.Snapshot, s.Held = b.Snapshot(r.now), held
	}
	return s, long || s.Used > 0 || s.Held > 0 || s.Peak > 0 || s.Learned || s.Lowered || b.Slots()
}

// fading is until when something is used of the long windows, by their lengths.
type fading []fadingWindow

type fadingWindow struct {
	window time.Duration
	until  Time
}

// note takes note that something is used of a window until a moment.
func (f *fading) note(window time.Duration, until Time) {
	i := slices.IndexFunc(*f, func(w fadingWindow) bool { return w.window == window })
	if i < 0 {
		i = len(*f)
		*f = append(*f, fadingWindow{window: window})
	}
	(*f)[i].until = max((*f)[i].until, until)
}

// again is when so much less is used of some window that it is worth a record.
func (f *fading) again(now Time) Time {
	*f = slices.DeleteFunc(*f, func(w fadingWindow) bool { return w.until <= now })
	at := Never
	for _, w := range *f {
		at = min(at, now.Add(w.window/(2*limit.AheadPart)))
	}
	return at
}
