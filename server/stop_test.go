package server_test

// Stopping: those who wait are sent away at once, those under way may end, and
// nobody holds the server up for longer than it is given.

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/pool"
)

// stop stops the server within a time, and tells how long it took.
func (w *world) stop(within time.Duration) time.Duration {
	start := time.Now()
	ctx, cancel := context.WithTimeout(w.Context(), within)
	defer cancel()
	w.server.Stop(ctx)
	return time.Since(start)
}

func TestStopSendsAThousandWaitersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))), onePool("b", key("k", slots(1))))
		holder := w.as("holder")
		held := holder.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		holder.lease(&keybrokerv1.AcquireKeyRequest{Pool: "b"})
		var waiting []<-chan result
		for i := range 20 {
			c := w.as(fmt.Sprintf("service-%d", i))
			for j := range 50 {
				r := waitFor([]string{"a", "b"}[j%2], 30*time.Second)
				waiting = append(waiting, c.ask(t.Context(), r))
			}
		}
		synctest.Wait()
		require.EqualValues(t, 500, holder.look("a").GetSummary().GetWaiters())
		require.EqualValues(t, 500, holder.look("b").GetSummary().GetWaiters())
		holder.release(held.GetLeaseId(), false) // one is served; the others are in the middle of it
		synctest.Wait()
		time.Sleep(time.Second)

		assert.Zero(t, w.stop(10*time.Second), "nobody holds it up")
		served := 0
		for _, c := range waiting {
			got := <-c
			if got.err == nil {
				served++
				continue
			}
			requireFailure(t, got.err, codes.Unavailable, "DRAINING")
			assert.Equal(t, time.Second, got.after)
			retry := detail[*errdetails.RetryInfo](got.err)
			require.NotNil(t, retry)
			assert.GreaterOrEqual(t, retry.GetRetryDelay().AsDuration(), time.Second)
			pushback := got.trailer.Get("grpc-retry-pushback-ms")
			require.Len(t, pushback, 1)
			ms, err := strconv.Atoi(pushback[0])
			require.NoError(t, err)
			assert.GreaterOrEqual(t, ms, 1000)
		}
		assert.Equal(t, 1, served)
	})
}

func TestStopWithoutCallsIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		w.as("alice").lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		assert.Zero(t, w.stop(10*time.Second))
		assert.Zero(t, w.stop(10*time.Second), "twice is harmless")
		_, err := w.as("bob").AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		assert.Equal(t, codes.Unavailable, status.Code(err))
	})
}

// stuck opens a stream whose messages nobody reads, until its handler stands
// still in the middle of sending.
func stuck(t *testing.T, alice *caller, name string) keybrokerv1.AdminService_WatchPoolClient {
	stream, err := alice.operator.WatchPool(t.Context(), &keybrokerv1.WatchPoolRequest{
		Pool: name, MinInterval: durationpb.New(100 * time.Millisecond),
	})
	require.NoError(t, err)
	for range 10 {
		alice.release(alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: name}).GetLeaseId(), true)
		time.Sleep(time.Second)
	}
	return stream
}

// bigPool is one whose state, a page with each message, fills a connection's window.
func bigPool(name string) (keys []pool.Key) {
	for i := range 2000 {
		keys = append(keys, key(fmt.Sprintf("%s-key-%d", name, i), slots(5)))
	}
	return keys
}

func TestCallThatIsStuckIsCutOffAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("big", bigPool("big")...))
		stream := stuck(t, w.as("alice"), "big")
		assert.Equal(t, 3*time.Second, w.stop(3*time.Second))
		for {
			if _, err := stream.Recv(); err != nil {
				assert.Equal(t, codes.Unavailable, status.Code(err))
				return
			}
		}
	})
}

func TestHealthTellsThatItStops(t *testing.T) {
	services := []string{"", "keybroker.v1.KeyBrokerService", "keybroker.v1.AdminService"}
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice := w.as("alice")
		health := healthpb.NewHealthClient(alice.conn)
		var watches []healthpb.Health_WatchClient
		for _, s := range services {
			r, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: s})
			require.NoError(t, err)
			assert.Equal(t, healthpb.HealthCheckResponse_SERVING, r.GetStatus(), s)
			watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: s})
			require.NoError(t, err)
			r, err = watch.Recv()
			require.NoError(t, err)
			assert.Equal(t, healthpb.HealthCheckResponse_SERVING, r.GetStatus(), s)
			watches = append(watches, watch)
		}
		_, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unheard.Of"})
		assert.Equal(t, codes.NotFound, status.Code(err))

		synctest.Wait()
		assert.Zero(t, w.stop(10*time.Second), "clients that watch the health must not hold up the stop")
		for i, watch := range watches {
			r, err := watch.Recv()
			require.NoError(t, err)
			assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, r.GetStatus(), services[i])
		}
	})
}

func TestNewCallsAreTurnedAwayWhileOldOnesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))), onePool("big", bigPool("big")...))
		alice := w.as("alice")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		stuck(t, alice, "big") // keeps the connection open for a while
		stopped := make(chan time.Duration)
		go func() { stopped <- w.stop(3 * time.Second) }()
		synctest.Wait()
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		assert.Equal(t, codes.Unavailable, status.Code(err))
		// A report is a new call too: its client learns at once that this broker
		// has ended, and has nothing to wait for.
		_, err = alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), Final: true})
		assert.Equal(t, codes.Unavailable, status.Code(err))
		<-stopped
	})
}
