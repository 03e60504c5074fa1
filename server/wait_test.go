package server_test

// Waiting: who is served when, when a wait ends, and what those leave behind
// who go away.

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

func TestWaiterIsServedTheMomentItsShareHasRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", limits(60, plenty, plenty)))).as("alice")
		for range 58 { // 60 a minute, less what refills while a request is on its way
			alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		}
		got := <-alice.ask(t.Context(), waitFor("a", 30*time.Second))
		require.NoError(t, got.err)
		assert.Equal(t, time.Second, got.after, "one request refills in a second")
	})
}

func TestNobodyWaitsUnlessAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		for _, r := range []*keybrokerv1.AcquireKeyRequest{{Pool: "a"}, waitFor("a", 0)} {
			got := <-alice.ask(t.Context(), r)
			requireFailure(t, got.err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
			assert.Zero(t, got.after)
		}
	})
}

func TestWaitEndsAtTheSoonestOfItsBounds(t *testing.T) {
	for _, c := range []struct {
		name                           string
		maxWait, poolsLongest, ctx, at time.Duration
	}{
		{"what was asked for", 5 * time.Second, 30 * time.Second, time.Minute, 5 * time.Second},
		{"the pool's longest", time.Hour, 30 * time.Second, time.Minute, 30 * time.Second},
		{"before the deadline", time.Hour, 30 * time.Second, 4 * time.Second, 4*time.Second - 50*time.Millisecond},
		{"no time before the deadline", time.Hour, 30 * time.Second, 50 * time.Millisecond, 0},
		{"a pool that never waits", time.Hour, 0, time.Minute, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onePool("a", key("k", slots(1)))
				cfg.Pools[0].MaxWait = c.poolsLongest
				alice := begin(t, cfg).as("alice")
				alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
				ctx, cancel := context.WithTimeout(t.Context(), c.ctx)
				defer cancel()
				got := <-alice.ask(ctx, waitFor("a", c.maxWait))
				requireFailure(t, got.err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
				assert.Equal(t, c.at, got.after)
				retry := detail[*errdetails.RetryInfo](got.err)
				require.NotNil(t, retry)
				assert.Positive(t, retry.GetRetryDelay().AsDuration())
				quota := detail[*errdetails.QuotaFailure](got.err).GetViolations()
				require.Len(t, quota, 1)
				assert.Equal(t, "pool:a", quota[0].GetSubject())
				assert.Equal(t, "concurrency", quota[0].GetDescription())
				summary := alice.look("a").GetSummary()
				assert.Zero(t, summary.GetWaiters())
				assert.EqualValues(t, 1, summary.GetCounters().GetRefused())
			})
		})
	}
}

func TestRetryInfoIsWhenItFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", limits(2, plenty, plenty)))).as("alice")
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
		time.Sleep(detail[*errdetails.RetryInfo](err).GetRetryDelay().AsDuration())
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
	})
}

func TestNobodyWaitsForKeysThatAreAllOutOfUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
		r := waitFor("a", 30*time.Second)
		r.ExcludeKeyIds = []string{"k"}
		got := <-alice.ask(t.Context(), r)
		requireFailure(t, got.err, codes.ResourceExhausted, "NO_USABLE_KEY")
		assert.Nil(t, detail[*errdetails.RetryInfo](got.err))
		assert.Zero(t, got.after)
	})
}

func TestWaitersOfDifferentHoldersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice, bob := w.as("alice"), w.as("bob")
		held := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		var order []string // of one slot: each adds its name while it has it
		var served sync.WaitGroup
		for _, c := range []*caller{alice, alice, alice, bob} { // bob comes last and need not be last
			waiting := c.ask(t.Context(), waitFor("a", 30*time.Second))
			synctest.Wait()
			served.Go(func() {
				got := <-waiting
				assert.NoError(t, got.err)
				order = append(order, c.name)
				c.release(got.lease.GetLeaseId(), true)
			})
		}
		alice.release(held.GetLeaseId(), true)
		served.Wait()
		require.Len(t, order, 4)
		assert.Contains(t, order[:2], "bob", "%v", order)
	})
}

func TestThoseWhoGoAwayLeaveTheirPlace(t *testing.T) {
	for name, goAway := range map[string]func(bob *caller, cancel func()){
		"canceled": func(_ *caller, cancel func()) { cancel() },
		"vanished": func(bob *caller, _ func()) { bob.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, onePool("a", key("k", slots(1))))
				alice, bob, carol := w.as("alice"), w.as("bob"), w.as("carol")
				held := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				bobs := bob.ask(ctx, waitFor("a", 30*time.Second))
				synctest.Wait()
				carols := carol.ask(t.Context(), waitFor("a", 30*time.Second))
				synctest.Wait()
				queues := alice.look("a").GetQueues()
				require.Len(t, queues, 1)
				assert.EqualValues(t, 2, queues[0].GetWaiters())
				assert.EqualValues(t, 2, queues[0].GetHolders())

				time.Sleep(time.Second)
				goAway(bob, cancel)
				assert.Equal(t, codes.Canceled, status.Code((<-bobs).err))
				synctest.Wait()
				assert.EqualValues(t, 1, alice.look("a").GetSummary().GetWaiters())
				alice.release(held.GetLeaseId(), false)
				got := <-carols
				require.NoError(t, got.err)
				assert.Equal(t, time.Second, got.after)
				carol.release(got.lease.GetLeaseId(), true)
				alice.idle("a")
			})
		})
	}
}

func TestDeadlineIsWarnedOfAndNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice := w.as("alice")
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		<-alice.ask(ctx, waitFor("a", time.Minute))
		synctest.Wait()
		calls := w.calls.list()
		last := calls[len(calls)-1]
		assert.Equal(t, codes.ResourceExhausted, last.code, "an answer that says when to come back, not a timeout")
		assert.Equal(t, 950*time.Millisecond, last.took)
	})
}

func TestLaterCallWithTheSameRequestIDTakesThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice, again, bob := w.as("alice"), w.as("alice"), w.as("bob")
		held := bob.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		r := waitFor("a", 30*time.Second)
		r.RequestId = "r1"
		first := alice.ask(t.Context(), r)
		synctest.Wait()
		time.Sleep(time.Second)
		second := again.ask(t.Context(), r)
		got := <-first
		requireFailure(t, got.err, codes.Aborted, "SUPERSEDED")
		assert.Equal(t, time.Second, got.after)
		synctest.Wait()
		assert.EqualValues(t, 1, bob.look("a").GetSummary().GetWaiters(), "one place, not two")

		bob.release(held.GetLeaseId(), false)
		got = <-second
		require.NoError(t, got.err)
		assert.Equal(t, got.lease.GetLeaseId(), alice.lease(r).GetLeaseId(), "and asked a third time, the same lease")
		alice.release(got.lease.GetLeaseId(), true)
		bob.idle("a")
	})
}
