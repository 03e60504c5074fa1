package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// batcher leases for the requests for one pool and model. While many come it leases for
// several at once, as many as came lately, and shares them out. Else each request is leased
// by itself, and waits for nobody.
type batcher struct {
	client *Client
	name   batchName

	mu      sync.Mutex
	rate    float64                         // requests a second, lately
	input   float64                         // tokens of one, lately
	output  float64                         //
	last    time.Time                       // request
	now     *grant                          // that is shared out; nil if there is none
	next    *fetch                          // that is on its way; nil if there is none
	horizon time.Duration                   // for which a lease is asked, by what the last one allowed
	alone   time.Time                       // until then each request is leased by itself
	again   time.Time                       // until then nothing is asked for ahead
	latest  *keybrokerv1.AcquireKeyResponse // the last lease, for when no broker is in reach
	spare   float64                         // requests that may be sent without one
	spareAt time.Time
}

type batchName struct{ pool, model string }

// fetch is an ask for many requests that is under way.
type fetch struct {
	done chan struct{}
	err  error
}

const (
	// memory is for how long a batcher remembers how requests came.
	memory = time.Second
	// fewest is the requests that are worth leasing together.
	fewest = 4
	// firstHorizon is for how long requests are leased before it is known how
	// long the broker allows.
	firstHorizon = time.Second
	// aloneFor is how long each request is leased by itself after the broker has
	// given fewer than asked for.
	aloneFor = 2 * time.Second
	// ahead is the part of a lease that is left when the next one is asked for.
	ahead = 0.4
	// unlike is how many times as large as the others a request is that is leased by
	// itself.
	unlike = 4
	// aheadAgain is how long after a failure that is tried again.
	aheadAgain = 250 * time.Millisecond
	// most is the tokens that a request is taken to ask for at most, so that sums
	// stay in range.
	most = 1e12
	// answerTime is how long before the caller's deadline it stops to wait for
	// others, so that the broker can still tell it why.
	answerTime = 100 * time.Millisecond
)

func (c *Client) batcher(r *Request) *batcher {
	name := batchName{r.Pool, r.Model}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.batchers[name]
	if b == nil && len(c.batchers) >= maxBatchers {
		clear(c.batchers) // what they hold goes back by itself
	}
	if b == nil {
		b = &batcher{client: c, name: name, horizon: firstHorizon}
		c.batchers[name] = b
	}
	return b
}

// acquire shares out what there is, waits for what is on its way, or leases for
// one request alone.
func (b *batcher) acquire(ctx context.Context, r *Request) (*Lease, error) {
	start := time.Now()
	now := start
	b.mu.Lock()
	b.note(now, r)
	for joined := true; ; joined = false {
		if lease := b.take(now, r); lease != nil {
			b.mu.Unlock()
			return lease, nil
		}
		if b.stranger(now, r) {
			b.mu.Unlock()
			return b.one(ctx, r)
		}
		f := b.next
		if f == nil {
			f, joined = b.fetch(), false
		}
		b.mu.Unlock()
		if !f.wait(ctx, patience(ctx, start, r)) {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("keybroker: %w", ctx.Err())
			}
			alone := *r
			if r.MaxWait != 0 { // it has waited for so long
				alone.MaxWait = NoWait
			}
			return b.one(ctx, &alone)
		}
		now = time.Now()
		b.mu.Lock()
		if f.err != nil && !joined { // an ask that began before this one may have met other times
			b.mu.Unlock()
			return b.failed(ctx, r, f.err)
		}
	}
}

// patience is until when a request waits for what others have asked for.
func patience(ctx context.Context, start time.Time, r *Request) time.Time {
	until := start.Add(longestWait)
	if r.MaxWait != 0 {
		until = start.Add(r.MaxWait)
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-answerTime).Before(until) {
		until = deadline.Add(-answerTime)
	}
	return until
}

// stranger reports whether a request is to be leased by itself: there are too few
// to share with, or it is unlike them.
func (b *batcher) stranger(now time.Time, r *Request) bool {
	return b.want() < fewest || now.Before(b.alone) ||
		b.now != nil || // which has room for others
		float64(r.InputTokens) > unlike*b.input || float64(r.MaxOutputTokens) > unlike*b.output
}

