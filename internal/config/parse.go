package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/internal/secret"
	"gopkg.in/yaml.v3"
)

// parser reads and checks a whole configuration. Each method reads one mapping, and then checks what it read while the lines are
// still known.
type parser struct {
	opts        Options
	dir         string                       // Where relative key files are.
	credentials map[credential]*object       // Where each was seen first.
	later       []func(pools map[string]int) // Checks that need the names of all pools, which come with their lines.
	further     map[string]*object           // Pools beside the providers' own, by name.
}

// credential is one account's key. The same text may well be the dummy key of two local servers.
type credential struct{ dialect, baseURL, value string }

func (p *parser) config(top *object) *Config {
	c := &Config{
		Server: ServerConfig{
			Listen: DefaultListen, DrainTimeout: DefaultDrainTimeout,
			MaxConnections: DefaultMaxConnections, MaxUnproven: DefaultMaxUnproven,
		},
		Store:   StoreConfig{Type: StoreBolt, Path: DefaultStorePath},
		Pooling: PoolingConfig{Strategy: LeastLoaded},
	}
	var providers []*yaml.Node
	rules := func() {} // who may do what depends on what can be proved, which the server's section says
	top.read(fields{
		"access": func(n *yaml.Node) error {
			rules = func() { p.access(newObject(top.doc, top, "access", n), c) }
			return nil
		},
		"audit":  top.inside("audit", func(at *object) { p.audit(at, &c.Audit) }),
		"server": top.inside("server", func(at *object) { p.server(at, &c.Server) }),
		"store":  top.inside("store", func(at *object) { p.store(at, &c.Store) }),
		"pooling": top.inside("pooling", func(at *object) {
			at.read(fields{"strategy": text(&c.Pooling.Strategy)})
			at.checkStrategy(c.Pooling.Strategy)
		}),
		"providers": list(&providers),
	})
	c.Server.Plaintext = c.Server.Plaintext || p.opts.Plaintext && c.Server.TLS == nil
	rules()
	top.checkWire(&c.Server, &c.Access)
	if c.Store.Type == StoreMemory {
		c.Store.Path = ""
	} else if !filepath.IsAbs(c.Store.Path) {
		c.Store.Path = filepath.Join(p.dir, c.Store.Path)
	}
	if c.Audit.Path != "" && c.Audit.Path == c.Store.Path {
		top.fail("audit", "audit: path is the store's; give it a file of its own")
	}
	if len(providers) == 0 {
		top.fail("providers", "there are no providers; give at least one under providers")
	}
	names := top.each("provider", "name", providers, func(at *object, _ int) string {
		provider := p.provider(at)
		c.Providers = append(c.Providers, provider)
		return provider.Name
	})
	for _, name := range slices.Sorted(maps.Keys(p.further)) {
		at := p.further[name]
		if first, twice := names[name]; twice {
			at.fail("name", "name %s is used twice; it is on line %d already", quote(name), first)
		} else {
			names[name] = at.line("name")
		}
	}
	for _, check := range p.later {
		check(names)
	}
	return c
}

func (p *parser) store(o *object, s *StoreConfig) {
	o.read(fields{"type": text(&s.Type), "path": text(&s.Path)})
	s.Path = p.expand(o, "path", s.Path, s.Type != StoreMemory)
	switch {
	case s.Type != StoreBolt && s.Type != StoreMemory:
		o.fail("type", "type is %q; use %s or %s", s.Type, StoreBolt, StoreMemory)
	case s.Type == StoreBolt && s.Path == "":
		o.fail("path", "path is empty; leave it out for %s, or use type: %s to keep nothing", DefaultStorePath, StoreMemory)
	}
}

func (p *parser) server(o *object, s *ServerConfig) {
	o.read(fields{
		"listen":         text(&s.Listen),
		"admin_listen":   text(&s.AdminListen),
		"metrics_listen": text(&s.MetricsListen),
		"drain_timeout":  duration(&s.DrainTimeout),
		"plaintext":      boolean(&s.Plaintext),
		"tls": o.inside("tls", func(at *object) {
			s.TLS = &TLSConfig{}
			p.tls(at, s.TLS)
		}),
		"max_connections":          whole(&s.MaxConnections),
		"max_unproven_connections": whole(&s.MaxUnproven),
	})
	s.Listen = p.expand(o, "listen", s.Listen, true)
	s.AdminListen = p.expand(o, "admin_listen", s.AdminListen, true)
	s.MetricsListen = p.expand(o, "metrics_listen", s.MetricsListen, true)
	o.checkServer(s)
}

