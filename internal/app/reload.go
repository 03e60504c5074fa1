package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	keys   map[KeyName]secret.Value
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
	if err := a.sameKeys(cfg); err != nil {
		return err
	}
	policy, err := Policy(cfg)
	if err != nil {
		return err
	}
	now, next := a.force.Load(), &inForce{policy, Keys(cfg)}
	var changed []KeyName // once each, under the name of the provider, however many pools it has
	for _, p := range enabled(cfg) {
		for _, k := range p.Keys {
			if name := (KeyName{p.Name, k.ID}); !k.Key.Equal(now.keys[name]) {
				changed = append(changed, name)
			}
		}
	}
	slices.SortFunc(changed, func(a, b KeyName) int { return strings.Compare(a.String(), b.String()) })
	a.force.Store(next)
	for _, n := range changed {
		a.broker.Renewed(n.Pool, n.ID)
		a.logger.Info("key has a new value", "pool", n.Pool, "key", n.ID)
	}
	if shape(cfg) != shape(a.cfg) {
		a.logger.Warn("the configuration has changed in more than keys' values and access: that takes effect with a restart")
	}
	a.logger.Info("configuration read again", "keys_changed", len(changed), "rules", len(cfg.Access.Rules), "tokens", len(cfg.Access.Tokens))
	return nil
}

// KeyName names a key by its pool and its id there.
type KeyName struct{ Pool, ID string }

func (n KeyName) String() string { return n.Pool + "/" + n.ID }

// Keys gives the values of the keys of all pools that are enabled.
func Keys(cfg *config.Config) map[KeyName]secret.Value {
	all := map[KeyName]secret.Value{}
	for _, p := range enabled(cfg) {
		for _, k := range p.Keys {
			all[KeyName{p.Name, k.ID}] = k.Key
			for _, further := range p.Pools {
				all[KeyName{further.Name, k.ID}] = k.Key
			}
		}
	}
	return all
}

// enabled lists the providers that are not switched off.
func enabled(cfg *config.Config) []config.ProviderConfig {
	return slices.DeleteFunc(slices.Clone(cfg.Providers), func(p config.ProviderConfig) bool { return !p.IsEnabled() })
}

// sameKeys refuses a configuration with other keys or pools, by their names, or another wire. To
// take part of it would leave in use what its author has taken out, or give one
// credential two names.
func (a *App) sameKeys(cfg *config.Config) error {
	if (cfg.Server.TLS == nil) != (a.cfg.Server.TLS == nil) {
		return errors.New("server.tls has come or gone, which takes a restart: nothing of the new configuration is in force")
	}
	other := append(notIn(a.cfg, cfg, " added"), notIn(cfg, a.cfg, " removed")...)
	if len(other) == 0 {
		return nil
	}
	slices.Sort(other)
	return fmt.Errorf("other keys or pools than before (%s), which takes a restart: nothing of the new configuration is in force", strings.Join(other, ", "))
}

// notIn lists the pools and keys of is that was does not have. The keys of a provider that was
// does not have go without saying.
func notIn(was, is *config.Config, change string) (other []string) {
	providers, keys := map[string]string{}, Keys(was) // by pool
	for _, p := range enabled(was) {
		providers[p.Name] = p.Name
		for _, further := range p.Pools {
			providers[further.Name] = p.Name
		}
	}
	for _, p := range enabled(is) {
		for _, further := range p.Pools {
			if providers[further.Name] != p.Name {
				other = append(other, "pool "+further.Name+change)
			}
		}
		if providers[p.Name] != p.Name {
			other = append(other, "pool "+p.Name+change)
			continue
		}
		for _, k := range p.Keys {
			name := KeyName{p.Name, k.ID}
			if _, ok := keys[name]; !ok {
				other = append(other, name.String()+change)
			}
		}
	}
	return other
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
