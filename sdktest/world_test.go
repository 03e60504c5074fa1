package sdktest

// A whole broker with two keys, the provider that they belong to, and a client
// whose every word is looked through for a key.

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/protobuf/proto"

	"github.com/keybroker/keybroker/client"
	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/failover"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

const (
	placeholder = "brokered"                       // what the SDKs are given for a key
	mark        = "sk-" + canary.Mark + "-leased-" // how every real key begins
	fromOutside = "from-outside"                   // how everything in the environment begins
	firstKey    = mark + "first"                   // it is preferred, in a group of its own
	secondKey   = mark + "second"                  // so is this one
	prompt      = "Hello to you all"               // 4 tokens of input
	maxTokens   = 1000                             // that every request asks for
	answered    = 400                              // tokens that it gets, mostly
	patience    = time.Minute                      // for what is to happen soon
)

func TestMain(m *testing.M) {
	os.Exit(canary.Main(m, func() {
		failover.Time = patience
		log.SetOutput(canary.Writer("the log of package log"))
		w := canary.Writer("gRPC's own log")
		grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(w, w, w, 99))
	}))
}

// setup is what differs between worlds.
type setup struct {
	rpm, tpm int             // of each key; default 6 and 12000
	keys     string          // more of them, in YAML
	options  sandbox.Options // of the provider
	slow     time.Duration   // how long a report is on its way
	maxWait  time.Duration   // of the transport
	fromEnv  bool            // the SDK takes what the environment has, too
	retries  int             // of the SDK, which does the failover if there are any
}

type world struct {
	*testing.T
	setup
	sdk      *sdk
	began    time.Time
	provider *sandbox.Server
	url      string // of the provider
	target   string // of the broker
	client   *client.Client
	admin    keybrokerv1.AdminServiceClient
	base     *http.Transport

	output    atomic.Int64 // tokens of an answer
	requests  atomic.Int64 // that reached the provider
	conns     atomic.Int64 // open to the provider
	elsewhere atomic.Value // string: where requests are sent on to

	mu      sync.Mutex
	reports []*keybrokerv1.ReportUsageRequest
	shown   []string
}

// limits are low, so that what is used refills slowly beside what a test takes.
const limits = "rpm_limit: %d, tpm_limit: %d"

func begin(t *testing.T, s *sdk, with setup) *world {
	w := &world{T: t, setup: with, sdk: s, began: time.Now()}
	w.output.Store(answered)
	w.rpm, w.tpm = cmp.Or(w.rpm, 6), cmp.Or(w.tpm, 12_000)
	server := httptest.NewUnstartedServer(http.HandlerFunc(w.serve))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			w.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			w.conns.Add(-1)
		}
	}
	cfg, err := config.Parse("sdktest.yaml", fmt.Appendf(nil, `
server: {listen: "127.0.0.1:0", metrics_listen: "127.0.0.1:0", plaintext: true}
audit: {path: %q}
store: {type: memory}
providers:
  - name: pool
    type: %s
    base_url: http://%s%s
    keys:
      - {id: first, key: %s, priority: 2, `+limits+`}
      - {id: second, key: %s, `+limits+`}
%s`, filepath.Join(canary.Dir(t), "audit.jsonl"), s.provider, server.Listener.Addr(), s.prefix, firstKey, w.rpm, w.tpm, secondKey, w.rpm, w.tpm, w.keys), app.ConfigOptions())
	require.NoError(t, err)
	w.options.Now = func() time.Time { return w.began } // nothing refills there, no minute ends
	w.provider = sandbox.New(app.SandboxAccounts(cfg), w.options)
	server.Start()
	t.Cleanup(server.Close)
	w.url = server.URL

	logger := canary.Logger("the log of broker and client")
	a, err := app.New(t.Context(), cfg, app.Options{Logger: logger})
	require.NoError(t, err)
	w.target = a.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		w.scrape("http://" + a.MetricsAddr() + "/metrics")
		stop()
		assert.NoError(t, <-done)
	})

	conn, err := grpc.NewClient(w.target, append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	w.admin = keybrokerv1.NewAdminServiceClient(conn)
	w.client, err = client.New(w.target, client.WithHolder(s.name), client.WithLogger(logger),
		client.WithDialOptions(append(wiretap.Options(), grpc.WithChainUnaryInterceptor(w.listen))...))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.client.Close()) })
	w.base = http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(w.base.CloseIdleConnections)
	t.Cleanup(w.nothingShown)
	return w
}

// scrape has the canary see the metrics.
func (w *world) scrape(url string) {
	resp, err := http.Get(url)
	if !assert.NoError(w, err) {
		return
	}
	text, err := io.ReadAll(resp.Body)
	assert.NoError(w, err)
	assert.NoError(w, resp.Body.Close())
	canary.Text("metrics", string(text))
}

// http is the client that an SDK is given.
func (w *world) http() *http.Client {
	t := w.client.Transport("pool")
	t.Base, t.MaxWait, t.SDKRetries = w.base, w.maxWait, w.retries > 0
	return &http.Client{Transport: t}
}

// serve is the provider's front.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.requests.Add(1)
	head, err := httputil.DumpRequest(r, false)
	assert.NoError(w, err)
	for _, stranger := range []string{placeholder, fromOutside} {
		assert.NotContains(w, string(head), stranger, "a credential that is not the lease's reached the provider")
	}
	assert.Equal(w, 1, strings.Count(string(head), mark), "keys in %s", head)
	if to, ok := w.elsewhere.Load().(string); ok {
		http.Redirect(rw, r, to+r.URL.RequestURI(), http.StatusTemporaryRedirect)
		return
	}
	r.Header.Set("X-Sandbox-Output-Tokens", fmt.Sprint(w.output.Load()))
	w.provider.ServeHTTP(rw, r)
}

