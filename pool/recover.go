package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// Recovery is what is known of the predecessor.
type Recovery struct {
	// Overlap is how long the predecessor may go on granting without knowing of us.
	Overlap time.Duration
	// TTL is how long a lease of the predecessor may live without a report.
	TTL time.Duration
	// Wall is the time by the wall clock, zero if that is not known. It need not be right:
	// it only lets a lease probe whether a window has ended.
	Wall time.Time
}

// Recover begins where the last State of a predecessor leaves off; nil means that there
// was none. It comes before every other call. What nobody knows counts as used: short
// windows are exhausted, slots are taken until the predecessor's leases have certainly
// ended, and long windows include what may have been granted ahead.
func (dom *Domain) Recover(now Time, s *State, r Recovery) {
	now = dom.tick(now)
	dom.predecessors.since, dom.predecessors.until = now.Add(-r.TTL), now.Add(r.Overlap+r.TTL)
	if s == nil {
		return
	}
	x := &recovery{
		dom: dom, now: now, until: now.Add(r.Overlap), ttl: r.TTL, wall: r.Wall, stopped: s.Stopped,
		groups: map[string]*GroupState{}, keys: map[string]*KeyState{}, classes: map[string]bool{}, models: map[string]string{}, strange: map[*group]bool{},
		accounts: map[inClass]*AccountState{}, own: map[inClass]*OwnState{}, keysOf: map[*group][]*key{},
	}
	if s.Stopped { // nobody grants any more
		x.until, dom.predecessors.until = now, now.Add(r.TTL)
	}
	for i := range s.Groups {
		x.groups[s.Groups[i].Name] = &s.Groups[i]
	}
	for i := range s.Keys {
		x.keys[s.Keys[i].ID] = &s.Keys[i]
	}
	for i := range s.Accounts {
		x.accounts[inClass{s.Accounts[i].Group, s.Accounts[i].Class}] = &s.Accounts[i]
	}
	for i := range s.Own {
		x.own[inClass{s.Own[i].Key, s.Own[i].Class}] = &s.Own[i]
	}
	for _, c := range s.Classes {
		x.classes[c.Name] = true
		for _, m := range c.Models {
			x.models[m] = c.Name
		}
	}
	for _, others := range []bool{false, true} { // once there is a class for others, no other class is made
		for _, c := range s.Classes {
			if (c.Name == otherModels) == others {
				x.class(&c)
			}
		}
	}
	x.drain(s)
	for _, k := range dom.everyKey() {
		x.keysOf[k.group] = append(x.keysOf[k.group], k)
	}
	for _, g := range dom.everyGroup() {
		x.group(g)
	}
	x.accounts, x.own, x.keysOf = nil, nil, nil // what is created later is not in them
	dom.before = x
}

// drain makes the groups and keys that are recorded and not configured. Something may still
// count there if they are put back.
func (x *recovery) drain(s *State) {
	dom := x.dom
	groups, configured := map[string]*group{}, map[string]bool{}
	for _, g := range dom.groups {
		groups[g.name] = g
	}
	for _, k := range dom.keys {
		configured[k.id] = true
	}
	for i := range s.Groups {
		if g := &s.Groups[i]; groups[g.Name] == nil {
			groups[g.Name] = x.retired(g)
		}
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		g := groups[cmp.Or(k.Group, k.ID)]
		if g == nil || configured[k.ID] {
			continue
		}
		drained := &key{id: k.ID, group: g, index: -1, turn: -1, goneAt: x.now, limited: map[*class]*keyLimits{}}
		drained.shared = x.recorded(drained, k.Shared)
		dom.drained = append(dom.drained, drained)
		for _, a := range g.accounts {
			if own := x.own[inClass{k.ID, a.class.name}]; own != nil {
				l := drained.limitsFor(a.class)
				l.set(x.recorded(l, own.Buckets), drained.shared, a)
			}
		}
	}
}

// retired makes a group that is recorded and not configured.
func (x *recovery) retired(s *GroupState) *group {
	g := &group{name: s.Name, goneAt: x.now}
	g.shared = x.recorded(g, s.Shared)
	for _, c := range x.dom.inOrder {
		a := x.dom.newAccount(x.now, g, c)
		if s := x.accounts[inClass{g.name, c.name}]; s != nil {
			a.own = x.recorded(a, s.Buckets)
			a.ledger = &ledger{buckets: concat(a.own, g.shared)}
		}
		g.accounts = append(g.accounts, a)
	}
	x.dom.retired = append(x.dom.retired, g)
	return g
}

// recorded makes the buckets of configured limits that are only on record.
func (x *recovery) recorded(u unit, states []BucketState) []*bucket {
	var limits []Limit
	for _, s := range states {
		if s.Learned {
			continue
		}
		limits = append(limits, Limit{Dimension: s.Dimension, Name: s.Name, Window: s.Window, Kind: s.Kind, Amount: max(s.Limit, 1)})
	}
	return x.dom.newBuckets(x.now, u, limits...)
}

