package client_test

// A client, a whole broker and a simulated provider: over loopback, or in a bubble,
// without a network and on virtual time.

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keybroker/keybroker/client"
	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
	"github.com/keybroker/keybroker/server"
)

// world is a broker whose keys belong to a simulated provider.
type world struct {
	testing.TB
	provider *sandbox.Server
	name     string            // of the first pool
	front    atomic.Value      // http.HandlerFunc: answers in the provider's place
	url      string            // of the provider
	target   string            // of the broker
	calls    sync.Map          // to the broker: method → *atomic.Int64
	reach    []grpc.DialOption // how the broker is reached in a bubble
	base     http.Transport    // reaches the provider, in a bubble too

	mu    sync.Mutex
	words []any // that clients have said to the broker
}

func begin(t testing.TB, providers string) *world {
	w := &world{TB: t}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	w.url = server.URL
	cfg := w.configure(providers)
	a, err := app.New(t.Context(), cfg, app.Options{Logger: canary.LoggerFor(t, "the broker's log"), Observe: w.observe})
	require.NoError(t, err)
	w.target = a.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		w.scrape("http://" + a.MetricsAddr() + "/metrics")
		stop()
		require.NoError(t, <-done)
	})
	return w
}

// bubble is begin for synctest: the broker and the provider are in memory.
func bubble(t *testing.T, providers string) *world {
	w := &world{TB: t, url: "http://provider.test", target: "passthrough:///broker"}
	cfg := w.configure(providers)
	keys := app.Keys(cfg)
	b, err := broker.New(t.Context(), &broker.Memory{}, app.Domains(cfg))
	require.NoError(t, err)
	log, err := audit.Open(cfg.Audit.Path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	at := func(pool, key string) secret.Value { return keys[app.KeyName{Pool: pool, ID: key}] }
	s := server.New(server.Options{Broker: b, Keys: at, Logger: canary.Logger("the server's log"), Observe: w.observe, Audit: server.Audit{Log: log}})
	front, back := bufconn.Listen(1<<16), bufconn.Listen(1<<16)
	w.reach = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return front.DialContext(ctx) })}
	w.base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return back.DialContext(ctx) }
	provider := &http.Server{Handler: http.HandlerFunc(w.serve)}
	var serving sync.WaitGroup
	serving.Go(func() { assert.NoError(t, s.Serve(front)) })
	serving.Go(func() { assert.ErrorIs(t, provider.Serve(back), http.ErrServerClosed) })
	t.Cleanup(func() {
		w.base.CloseIdleConnections()
		require.NoError(t, provider.Close())
		s.Stop(context.Background())
		serving.Wait()
	})
	return w
}

// serve is the provider.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	if f, ok := w.front.Load().(http.HandlerFunc); ok {
		f(rw, r)
		return
	}
	w.provider.ServeHTTP(rw, r)
}

// observe counts the calls to the broker.
func (w *world) observe(method string, _ codes.Code, _ time.Duration) {
	n, _ := w.calls.LoadOrStore(path.Base(method), new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// configure makes a configuration of these providers, and the simulated one.
func (w *world) configure(providers string) *config.Config {
	audit := ""
	if _, measured := w.TB.(*testing.B); !measured {
		audit = fmt.Sprintf("audit: {path: %q}\n", filepath.Join(canary.Dir(w), "audit.jsonl"))
	}
	text := "server:\n  listen: 127.0.0.1:0\n  plaintext: true\n  metrics_listen: 127.0.0.1:0\nstore: {type: memory}\n" + audit + "providers:\n" + strings.ReplaceAll(providers, "$URL", w.url)
	cfg, err := config.Parse("test.yaml", []byte(text), app.ConfigOptions())
	require.NoError(w, err)
	w.name = cfg.Providers[0].Name
	w.provider = sandbox.New(app.SandboxAccounts(cfg), sandbox.Options{})
	return cfg
}

// scrape has the canary see the metrics.
func (w *world) scrape(url string) {
	resp, err := http.Get(url)
	require.NoError(w, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(w, err)
	canary.Text("metrics", string(text))
}

func (w *world) client(opts ...client.Option) *client.Client {
	all := []client.Option{client.WithLogger(canary.LoggerFor(w, "the client's log"))}
	if _, measured := w.TB.(*testing.B); !measured {
		all = append(all, client.WithDialOptions(wiretap.Options()...))
	}
	all = append(append(all, opts...), client.WithPlaintext(), client.WithDialOptions(append(w.reach, grpc.WithChainUnaryInterceptor(w.listen))...))
	c, err := client.New(w.target, all...)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, c.Close()) })
	return c
}

