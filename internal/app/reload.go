package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/secret"
)

// watchFiles is how often certificates are read again.
const watchFiles = 10 * time.Second

// inForce is what can change while the broker runs. It is immutable.
type inForce struct {
	policy *access.Policy
	keys   map[string][]secret.Value // by pool, in the order that it started with
}

// Reload opens the audit log anew, reads certificates again, and loads a
// configuration, of which it puts in force what it says of keys' values and of who may
// do what. Nothing else of it changes: that takes a restart, and is logged. With an
// error, what concerns it stays as it was.
func (a *App) Reload(load func() (*config.Config, error)) error {
	var errs []error
	if a.audit != nil {
		if err := a.audit.Reopen(); err != nil {
			errs = append(errs, fmt.Errorf("audit.path: %w", err))
		}
	}
	if a.certificates != nil {
		if changed, err := a.certificates.Reload(); changed || err != nil {
			a.noteCertificates(changed, err)
		}
	}
	cfg, err := load()
	if err == nil {
		err = a.apply(cfg)
	}
	err = errors.Join(append(errs, err)...)
	a.reloads.note(err)
	return err
}

func (a *App) apply(cfg *config.Config) error {
	policy, err := Policy(cfg)
	if err != nil {
		return err
	}
	now := a.force.Load()
	next := &inForce{policy: policy, keys: map[string][]secret.Value{}}
	type name struct{ pool, key string }
	var changed []name
	for _, p := range a.cfg.Providers {
		values := slices.Clone(now.keys[p.Name])
		for i := range values {
			id := p.Keys[i].ID
			if v, ok := keyOf(cfg, p.Name, id); ok && !v.Equal(values[i]) {
				values[i] = v
				changed = append(changed, name{p.Name, id})
			}
		}
		next.keys[p.Name] = values
	}
	a.force.Store(next)
	for _, n := range changed { // what was said of the old value is not true of the new one
		_ = a.broker.Restore(n.pool, n.key)
		a.logger.Info("key has a new value", "pool", n.pool, "key", n.key)
	}
	if shape(cfg) != shape(a.cfg) {
		a.logger.Warn("the configuration has changed in more than keys' values and access: that takes effect with a restart")
	}
	a.logger.Info("configuration read again", "keys_changed", len(changed), "rules", len(cfg.Access.Rules), "tokens", len(cfg.Access.Tokens))
	return nil
}

func keyOf(cfg *config.Config, pool, id string) (secret.Value, bool) {
	for _, p := range cfg.Providers {
		for _, k := range p.Keys {
			if p.Name == pool && k.ID == id && !k.Key.IsZero() {
				return k.Key, true
			}
		}
	}
	return secret.Value{}, false
}

// shape is all of a configuration but what Reload puts in force.
func shape(cfg *config.Config) string {
	c := cfg.Effective()
	c.Access = config.AccessConfig{}
	text, _ := json.Marshal(c) // keys are constants there
	return string(text)
}

// watch reads certificates again, from time to time, until the context ends.
func (a *App) watch(ctx context.Context) {
	if a.certificates != nil {
		a.certificates.Watch(ctx, watchFiles, a.noteCertificates)
	}
}

func (a *App) noteCertificates(changed bool, err error) {
	a.certificateReads.note(err)
	switch {
	case err != nil:
		a.logger.Error("certificates cannot be read again; those of before stay in use", "error", err)
	case changed:
		for _, x := range a.certificates.Expiries() {
			a.logger.Info("certificates read again", "file", x.File, "expires", x.NotAfter)
		}
	default:
		a.logger.Info("certificates can be read again, and are those in use")
	}
}

// outcome is how something went that is done again and again.
type outcome struct {
	failures atomic.Uint64
	failed   atomic.Bool // the last time
}

func (o *outcome) note(err error) {
	o.failed.Store(err != nil)
	if err != nil {
		o.failures.Add(1)
	}
}