// RecoverLost begins as if everything that may have been granted had been granted: for an
// owner whose record is lost.
func (dom *Domain) RecoverLost(now Time, r Recovery) {
	now = dom.tick(now)
	dom.predecessors.since, dom.predecessors.until = now.Add(-r.TTL), now.Add(r.Overlap+r.TTL)
	dom.before = &recovery{dom: dom, now: now, until: now.Add(r.Overlap), ttl: r.TTL, lost: true}
	for _, g := range dom.groups {
		for b := range g.buckets {
			dom.before.unknown(g, b)
		}
	}
}

// recovery restores a State. It is kept for classes that are created later.
type recovery struct {
	dom     *Domain
	now     Time
	until   Time // the predecessor may grant until then
	ttl     time.Duration
	wall    time.Time
	stopped bool
	lost    bool // all counts as used

	groups   map[string]*GroupState
	keys     map[string]*KeyState
	accounts map[inClass]*AccountState // by group
	own      map[inClass]*OwnState     // by key
	classes  map[string]bool
	models   map[string]string // to their class
	strange  map[*group]bool   // groups with keys that were in another group
	keysOf   map[*group][]*key
}

// inClass names what a group or a key has for a class.
type inClass struct{ of, class string }

func (x *recovery) class(s *ClassState) {
	c := x.dom.classes[s.Name]
	switch {
	case c != nil:
	case s.Name == otherModels:
		c = x.dom.addClass(Class{Name: otherModels})
	case s.Name == noModel:
		c = x.dom.addClass(Class{Name: noModel})
	case s.Name == allModels, s.Name == formerlyAll:
		if x.dom.cfg.Flat || x.dom.classes[formerlyAll] != nil {
			return
		}
		c = x.dom.addClass(Class{Name: formerlyAll})
		x.dom.unflat = x.until
	default:
		for _, p := range x.dom.pools {
			if c == nil {
				c, _ = x.dom.class(p, s.Name)
			}
		}
		if c == nil || c.name != s.Name {
			return // no pool serves it any more, or it is in another class
		}
		if !x.dom.configures(c) {
			c.former = s.Models
		}
	}
	x.cooldown(&c.cooldown, s.Rest)
}

func (x *recovery) cooldown(c *cooldown, s *RestState) {
	if s != nil {
		c.disputes = []*dispute{x.dispute(kindOf(&provider.Signal{Class: s.Class}), s)}
	}
}

// dispute makes what a predecessor has recorded of one. Who said so alone is bound by it;
// others may probe as if it had just been said.
func (x *recovery) dispute(k kind, s *RestState) *dispute {
	until := x.now.Add(s.Left)
	d := &dispute{
		kind: k, only: s.Only, class: s.Class, operator: s.Operator, backoff: s.Backoff,
		since: x.now, said: x.now, until: until, verdict: confirmed, lateAt: x.now.Add(lateProbe),
	}
	if s.By != "" {
		d.verdict = open
		d.first = eye{holder: s.By}
		d.voices = []voice{{eye: d.first, until: until, said: x.now, backoff: s.Backoff, counts: true}}
	}
	return d
}

func (x *recovery) key(k *key, s *KeyState) {
	k.organization = s.Organization
	if s.Health != Healthy {
		d := x.dispute(badKey, &RestState{Left: s.Rest, By: s.By, Only: provider.NumDimensions, Class: provider.AuthInvalid, Backoff: s.Backoff})
		if s.Health == Quarantined {
			d.backoff = max(d.backoff, kinds[badKey].next)
		}
		k.cooldown.disputes = []*dispute{d}
		if k.goneAt == Never {
			x.dom.reseat(x.now, k)
		} else {
			k.outUntil = d.until
		}
	}
	for name, r := range s.Barred {
		if c := x.dom.classes[name]; c != nil {
			x.cooldown(k.barredFor(c), &r)
		}
	}
	x.buckets(k.group, k.shared, s.Shared)
	for _, c := range x.dom.inOrder {
		l := k.limited[c]
		switch own := x.own[inClass{k.id, c.name}]; {
		case l == nil:
		case x.moved(c):
			x.forget(k.group, l.each)
		case own == nil:
			x.buckets(k.group, l.each, nil)
		default:
			x.buckets(k.group, l.each, own.Buckets)
		}
	}
}

// group restores a group. If one of its keys was in another group, nobody knows what that
// key has used of this one.
func (x *recovery) group(g *group) {
	for _, k := range x.keysOf[g] {
		if s := x.keys[k.id]; s != nil {
			if s.Group != g.name && (s.Group != "" || s.ID != g.name) {
				x.strange[g] = true
			}
			x.key(k, s)
		}
	}
	strange, s := x.strange[g], x.groups[g.name]
	if strange {
		for b := range g.buckets {
			x.unknown(g, b)
		}
	}
	if s == nil { // the group is new
		return
	}
	if !strange {
		x.buckets(g, g.shared, s.Shared)
	}
	x.cooldown(&g.cooldown, s.Rest)
	for _, a := range g.accounts {
		x.account(a, x.accounts[inClass{g.name, a.class.name}], strange)
	}
}

