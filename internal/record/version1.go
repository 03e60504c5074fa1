package record

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/pool/limit"
)

// Records of version 1 are JSON, in one chunk. They are only read, and the first save of their
// reader writes the record anew.

type record1 struct {
	Version uint64        `json:"version"`
	MaxTTL  time.Duration `json:"max_ttl"`
	State   *state1       `json:"state"`
}

type state1 struct {
	Stopped bool     `json:"stopped"`
	Keys    []key1   `json:"keys"`
	Groups  []group1 `json:"groups"`
	Classes []class1 `json:"classes"`
}

type key1 struct {
	ID           string               `json:"id"`
	Group        string               `json:"group"`
	Health       pool.Health          `json:"health"`
	Rest         time.Duration        `json:"rest"`
	By           string               `json:"by"`
	Backoff      time.Duration        `json:"backoff"`
	Organization string               `json:"organization"`
	Barred       map[string]rest1     `json:"barred"`
	Shared       []bucket1            `json:"shared"`
	Own          map[string][]bucket1 `json:"own"`
}

type group1 struct {
	Name     string     `json:"name"`
	Rest     *rest1     `json:"rest"`
	Shared   []bucket1  `json:"shared"`
	Accounts []account1 `json:"accounts"`
}

type account1 struct {
	Class   string    `json:"class"`
	Rest    *rest1    `json:"rest"`
	Window  int       `json:"window"`
	Capped  bool      `json:"capped"`
	Steady  bool      `json:"steady"`
	Buckets []bucket1 `json:"buckets"`
}

type class1 struct {
	Name   string   `json:"name"`
	Models []string `json:"models"`
	Rest   *rest1   `json:"rest"`
}

type rest1 struct {
	Left     time.Duration      `json:"left"`
	By       string             `json:"by"`
	Only     provider.Dimension `json:"only"`
	Class    provider.Class     `json:"class"`
	Operator bool               `json:"operator"`
	Backoff  time.Duration      `json:"backoff"`
}

type bucket1 struct {
	Dimension provider.Dimension `json:"dimension"`
	Name      string             `json:"name"`
	Window    time.Duration      `json:"window"`
	Kind      provider.Kind      `json:"kind"`
	Limit     int64              `json:"limit"`
	Learned   bool               `json:"learned"`
	Lowered   bool               `json:"lowered"`
	Used      int64              `json:"used"`
	Backlog   time.Duration      `json:"backlog"`
	Slices    []int64            `json:"slices"`
	Slice     time.Duration      `json:"slice"`
	Past      int64              `json:"past"`
	Reset     time.Duration      `json:"reset"`
	Ends      time.Time          `json:"ends"`
	Held      int64              `json:"held"`
	Ahead     int64              `json:"ahead"`
}

// decode1 reads a record of version 1.
func decode1(chunks map[string][]byte) (*Record, error) {
	var r record1
	if len(chunks) != 1 {
		return nil, damaged(errRange)
	}
	for _, b := range chunks {
		err := json.Unmarshal(b, &r)
		switch {
		case err == nil && r.Version > 1:
			return nil, newer(r.Version)
		case err != nil:
			return nil, damaged(err)
		case r.Version < 1 || r.State == nil:
			return nil, damaged(errRange)
		}
	}
	d := decoder1{seen: map[id]bool{}}
	d.time(r.MaxTTL)
	s := d.state(r.State)
	if d.err != nil {
		return nil, damaged(d.err)
	}
	return &Record{r.MaxTTL, s}, nil
}

// decoder1 makes a state of what the JSON says. err is the first mistake: numbers have the
// bounds that they have in this version, and no two parts have the same name.
type decoder1 struct {
	seen map[id]bool
	err  error
}

func (d *decoder1) part(x id) {
	if d.seen[x] {
		d.err = errors.New("a part is there twice")
	}
	d.seen[x] = true
}

// ofClass is part for what belongs to a class, which comes before it.
func (d *decoder1) ofClass(x id) {
	if d.part(x); !d.seen[id{kind: class, name: x.name}] {
		d.err = errors.New("a part is of an unknown class")
	}
}

func (d *decoder1) within(n, bound int64) {
	if n < 0 || n > bound {
		d.err = errRange
	}
}

func (d *decoder1) amount(n int64) { d.within(n, most) }

func (d *decoder1) time(t time.Duration) { d.within(int64(t), most) }

