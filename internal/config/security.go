package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/internal/access"
	"gopkg.in/yaml.v3"
)

// TLSConfig names PEM files, which are read again while the broker runs. Paths are relative to the configuration file's folder.
type TLSConfig struct {
	CertFile string `yaml:"cert_file" json:"cert_file"` // The chain, the broker's own certificate first. Required.
	KeyFile  string `yaml:"key_file" json:"key_file"`   // Required.
	// ClientCAFile are the CAs whose certificates prove who a client is. Default empty: clients have tokens.
	ClientCAFile string `yaml:"client_ca_file,omitempty" json:"client_ca_file,omitempty"`
}

// AccessConfig says who may do what. What no rule allows is denied. With plaintext and no rules, everybody on this machine may do
// everything.
type AccessConfig struct {
	Tokens []TokenConfig `yaml:"tokens,omitempty" json:"tokens,omitempty"`
	Rules  []RuleConfig  `yaml:"rules,omitempty" json:"rules,omitempty"`
}

// TokenConfig is a bearer token; who has it is "token:" and its name.
type TokenConfig struct {
	Name   string   `yaml:"name" json:"name"`     // Required, unique.
	SHA256 []string `yaml:"sha256" json:"sha256"` // In hex, as keybroker token prints it: one, or two while it is changed.
}

// RuleConfig allows some identities some verbs on some pools; see [access.Rule] for patterns.
type RuleConfig struct {
	Identities []string `yaml:"identities" json:"identities"` // Required.
	Pools      []string `yaml:"pools" json:"pools"`           // Required.
	Verbs      []string `yaml:"verbs" json:"verbs"`           // Of acquire, inspect and admin; at least one.
	// What each of the identities may have of each pool at one time; the first rule that lets it acquire there counts. In plaintext
	// callers name themselves, so there it bounds the honest only.
	MaxLeases  int   `yaml:"max_leases" json:"max_leases"`                     // Open, or waited for; 0 is no bound. Default [DefaultMaxLeases].
	MaxWaiters int   `yaml:"max_waiters" json:"max_waiters"`                   // Calls in line; 0 is no bound. Default [DefaultMaxWaiters].
	MaxTokens  int64 `yaml:"max_tokens,omitempty" json:"max_tokens,omitempty"` // Reserved by open leases, or waited for; 0, the default, is no bound.
}

// Defaults of a rule's caps: high enough for a busy service, and low enough that one that has gone wild leaves room in memory and
// in line.
const (
	DefaultMaxLeases  = 100_000
	DefaultMaxWaiters = 10_000
)

// AuditConfig says where it is written down who was given which key.
type AuditConfig struct {
	// Path of the file, which is appended to. Relative to the configuration file's folder. Default empty: nothing is written.
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
	// FailOpen gives keys out although that cannot be written down. Default false: no line, no key.
	FailOpen bool `yaml:"fail_open,omitempty" json:"fail_open,omitempty"`
}

func (p *parser) tls(o *object, t *TLSConfig) {
	o.read(fields{"cert_file": text(&t.CertFile), "key_file": text(&t.KeyFile), "client_ca_file": text(&t.ClientCAFile)})
	for _, f := range []struct {
		field    string
		path     *string
		required bool
	}{{"cert_file", &t.CertFile, true}, {"key_file", &t.KeyFile, true}, {"client_ca_file", &t.ClientCAFile, false}} {
		*f.path = p.path(o, f.field, *f.path)
		if *f.path == "" && f.required {
			o.fail(f.field, "%s is missing; give the path of a PEM file (keybroker certs makes some to try)", f.field)
		}
	}
}

// path expands and completes a path.
func (p *parser) path(o *object, field, path string) string {
	if path = p.expand(o, field, path, true); path != "" && !filepath.IsAbs(path) {
		path = filepath.Join(p.dir, path)
	}
	return path
}

func (p *parser) audit(o *object, a *AuditConfig) {
	o.read(fields{"path": text(&a.Path), "fail_open": boolean(&a.FailOpen)})
	if a.Path = p.path(o, "path", a.Path); a.Path == "" {
		o.fail("path", "path is missing; give a file, or leave audit out")
	}
}