// answers puts something in the provider's place.
func (w *world) answers(f http.HandlerFunc) { w.front.Store(f) }

// listen keeps what the broker is told.
func (w *world) listen(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	w.mu.Lock()
	w.words = append(w.words, req)
	w.mu.Unlock()
	return next(ctx, method, req, reply, cc, opts...)
}

// told gives what the broker was told, of one kind.
func told[T any](w *world) (all []T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.words {
		if x, ok := x.(T); ok {
			all = append(all, x)
		}
	}
	return all
}

// finals gives the final reports, when all leases have ended.
func (w *world) finals() (all []*keybrokerv1.ReportUsageRequest) {
	w.Helper()
	w.settled()
	for _, r := range told[*keybrokerv1.ReportUsageRequest](w) {
		if r.GetFinal() {
			all = append(all, r)
		}
	}
	return all
}

// settled waits until no lease is out.
func (w *world) settled() {
	w.Helper()
	soon(w, "every lease ends", func() bool { return w.pool(w.name).GetSummary().GetOpenLeases() == 0 })
}

// soon waits until something is true. How long that takes is the machine's affair; the
// limit is there so that a test which hangs says where.
func soon(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "%s, within %v", what, patience)
	}
}

const patience = time.Minute

// called is how often a method of the broker was called.
func (w *world) called(method string) int64 {
	if n, ok := w.calls.Load(method); ok {
		return n.(*atomic.Int64).Load()
	}
	return 0
}

const openai = `
  - name: openai
    type: openai
    base_url: $URL/v1
    keys:
      - {id: one, key: sk-cnry7f3a-client-one, rpm_limit: 60, tpm_limit: 100000}
      - {id: two, key: sk-cnry7f3a-client-two, rpm_limit: 60, tpm_limit: 100000}
`

func TestTransportLeases(t *testing.T) {
	w := begin(t, openai)
	h := w.client(client.WithHolder("test")).HTTP("openai")
	for range 10 {
		resp, err := h.Post(w.url+"/v1/chat/completions", "application/json",
			strings.NewReader(`{"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}`))
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusOK, resp.StatusCode, string(body))
		assert.Empty(t, resp.Request.Header.Get("Authorization"), "the caller's request has no key")
	}
}

func TestAcquireAndReport(t *testing.T) {
	w := begin(t, openai)
	c := w.client()
	ctx := t.Context()
	l, err := c.Acquire(ctx, client.Request{Pool: "openai", Model: "gpt-4o", MaxOutputTokens: 10})
	require.NoError(t, err)
	assert.Contains(t, []string{canary.Key("client-one"), canary.Key("client-two")}, l.Key())
	assert.NotContains(t, l.String(), l.Key())
	require.NoError(t, l.Report(ctx, client.Report{Status: 200, Final: true}))
	_, err = c.Acquire(ctx, client.Request{Pool: "none", Model: "m"})
	require.ErrorIs(t, err, client.ErrDenied)
	_, err = c.Acquire(ctx, client.Request{Pool: "openai", Model: "gpt-4o", MaxOutputTokens: 1e6})
	require.ErrorIs(t, err, client.ErrTooLarge)
}
