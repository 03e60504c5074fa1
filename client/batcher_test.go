package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keybroker/keybroker/client"
	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// pool shows a pool as operators see it.
func (w *world) pool(name string) *keybrokerv1.Pool {
	conn, err := grpc.NewClient(w.target, append(append(w.reach, wiretap.Options()...), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(w, err)
	defer conn.Close()
	resp, err := keybrokerv1.NewAdminServiceClient(conn).GetPool(context.Background(), &keybrokerv1.GetPoolRequest{Pool: name})
	require.NoError(w, err)
	return resp.GetPool()
}

// A thousand requests a second make a few calls a second.
func TestManyRequestsFewCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, wide)
		c := w.client()
		const sent = 4000
		var open sync.WaitGroup
		for range sent {
			time.Sleep(time.Millisecond)
			open.Go(func() {
				l, err := c.Acquire(t.Context(), client.Request{Pool: "wide", Model: "gpt-4o", InputTokens: 10, MaxOutputTokens: 10})
				if !assert.NoError(t, err) {
					return
				}
				in, out := int64(10), int64(5)
				_ = l.Report(t.Context(), client.Report{Status: 200})
				_ = l.Report(t.Context(), client.Report{Status: 200, Usage: client.Usage{InputTokens: &in, OutputTokens: &out}, Final: true})
			})
		}
		open.Wait()
		calls := w.called("AcquireKey") + w.called("ReportUsage") + w.called("ReleaseKey")
		t.Logf("%d requests, %d asks and %d reports in 4 s", sent, w.called("AcquireKey"), calls-w.called("AcquireKey"))
		assert.LessOrEqual(t, calls, int64(80), "20 a second")
		require.NoError(t, c.Close())
		p := w.pool("wide")
		assert.Zero(t, p.GetSummary().GetOpenLeases())
		assert.EqualValues(t, w.called("AcquireKey"), p.GetSummary().GetCounters().GetReleased())
	})
}

// What a fleet wants and the provider allows, it gets, evenly, though what is leased
// for several and not needed goes back.
func TestSharingWastesNothing(t *testing.T) {
	for name, c := range map[string]struct{ rpm, processes, callers int }{
		"few":         {50, 10, 1},
		"some":        {600, 10, 5},
		"one process": {300, 1, 20},
	} {
		t.Run(name, func(t *testing.T) {
			got := saturate(t, c.rpm, c.processes, c.callers)
			sum := 0
			for i, n := range got {
				sum += n
				assert.GreaterOrEqual(t, n, 2*c.rpm*7/10/c.processes, "process %d: most of its part of what refills: %v", i, got)
			}
			allowed := 2*c.rpm + c.rpm*58/60 // what refills, and a full bucket but for what may arrive two seconds late
			assert.InEpsilon(t, allowed, sum, 0.01, "%v", got)
		})
	}
}

// saturate gives how many requests each process makes in two minutes, if it has so
// many callers and each makes another as soon as the provider has answered.
func saturate(t *testing.T, rpm, processes, callers int) []int {
	got := make([]int, processes)
	synctest.Test(t, func(t *testing.T) {
		fleet := fleet(t, rpm, processes)
		end := time.Now().Add(2 * time.Minute)
		ctx, cancel := context.WithDeadline(t.Context(), end)
		defer cancel()
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range processes * callers {
			i %= processes
			all.Go(func() {
				for {
					_, err := roundTrip(ctx, fleet[i], 0)
					switch {
					case err == nil:
						mu.Lock()
						got[i]++
						mu.Unlock()
					case time.Until(end) < time.Second: // else it has waited for half a minute
						return
					}
				}
			})
		}
		all.Wait()
	})
	return got
}

// What comes by chance, and is less than the provider allows, hardly waits, even
// where there is nothing in reserve at first.
func TestRoomForWhatComesByChance(t *testing.T) {
	const rpm = 600
	synctest.Test(t, func(t *testing.T) {
		fleet := fleet(t, rpm, 10)
		var all sync.WaitGroup
		for range rpm {
			all.Go(func() { _, _ = roundTrip(t.Context(), fleet[0], client.NoWait) })
		}
		all.Wait()
		random := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		var waits []time.Duration
		for start := time.Now(); time.Since(start) < time.Minute; {
			time.Sleep(time.Duration(random.ExpFloat64() / (0.9 * rpm) * float64(time.Minute)))
			c := fleet[random.IntN(len(fleet))]
			all.Go(func() {
				waited, err := roundTrip(t.Context(), c, 0)
				assert.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				waits = append(waits, waited)
			})
		}
		all.Wait()
		slices.Sort(waits)
		assert.Less(t, waits[len(waits)*99/100], time.Second)
	})
}

// fleet is processes that share a key which allows so many requests a minute, on
// virtual time.
func fleet(t *testing.T, rpm, processes int) []*client.Client {
	w := bubble(t, fmt.Sprintf(`
  - name: limited
    type: openai
    base_url: $URL
    keys:
      - {id: one, key: sk-cnry7f3a-client-one, rpm_limit: %d, tpm_limit: 100000000}
`, rpm))
	fleet := make([]*client.Client, processes)
	for i := range fleet {
		fleet[i] = w.client(client.WithHolder(fmt.Sprint(i)))
	}
	return fleet
}

// roundTrip leases, and uses what it gets for as long as a provider takes to answer.
// It gives how long it waited for that.
func roundTrip(ctx context.Context, c *client.Client, maxWait time.Duration) (waited time.Duration, err error) {
	start := time.Now()
	l, err := c.Acquire(ctx, client.Request{Pool: "limited", Model: "gpt-4o", MaxWait: maxWait})
	if err != nil {
		return 0, err
	}
	waited = time.Since(start)
	time.Sleep(100 * time.Millisecond)
	return waited, l.Report(context.WithoutCancel(ctx), client.Report{Status: 200, Final: true})
}

// What was leased and is not needed any more goes back by itself.
func TestUnusedGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, strings.Replace(wide, "rpm_limit", "rpd_limit: 100000, rpm_limit", 1))
		c := w.client()
		for range 400 {
			l, err := c.Acquire(t.Context(), client.Request{Pool: "wide", Model: "gpt-4o"})
			require.NoError(t, err)
			require.NoError(t, l.Report(t.Context(), client.Report{Status: 200, Final: true}))
		}
		time.Sleep(10 * time.Second)
		assert.Zero(t, w.pool("wide").GetSummary().GetOpenLeases())
		for _, l := range w.pool("wide").GetQuotas()[0].GetLimits() {
			if l.GetWindow().AsDuration() == 24*time.Hour {
				assert.InDelta(t, 400, l.GetUsed(), 15, "but for what refills in ten seconds")
			}
		}
	})
}

func TestWithoutABroker(t *testing.T) {
	c, err := client.New("127.0.0.1:1")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Acquire(t.Context(), client.Request{Pool: "p", Model: "m"})
	require.ErrorIs(t, err, client.ErrUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Acquire(ctx, client.Request{Pool: "p", Model: "m"})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	_, err = c.Acquire(t.Context(), client.Request{Pool: "p", Model: "m"})
	require.ErrorIs(t, err, client.ErrClosed)
	assert.False(t, errors.Is(err, client.ErrUnavailable))
}
