package killtest

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// fleet is the clients of a round. They go on from one child to the next.
type fleet struct {
	t       *testing.T
	list    *list
	mu      sync.Mutex
	child   *child        // that serves; nil while there is none
	changed chan struct{} // closed when child changes
	lost    sync.Map      // int → *atomic.Int64: calls for day limits that a child took with it
	kept    []*lease      // leases that are to outlive the child, under mu
	late    atomic.Int64  // leases that came too late to be used
}

// now serves: c, or nobody.
func (f *fleet) serve(c *child) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.child = c
	close(f.changed)
	f.changed = make(chan struct{})
}

// broker waits for a child that serves; nil when the context ends.
func (f *fleet) broker(ctx context.Context) *child {
	for {
		f.mu.Lock()
		c, changed := f.child, f.changed
		f.mu.Unlock()
		if c != nil && !c.over() {
			return c
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *fleet) keep(x *lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = append(f.kept, x)
}

func (f *fleet) takeKept() []*lease {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.kept
	f.kept = nil
	return kept
}

// client asks one pool for leases, uses them, and says so.
type client struct {
	*fleet
	r            *rand.Rand
	pool, holder string
	bereft       int // by that child last
}

func as(ctx context.Context, holder string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "keybroker-holder", holder)
}

func (c *client) run(ctx context.Context) {
	for {
		b := c.broker(ctx)
		if b == nil || ctx.Err() != nil {
			return
		}
		x, err := c.acquire(b, c.ask())
		switch {
		case err == nil:
			c.use(ctx, x)
		case status.Code(err) == codes.ResourceExhausted:
			pause(ctx, min(retryAfter(err), time.Duration(20+c.r.IntN(80))*time.Millisecond))
		case b.gone(err):
		default:
			assert.NoError(c.t, err)
			return
		}
	}
}

// gone reports whether an error is one of a child that is about to end, or cannot
// save just now.
func (c *child) gone(err error) bool {
	select {
	case <-c.exited:
		return true
	case <-time.After(10 * time.Millisecond):
		return status.Code(err) == codes.Unavailable
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return r.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

func (c *client) ask() *keybrokerv1.AcquireKeyRequest {
	r := &keybrokerv1.AcquireKeyRequest{Pool: c.pool, InputTokens: 10 + c.r.Int64N(90), MaxOutputTokens: 10 + c.r.Int64N(140)}
	if c.r.IntN(2) == 0 {
		r.MaxWait = durationpb.New(time.Duration(c.r.IntN(1500)) * time.Millisecond)
	}
	if c.r.IntN(4) == 0 {
		r.Ttl = durationpb.New(startWithin + time.Duration(c.r.Int64N(int64(maxTTL-startWithin))).Truncate(time.Millisecond))
	}
	return r
}

// acquire notes what it receives.
func (c *client) acquire(b *child, r *keybrokerv1.AcquireKeyRequest) (*lease, error) {
	ctx, cancel := timeout()
	defer cancel()
	sent := c.list.now()
	a, err := b.client.AcquireKey(as(ctx, c.holder), r)
	received := c.list.now()
	if err != nil {
		if r.Pool == daily && b.number != c.bereft && status.Code(err) != codes.ResourceExhausted && !answered(err) {
			c.bereft = b.number
			n, _ := c.lost.LoadOrStore(b.number, &atomic.Int64{})
			n.(*atomic.Int64).Add(1)
		}
		return nil, err
	}
	x := &lease{
		ID: a.GetLeaseId(), Pool: a.GetPool(), Key: a.GetKeyId(), Holder: c.holder, Child: b.number,
		In: r.GetInputTokens(), Out: r.GetMaxOutputTokens(), Sent: sent, Received: received, Waited: a.GetWaited().AsDuration(),
		StartBy: sent + a.GetStartWithin().AsDuration(), Expires: sent + a.GetTtl().AsDuration(),
		UsedIn: r.GetInputTokens(), UsedOut: r.GetMaxOutputTokens(),
	}
	return x, c.list.granted(x)
}

// answered reports whether an error is the broker's, and not the transport's.
func answered(err error) bool { return len(status.Convert(err).Details()) > 0 }

// use is the life of a lease.
func (c *client) use(ctx context.Context, x *lease) {
	switch n := c.r.IntN(100); {
	case n < 8 && c.pool != daily:
		c.unused(ctx, x)
	case n < 16:
		x.Used = c.r.IntN(2) == 0 && x.Received < x.StartBy // else it is given back by and by
		x.Arrived, x.Ended = c.arrival(x), x.Expires
		c.keep(x)
	case n < 20: // it is never heard of again
		x.Used, x.Arrived, x.Ended = x.Received < x.StartBy, c.arrival(x), x.Expires
	default:
		c.call(ctx, x)
	}
}

// arrival is when the provider gets a request: at once, at the last moment, or in
// between.
func (c *client) arrival(x *lease) moment {
	left := x.StartBy - x.Received
	if left <= 0 {
		return x.Received
	}
	switch c.r.IntN(3) {
	case 0:
		return x.Received
	case 1:
		return x.StartBy
	}
	return x.Received + moment(c.r.Int64N(int64(left)))
}

// call sends a request, unless it is too late, and reports the answer.
func (c *client) call(ctx context.Context, x *lease) {
	if x.Received >= x.StartBy {
		c.late.Add(1)
		c.unused(ctx, x)
		return
	}
	x.Used, x.Arrived = true, c.arrival(x)
	pause(context.Background(), x.Arrived-c.list.now())
	for range c.r.IntN(3) { // parts of a stream
		pause(ctx, time.Duration(c.r.IntN(60))*time.Millisecond)
		if now := c.list.now(); now >= x.Expires {
			break
		}
		at := c.list.now()
		if r, _ := c.report(ctx, x, usage(x.UsedIn/4, x.UsedOut/4), false); r != nil && !r.GetAlreadySettled() {
			x.Expires = max(x.Expires, at+r.GetTtl().AsDuration())
		}
	}
	pause(ctx, time.Duration(c.r.IntN(40))*time.Millisecond)
	switch c.r.IntN(10) {
	case 0:
		x.UsedIn, x.UsedOut = x.UsedIn*3/2, x.UsedOut*3/2
	case 1, 2, 3, 4:
		x.UsedIn, x.UsedOut = x.UsedIn/2, x.UsedOut/2
	}
	at := c.list.now()
	x.Ended = max(min(at, x.Expires), x.Arrived)
	if r, by := c.report(ctx, x, usage(x.UsedIn, x.UsedOut), true); r != nil && !r.GetAlreadySettled() {
		x.Over = debt{Sent: at, Acked: c.list.now(), Child: by.number}
	}
}

func usage(in, out int64) *keybrokerv1.Usage {
	return &keybrokerv1.Usage{InputTokens: &in, OutputTokens: &out}
}

// report goes on until some child has taken it, or the round is over.
func (c *client) report(ctx context.Context, x *lease, u *keybrokerv1.Usage, final bool) (r *keybrokerv1.ReportUsageResponse, by *child) {
	c.insist(ctx, x, func(ctx context.Context, b *child) (err error) {
		x.Settled = x.Settled || final && b.number == x.Child
		r, err = b.client.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: x.ID, StatusCode: 200, Usage: u, Final: final})
		by = b
		return err
	})
	return r, by
}

func (c *client) unused(ctx context.Context, x *lease) {
	c.insist(ctx, x, func(ctx context.Context, b *child) error {
		x.Returned = x.Returned || b.number == x.Child
		_, err := b.client.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: x.ID, Unused: true})
		return err
	})
}

// insist repeats a call while brokers die. No other error may come of it.
func (c *client) insist(ctx context.Context, x *lease, f func(context.Context, *child) error) {
	for {
		b := c.broker(ctx)
		if b == nil {
			return
		}
		call, cancel := timeout()
		err := f(as(call, x.Holder), b)
		cancel()
		if err == nil || !b.gone(err) {
			assert.NoError(c.t, err, "lease %s of child %d, told to child %d", x.ID, x.Child, b.number)
			return
		}
	}
}