func (d *decoder1) state(s *state1) *pool.State {
	out := &pool.State{Whole: true, Stopped: s.Stopped}
	for i := range s.Classes {
		out.Classes = append(out.Classes, d.class(&s.Classes[i]))
	}
	for i := range s.Groups {
		g := &s.Groups[i]
		d.part(id{kind: group, name: g.Name})
		out.Groups = append(out.Groups, pool.GroupState{Name: g.Name, Rest: d.cooldown(g.Rest), Shared: d.buckets(g.Shared)})
		for j := range g.Accounts {
			out.Accounts = append(out.Accounts, d.account(g.Name, &g.Accounts[j]))
		}
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		out.Keys = append(out.Keys, d.key(k))
		for _, class := range slices.Sorted(maps.Keys(k.Own)) {
			d.ofClass(id{own, k.ID, class})
			out.Own = append(out.Own, pool.OwnState{Key: k.ID, Class: class, Buckets: d.buckets(k.Own[class])})
		}
	}
	return out
}

func (d *decoder1) class(c *class1) pool.ClassState {
	d.part(id{kind: class, name: c.Name})
	out := pool.ClassState{Name: c.Name, Rest: d.cooldown(c.Rest)}
	out.Models = append(out.Models, c.Models...) // nil if there are none
	return out
}

func (d *decoder1) account(group string, a *account1) pool.AccountState {
	d.ofClass(id{account, group, a.Class})
	d.within(int64(a.Window), mostWindow)
	return pool.AccountState{
		Group: group, Class: a.Class, Rest: d.cooldown(a.Rest), Window: a.Window, Capped: a.Capped, Steady: a.Steady, Buckets: d.buckets(a.Buckets),
	}
}

func (d *decoder1) key(k *key1) pool.KeyState {
	d.part(id{kind: key, name: k.ID})
	d.within(int64(k.Health), int64(pool.Quarantined))
	d.time(k.Rest)
	d.time(k.Backoff)
	out := pool.KeyState{
		ID: k.ID, Group: k.Group, Health: k.Health, Rest: k.Rest, By: k.By, Backoff: k.Backoff, Organization: k.Organization, Shared: d.buckets(k.Shared),
	}
	for class, r := range k.Barred {
		if s := d.cooldown(&r); s != nil {
			if out.Barred == nil {
				out.Barred = map[string]pool.RestState{}
			}
			out.Barred[class] = *s
		}
	}
	return out
}

// cooldown returns one, or nil if nothing is left of it.
func (d *decoder1) cooldown(r *rest1) *pool.RestState {
	if r == nil {
		return nil
	}
	d.time(r.Left)
	d.time(r.Backoff)
	d.within(int64(r.Only), int64(provider.NumDimensions))
	d.within(int64(r.Class), int64(provider.NoAnswer))
	if r.Left <= 0 {
		return nil
	}
	return &pool.RestState{Left: r.Left, By: r.By, Only: r.Only, Class: r.Class, Operator: r.Operator, Backoff: r.Backoff}
}

func (d *decoder1) bucket(b *bucket1) {
	d.within(int64(b.Dimension), int64(provider.NumDimensions)-1)
	d.within(int64(b.Kind), int64(provider.Fixed))
	d.within(int64(b.Window), int64(longestWindow))
	for _, t := range []time.Duration{b.Backlog, b.Slice, b.Reset} {
		d.time(t)
	}
	for _, n := range append([]int64{b.Limit, b.Used, b.Past, b.Held, b.Ahead}, b.Slices...) {
		d.amount(n)
	}
	if len(b.Slices) == 0 {
		b.Slices = nil
	}
	if b.Ends = b.Ends.UTC(); b.Ends.IsZero() {
		b.Ends = time.Time{}
	}
}

func (d *decoder1) buckets(bs []bucket1) (out []pool.BucketState) {
	for i := range bs {
		b := &bs[i]
		d.bucket(b)
		out = append(out, pool.BucketState{
			Dimension: b.Dimension, Name: b.Name, Window: b.Window, Kind: b.Kind, Limit: b.Limit, Learned: b.Learned, Lowered: b.Lowered,
			Snapshot: limit.Snapshot{Used: b.Used, Backlog: b.Backlog, Slices: b.Slices, Slice: b.Slice, Past: b.Past, Reset: b.Reset, Ends: b.Ends},
			Stated:   limit.Stated{Ahead: b.Ahead}, Held: b.Held,
		})
	}
	return out
}
