package server_test

// Two pools over one quota group, and instances of one identity, as callers meet them.

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/pool"
)

func TestTwoPoolsOverOneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", key("k", slots(2)))
		batch := cfg.Pools[0]
		batch.Rules = pool.Rules{Name: "batch", StartWithin: time.Second}
		cfg.Pools = append(cfg.Pools, batch)
		w := begin(t, cfg)
		alice := w.as("alice")
		first := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		second := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "batch"})
		assert.Equal(t, []string{"a", "batch", "k", "k"}, []string{first.GetPool(), second.GetPool(), first.GetKeyId(), second.GetKeyId()})
		_, err := alice.AcquireKey(alice.in(t.Context()), &keybrokerv1.AcquireKeyRequest{Pool: "batch"})
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
		got := alice.ask(t.Context(), waitFor("batch", 30*time.Second))
		synctest.Wait()
		_, err = alice.ReleaseKey(alice.in(t.Context()), &keybrokerv1.ReleaseKeyRequest{LeaseId: first.GetLeaseId()})
		require.NoError(t, err)
		require.NoError(t, (<-got).err, "what one pool gives back, the other has")
		list, err := alice.operator.ListPools(alice.in(t.Context()), &keybrokerv1.ListPoolsRequest{})
		require.NoError(t, err)
		var names []string
		for _, p := range list.GetPools() {
			names = append(names, p.GetName())
		}
		assert.Equal(t, []string{"a", "batch"}, names)
	})
}

func TestInstancesOfOneIdentityTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", limits(60, plenty, plenty))))
		alice := w.as("alice")
		for range 58 {
			alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		}
		from := func(instance string) <-chan result {
			return alice.ask(metadata.AppendToOutgoingContext(t.Context(), "keybroker-instance", instance), waitFor("a", 30*time.Second))
		}
		var busy []<-chan result
		for range 10 {
			busy = append(busy, from("pod-1"))
		}
		synctest.Wait()
		got := <-from("pod-2")
		require.NoError(t, got.err)
		assert.LessOrEqual(t, got.after, 2*time.Second)
		for _, b := range busy {
			require.NoError(t, (<-b).err)
		}
		_, err := alice.AcquireKey(metadata.AppendToOutgoingContext(t.Context(), "keybroker-instance", strings.Repeat("x", 300)), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		requireFailure(t, err, codes.InvalidArgument, "INVALID_REQUEST")
	})
}
