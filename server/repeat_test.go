package server_test

// Repeated requests where there are fallbacks: one request, one lease.

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// A client that repeats a call because the answer was lost gets the same lease,
// wherever that came from; else the first one blocks its slot for nothing.
func TestRepeatedRequestGetsTheLeaseOfTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, chain()...)
		alice, bob := w.as("alice"), w.as("bob")
		held := bob.lease(&keybrokerv1.AcquireKeyRequest{Pool: "first"})
		r := &keybrokerv1.AcquireKeyRequest{Pool: "first", RequestId: "r1"}
		one := alice.lease(r)
		require.Equal(t, "second", one.GetPool())
		bob.release(held.GetLeaseId(), true)
		assert.Equal(t, one.GetLeaseId(), alice.lease(r).GetLeaseId())
	})
}

// The call that waits has the place; a repetition that finds room elsewhere
// must not leave it there to be served too.
func TestRepetitionServedElsewhereEndsTheFirstWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, chain()...)
		alice, again, bob := w.as("alice"), w.as("alice"), w.as("bob")
		ids := map[string]string{}
		for _, p := range []string{"first", "second", "third"} {
			ids[p] = bob.lease(&keybrokerv1.AcquireKeyRequest{Pool: p}).GetLeaseId()
		}
		r := waitFor("first", 30*time.Second)
		r.RequestId = "r1"
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waiting := alice.ask(ctx, r)
		synctest.Wait()
		bob.release(ids["second"], true)
		second := again.lease(r)
		bob.release(ids["first"], true)
		got := <-waiting
		if got.err == nil {
			assert.Equal(t, second.GetLeaseId(), got.lease.GetLeaseId(), "one request, two leases")
		} else {
			requireFailure(t, got.err, codes.Aborted, "SUPERSEDED")
		}
	})
}