// wait reports whether the answer came in time.
func (f *fetch) wait(ctx context.Context, until time.Time) bool {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-f.done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// failed is what becomes of a request when what it waited for was refused: if that
// may be for what the others asked, it asks for itself.
func (b *batcher) failed(ctx context.Context, r *Request, err error) (*Lease, error) {
	if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrClosed) {
		return b.one(ctx, r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.without(time.Now(), r, err)
}

// one leases for a single request.
func (b *batcher) one(ctx context.Context, r *Request) (*Lease, error) {
	lease, err := b.client.one(ctx, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		return b.without(time.Now(), r, err)
	}
	b.latest = lease.grant.resp
	return lease, nil
}

// without gives the last key once more if no broker is in reach and that is
// allowed, at a rate that is.
func (b *batcher) without(now time.Time, r *Request, err error) (*Lease, error) {
	rate := b.client.options.safeRate
	if rate <= 0 || b.latest == nil || !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	b.spare = min(b.spare+rate*now.Sub(b.spareAt).Seconds(), max(1, rate))
	b.spareAt = now
	if b.spare < 1 {
		return nil, err
	}
	b.spare--
	g := newGrant(b.client, b.latest, now)
	g.gone, g.left = true, 1 // the broker never knows
	return g.share(r.InputTokens, r.MaxOutputTokens), nil
}

// note takes in how requests come: their rate, and what they ask for, both fading
// with time.
func (b *batcher) note(now time.Time, r *Request) {
	const once = 1 / float64(memory/time.Second)
	input, output := float64(min(r.InputTokens, most)), float64(min(r.MaxOutputTokens, most))
	past := b.rate * fade(now.Sub(b.last))
	b.rate, b.last = past+once, now
	if past < once/10 { // the first in a while
		b.input, b.output = input, output
		return
	}
	approach(&b.input, input)
	approach(&b.output, output)
}

// fade is how much of what was is still remembered after a time: nearly
// e^(-d/memory), and nothing after four times that. It is reckoned for each request,
// and math.Exp would take a tenth of what a request does.
func fade(d time.Duration) float64 {
	f := 1 - min(max(float64(d)/float64(4*memory), 0), 1)
	f *= f
	return f * f
}

// approach moves a mean to a value, by less if that is out of the ordinary.
func approach(mean *float64, value float64) {
	*mean += (min(value, unlike**mean+1) - *mean) / 16
}

// want is how many requests will come while a lease may be used.
func (b *batcher) want() int {
	return min(int(b.rate*b.horizon.Seconds()), 10_000)
}

// take shares out one request, and asks for more before there is none.
func (b *batcher) take(now time.Time, r *Request) *Lease {
	g := b.now
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !now.Before(g.useBy) || b.spent(g, 0) {
		b.now = nil
		g.retire()
		return nil
	}
	if r.InputTokens > g.input || r.MaxOutputTokens > g.output {
		return nil
	}
	lease := g.share(r.InputTokens, r.MaxOutputTokens)
	if b.next == nil && !now.Before(b.again) && b.spent(g, ahead) && b.want() >= fewest {
		b.fetch()
	}
	return lease
}

// spent reports whether no more than a part of a grant is left, by what requests
// ask for lately.
func (b *batcher) spent(g *grant, part float64) bool {
	n := max(1, part*float64(g.resp.GetRequests()))
	return float64(g.left) < n || float64(g.input) < n*math.Floor(b.input) || float64(g.output) < n*math.Floor(b.output)
}

// fetch asks the broker for what will be wanted, in the background.
func (b *batcher) fetch() *fetch {
	f := &fetch{done: make(chan struct{})}
	if !b.client.begin() {
		f.err = ErrClosed
		close(f.done)
		return f
	}
	b.next = f
	want := b.want()
	r := &Request{
		Pool: b.name.pool, Model: b.name.model,
		InputTokens: int64(math.Ceil(b.input)), MaxOutputTokens: int64(math.Ceil(b.output)),
	}
	go func() {
		defer b.client.pending.Done()
		g, err := b.client.ask(context.Background(), r, want)
		b.mu.Lock()
		defer b.mu.Unlock()
		defer close(f.done)
		b.next, f.err = nil, err
		if err != nil {
			b.again = time.Now().Add(aheadAgain)
			return
		}
		b.replace(g, r, want)
	}()
	return f
}

// replace shares out a new grant from now on.
func (b *batcher) replace(g *grant, r *Request, want int) {
	n := int64(g.left)
	if n < int64(want) { // there is little, and others want it too
		b.alone = time.Now().Add(aloneFor)
	}
	b.latest = g.resp
	b.horizon = time.Duration((1 - safety) * float64(startTime(g.resp)))
	if b.now != nil {
		b.now.close()
	}
	b.now = g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.input, g.output = n*r.InputTokens, n*r.MaxOutputTokens
	g.ends = time.AfterFunc(time.Until(g.useBy), g.close)
	b.client.remember(g)
	if b.client.asking.Err() != nil { // Close may have looked before
		g.retire()
	}
}
