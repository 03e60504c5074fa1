package server_test

// A pool as it changes: at once, then after changes, and never too often.

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// arrival is a state of a watched pool, and when it came.
type arrival struct {
	at   time.Duration
	open int64
	err  error
}

func (c *caller) watch(ctx context.Context, r *keybrokerv1.WatchPoolRequest) <-chan arrival {
	stream, err := c.operator.WatchPool(ctx, r)
	require.NoError(c, err)
	out, start := make(chan arrival, 100), time.Now()
	go func() {
		for {
			m, err := stream.Recv()
			out <- arrival{time.Since(start), m.GetPool().GetSummary().GetOpenLeases(), err}
			if err != nil {
				return
			}
		}
	}()
	return out
}

func TestWatchPoolTellsChangesNotMoreOftenThanAsked(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		interval *durationpb.Duration
		leases   []time.Duration // moments
		want     []arrival
	}{
		{"at once, then after changes", durationpb.New(time.Second), []time.Duration{1500 * ms, 3000 * ms},
			[]arrival{{0, 0, nil}, {1500 * ms, 1, nil}, {3000 * ms, 2, nil}}},
		{"changes within the interval are told together", durationpb.New(time.Second), []time.Duration{100 * ms, 200 * ms, 300 * ms},
			[]arrival{{0, 0, nil}, {1000 * ms, 3, nil}}},
		{"a long silence saves up nothing", durationpb.New(time.Second), []time.Duration{5500 * ms, 5600 * ms, 5700 * ms},
			[]arrival{{0, 0, nil}, {5500 * ms, 1, nil}, {6500 * ms, 3, nil}}},
		{"unset: a second", nil, []time.Duration{100 * ms}, []arrival{{0, 0, nil}, {1000 * ms, 1, nil}}},
		{"too short: 100 ms", durationpb.New(1), []time.Duration{10 * ms}, []arrival{{0, 0, nil}, {100 * ms, 1, nil}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := begin(t, onePool("a", key("k", slots(50)))).as("alice")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				seen := alice.watch(ctx, &keybrokerv1.WatchPoolRequest{Pool: "a", MinInterval: c.interval})
				start := time.Now()
				for _, at := range c.leases {
					time.Sleep(at - time.Since(start))
					synctest.Wait()
					alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
				}
				time.Sleep(10 * time.Second)
				cancel()
				var got []arrival
				for a := range seen {
					if a.err != nil {
						assert.Equal(t, codes.Canceled, status.Code(a.err))
						break
					}
					got = append(got, a)
				}
				assert.Equal(t, c.want, got)
			})
		})
	}
}

func TestWatchPoolEndsWithTheServer(t *testing.T) {
	for _, changed := range []bool{false, true} {
		t.Run(fmt.Sprintf("changed=%v", changed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := begin(t, onePool("a", key("k", slots(5))))
				alice := w.as("alice")
				seen := alice.watch(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a", MinInterval: durationpb.New(time.Hour)})
				require.NoError(t, (<-seen).err)
				if changed {
					alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
				}
				synctest.Wait()
				assert.Zero(t, w.stop(10*time.Second))
				requireFailure(t, (<-seen).err, codes.Unavailable, "DRAINING")
			})
		})
	}
}

func TestWatcherThatVanishesIsNoFaultOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("big", bigPool("big")...))
		alice, watcher := w.as("alice"), w.as("watcher")
		stream, err := watcher.operator.WatchPool(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "big", MinInterval: durationpb.New(1)})
		require.NoError(t, err)
		for range 10 { // until its handler stands still in the middle of sending
			alice.release(alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "big"}).GetLeaseId(), true)
			time.Sleep(time.Second)
		}
		watcher.conn.Close()
		synctest.Wait()
		calls := w.calls.list()
		last := calls[len(calls)-1]
		assert.Equal(t, keybrokerv1.AdminService_WatchPool_FullMethodName, last.method)
		assert.Equal(t, codes.Canceled, last.code)
		assert.NotContains(t, w.logs.String(), `"level":"ERROR"`)
		_ = stream
	})
}
