// Package client leases API keys from a keybroker.
//
// A [Client] leases: Acquire gives a [Lease], a key with a slice of its rate
// limit, with which the caller sends one request to the provider, and reports what
// came back. A [Transport] does all of that for an [http.Client]: the providers'
// own SDKs need no other change.
//
//	c, err := client.New("keybroker.internal:7070")
//	…
//	anthropic.NewClient(option.WithHTTPClient(c.HTTP("anthropic")), option.WithAPIKey("brokered"))
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// Client leases keys. It is safe for concurrent use.
type Client struct {
	options options
	conn    *grpc.ClientConn
	broker  keybrokerv1.KeyBrokerServiceClient

	base http.RoundTripper // of transports that have none

	asking context.Context // ends when Close begins
	stop   context.CancelFunc
	ending context.Context // ends when Close gives up
	end    context.CancelFunc
	slots  chan struct{} // for reports on their way

	mu       sync.Mutex
	closed   bool                // nothing new is begun
	grants   map[*grant]struct{} // that may be given out, or are to be reported later
	batchers map[batchName]*batcher
	closing  sync.Once
	pending  sync.WaitGroup // grants that are to be reported, and asks
}

const (
	// closeTimeout is how long Close waits for reports, and reportTimeout how long
	// each of them may take.
	closeTimeout  = 5 * time.Second
	reportTimeout = 10 * time.Second
	// maxReports is how many reports may be on their way at one time.
	maxReports = 256
	// maxBatchers is for how many pools and models a client remembers how requests
	// came. Callers may name any model.
	maxBatchers = 10_000
)

// New makes a client of the broker at target: "host:port" (or "host", for port
// 7070), several of them separated by commas, or a name that gRPC resolves, such as
// "dns:///host:port".
// It does not connect yet; that happens with the first call, and again whenever
// it has to. The error is about the options only.
func New(target string, opts ...Option) (*Client, error) {
	o := options{logger: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	conn, err := dial(target, &o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: o, conn: conn, broker: keybrokerv1.NewKeyBrokerServiceClient(conn), base: newBase(),
		slots: make(chan struct{}, maxReports), grants: map[*grant]struct{}{}, batchers: map[batchName]*batcher{},
	}
	c.ending, c.end = context.WithCancel(context.Background())
	c.asking, c.stop = context.WithCancel(c.ending)
	return c, nil
}

// Close gives back what is held and not in use, waits for the reports that are on
// their way, for 5 seconds at most, and gives up the connection. Leases that are
// still in use end with their time. The error is that of the connection.
//
// Closing again does nothing.
func (c *Client) Close() (err error) {
	c.closing.Do(func() { err = c.close() })
	return err
}

func (c *Client) close() error {
	c.stop()
	for _, g := range c.held() {
		g.close()
		g.flush()
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	told := make(chan struct{})
	go func() {
		c.pending.Wait()
		close(told)
	}()
	late := time.NewTimer(closeTimeout)
	defer late.Stop()
	select {
	case <-told:
	case <-late.C:
	}
	c.end()
	for _, g := range c.held() { // that wait to try again
		g.flush()
	}
	<-told
	if t, ok := c.base.(interface{ CloseIdleConnections() }); ok && c.base != http.DefaultTransport {
		t.CloseIdleConnections()
	}
	return c.conn.Close()
}

// begin counts something that Close is to wait for, unless it is too late.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.pending.Add(1)
	}
	return !c.closed
}

func (c *Client) held() []*grant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.grants))
}

func (c *Client) remember(g *grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grants[g] = struct{}{}
}

func (c *Client) forget(g *grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.grants, g)
}

// Request says what a lease is for.
type Request struct {
	// Pool to lease from. May be empty if Model is set.
	Pool string
	// Model that will be called.
	Model string
	// InputTokens is an estimate of what the request sends.
	InputTokens int64
	// MaxOutputTokens is the most that the answer can use, the provider's
	// max_tokens.
	MaxOutputTokens int64
	// MaxWait is how long to stand in line if nothing fits now. 0: until the
	// context's deadline, or as long as the pool allows. NoWait: not at all.
	MaxWait time.Duration
	// TTL is how long the lease may live without a report. 0: the pool's default.
	TTL time.Duration
	// Exclude are keys not to be given, by id.
	Exclude []string
}

