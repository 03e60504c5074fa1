package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// deafStore is a Memory that does not answer renewals.
type deafStore struct{ Memory }

func (*deafStore) Renew(ctx context.Context, _ string, _ uint64) error {
	<-ctx.Done()
	return ctx.Err()
}

// smallDomain is a domain with one pool and one key.
func smallDomain() DomainConfig {
	dialect, _ := provider.Lookup("anthropic")
	return DomainConfig{
		Config: pool.Config{Name: "a", Dialect: dialect, Flat: true, Keys: []pool.Key{{ID: "k"}}},
		Pools:  []PoolConfig{{Rules: pool.Rules{Name: "a", StartWithin: time.Second}, DefaultTTL: time.Minute, MaxTTL: time.Minute}},
	}
}

// A call that waits for the store to confirm the ownership is answered when that cannot matter
// any more: the store may never be asked again.
func TestNobodyWaitsForTheStoreInVain(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*owner)
		want error
	}{
		"a successor": {func(o *owner) { o.do(func(l *locked, now pool.Time) { l.fence(now) }) }, ErrNotOwner},
		"a close":     {(*owner).close, ErrDraining},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				o, err := newOwner(ctx, &deafStore{}, smallDomain())
				require.NoError(t, err)
				time.Sleep(time.Minute) // nobody has asked, so the ownership lease has ended
				start := time.Now()
				heard := make(chan error, 1)
				go func() { heard <- o.confirmOwnership(t.Context()) }()
				synctest.Wait()
				c.end(o)
				require.ErrorIs(t, <-heard, c.want)
				assert.Zero(t, time.Since(start))
				cancel()
				<-o.stopped
			})
		})
	}
}
