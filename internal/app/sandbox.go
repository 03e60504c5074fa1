package app

import (
	"context"
	_ "embed"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sandbox"
)

// SandboxConfig is a configuration whose keys belong to a sandbox on
// SandboxAddress.
//
//go:embed sandbox.yaml
var SandboxConfig []byte

// SandboxAddress is where a sandbox listens unless told otherwise, and where
// SandboxConfig expects it.
const SandboxAddress = "127.0.0.1:7071"

// unstated is what a sandbox enforces on keys whose limits the configuration
// leaves out, so that there is something to learn.
func unstated(d *provider.Dialect) sandbox.Limits {
	switch {
	case d.Type == "github":
		return sandbox.Limits{RPH: 5000}
	case d.Type == "deepseek":
		return sandbox.Limits{Concurrency: 20}
	case d.CombinedTokens:
		return sandbox.Limits{RPM: 60, TPM: 40_000}
	}
	return sandbox.Limits{RPM: 50, ITPM: 40_000, OTPM: 8_000}
}

// SandboxAccounts gives the accounts of a simulated provider that accepts the
// keys of a configuration and enforces its limits.
func SandboxAccounts(cfg *config.Config) []sandbox.Account {
	var all []sandbox.Account
	for _, p := range cfg.Providers {
		if !p.IsEnabled() {
			continue
		}
		byGroup := map[string]*sandbox.Account{}
		var order []string
		add := func(name string, l config.Limits) {
			byGroup[name] = sandboxAccount(&p, name, l)
			order = append(order, name)
		}
		for _, g := range p.Groups {
			add(g.Name, g.Limits)
		}
		for _, k := range p.Keys {
			group := k.Group
			if group == "" {
				group = k.ID
				add(group, k.Limits)
			}
			byGroup[group].Keys = append(byGroup[group].Keys, k.Key.Reveal())
		}
		for _, name := range order {
			all = append(all, *byGroup[name])
		}
	}
	return all
}

// UseSandbox sends the clients of every provider to a sandbox instead; the path
// of each address stays.
func UseSandbox(cfg *config.Config, address string) {
	cfg.Store = config.StoreConfig{Type: config.StoreMemory} // what is used there is nothing worth remembering
	for i := range cfg.Providers {
		p := &cfg.Providers[i]
		u, _ := url.Parse(p.BaseURL) // the configuration has checked it
		u.Scheme, u.Host = "http", address
		p.BaseURL = u.String()
	}
}

func sandboxAccount(p *config.ProviderConfig, group string, own config.Limits) *sandbox.Account {
	d, _ := provider.Lookup(p.Type)
	a := &sandbox.Account{Type: p.Type, Name: p.Name + "-" + group, Flat: p.FlatLimits, Default: enforced(own, d)}
	for _, c := range p.ModelClasses {
		l := tighter(enforced(own, d), enforced(c.Limits, d))
		a.Classes = append(a.Classes, sandbox.Class{Name: c.Name, Models: c.Models, Limits: fill(l, d)})
	}
	a.Default = fill(a.Default, d)
	return a
}

func enforced(l config.Limits, d *provider.Dialect) sandbox.Limits {
	out := sandbox.Limits{
		RPM: l.RPMLimit, ITPM: l.ITPMLimit, OTPM: l.OTPMLimit, TPM: l.TPMLimit,
		RPD: l.RPDLimit, TPD: l.TPDLimit, Concurrency: l.MaxConcurrency,
	}
	if !d.CombinedTokens {
		out.ITPM, out.OTPM = l.GetEffectiveTPM()
		out.TPM = 0
	}
	return out
}

func tighter(a, b sandbox.Limits) sandbox.Limits {
	lower := func(x, y int64) int64 {
		if x == 0 || y > 0 && y < x {
			return y
		}
		return x
	}
	return sandbox.Limits{
		RPM: lower(a.RPM, b.RPM), ITPM: lower(a.ITPM, b.ITPM), OTPM: lower(a.OTPM, b.OTPM), TPM: lower(a.TPM, b.TPM),
		RPD: lower(a.RPD, b.RPD), TPD: lower(a.TPD, b.TPD), Concurrency: lower(a.Concurrency, b.Concurrency),
	}
}

// fill puts a limit where the configuration states none but the provider would
// have one.
func fill(l sandbox.Limits, d *provider.Dialect) sandbox.Limits {
	u := unstated(d)
	for _, f := range []struct{ have, want *int64 }{
		{&l.RPM, &u.RPM}, {&l.ITPM, &u.ITPM}, {&l.OTPM, &u.OTPM}, {&l.TPM, &u.TPM}, {&l.RPH, &u.RPH}, {&l.Concurrency, &u.Concurrency},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	return l
}

// ServeSandbox serves a simulated provider until the context ends, and then
// gives nil.
func ServeSandbox(ctx context.Context, l net.Listener, s *sandbox.Server) error {
	web := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	if err := web.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