func (x *recovery) account(a *account, s *AccountState, strange bool) {
	if s == nil { // nothing was granted in the class, unless its models were in another one
		if !strange && x.moved(a.class) {
			x.forget(a.group, a.own)
		}
		return
	}
	x.cooldown(&a.cooldown, s.Rest)
	if slow := &a.slowStart; s.Window > 0 {
		slow.window, slow.capped, slow.steady = s.Window, s.Capped, s.Steady
	}
	for i := range s.Buckets {
		if b := &s.Buckets[i]; b.Learned && !slices.ContainsFunc(a.buckets, b.is) && len(a.buckets) < maxAccountBuckets {
			a.add(x.learned(a, b))
		}
	}
	if strange {
		return
	}
	if x.moved(a.class) { // some of its models were in another
		x.forget(a.group, a.own)
		return
	}
	x.buckets(a.group, a.own, s.Buckets)
	for _, b := range a.buckets {
		a.probeRecorded(x.now, b, x.wall)
	}
}

// moved reports whether models of a class may have been used in another class.
func (x *recovery) moved(c *class) bool {
	switch {
	case x.lost:
		return true
	case x.classes[allModels] != (c.name == allModels) && len(x.classes) > 0:
		return true
	case (x.classes[otherModels] || x.dom.unflat >= 0) && !x.classes[c.name]:
		return true
	}
	for _, m := range c.models {
		was, ok := x.models[m]
		if !ok && x.classes[m] {
			was, ok = m, true
		}
		if ok && was != c.name {
			return true
		}
	}
	return false
}

// created takes an account for used up that is created after the recovery, if its models
// may have been used in another class, or in this one, which nobody served then.
func (x *recovery) created(a *account) {
	g := a.group
	if !x.lost && (x.groups[g.name] == nil && !x.strange[g] || !x.classes[a.class.name] && !x.moved(a.class)) {
		return
	}
	x.forget(g, a.own)
	for _, k := range g.keys {
		if l := k.limited[a.class]; l != nil && (x.lost || x.keys[k.id] != nil) {
			x.forget(g, l.each)
		}
	}
}

func (x *recovery) learned(a *account, s *BucketState) *bucket {
	return x.dom.newLearned(x.now, a, Limit{Dimension: s.Dimension, Name: s.Name, Window: s.Window, Kind: s.Kind, Amount: max(s.Limit, 1)}, 0)
}

// is reports whether a bucket is the one that a state is of.
func (s *BucketState) is(b *bucket) bool { return b.Is(s.Dimension, s.Name, s.Window) }

// buckets restores buckets. One that the record does not have is of a new limit, and
// nobody knows what counts against it.
func (x *recovery) buckets(g *group, bs []*bucket, states []BucketState) {
	for _, b := range bs {
		i := slices.IndexFunc(states, func(s BucketState) bool { return s.is(b) })
		switch {
		case i >= 0:
			x.bucket(g, b, &states[i])
		case x.stopped && !limit.Long(b.Window()) && !b.Slots(): // calls may be open
			x.bucket(g, b, &BucketState{Limit: b.Limit()})
		default:
			x.unknown(g, b)
		}
	}
}

func (x *recovery) bucket(g *group, b *bucket, s *BucketState) {
	if b.Kind() != s.Kind && !b.Slots() && s.Window > 0 { // what has refilled is not on record
		x.unknown(g, b)
		return
	}
	held, ahead := s.Held, s.Ahead
	if b.Holds() { // they may be used at any moment until the last of them has ended
		held, ahead = held+ahead, 0
	}
	was := max(s.Limit, 1)
	switch {
	case x.stopped || limit.Long(b.Window()):
		b.Restore(x.now, x.until, &s.Snapshot, was, ahead)
		x.hold(g, b, held)
	default:
		b.Restore(x.now, x.now, &s.Snapshot, was, 0)
		x.unknown(g, b)
	}
	if s.Lowered && s.Limit > 0 && s.Limit < b.Limit() {
		b.StateLimit(x.now, s.Limit)
		b.word = settled(x.now)
	}
}

func (x *recovery) forget(g *group, bs []*bucket) {
	for _, b := range bs {
		x.unknown(g, b)
	}
}

// unknown takes a limit for used up: at once, or if amounts of it are held, at any moment
// until the last of them has ended.
func (x *recovery) unknown(g *group, b *bucket) {
	if b.Holds() {
		x.hold(g, b, b.OwnLimit())
	} else {
		b.Exhaust(x.until, 0)
	}
}

// hold holds n for leases of before, until the last of them has ended.
func (x *recovery) hold(g *group, b *bucket, n int64) {
	until := x.until.Add(b.HeldAtMost(x.ttl))
	switch {
	case n <= 0:
	case until > x.dom.now:
		x.dom.holdOrphaned(g, b, n, until)
	default: // the class was created long after the recovery
		b.HoldOrphaned(n)
		b.SettleOrphaned(until, n)
	}
}
