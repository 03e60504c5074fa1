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

// line is the requests for one pool and model. While they come thick and fast it
// leases many at once, sized to how they came lately, and shares them out; else
// each is leased by itself, and waits for nobody.
type line struct {
	client *Client
	name   lineName

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

type lineName struct{ pool, model string }

// fetch is an ask for many requests that is under way.
type fetch struct {
	done chan struct{}
	err  error
}

const (
	// memory is for how long a line remembers how requests came.
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

func (c *Client) line(r *Request) *line {
	name := lineName{r.Pool, r.Model}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil && len(c.lines) >= maxLines {
		clear(c.lines) // what they hold goes back by itself
	}
	if l == nil {
		l = &line{client: c, name: name, horizon: firstHorizon}
		c.lines[name] = l
	}
	return l
}

// acquire shares out what there is, waits for what is on its way, or leases for
// one request alone.
func (l *line) acquire(ctx context.Context, r *Request) (*Lease, error) {
	start := time.Now()
	now := start
	l.mu.Lock()
	l.note(now, r)
	for joined := true; ; joined = false {
		if lease := l.take(now, r); lease != nil {
			l.mu.Unlock()
			return lease, nil
		}
		if l.stranger(now, r) {
			l.mu.Unlock()
			return l.one(ctx, r)
		}
		f := l.next
		if f == nil {
			f, joined = l.fetch(), false
		}
		l.mu.Unlock()
		if !f.wait(ctx, patience(ctx, start, r)) {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("keybroker: %w", ctx.Err())
			}
			alone := *r
			if r.MaxWait != 0 { // it has waited for so long
				alone.MaxWait = NoWait
			}
			return l.one(ctx, &alone)
		}
		now = time.Now()
		l.mu.Lock()
		if f.err != nil && !joined { // an ask that began before this one may have met other times
			l.mu.Unlock()
			return l.failed(ctx, r, f.err)
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
func (l *line) stranger(now time.Time, r *Request) bool {
	return l.want() < fewest || now.Before(l.alone) ||
		l.now != nil || // which has room for others
		float64(r.InputTokens) > unlike*l.input || float64(r.MaxOutputTokens) > unlike*l.output
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
func (l *line) failed(ctx context.Context, r *Request, err error) (*Lease, error) {
	if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrClosed) {
		return l.one(ctx, r)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.without(time.Now(), r, err)
}

// one leases for a single request.
func (l *line) one(ctx context.Context, r *Request) (*Lease, error) {
	lease, err := l.client.one(ctx, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return l.without(time.Now(), r, err)
	}
	l.latest = lease.grant.resp
	return lease, nil
}

// without gives the last key once more if no broker is in reach and that is
// allowed, at a rate that is.
func (l *line) without(now time.Time, r *Request, err error) (*Lease, error) {
	rate := l.client.options.safeRate
	if rate <= 0 || l.latest == nil || !errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	l.spare = min(l.spare+rate*now.Sub(l.spareAt).Seconds(), max(1, rate))
	l.spareAt = now
	if l.spare < 1 {
		return nil, err
	}
	l.spare--
	g := newGrant(l.client, l.latest, now)
	g.gone, g.left = true, 1 // the broker never knows
	return g.share(r.InputTokens, r.MaxOutputTokens), nil
}

// note takes in how requests come: their rate, and what they ask for, both fading
// with time.
func (l *line) note(now time.Time, r *Request) {
	const once = 1 / float64(memory/time.Second)
	input, output := float64(min(r.InputTokens, most)), float64(min(r.MaxOutputTokens, most))
	past := l.rate * fade(now.Sub(l.last))
	l.rate, l.last = past+once, now
	if past < once/10 { // the first in a while
		l.input, l.output = input, output
		return
	}
	approach(&l.input, input)
	approach(&l.output, output)
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
func (l *line) want() int {
	return min(int(l.rate*l.horizon.Seconds()), 10_000)
}

// take shares out one request, and asks for more before there is none.
func (l *line) take(now time.Time, r *Request) *Lease {
	g := l.now
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || !now.Before(g.useBy) || l.spent(g, 0) {
		l.now = nil
		g.retire()
		return nil
	}
	if r.InputTokens > g.input || r.MaxOutputTokens > g.output {
		return nil
	}
	lease := g.share(r.InputTokens, r.MaxOutputTokens)
	if l.next == nil && !now.Before(l.again) && l.spent(g, ahead) && l.want() >= fewest {
		l.fetch()
	}
	return lease
}

// spent reports whether no more than a part of a grant is left, by what requests
// ask for lately.
func (l *line) spent(g *grant, part float64) bool {
	n := max(1, part*float64(g.resp.GetRequests()))
	return float64(g.left) < n || float64(g.input) < n*math.Floor(l.input) || float64(g.output) < n*math.Floor(l.output)
}

// fetch asks the broker for what will be wanted, in the background.
func (l *line) fetch() *fetch {
	f := &fetch{done: make(chan struct{})}
	if !l.client.begin() {
		f.err = ErrClosed
		close(f.done)
		return f
	}
	l.next = f
	want := l.want()
	r := &Request{
		Pool: l.name.pool, Model: l.name.model,
		InputTokens: int64(math.Ceil(l.input)), MaxOutputTokens: int64(math.Ceil(l.output)),
	}
	go func() {
		defer l.client.pending.Done()
		g, err := l.client.ask(context.Background(), r, want)
		l.mu.Lock()
		defer l.mu.Unlock()
		defer close(f.done)
		l.next, f.err = nil, err
		if err != nil {
			l.again = time.Now().Add(aheadAgain)
			return
		}
		l.replace(g, r, want)
	}()
	return f
}

// replace shares out a new grant from now on.
func (l *line) replace(g *grant, r *Request, want int) {
	n := int64(g.left)
	if n < int64(want) { // there is little, and others want it too
		l.alone = time.Now().Add(aloneFor)
	}
	l.latest = g.resp
	l.horizon = time.Duration((1 - safety) * float64(startTime(g.resp)))
	if l.now != nil {
		l.now.close()
	}
	l.now = g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.input, g.output = n*r.InputTokens, n*r.MaxOutputTokens
	g.ends = time.AfterFunc(time.Until(g.useBy), g.close)
	l.client.remember(g)
	if l.client.asking.Err() != nil { // Close may have looked before
		g.retire()
	}
}
