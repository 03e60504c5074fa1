package config

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/secret"
)

const (
	maxTTL = 24 * time.Hour
	// maxClass bounds the bytes of the names of a class's models: they are one part of the
	// record, which package record bounds.
	maxClass = 64 << 10
)

// checkName notes why the value of field cannot name something.
func (o *object) checkName(field, value string) {
	switch {
	case value == "":
		o.fail(field, "%s is missing; give one", field)
	case secret.Resembles(value):
		o.fail(field, "%s looks like a key's value, and it is shown in logs; choose a name", field)
	case !nameShape.MatchString(value):
		o.fail(field, "%s is no valid name; use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", field)
	}
}

func (o *object) checkStrategy(strategy string) {
	if strategy != "" && !slices.Contains(Strategies(), strategy) {
		o.fail("strategy", "unknown strategy %s; use one of %s", quote(strategy), strings.Join(Strategies(), ", "))
	}
}

func (o *object) checkServer(s *ServerConfig) {
	taken := map[string]string{}
	for _, l := range []struct{ field, addr string }{{"listen", s.Listen}, {"admin_listen", s.AdminListen}, {"metrics_listen", s.MetricsListen}} {
		if l.addr == "" && l.field != "listen" {
			continue
		}
		if err := s.CheckListen(l.addr); err != nil {
			o.fail(l.field, "%s %v", l.field, err)
		} else if other := taken[l.addr]; other != "" && !strings.HasSuffix(l.addr, ":0") {
			o.fail(l.field, "%s is the same as %s; leave it out, or give it another port", l.field, other)
		}
		taken[l.addr] = l.field
	}
	if s.Plaintext && s.TLS != nil {
		o.fail("plaintext", "plaintext and tls exclude each other; remove one")
	}
	for field, n := range map[string]int{"max_connections": s.MaxConnections, "max_unproven_connections": s.MaxUnproven} {
		if n < 1 {
			o.fail(field, "%s must be above 0", field)
		}
	}
	if s.DrainTimeout < 0 {
		o.fail("drain_timeout", "drain_timeout is negative; use 0 to stop at once")
	}
}

// checkWire notes that nobody has said how to serve, or for whom.
func (o *object) checkWire(s *ServerConfig, a *AccessConfig) {
	_, given := o.lines["access"]
	switch {
	case given && len(a.Rules) == 0:
		o.fail("access", "access: there are no rules, so nobody may do anything; give at least one under access.rules, or leave access out")
	case s.TLS == nil && !s.Plaintext:
		o.fail("server", "server: there is no tls; give tls with cert_file and key_file, or plaintext: true (serve --plaintext) for callers on this machine alone")
	case s.TLS != nil && len(a.Rules) == 0:
		o.fail("access", "access: there are no rules, so nobody may do anything; give at least one under access.rules")
	case s.TLS != nil && s.TLS.ClientCAFile == "" && len(a.Tokens) == 0:
		o.fail("access", "access: nobody can prove who they are; give access.tokens, or server.tls.client_ca_file")
	}
}

// CheckListen reports what is wrong with an address to listen on, such as one that a command line puts in the place of the file's.
func (s *ServerConfig) CheckListen(addr string) error {
	loopback, err := Loopback(addr)
	if err == nil && !loopback && s.TLS == nil {
		err = errors.New("must be a loopback address, as there is no TLS and keys would cross the network in the clear; " +
			"use 127.0.0.1, [::1] or localhost, or give server.tls")
	}
	return err
}

// Loopback reports whether a host:port is on this machine alone, or that it is none.
func Loopback(addr string) (bool, error) {
	host, port, err := net.SplitHostPort(addr)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return false, errors.New("must be host:port, such as " + DefaultListen)
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback(), nil
}

func (o *object) checkProvider(c *ProviderConfig, types map[string]string) {
	own, isKnown := types[c.Type]
	switch known := strings.Join(slices.Sorted(maps.Keys(types)), ", "); {
	case c.Type == "":
		o.fail("type", "type is missing; use one of %s", known)
	case !isKnown:
		o.fail("type", "unknown type %s; use one of %s", quote(c.Type), known)
	case c.BaseURL == "" && own == "" && c.IsEnabled():
		o.fail("base_url", "base_url is missing; type %s has no address of its own", c.Type)
	}
	if c.BaseURL != "" {
		// The parser's own error would quote the URL, and with it a password.
		if u, err := url.Parse(c.BaseURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			o.fail("base_url", "base_url must be an http or https URL with a host, such as https://api.example.com")
		} else if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			o.fail("base_url", "base_url must have no user, query or fragment; give credentials under keys")
		}
	}
}