func (p *parser) provider(o *object) ProviderConfig {
	c := ProviderConfig{Lease: DefaultLease()}
	var models, fallback words
	var classes, groups, keys, pools []*yaml.Node
	o.read(fields{
		"name":        text(&c.Name),
		"type":        text(&c.Type),
		"base_url":    text(&c.BaseURL),
		"enabled":     optional(&c.Enabled, boolean),
		"models":      models.read(o),
		"flat_limits": boolean(&c.FlatLimits),
		"pooling": o.inside("pooling", func(at *object) {
			at.read(fields{"strategy": text(&c.Pooling.Strategy), "enabled": optional(&c.Pooling.Enabled, boolean)})
			at.checkStrategy(c.Pooling.Strategy)
		}),
		"fallback": fallback.read(o),
		"lease":    o.inside("lease", func(at *object) { readLease(at, &c.Lease) }),
		"classes":  list(&classes),
		"groups":   list(&groups),
		"keys":     list(&keys),
		"pools":    list(&pools),
	})
	c.BaseURL = p.expand(o, "base_url", c.BaseURL, c.IsEnabled())
	c.Models, c.Fallback = models.texts(), fallback.texts()
	o.checkProvider(&c, p.opts.Types)
	if c.BaseURL == "" {
		c.BaseURL = p.opts.Types[c.Type]
	}
	c.ModelClasses = readClasses(o, classes, c.Models)
	c.Groups = readGroups(o, groups)
	if len(keys) == 0 && c.IsEnabled() {
		o.fail("keys", "there are no keys; give at least one under keys, or set enabled: false")
	}
	o.each("key", "id", keys, func(at *object, n int) string {
		k := p.key(at, n, &c)
		c.Keys = append(c.Keys, k)
		return k.ID
	})
	p.later = append(p.later, func(known map[string]int) { o.checkFallback(c.Name, fallback, known) })
	p.pools(o, pools, &c)
	return c
}

// pools reads the further pools of a provider.
func (p *parser) pools(o *object, nodes []*yaml.Node, c *ProviderConfig) {
	o.each("pool", "name", nodes, func(at *object, _ int) string {
		pool := PoolConfig{Pooling: c.Pooling, Lease: c.Lease}
		var groups, models, fallback words
		at.read(fields{
			"name":   text(&pool.Name),
			"groups": groups.read(at),
			"models": models.read(at),
			"pooling": at.inside("pooling", func(in *object) {
				in.read(fields{"strategy": text(&pool.Pooling.Strategy), "enabled": optional(&pool.Pooling.Enabled, boolean)})
				in.checkStrategy(pool.Pooling.Strategy)
			}),
			"fallback": fallback.read(at),
			"lease":    at.inside("lease", func(in *object) { readLease(in, &pool.Lease) }),
		})
		pool.Groups, pool.Models, pool.Fallback = groups.texts(), models.texts(), fallback.texts()
		at.checkPool(groups, models, c)
		if len(models) == 0 {
			pool.Models = c.Models
		}
		if first := p.further[pool.Name]; first != nil {
			at.fail("name", "name %s is used twice; it is on line %d already", quote(pool.Name), first.line("name"))
		} else if pool.Name != "" { // each says of its own name that it is missing
			p.further[pool.Name] = at
		}
		p.later = append(p.later, func(known map[string]int) { at.checkFallback(pool.Name, fallback, known) })
		c.Pools = append(c.Pools, pool)
		return pool.Name
	})
}

func readLease(o *object, l *LeaseConfig) {
	o.read(fields{
		"start_within": duration(&l.StartWithin),
		"default_ttl":  duration(&l.DefaultTTL),
		"max_ttl":      duration(&l.MaxTTL),
		"max_wait":     duration(&l.MaxWait),
	})
	o.checkLease(l)
}

