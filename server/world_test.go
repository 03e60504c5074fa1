package server_test

// The words in which this package's tests tell their stories: a whole broker
// behind an in-memory connection, those who call it, and what operators see.

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/server"
)

const plenty = 1_000_000_000 // a limit that never binds

// limits are those that Anthropic has, by the minute.
func limits(requests, input, output int64) []pool.Limit {
	var ls []pool.Limit
	for d, n := range []int64{requests, input, output} {
		ls = append(ls, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	return ls
}

// slots limit calls at one time, and nothing else.
func slots(n int64) []pool.Limit {
	return append(limits(plenty, plenty, plenty), pool.Limit{Dimension: provider.Concurrency, Amount: n})
}

func key(id string, limits []pool.Limit) pool.Key { return pool.Key{ID: id, Limits: limits} }

// onePool is a pool of Anthropic keys whose limits hold for all models.
func onePool(name string, keys ...pool.Key) broker.PoolConfig {
	dialect, _ := provider.Lookup("anthropic")
	return broker.PoolConfig{
		Config:  pool.Config{Name: name, Dialect: dialect, Flat: true, Keys: keys, StartWithin: 2 * time.Second},
		BaseURL: dialect.BaseURL, DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: 30 * time.Second,
	}
}

// keyValue is the credential of a pool's nth key; its beginning marks it.
func keyValue(pool string, key int) string { return marker + pool + "-" + string(rune('0'+key)) }

const marker = "sk-canary-3f9a-"

// world is a whole broker and what it tells the outside.
type world struct {
	*testing.T
	server      *server.Server
	main, admin *bufconn.Listener
	logs        *record
	calls       *callLog
}

// begin serves some pools on one listener.
func begin(t *testing.T, pools ...broker.PoolConfig) *world {
	return beginWith(t, server.Options{}, pools...)
}

func beginWith(t *testing.T, o server.Options, pools ...broker.PoolConfig) *world {
	t.Helper()
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	w := &world{T: t, logs: &record{}, calls: &callLog{}, main: bufconn.Listen(1 << 16)}
	o.Broker, o.Observe = b, w.calls.note
	o.Logger = slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Keys == nil {
		o.Keys = func(pool string, key int) secret.Value { return secret.New(keyValue(pool, key)) }
	}
	w.server = server.New(o)
	var serving sync.WaitGroup
	serving.Go(func() { _ = w.server.Serve(w.main) })
	w.admin = w.main
	if o.SplitAdmin {
		w.admin = bufconn.Listen(1 << 16)
		serving.Go(func() { _ = w.server.ServeAdmin(w.admin) })
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		w.server.Stop(ctx)
		serving.Wait()
	})
	return w
}

// caller is somebody with a connection.
type caller struct {
	*world
	keybrokerv1.KeyBrokerServiceClient
	operator keybrokerv1.AdminServiceClient
	conn     *grpc.ClientConn
	name     string
}

// as connects a holder; each has a connection of its own, which hangs up before
// the server stops.
func (w *world) as(name string, options ...grpc.DialOption) *caller {
	w.Helper()
	return w.dialTo(w.main, name, options...)
}

func (w *world) dialTo(l *bufconn.Listener, name string, options ...grpc.DialOption) *caller {
	w.Helper()
	conn, err := grpc.NewClient("passthrough:///broker", append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
	)...)
	require.NoError(w, err)
	w.Cleanup(func() { conn.Close() })
	return &caller{w, keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn), conn, name}
}

// ctx says who calls.
func (c *caller) ctx() context.Context { return c.in(c.Context()) }

func (c *caller) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, server.HolderHeader, c.name)
}

// lease acquires a key, which must succeed.
func (c *caller) lease(r *keybrokerv1.AcquireKeyRequest) *keybrokerv1.AcquireKeyResponse {
	c.Helper()
	l, err := c.AcquireKey(c.ctx(), r)
	require.NoError(c, err)
	return l
}

func (c *caller) release(id string, unused bool) {
	c.Helper()
	r, err := c.ReleaseKey(c.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id, Unused: unused})
	require.NoError(c, err)
	require.False(c, r.GetAlreadySettled())
}

// look is what an operator sees of a pool.
func (c *caller) look(name string) *keybrokerv1.Pool {
	c.Helper()
	r, err := c.operator.GetPool(c.Context(), &keybrokerv1.GetPoolRequest{Pool: name})
	require.NoError(c, err)
	return r.GetPool()
}

// idle requires that nobody holds or waits for anything in the pool.
func (c *caller) idle(name string) {
	c.Helper()
	p := c.look(name)
	require.Zero(c, p.GetSummary().GetOpenLeases(), "open leases")
	require.Zero(c, p.GetSummary().GetWaiters(), "waiters")
	for _, q := range p.GetQuotas() {
		for _, l := range q.GetLimits() {
			require.Zero(c, l.GetHeld(), "held %v", l.GetDimension())
		}
	}
}

// result is what a call got, and when.
type result struct {
	lease   *keybrokerv1.AcquireKeyResponse
	err     error
	trailer metadata.MD
	after   time.Duration
}

// ask acquires a key in the background.
func (c *caller) ask(ctx context.Context, r *keybrokerv1.AcquireKeyRequest) <-chan result {
	done, start := make(chan result, 1), time.Now()
	go func() {
		var got result
		got.lease, got.err = c.AcquireKey(c.in(ctx), r, grpc.Trailer(&got.trailer))
		got.after = time.Since(start)
		done <- got
	}()
	return done
}

// waitFor asks for a key of a pool and is ready to wait.
func waitFor(pool string, wait time.Duration) *keybrokerv1.AcquireKeyRequest {
	return &keybrokerv1.AcquireKeyRequest{Pool: pool, MaxWait: durationpb.New(wait)}
}

// detail finds one kind of detail in a status, nil if there is none.
func detail[T any](err error) (found T) {
	for _, d := range status.Convert(err).Details() {
		if v, ok := d.(T); ok {
			return v
		}
	}
	return found
}

// requireFailure checks code, reason and domain.
func requireFailure(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	require.Equal(t, code, status.Code(err), "%v", err)
	info := detail[*errdetails.ErrorInfo](err)
	require.NotNil(t, info, "no ErrorInfo: %v", err)
	require.Equal(t, reason, info.GetReason())
	require.Equal(t, "keybroker", info.GetDomain())
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

var _ io.Writer = (*record)(nil)

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// finished is a call that the Observe hook heard of.
type finished struct {
	method string
	code   codes.Code
	took   time.Duration
}

type callLog struct {
	mu  sync.Mutex
	all []finished
}

func (c *callLog) note(method string, code codes.Code, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, finished{method, code, took})
}

func (c *callLog) list() []finished {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}
