package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Config describes a domain: quota groups with their keys, and the pools that draw on
// them. Most domains have one pool.
type Config struct {
	Name    string
	Dialect *provider.Dialect
	Flat    bool    // limits count all models together
	Classes []Class // models that share a limit; other models have a class each
	Groups  []Group
	Keys    []Key
	Pools   []Rules // at least one
	// Seed makes the random strategy repeatable.
	Seed uint64
}

// Rules are a pool: which models it serves, and how it chooses among some of a domain's
// groups.
type Rules struct {
	Name     string
	Models   []string // that it serves; all if empty. A Flat domain does not ask for the model
	Groups   []string // that it draws on, by name; all if empty
	Strategy string   // as NewSelector takes it
	Single   bool     // no pooling: only the first usable key is leased
	// StartWithin is the time within which a lease's request must be sent.
	StartWithin time.Duration
}

// Serves reports whether the pool serves a model.
func (r *Rules) Serves(model string) bool {
	return len(r.Models) == 0 || slices.Contains(r.Models, model)
}

// draws reports whether the pool draws on a group.
func (r *Rules) draws(group string) bool {
	return len(r.Groups) == 0 || slices.Contains(r.Groups, group)
}

// Class is a class of models. Its limits hold in each quota group, together with the
// group's own.
type Class struct {
	Name   string
	Models []string
	Limits []Limit
}

// Group is a quota group: its limits are shared by its keys, for each class.
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

// GroupName returns the name of the key's quota group.
func (k *Key) GroupName() string { return cmp.Or(k.Group, k.ID) }

// check returns the first mistake in a configuration. Everything else about it is taken
// as valid.
func (cfg *Config) check() error {
	if cfg.Dialect == nil {
		return fmt.Errorf("domain %q has no dialect", cfg.Name)
	}
	if len(cfg.Pools) == 0 {
		return fmt.Errorf("domain %q has no pool", cfg.Name)
	}
	groups := names{}
	for _, g := range cfg.Groups {
		if err := groups.add("group", g.Name); err != nil {
			return err
		}
	}
	keys := names{}
	for _, k := range cfg.Keys {
		if k.Group != "" && !groups[k.Group] {
			return fmt.Errorf("key %q: unknown group %q", k.ID, k.Group)
		}
		if err := keys.add("key", k.ID); err != nil {
			return err
		}
	}
	for _, k := range cfg.Keys {
		if k.Group == "" && groups[k.ID] {
			return fmt.Errorf("key %q: it has the name of a group, but is not in it", k.ID)
		}
		groups[k.GroupName()] = true
	}
	if err := cfg.checkClasses(); err != nil {
		return err
	}
	if err := cfg.checkLimits(); err != nil {
		return err
	}
	pools := names{}
	for _, r := range cfg.Pools {
		if err := pools.add("pool", r.Name); err != nil {
			return err
		}
		if _, err := NewSelector(r.Strategy, nil); err != nil {
			return fmt.Errorf("pool %q: %w", r.Name, err)
		}
		for _, g := range r.Groups {
			if !groups[g] {
				return fmt.Errorf("pool %q: unknown group %q", r.Name, g)
			}
		}
	}
	return nil
}

// names are those of one kind of thing, each of which may be there once.
type names map[string]bool

func (n names) add(what, name string) error {
	if n[name] {
		return fmt.Errorf("%s %q is there twice", what, name)
	}
	n[name] = true
	return nil
}

// checkClasses refuses a class that is there twice, and a model that is in two.
func (cfg *Config) checkClasses() error {
	classes, in := names{}, map[string]string{}
	for _, c := range cfg.Classes {
		if err := classes.add("class", c.Name); err != nil {
			return err
		}
		for _, m := range c.Models {
			if other, ok := in[m]; ok && other != c.Name {
				return fmt.Errorf("model %q is in two classes, %q and %q", m, other, c.Name)
			}
			in[m] = c.Name
		}
	}
	return nil
}

// checkLimits refuses more limits for one key than a lease can be charged to.
func (cfg *Config) checkLimits() error {
	most := 0
	for _, c := range cfg.Classes {
		most = max(most, len(c.Limits))
	}
	groups := map[string]int{}
	for _, g := range cfg.Groups {
		groups[g.Name] = len(g.Limits)
	}
	for _, k := range cfg.Keys {
		shared, own := groups[k.Group], len(k.Limits)
		if k.Group == "" { // its limits are the group's
			shared, own = own, 0
		}
		if n := max(maxAccountBuckets, shared+most) + own; n > maxBuckets {
			return fmt.Errorf("key %q: too many limits, by %d: of its group, a class and its own at most %d may apply", k.ID, n-maxBuckets, maxBuckets)
		}
	}
	return nil
}
