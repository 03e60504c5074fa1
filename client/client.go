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
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// Client leases keys. It is safe for concurrent use.
type Client struct {
	options options
	conn    *grpc.ClientConn
	broker  keybrokerv1.KeyBrokerServiceClient

	ending  context.Context // ends with Close
	end     context.CancelFunc
	asking  context.Context // ends when Close begins
	stop    context.CancelFunc
	mu      sync.Mutex
	closed  bool
	grants  map[*grant]struct{} // of which the broker has not heard the end
	lines   map[lineName]*line
	reports sync.WaitGroup // that are on their way
	slots   chan struct{}  // for them
}

// maxReports is how many reports may be on their way at one time.
const maxReports = 256

// New makes a client of the broker at target: "host:port", several of them
// separated by commas, or a name that gRPC resolves, such as "dns:///host:port".
// It does not connect yet; that happens with the first call, and again whenever
// it has to. The error is about the options only.
func New(target string, opts ...Option) (*Client, error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	conn, err := dial(target, &o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: o, conn: conn, broker: keybrokerv1.NewKeyBrokerServiceClient(conn),
		slots: make(chan struct{}, maxReports), grants: map[*grant]struct{}{}, lines: map[lineName]*line{},
	}
	c.ending, c.end = context.WithCancel(context.Background())
	c.asking, c.stop = context.WithCancel(c.ending)
	return c, nil
}

// Close gives back what is held and not in use, waits for the reports that are on
// their way, for a few seconds at most, and gives up the connection. Leases whose
// answers are still being read end with their time.
//
// Closing again does nothing.
func (c *Client) Close() error {
	if c.asking.Err() != nil {
		return nil
	}
	c.stop()
	c.mu.Lock()
	grants := slices.Collect(maps.Keys(c.grants))
	c.mu.Unlock()
	for _, g := range grants {
		g.close()
		g.flush()
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	sent := make(chan struct{})
	go func() {
		c.reports.Wait()
		close(sent)
	}()
	select {
	case <-sent:
	case <-time.After(c.options.closeTimeout):
	}
	c.end()
	err := c.conn.Close()
	<-sent // whatever was still on its way has failed by now
	return err
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// remember and forget keep the grants of which the broker is to hear more.
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
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("keybroker: %w", err)
	}
	if c.asking.Err() != nil {
		return nil, ErrClosed
	}
	if r.TTL != 0 || len(r.Exclude) > 0 {
		return c.one(ctx, &r)
	}
	return c.line(&r).acquire(ctx, &r)
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
	asked := time.Now()
	resp, err := c.broker.AcquireKey(c.options.outgoing(ctx), &keybrokerv1.AcquireKeyRequest{
		Pool: r.Pool, Model: r.Model, InputTokens: r.InputTokens, MaxOutputTokens: r.MaxOutputTokens, Requests: int32(requests),
		MaxWait: durationpb.New(wait), Ttl: duration(r.TTL), ExcludeKeyIds: r.Exclude, RequestId: rand.Text(),
	})
	if err != nil {
		return nil, fromStatus(ctx, err)
	}
	g := newGrant(c, resp, asked)
	c.remember(g)
	return g, nil
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// background sends a report without making anybody wait for it; or, if the client
// is closed, drops it. There is a bound on those under way, and the others wait.
func (c *Client) background(send func(context.Context), drop func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.reports.Add(1)
	}
	c.mu.Unlock()
	if closed {
		go drop() // the caller may hold what it needs
		return
	}
	go func() {
		defer c.reports.Done()
		c.slots <- struct{}{}
		defer func() { <-c.slots }()
		ctx, cancel := context.WithTimeout(c.ending, c.options.reportTimeout)
		defer cancel()
		send(ctx)
	}()
}