// NoWait is a Request's MaxWait that does not wait.
const NoWait time.Duration = -1

// longestWait is longer than any pool allows.
const longestWait = 24 * time.Hour

// Acquire leases a key. It waits in the broker's line, no longer than the context
// lasts. The errors are ErrExhausted, ErrTooLarge, ErrDenied, ErrInvalid,
// ErrUnavailable, ErrClosed and the context's. A lease is to be ended: by a final
// Report, or by Release.
//
// Under load, requests for one pool and model share leases that are good for many,
// so that few of them wait for the broker.
func (c *Client) Acquire(ctx context.Context, r Request) (*Lease, error) {
	if c.options.hooks.Acquired == nil {
		return c.acquire(ctx, &r)
	}
	began := time.Now()
	l, err := c.acquire(ctx, &r)
	c.options.hooks.acquired(ctx, &r, l, began, err)
	return l, err
}

func (c *Client) acquire(ctx context.Context, r *Request) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("keybroker: %w", err)
	}
	if c.asking.Err() != nil {
		return nil, ErrClosed
	}
	if r.TTL != 0 || len(r.Exclude) > 0 {
		return c.one(ctx, r)
	}
	return c.batcher(r).acquire(ctx, r)
}

// one leases for a single request.
func (c *Client) one(ctx context.Context, r *Request) (*Lease, error) {
	g, err := c.ask(ctx, r, 1)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.share(r.InputTokens, r.MaxOutputTokens), nil
}

// ask leases from the broker.
func (c *Client) ask(ctx context.Context, r *Request, requests int) (*grant, error) {
	wait := r.MaxWait
	switch {
	case wait == 0:
		wait = longestWait
	case wait < 0:
		wait = 0
	}
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.asking, cancel)()
	asked := time.Now()
	resp, err := c.broker.AcquireKey(c.options.outgoing(call), &keybrokerv1.AcquireKeyRequest{
		Pool: r.Pool, Model: r.Model, InputTokens: r.InputTokens, MaxOutputTokens: r.MaxOutputTokens, Requests: int32(requests),
		MaxWait: durationpb.New(wait), Ttl: duration(r.TTL), ExcludeKeyIds: r.Exclude, RequestId: rand.Text(),
	})
	if err != nil && ctx.Err() == nil && c.asking.Err() != nil {
		return nil, ErrClosed
	}
	if err != nil {
		if err = fromStatus(ctx, err); errors.Is(err, ErrDenied) { // the broker does not say what there is
			err = fmt.Errorf("%w: pool %q, model %q", err, r.Pool, r.Model)
		}
		return nil, err
	}
	g := newGrant(c, resp, asked)
	if c.asking.Err() != nil {
		g.close()
		return nil, ErrClosed
	}
	return g, nil
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// send makes a report, and gives how long its lease now lives, 0 if it has ended.
// A lease that was not used is released.
func (c *Client) send(m *keybrokerv1.ReportUsageRequest, unused bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(c.ending, reportTimeout)
	defer cancel()
	var ttl time.Duration
	var err error
	if unused {
		_, err = c.broker.ReleaseKey(c.options.outgoing(ctx), &keybrokerv1.ReleaseKeyRequest{LeaseId: m.GetLeaseId(), Unused: true})
	} else {
		var resp *keybrokerv1.ReportUsageResponse
		resp, err = c.broker.ReportUsage(c.options.outgoing(ctx), m)
		ttl = resp.GetTtl().AsDuration()
	}
	switch {
	case err != nil && c.ending.Err() != nil:
		return 0, ErrClosed
	case ctx.Err() != nil && err != nil, status.Code(err) == codes.DeadlineExceeded:
		return 0, fmt.Errorf("keybroker: %w: no answer to a report within %v", ErrUnavailable, reportTimeout)
	}
	return ttl, fromStatus(c.ending, err)
}
