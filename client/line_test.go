package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keybroker/keybroker/client"
	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/server"
)

// pool shows a pool as operators see it.
func (w *world) pool(name string) *keybrokerv1.Pool {
	conn, err := grpc.NewClient(w.target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(w, err)
	defer conn.Close()
	resp, err := keybrokerv1.NewAdminServiceClient(conn).GetPool(context.Background(), &keybrokerv1.GetPoolRequest{Pool: name})
	require.NoError(w, err)
	return resp.GetPool()
}

// A thousand requests a second make a few calls a second.
func TestManyRequestsFewCalls(t *testing.T) {
	w := begin(t, wide)
	c := w.client()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var failed atomic.Int64
	var open sync.WaitGroup
	start := time.Now()
	sent := 0
	for ; time.Since(start) < 4*time.Second; sent++ {
		<-tick.C
		open.Go(func() {
			l, err := c.Acquire(t.Context(), client.Request{Pool: "wide", Model: "gpt-4o", InputTokens: 10, MaxOutputTokens: 10})
			if err != nil {
				failed.Add(1)
				return
			}
			in, out := int64(10), int64(5)
			_ = l.Report(t.Context(), client.Report{Status: 200})
			_ = l.Report(t.Context(), client.Report{Status: 200, Usage: client.Usage{InputTokens: &in, OutputTokens: &out}, Final: true})
		})
	}
	open.Wait()
	assert.Zero(t, failed.Load())
	calls := w.called("AcquireKey") + w.called("ReportUsage") + w.called("ReleaseKey")
	t.Logf("%d requests, %d asks and %d reports in 4 s", sent, w.called("AcquireKey"), calls-w.called("AcquireKey"))
	assert.LessOrEqual(t, calls, int64(80), "20 a second")
	require.NoError(t, c.Close())
	p := w.pool("wide")
	assert.Zero(t, p.GetSummary().GetOpenLeases())
	assert.EqualValues(t, w.called("AcquireKey"), p.GetSummary().GetCounters().GetReleased())
}

// Fifty a minute, shared by ten processes for two minutes: whoever is first takes
// the burst, since nobody else asks; from then on all get the same.
func TestFewRequestsAreSharedEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := bubble(t, `
providers:
  - name: few
    type: openai
    base_url: http://provider.test
    keys:
      - {id: one, key: sk-one, rpm_limit: 50, tpm_limit: 100000000}
`)
		start := time.Now()
		var got [10]int
		var all sync.WaitGroup
		for i := range got {
			c, err := client.New("passthrough:///broker", client.WithPlaintext(), client.WithHolder(fmt.Sprint(i)), client.WithDialOptions(dial))
			require.NoError(t, err)
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				for {
					l, err := c.Acquire(ctx, client.Request{Pool: "few", Model: "gpt-4o"})
					for errors.Is(err, client.ErrExhausted) && time.Since(start) < 110*time.Second { // it has waited in vain for half a minute
						l, err = c.Acquire(ctx, client.Request{Pool: "few", Model: "gpt-4o"})
					}
					if err != nil {
						assert.NoError(t, c.Close())
						return
					}
					got[i]++
					_ = l.Report(ctx, client.Report{Status: 200, Final: true})
				}
			})
		}
		all.Wait()
		sum := 0
		for i, n := range got {
			sum += n
			assert.GreaterOrEqual(t, n, 7, "process %d: a tenth of what refills, in line: %v", i, got)
		}
		assert.GreaterOrEqual(t, sum, 125, "%v", got) // of 147: what was leased together and not needed refills anew
	})
}

// bubble starts a broker that is reached without a network, for virtual time.
func bubble(t *testing.T, text string) grpc.DialOption {
	cfg, err := config.Parse("test.yaml", []byte(text), app.ConfigOptions())
	require.NoError(t, err)
	pools, keys := app.Pools(cfg)
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	s := server.New(server.Options{Broker: b, Keys: keys, Logger: slog.New(slog.DiscardHandler)})
	l := bufconn.Listen(1 << 16)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.Stop(ctx)
		require.NoError(t, <-done)
	})
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })
}

// What was leased and is not needed any more goes back by itself.
func TestUnusedGoesBack(t *testing.T) {
	w := begin(t, wide)
	c := w.client()
	for range 400 {
		l, err := c.Acquire(t.Context(), client.Request{Pool: "wide", Model: "gpt-4o"})
		require.NoError(t, err)
		require.NoError(t, l.Report(t.Context(), client.Report{Status: 200, Final: true}))
	}
	require.Eventually(t, func() bool { return w.pool("wide").GetSummary().GetOpenLeases() == 0 }, 10*time.Second, 50*time.Millisecond)
	for _, l := range w.pool("wide").GetQuotas()[0].GetLimits() {
		if l.GetDimension() == keybrokerv1.Dimension_DIMENSION_REQUESTS {
			assert.LessOrEqual(t, l.GetUsed(), int64(400))
		}
	}
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
