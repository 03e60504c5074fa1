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
	// safety is the part of a lease's time to start that is left unused, so that
	// whoever gets a share has the time to use it.
	safety = 0.2
	// firstHorizon is for how long requests are leased before it is known how
	// long the broker allows.
	firstHorizon = time.Second
	// aloneFor is how long each request is leased by itself after the broker has
	// given fewer than asked for.
	aloneFor = 2 * time.Second
	// ahead is the part of a lease that is left when the next one is asked for.
	ahead = 0.4
)

func (c *Client) line(r *Request) *line {
	name := lineName{r.Pool, r.Model}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil {
		l = &line{client: c, name: name, horizon: firstHorizon}
		c.lines[name] = l
	}
	return l
}

// acquire shares out what there is, waits for what is on its way, or leases for
// one request alone.
func (l *line) acquire(ctx context.Context, r *Request) (*Lease, error) {
	now := time.Now()
	l.mu.Lock()
	l.note(now, r)
	for {
		if lease := l.take(now, r); lease != nil {
			l.mu.Unlock()
			return lease, nil
		}
		want := l.want()
		if want < fewest || now.Before(l.alone) || r.MaxWait != 0 || float64(r.InputTokens) > 4*l.input || float64(r.MaxOutputTokens) > 4*l.output {
			l.mu.Unlock()
			return l.one(ctx, r)
		}
		f := l.next
		if f == nil {
			f = l.fetch(want)
		}
		l.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("keybroker: %w", ctx.Err())
		}
		now = time.Now()
		l.mu.Lock()
		if f.err != nil {
			lease, err := l.without(now, r, f.err)
			l.mu.Unlock()
			return lease, err
		}
	}
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
	g.offline, g.left = true, 1
	return g.share(r.InputTokens, r.MaxOutputTokens), nil
}

// note takes in how requests come: their rate, and what they ask for, both fading
// with time.
func (l *line) note(now time.Time, r *Request) {
	keep := math.Exp(-float64(now.Sub(l.last)) / float64(memory))
	l.last = now
	l.rate = l.rate*keep + 1/memory.Seconds()
	const part = 1.0 / 16
	l.input = max(l.input+(float64(r.InputTokens)-l.input)*part, min(l.input, 1))
	l.output += (float64(r.MaxOutputTokens) - l.output) * part
	if l.rate <= 1/memory.Seconds() { // the first in a while
		l.input, l.output = float64(r.InputTokens), float64(r.MaxOutputTokens)
	}
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
	if g.closed || !now.Before(g.startBy.Add(-l.margin(g))) {
		l.now = nil
		if !g.closed { // what was not needed goes back
			g.closed, g.left = true, 0
			g.tell(nil, true)
		}
		return nil
	}
	if r.InputTokens > g.input || r.MaxOutputTokens > g.output {
		return nil
	}
	lease := g.share(r.InputTokens, r.MaxOutputTokens)
	if l.next == nil && float64(g.left) < ahead*float64(g.resp.GetRequests()) {
		if want := l.want(); want >= fewest {
			l.fetch(want)
		}
	}
	return lease
}

// margin is how long before its end a lease is no longer shared out.
func (l *line) margin(g *grant) time.Duration {
	return time.Duration(safety * float64(g.resp.GetStartWithin().AsDuration()))
}

// fetch asks the broker for so many requests, in the background.
func (l *line) fetch(want int) *fetch {
	f := &fetch{done: make(chan struct{})}
	l.next = f
	r := &Request{
		Pool: l.name.pool, Model: l.name.model,
		InputTokens: int64(math.Ceil(l.input)), MaxOutputTokens: int64(math.Ceil(l.output)),
	}
	l.client.background(func(context.Context) {
		g, err := l.client.ask(l.client.asking, r, want)
		l.mu.Lock()
		defer l.mu.Unlock()
		switch l.next = nil; {
		case l.client.asking.Err() != nil:
			f.err = ErrClosed
			if err == nil {
				g.close()
			}
		case err != nil:
			f.err = err
		default:
			l.latest = g.resp
			n := int64(max(g.resp.GetRequests(), 1))
			if n < int64(want) { // there is little, and others want it too
				l.alone = time.Now().Add(aloneFor)
			}
			g.input, g.output = n*r.InputTokens, n*r.MaxOutputTokens
			l.horizon = time.Duration((1 - safety) * float64(g.resp.GetStartWithin().AsDuration()))
			if old := l.now; old != nil {
				old.close()
			}
			l.now = g
			time.AfterFunc(time.Until(g.startBy)-l.margin(g), g.close)
		}
		close(f.done)
	}, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.next, f.err = nil, ErrClosed
		close(f.done)
	})
	return f
}
