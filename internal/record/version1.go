package record

import (
	"encoding/json"
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
	return &Record{r.MaxTTL, r.State.state()}, nil
}

func (s *state1) state() *pool.State {
	out := &pool.State{Whole: true, Stopped: s.Stopped}
	for _, c := range s.Classes {
		out.Classes = append(out.Classes, pool.ClassState{Name: c.Name, Models: c.Models, Rest: c.Rest.state()})
	}
	for _, g := range s.Groups {
		out.Groups = append(out.Groups, pool.GroupState{Name: g.Name, Rest: g.Rest.state(), Shared: buckets(g.Shared)})
		for _, a := range g.Accounts {
			out.Accounts = append(out.Accounts, pool.AccountState{
				Group: g.Name, Class: a.Class, Rest: a.Rest.state(), Window: a.Window, Capped: a.Capped, Steady: a.Steady, Buckets: buckets(a.Buckets),
			})
		}
	}
	for _, k := range s.Keys {
		ks := pool.KeyState{
			ID: k.ID, Group: k.Group, Health: k.Health, Rest: k.Rest, By: k.By, Backoff: k.Backoff, Organization: k.Organization, Shared: buckets(k.Shared),
		}
		for class, r := range k.Barred {
			if ks.Barred == nil {
				ks.Barred = map[string]pool.RestState{}
			}
			ks.Barred[class] = *r.state()
		}
		out.Keys = append(out.Keys, ks)
		for _, class := range slices.Sorted(maps.Keys(k.Own)) {
			out.Own = append(out.Own, pool.OwnState{Key: k.ID, Class: class, Buckets: buckets(k.Own[class])})
		}
	}
	return out
}

func (r *rest1) state() *pool.RestState {
	if r == nil {
		return nil
	}
	return &pool.RestState{Left: r.Left, By: r.By, Only: r.Only, Class: r.Class, Operator: r.Operator, Backoff: r.Backoff}
}

func buckets(bs []bucket1) (out []pool.BucketState) {
	for _, b := range bs {
		out = append(out, pool.BucketState{
			Dimension: b.Dimension, Name: b.Name, Window: b.Window, Kind: b.Kind, Limit: b.Limit, Learned: b.Learned, Lowered: b.Lowered,
			Snapshot: limit.Snapshot{Used: b.Used, Backlog: b.Backlog, Slices: b.Slices, Slice: b.Slice, Past: b.Past, Reset: b.Reset, Ends: b.Ends},
			Stated:   limit.Stated{Ahead: b.Ahead}, Held: b.Held,
		})
	}
	return out
}
