package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

const (
	plenty = 1_000_000_000
	day    = 24 * time.Hour
)

// onePool is a pool of one key with limits on requests a minute and on slots.
func onePool(name string, rpm, slots int64) broker.DomainConfig {
	dialect, _ := provider.Lookup("anthropic")
	k := pool.Key{ID: "k"}
	for d, n := range []int64{rpm, plenty, plenty} {
		k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	k.Limits = append(k.Limits, pool.Limit{Dimension: provider.Concurrency, Amount: slots})
	return broker.DomainConfig{
		Config: pool.Config{Name: name, Dialect: dialect, Flat: true, Keys: []pool.Key{k}},
		Pools: []broker.PoolConfig{{
			Rules:      pool.Rules{Name: name, StartWithin: 2 * time.Second},
			DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: time.Minute,
		}},
	}
}

// daily is a pool of one key with limits on requests a minute and a day.
func daily(rpm, rpd int64) broker.DomainConfig {
	cfg := onePool("a", rpm, 1000)
	limits := cfg.Keys[0].Limits
	cfg.Keys[0].Limits = append(limits[:len(limits)-1], pool.Limit{Dimension: provider.Requests, Window: day, Amount: rpd, Kind: provider.Sliding})
	return cfg
}

// ask asks pool "a" for a lease at once.
func ask(holder string) broker.Request { return broker.Request{Holder: holder, Pool: "a"} }

// waiting asks pool "a" for a lease and waits for it.
func waiting(holder string, d time.Duration) broker.Request {
	r := ask(holder)
	r.MaxWait = d
	return r
}

// repeated asks pool "a" for a lease at once, with a request id.
func repeated(id string) broker.Request {
	r := ask("h")
	r.Request = id
	return r
}

// process is one life of a broker. It ends with crash, or in order with Stop.
type process struct {
	*testing.T
	*broker.Broker
	crash context.CancelFunc
}

func begin(t *testing.T, store broker.Store, pools ...broker.DomainConfig) *process {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	b, err := broker.New(ctx, store, pools)
	require.NoError(t, err)
	return &process{t, b, cancel}
}

// afterCrash is when a large limit a minute has room again. For 2 s the predecessor may
// still grant, and for 2 s more (StartWithin) the requests of its leases may arrive.
const afterCrash = 5 * time.Second

// take asks for up to most leases until there is no room, and returns how many it got.
func (p *process) take(most int) (n int) {
	for ; n < most; n++ {
		if _, err := p.Acquire(p.Context(), ask("h")); err != nil {
			require.ErrorIs(p, err, pool.ErrAllKeysExhausted)
			break
		}
	}
	return n
}

// state is the state of pool "a".
func (p *process) state() pool.Snapshot {
	p.Helper()
	v, err := p.Inspect("a", pool.Query{})
	require.NoError(p, err)
	return v.Snapshot
}

// used is how many requests are charged to the first limit of pool "a".
func (p *process) used() int64 { return p.state().Quotas[0].Limits[0].Used }

// health is the health of each key of pool "a".
func (p *process) health() (all []pool.Health) {
	for _, k := range p.state().Keys {
		all = append(all, k.Health)
	}
	return all
}
