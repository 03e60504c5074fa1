package app_test

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

func TestMetricsAreServed(t *testing.T) {
	value := canary.Key("metrics")
	cfg := parse(t, `
server: {listen: "127.0.0.1:0", metrics_listen: "127.0.0.1:0", plaintext: true}
store: {type: memory}
audit: {path: `+canary.Dir(t)+`/audit.log}
providers:
- {name: p, type: anthropic, flat_limits: true, keys: [{id: one, key: `+value+`, rpm_limit: 10}]}
`)
	var heard atomic.Int32
	a, err := app.New(t.Context(), cfg, app.Options{
		Logger:  canary.Logger("the broker's log"),
		Observe: func(string, codes.Code, time.Duration) { heard.Add(1) },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	conn, err := grpc.NewClient(a.Addr().String(), append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	defer conn.Close()
	lease, err := keybrokerv1.NewKeyBrokerServiceClient(conn).AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(t, err)
	require.Equal(t, value, lease.GetApiKey())
	assert.EqualValues(t, 1, heard.Load())
	require.NoError(t, a.Reload(func() (*config.Config, error) { return cfg, nil }))

	got := scrape(t, a)
	for _, want := range []string{
		`keybroker_grpc_requests_total{code="OK",method="AcquireKey"} 1`,
		`keybroker_grpc_request_seconds_count{method="AcquireKey"} 1`,
		`keybroker_pool_keys{pool="p"} 1`,
		`keybroker_pool_keys_available{pool="p"} 1`,
		`keybroker_pool_open_leases{pool="p"} 1`,
		`keybroker_pool_leases_granted_total{pool="p"} 1`,
		`keybroker_limit_amount{dimension="requests",group="one",model_class="(all models)",pool="p",window="1m"} 10`,
		`keybroker_connections 1`,
		`keybroker_reload_failing{what="config"} 0`,
		`keybroker_audit_failures_total 0`,
		`go_goroutines `,
	} {
		assert.Contains(t, got, "\n"+want)
	}
	assert.NotContains(t, got, "certificate", "there are none")
	assert.NotContains(t, got, value)
	assert.NotContains(t, got, lease.GetLeaseId())
}

func scrape(t *testing.T, a *app.App) string {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.MetricsAddr()+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", body)
	canary.Text("metrics", string(body))
	return string(body)
}