func (p *parser) access(o *object, c *Config) {
	var tokens, rules []*yaml.Node
	o.read(fields{"tokens": list(&tokens), "rules": list(&rules)})
	seen := map[access.Hash]int{}
	names := o.each("token", "name", tokens, func(at *object, _ int) string {
		t := readToken(at, seen)
		c.Access.Tokens = append(c.Access.Tokens, t)
		return t.Name
	})
	for i, n := range rules {
		at := newObject(o.doc, o, fmt.Sprintf("rule #%d", i+1), n)
		c.Access.Rules = append(c.Access.Rules, p.rule(at, &c.Server, names))
	}
}

func readToken(o *object, seen map[access.Hash]int) TokenConfig {
	var t TokenConfig
	var hashes words
	o.read(fields{"name": text(&t.Name), "sha256": hashes.read(o)})
	for _, h := range hashes {
		hash, err := access.ParseHash(h.text)
		first, twice := seen[hash]
		switch {
		case access.LooksLikeToken(h.text):
			o.failAt(h.line, "sha256 is a token itself; give its hash, as keybroker token prints it, and make a new token: this one was written down")
		case err != nil:
			o.failAt(h.line, "sha256 %v", err)
		case twice:
			o.failAt(h.line, "the same token is on line %d already; remove one", first)
		}
		seen[hash] = h.line
	}
	if len(hashes) == 0 || len(hashes) > 2 {
		o.fail("sha256", "sha256 must list one hash, or two while a token is changed")
	}
	t.SHA256 = hashes.texts()
	return t
}

func (p *parser) rule(o *object, s *ServerConfig, tokens map[string]int) RuleConfig {
	r := RuleConfig{MaxLeases: DefaultMaxLeases, MaxWaiters: DefaultMaxWaiters}
	var identities, pools, verbs words
	o.read(fields{
		"identities": identities.read(o), "pools": pools.read(o), "verbs": verbs.read(o),
		"max_leases": whole(&r.MaxLeases), "max_waiters": whole(&r.MaxWaiters), "max_tokens": whole(&r.MaxTokens),
	})
	for _, i := range identities {
		o.checkIdentity(i, s, tokens)
	}
	for _, v := range verbs {
		if _, ok := access.Verbs[v.text]; !ok {
			o.failAt(v.line, "unknown verb %s; use %s", quote(v.text), strings.Join(slices.Sorted(maps.Keys(access.Verbs)), ", "))
		}
	}
	for field, list := range map[string]words{"identities": identities, "pools": pools, "verbs": verbs} {
		if len(list) == 0 {
			o.fail(field, "%s is empty; a rule needs identities, pools and verbs", field)
		}
	}
	for field, n := range map[string]int64{"max_leases": int64(r.MaxLeases), "max_waiters": int64(r.MaxWaiters), "max_tokens": r.MaxTokens} {
		if n < 0 {
			o.fail(field, "%s is negative; use 0 for no bound", field)
		}
	}
	p.later = append(p.later, func(names map[string]int) {
		for _, pool := range pools {
			_, known := names[pool.text]
			if err := access.CheckPool(pool.text); err != nil {
				o.failAt(pool.line, "pool %s %v", quote(pool.text), err)
			} else if !known && !strings.Contains(pool.text, "*") {
				o.failAt(pool.line, "pool %s is not in this file; name one of them, or use a pattern with *", quote(pool.text))
			}
		}
	})
	r.Identities, r.Pools, r.Verbs = identities.texts(), pools.texts(), verbs.texts()
	return r
}

// checkIdentity notes what is wrong with an identity, and why nobody could ever have it.
func (o *object) checkIdentity(i word, s *ServerConfig, tokens map[string]int) {
	kind, name, _ := strings.Cut(i.text, ":")
	_, known := tokens[name]
	switch {
	case access.CheckIdentity(i.text) != nil:
		o.failAt(i.line, "identity %s %v", quote(i.text), access.CheckIdentity(i.text))
	case kind == access.Local && s.TLS != nil:
		o.failAt(i.line, "identity local is whoever calls in plaintext, which there is none of with tls; remove it")
	case (kind == "spiffe" || kind == "dns") && (s.TLS == nil || s.TLS.ClientCAFile == ""):
		o.failAt(i.line, "identity %s needs a certificate, and none can be checked; give server.tls.client_ca_file", quote(i.text))
	case kind == "token" && !known && !strings.Contains(name, "*"):
		o.failAt(i.line, "identity %s is not among the tokens; add it there", quote(i.text))
	case kind == "token" && len(tokens) == 0:
		o.failAt(i.line, "identity %s needs a token, and there are none; add one under access.tokens", quote(i.text))
	}
}
