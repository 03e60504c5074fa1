package app_test

// The whole program in one process: a broker and a simulated provider on free
// ports, and a client that does what every client has to do.

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// program is what serve --sandbox runs.
type program struct {
	keys     keybrokerv1.KeyBrokerServiceClient
	operator keybrokerv1.AdminServiceClient
	sandbox  *sandbox.Server
	app      *app.App
	stop     func() error
}

func start(t *testing.T) *program {
	cfg := simulated(t)
	cfg.Audit.Path, cfg.Server.MetricsListen = filepath.Join(canary.Dir(t), "audit.jsonl"), "127.0.0.1:0"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Server.Listen = "127.0.0.1:0"
	for i := range cfg.Providers {
		require.Contains(t, cfg.Providers[i].BaseURL, app.SandboxAddress)
		cfg.Providers[i].BaseURL = strings.Replace(cfg.Providers[i].BaseURL, app.SandboxAddress, l.Addr().String(), 1)
	}
	p := &program{sandbox: sandbox.New(app.SandboxAccounts(cfg), sandbox.Options{Seed: 1})}
	a, err := app.New(t.Context(), cfg, app.Options{Logger: canary.Logger("the broker's log")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, app.ServeSandbox(ctx, l, p.sandbox)) })
	done := make(chan error, 1)
	running.Go(func() { done <- a.Run(ctx) })
	p.stop = sync.OnceValue(func() error {
		cancel()
		running.Wait()
		return <-done
	})
	t.Cleanup(func() { assert.NoError(t, p.stop()) })
	p.app = a
	conn, err := grpc.NewClient(a.Addr().String(), append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	p.keys, p.operator = keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn)
	return p
}

func TestProgramServesEverySurface(t *testing.T) {
	p := start(t)
	for _, c := range []struct{ pool, model, path, body, in, out string }{
		{"anthropic", "claude-sonnet-4-5", "/v1/messages",
			`{"model":"claude-sonnet-4-5","max_tokens":50,"messages":[{"role":"user","content":"hello"}]}`, "input_tokens", "output_tokens"},
		{"openai", "gpt-4o", "/chat/completions",
			`{"model":"gpt-4o","max_tokens":50,"messages":[{"role":"user","content":"hello"}]}`, "prompt_tokens", "completion_tokens"},
		{"openai", "gpt-4o-mini", "/responses", `{"model":"gpt-4o-mini","max_output_tokens":50,"input":"hello"}`, "input_tokens", "output_tokens"},
	} {
		t.Run(c.pool+c.path, func(t *testing.T) {
			lease, err := p.keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{
				Pool: c.pool, Model: c.model, InputTokens: 20, MaxOutputTokens: 20_000,
			})
			require.NoError(t, err)
			look := func() (*keybrokerv1.Pool, *keybrokerv1.Quota) {
				r, err := p.operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: c.pool})
				require.NoError(t, err)
				return r.GetPool(), quota(t, r.GetPool(), lease.GetKeyId(), c.model)
			}
			before, q := look()
			assert.EqualValues(t, 1, before.GetSummary().GetOpenLeases())
			assert.EqualValues(t, 1, q.GetOpenLeases())
			if c.pool == "anthropic" {
				assert.EqualValues(t, 20_000, find(t, q, keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS).GetHeld())
			}
			report := call(t, lease, c.path, c.body, c.in, c.out)
			ended, err := p.keys.ReportUsage(t.Context(), report)
			require.NoError(t, err)
			assert.False(t, ended.GetAlreadySettled())

			after, q := look()
			assert.Zero(t, after.GetSummary().GetOpenLeases())
			assert.Equal(t, before.GetSummary().GetCounters().GetReleased()+1, after.GetSummary().GetCounters().GetReleased())
			if c.pool == "anthropic" { // what was not used is free again
				l := find(t, q, keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS)
				assert.Zero(t, l.GetHeld())
				assert.LessOrEqual(t, l.GetUsed(), report.GetUsage().GetOutputTokens())
			} else { // it counts what was asked for; some refills while the test runs
				assert.Greater(t, find(t, q, keybrokerv1.Dimension_DIMENSION_TOKENS).GetUsed(), int64(1000))
			}
		})
	}
	for _, a := range p.sandbox.Stats().Accounts {
		assert.Zero(t, a.Unauthorized, a.Name)
	}
	assert.Zero(t, p.sandbox.Stats().UnknownKeys)
	scrape(t, p.app)
	require.NoError(t, p.stop())
	_, err := p.keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "openai"})
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

// call does what the lease says, and gives what is to be reported.
func call(t *testing.T, l *keybrokerv1.AcquireKeyResponse, path, body, in, out string) *keybrokerv1.ReportUsageRequest {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.GetBaseUrl()+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("anthropic-version", "2023-06-01")
	req.Header.Set(l.GetAuthHeader(), l.GetAuthPrefix()+l.GetApiKey())
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", text)
	var answer struct{ Usage map[string]any }
	require.NoError(t, json.Unmarshal(text, &answer))
	count := func(name string) *int64 {
		n, ok := answer.Usage[name].(float64)
		require.True(t, ok, "%s in %s", name, text)
		return new(int64(n))
	}
	r := &keybrokerv1.ReportUsageRequest{
		LeaseId: l.GetLeaseId(), StatusCode: int32(resp.StatusCode), Headers: map[string]string{}, Final: true,
		Usage: &keybrokerv1.Usage{InputTokens: count(in), OutputTokens: count(out)},
	}
	for name := range resp.Header {
		r.Headers[name] = resp.Header.Get(name)
	}
	return r
}

// quota finds the account that a lease was charged to.
func quota(t *testing.T, p *keybrokerv1.Pool, keyID, model string) *keybrokerv1.Quota {
	group := ""
	for _, k := range p.GetKeys() {
		if k.GetId() == keyID {
			group = k.GetGroup()
		}
	}
	for _, q := range p.GetQuotas() {
		if q.GetGroup() == group && q.GetModelClass() == model {
			return q
		}
	}
	require.Failf(t, "no quota", "group %q, model %q", group, model)
	return nil
}

func find(t *testing.T, q *keybrokerv1.Quota, d keybrokerv1.Dimension) *keybrokerv1.Limit {
	for _, l := range q.GetLimits() {
		if l.GetDimension() == d {
			return l
		}
	}
	require.Failf(t, "no limit", "%v", d)
	return nil
}

func TestListenersThatCannotBeOpened(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct{ listen, admin, want string }{
		{taken.Addr().String(), "", "server.listen"},
		{"127.0.0.1:0", taken.Addr().String(), "server.admin_listen"},
	} {
		cfg := provide(t, "anthropic", "keys: [{key: sk-cnry7f3a-app-1}]")
		cfg.Server.Listen, cfg.Server.AdminListen = c.listen, c.admin
		_, err := app.New(t.Context(), cfg, app.Options{Logger: canary.Logger("the broker's log")})
		require.ErrorContains(t, err, c.want)
	}
}

func TestRunEndsWhenTheContextHasEndedBefore(t *testing.T) {
	cfg := provide(t, "anthropic", "keys: [{key: sk-cnry7f3a-app-1}]")
	cfg.Server.Listen, cfg.Server.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	a, err := app.New(t.Context(), cfg, app.Options{Logger: canary.Logger("the broker's log")})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.NoError(t, a.Run(ctx))
}