// checkPool checks what a further pool of a provider draws on and serves.
func (o *object) checkPool(groups, models words, c *ProviderConfig) {
	for _, g := range groups {
		group := slices.ContainsFunc(c.Groups, func(known GroupConfig) bool { return known.Name == g.text })
		key := slices.ContainsFunc(c.Keys, func(k KeyConfig) bool { return k.Group == "" && k.ID == g.text })
		if !group && !key {
			o.failAt(g.line, "group %s is neither a group of the provider nor a key without one; name one of those", quote(g.text))
		}
	}
	for _, m := range models {
		if len(c.Models) > 0 && !slices.Contains(c.Models, m.text) {
			o.failAt(m.line, "model %s is not in the provider's models; add it there", quote(m.text))
		}
	}
}

// checkFallback checks the pools to try after the one called name, given the names of all.
func (o *object) checkFallback(name string, fallback words, known map[string]int) {
	for _, f := range fallback {
		if _, ok := known[f.text]; !ok {
			o.failAt(f.line, "fallback %s is no pool of this file; name one of them", quote(f.text))
		} else if f.text == name {
			o.failAt(f.line, "a pool cannot be its own fallback; remove it")
		}
	}
}

func (o *object) checkLease(l *LeaseConfig) {
	if l.StartWithin <= 0 {
		o.fail("start_within", "start_within must be above 0")
	}
	if l.DefaultTTL <= 0 {
		o.fail("default_ttl", "default_ttl must be above 0")
	}
	if l.MaxTTL <= 0 || l.MaxTTL > maxTTL {
		o.fail("max_ttl", "max_ttl must be above 0, and 24h at most")
	}
	if l.MaxWait < 0 {
		o.fail("max_wait", "max_wait is negative; use 0 to never wait")
	}
	if l.StartWithin > l.DefaultTTL && l.DefaultTTL > 0 {
		o.fail("start_within", "start_within (%v) is longer than default_ttl (%v); shorten it", l.StartWithin, l.DefaultTTL)
	}
	if l.DefaultTTL > l.MaxTTL && l.MaxTTL > 0 {
		o.fail("default_ttl", "default_ttl (%v) is longer than max_ttl (%v); shorten it", l.DefaultTTL, l.MaxTTL)
	}
}

// checkClass checks the models of a class. The models of all classes are kept in classOf, with their lines.
func (o *object) checkClass(models words, served []string, classOf map[string]int) {
	if len(models) == 0 {
		o.fail("models", "there are no models; list those that share the limits")
	}
	size := 0
	for _, m := range models {
		size += len(m.text) + 2
		if first, twice := classOf[m.text]; twice {
			o.failAt(m.line, "model %s is in two classes; it is on line %d already", quote(m.text), first)
		} else if classOf[m.text] = m.line; len(served) > 0 && !slices.Contains(served, m.text) {
			o.failAt(m.line, "model %s is not in the provider's models; add it there", quote(m.text))
		}
	}
	if size > maxClass {
		o.fail("models", "the names of the models have %d KiB together, and may have %d; make several classes", size>>10, maxClass>>10)
	}
}

func (o *object) checkGroup(group string, declared []GroupConfig) {
	if group != "" && !slices.ContainsFunc(declared, func(g GroupConfig) bool { return g.Name == group }) {
		o.fail("group", "group %s is not declared; add it to the provider's groups", quote(group))
	}
}

// sameURL writes an address in the one way in which it is compared.
func sameURL(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	u.Scheme, u.Host, u.Path = strings.ToLower(u.Scheme), strings.ToLower(u.Host), strings.TrimRight(u.Path, "/")
	return u.String()
}

// checkDuplicate notes that two keys are one and the same: the broker would grant its limits twice. Where each credential was seen
// first is kept in seen.
func (o *object) checkDuplicate(id credential, seen map[credential]*object) {
	first, twice := seen[id]
	if !twice {
		seen[id] = o
		return
	}
	o.fail("key", "the same key is on line %d already (%s); remove one", first.line("key"), strings.TrimSuffix(first.path(), ": "))
}
