package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/config"
)

// Policy turns a configuration into who may do what.
func Policy(cfg *config.Config) (*access.Policy, error) {
	if len(cfg.Access.Rules) == 0 && cfg.Server.TLS == nil {
		return access.Open(), nil
	}
	var tokens []access.Token
	for _, t := range cfg.Access.Tokens {
		token := access.Token{Name: t.Name}
		for _, text := range t.SHA256 {
			h, err := access.ParseHash(text)
			if err != nil {
				return nil, fmt.Errorf("access: token %q: %w", t.Name, err)
			}
			token.Hashes = append(token.Hashes, h)
		}
		tokens = append(tokens, token)
	}
	var rules []access.Rule
	for _, r := range cfg.Access.Rules {
		rule := access.Rule{
			Identities: r.Identities, Pools: r.Pools,
			Caps: access.Caps{Leases: r.MaxLeases, Waiters: r.MaxWaiters, Tokens: r.MaxTokens},
		}
		for _, v := range r.Verbs {
			rule.Verbs |= access.Verbs[v]
		}
		rules = append(rules, rule)
	}
	p, err := access.New(tokens, rules)
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	return p, nil
}

// Certificates opens the files for TLS; without it, it gives nil.
func Certificates(cfg *config.Config) (*certs.Source, error) {
	t := cfg.Server.TLS
	if t == nil {
		return nil, nil
	}
	s, err := certs.Open(certs.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.ClientCAFile})
	if err != nil {
		return nil, fmt.Errorf("server.tls: %w", err)
	}
	return s, nil
}

// CheckFiles reports all that is wrong with the files that a configuration names, but for
// the store's.
func CheckFiles(cfg *config.Config) error {
	_, err := Certificates(cfg)
	if dir := filepath.Dir(cfg.Audit.Path); cfg.Audit.Path != "" {
		if info, statErr := os.Stat(dir); statErr != nil {
			err = errors.Join(err, fmt.Errorf("audit.path: %w", statErr))
		} else if !info.IsDir() {
			err = errors.Join(err, fmt.Errorf("audit.path: %s is no folder", dir))
		}
	}
	return err
}