// readClasses reads the model classes of a provider that serves these models; all, if there are none.
func readClasses(o *object, nodes []*yaml.Node, served []string) (classes []ClassConfig) {
	classOf := map[string]int{}
	o.each("class", "name", nodes, func(at *object, _ int) string {
		var c ClassConfig
		var models words
		known := limitFields(&c.Limits)
		known["name"], known["models"] = text(&c.Name), models.read(at)
		at.read(known)
		at.checkClass(models, served, classOf)
		at.failAll(c.faults())
		c.Models = models.texts()
		classes = append(classes, c)
		return c.Name
	})
	return classes
}

func readGroups(o *object, nodes []*yaml.Node) (groups []GroupConfig) {
	o.each("group", "name", nodes, func(at *object, _ int) string {
		var g GroupConfig
		known := limitFields(&g.Limits)
		known["name"] = text(&g.Name)
		at.read(known)
		at.failAll(g.faults())
		groups = append(groups, g)
		return g.Name
	})
	return groups
}

// key reads the n-th key of a provider, counted from 1.
func (p *parser) key(o *object, n int, c *ProviderConfig) KeyConfig {
	var k KeyConfig
	var raw string
	known := limitFields(&k.Limits)
	known["key"], known["key_file"], known["key_exec"] = text(&raw), text(&k.KeyFile), texts(&k.KeyExec)
	known["id"], known["group"] = text(&k.ID), text(&k.Group)
	known["priority"], known["weight"] = optional(&k.Priority, whole), whole(&k.Weight)
	o.read(known)
	if k.ID == "" && len(k.KeyExec) == 0 {
		k.ID = defaultID(raw, k.KeyFile, n)
	}
	k.Key = p.value(o, raw, &k, c.IsEnabled())
	o.checkGroup(k.Group, c.Groups)
	o.failAll(k.faults())
	if !k.Key.IsZero() {
		id := credential{c.Type, sameURL(c.BaseURL), k.Key.Reveal()}
		p.later = append(p.later, func(map[string]int) { o.checkDuplicate(id, p.credentials) })
	}
	k.Weight = k.GetWeight()
	return k
}

// value returns the value that one of key, key_file and key_exec gives, and notes what is wrong with it under "key". A disabled
// provider's keys are checked for their form alone, and not kept.
func (p *parser) value(o *object, raw string, k *KeyConfig, enabled bool) secret.Value {
	var given []string
	for _, field := range []string{"key", "key_file", "key_exec"} {
		if _, ok := o.lines[field]; ok {
			given = append(given, field)
		}
	}
	if raw == "" && len(given) > 0 {
		last := given[len(given)-1]
		o.lines["key"], o.done["key"] = o.line(last), o.done[last]
	}
	var text string
	var err error
	switch {
	case len(given) > 1:
		o.fail("key", "both %s are given; keep one", strings.Join(given, " and "))
	case raw != "":
		text = p.expand(o, "key", raw, enabled)
	case k.KeyFile != "" && enabled:
		text, err = p.readKeyFile(k.KeyFile)
	case len(k.KeyExec) > 0 && enabled:
		text, err = p.runHelper(o, k.KeyExec)
	}
	if err != nil {
		o.fail("key", "%s %v", given[0], err)
	}
	if !enabled && len(given) > 0 {
		o.done["key"] = true
		return secret.Value{}
	}
	return secret.New(text)
}

func defaultID(raw, file string, n int) string {
	if match := wholeVariable.FindStringSubmatch(raw); match != nil {
		return match[1]
	}
	if file != "" {
		return filepath.Base(file)
	}
	return fmt.Sprintf("key-%d", n)
}

// expand returns text with its variables replaced, or "" after noting why that cannot be. What a disabled provider needs from the
// environment may be missing.
func (p *parser) expand(o *object, field, text string, enabled bool) string {
	out, err := expand(text, p.opts.Getenv)
	if err != nil && (enabled || !errors.Is(err, errUnset)) {
		o.fail(field, "%s: %v", field, err)
	}
	return out
}

func limitFields(l *Limits) fields {
	known := fields{}
	for _, limit := range l.all() {
		known[limit.field] = whole(limit.value)
	}
	return known
}