// listen keeps what the broker is about to be told, so that nothing is missing
// when it knows.
func (w *world) listen(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if r, ok := req.(*keybrokerv1.ReportUsageRequest); ok {
		w.mu.Lock()
		w.reports = append(w.reports, proto.CloneOf(r))
		w.mu.Unlock()
		time.Sleep(w.slow)
	}
	return next(ctx, method, req, reply, cc, opts...)
}

// last are the final reports.
func (w *world) last() (final []*keybrokerv1.ReportUsageRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.reports {
		if r.GetFinal() {
			final = append(final, r)
		}
	}
	return final
}

// show keeps what a user may come to print.
func (w *world) show(things ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range things {
		switch x := x.(type) {
		case nil:
		case []byte:
			w.shown = append(w.shown, string(x))
		case *http.Response:
			if x == nil {
				continue
			}
			w.shown = append(w.shown, fmt.Sprintf("%+v %+v", x, x.Body))
			if r := x.Request; r != nil {
				w.shown = append(w.shown, fmt.Sprintf("%+v %v %+v", r, r.URL, r.Header))
			}
		default:
			w.shown = append(w.shown, fmt.Sprintf("%v\n%+v\n%#v", x, x, x))
		}
	}
}

func (w *world) nothingShown() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.shown {
		canary.Text("what a user may print", s)
		assert.NotContains(w, s, mark, "a key is shown")
	}
}

// soon waits for something to come true, without goroutines of its own.
func (w *world) soon(what string, holds func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		require.True(w, time.Now().Before(end), "%s, within %v", what, patience)
	}
}

func (w *world) pool() *keybrokerv1.Pool {
	r, err := w.admin.GetPool(context.Background(), &keybrokerv1.GetPoolRequest{Pool: "pool"})
	require.NoError(w, err)
	return r.GetPool()
}

func (w *world) leases() []*keybrokerv1.Lease {
	r, err := w.admin.ListLeases(context.Background(), &keybrokerv1.ListLeasesRequest{Pool: "pool"})
	require.NoError(w, err)
	return r.GetLeases()
}

// settled waits until so many leases have been granted and all have ended, by a
// report and not by their time.
func (w *world) settled(granted int64) {
	w.Helper()
	assert.Equal(w, granted, w.quiet(), "leases granted")
}

// quiet is settled without knowing how many.
func (w *world) quiet() (granted int64) {
	w.Helper()
	w.soon("every lease ends", func() bool { return len(w.leases()) == 0 })
	s := w.pool().GetSummary()
	assert.Zero(w, s.GetOpenLeases())
	assert.Zero(w, s.GetWaiters())
	assert.Equal(w, s.GetCounters().GetGranted(), s.GetCounters().GetReleased(), "leases ended by a report")
	w.soon("the provider is done", func() bool {
		for _, c := range w.classes() {
			if c.InFlight > 0 {
				return false
			}
		}
		return true
	})
	return s.GetCounters().GetGranted()
}

// classes are what the provider has counted, by account: there is one model only.
func (w *world) classes() map[string]sandbox.ClassStats {
	all := map[string]sandbox.ClassStats{}
	for _, a := range w.provider.Stats().Accounts {
		for _, c := range a.Classes {
			all[strings.TrimPrefix(a.Name, "pool-")] = c
		}
	}
	return all
}

var dimensions = map[string]keybrokerv1.Dimension{
	"rpm": keybrokerv1.Dimension_DIMENSION_REQUESTS, "tpm": keybrokerv1.Dimension_DIMENSION_TOKENS,
	"itpm": keybrokerv1.Dimension_DIMENSION_INPUT_TOKENS, "otpm": keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS,
}

// used compares what the broker thinks is used of a limit with an amount. It may
// have refilled since the test began.
func (w *world) used(group, limit string, want int64) {
	w.Helper()
	for _, q := range w.pool().GetQuotas() {
		for _, l := range q.GetLimits() {
			if q.GetGroup() == group && l.GetDimension() == dimensions[limit] && l.GetWindow().AsDuration() == time.Minute {
				refilled := l.GetLimit()*int64(time.Since(w.began))/int64(time.Minute) + 1
				assert.LessOrEqual(w, l.GetUsed(), want, "%s of %s", limit, group)
				assert.GreaterOrEqual(w, l.GetUsed(), want-refilled, "%s of %s", limit, group)
				assert.Zero(w, l.GetHeld(), "%s of %s", limit, group)
				return
			}
		}
	}
	assert.Zero(w, want, "the broker knows nothing of %s of %s", limit, group)
}

// booksAgree compares what the broker thinks is used with what the provider has
// charged, and what was reported with what was used.
func (w *world) booksAgree() {
	w.Helper()
	w.charged()
	var input, output, in, out int64
	for _, c := range w.classes() {
		input, output = input+c.InputTokens, output+c.OutputTokens
	}
	for _, r := range w.last() {
		in, out = in+r.GetUsage().GetInputTokens(), out+r.GetUsage().GetOutputTokens()
	}
	assert.Equal(w, []int64{input, output}, []int64{in, out}, "tokens used, and reported")
}

// charged is the first half of it.
func (w *world) charged() {
	w.Helper()
	for group, c := range w.classes() {
		for _, l := range c.Limits {
			name := l.Name
			if w.sdk.inputOnly && name == "tpm" {
				name = "itpm"
			}
			w.used(group, name, l.Charged)
		}
	}
}

// goroutines counts them when no connection to the provider is open.
func (w *world) goroutines() int {
	w.Helper()
	w.soon("connections close", func() bool {
		w.base.CloseIdleConnections()
		return w.conns.Load() == 0
	})
	return runtime.NumGoroutine()
}
