package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
)

// grant is a lease as the broker gave it: for one request, or for several, which
// are shared out here. What is known of them is added up, so that a report that
// is lost or repeated changes nothing.
type grant struct {
	client  *Client
	resp    *keybrokerv1.AcquireKeyResponse
	asked   time.Time
	startBy time.Time
	offline bool // no broker knows of it

	mu      sync.Mutex
	left    int       // requests that may still be given out
	input   int64     // tokens for them
	output  int64     //
	sent    int64     // requests that were given out, less those that were never sent
	open    int       // requests that have not come to their end
	used    [4]int64  // input, cache writes, cache reads, output of all
	stated  [4]bool   // whether that is known
	expires time.Time // without a report
	closed  bool      // gives out no more

	news      []news // to be reported, in order
	toldLast  bool   // the broker knows that no more will be sent
	toldEnd   bool   // and that nothing is to come
	reporting bool   // somebody reports, or is about to
	timer     *time.Timer
}

// shared reports whether it is for several requests.
func (g *grant) shared() bool { return g.resp.GetRequests() > 1 }

// news is what a report tells beside the counts.
type news struct {
	status    int
	header    http.Header
	errorBody []byte
	done      chan error // hears when it has been sent; nil if nobody waits
}

func (n *news) refusal() bool { return n.status >= 400 || n.errorBody != nil }

// plain reports whether later news may take its place.
func (n *news) plain() bool { return !n.refusal() && n.done == nil }

const (
	// batch is how long the news of a shared lease waits for more of it. What the
	// others must hear at once does not wait.
	batch = 250 * time.Millisecond
	// retryReport is how long after a failure a report is tried again.
	retryReport = time.Second
)

func newGrant(c *Client, resp *keybrokerv1.AcquireKeyResponse, asked time.Time) *grant {
	return &grant{
		client: c, resp: resp, asked: asked, left: int(max(resp.GetRequests(), 1)),
		startBy: asked.Add(resp.GetStartWithin().AsDuration()), expires: asked.Add(resp.GetTtl().AsDuration()),
	}
}

// share gives out one request, under the lock. The caller has made sure that
// there is one.
func (g *grant) share(input, output int64) *Lease {
	g.left--
	g.input -= input
	g.output -= output
	g.sent++
	g.open++
	g.closed = g.left == 0
	return &Lease{grant: g, asked: [4]int64{0: input, 3: output}}
}

// close stops giving out. What was not given out goes back with the next report.
func (g *grant) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed, g.left = true, 0
		g.tell(nil, true)
	}
}

// tell sees to it that the broker hears what is new, and the counts as they are
// now. It is called under the lock.
func (g *grant) tell(n *news, atOnce bool) {
	if g.offline {
		if n != nil && n.done != nil {
			n.done <- nil
		}
		return
	}
	if n != nil {
		g.add(n)
	}
	switch {
	case !g.reporting && (atOnce || !g.shared()):
		g.reporting = true
		g.client.background(g.report, g.abandon)
	case !g.reporting:
		g.reporting = true
		g.after(batch)
	case atOnce:
		g.hurry()
	}
}

// add puts news in line, in place of the last if that is merely older.
func (g *grant) add(n *news) {
	if i := len(g.news) - 1; i >= 0 && n.plain() && g.news[i].plain() {
		if n.header == nil {
			n.header = g.news[i].header
		}
		g.news[i] = *n
		return
	}
	g.news = append(g.news, *n)
}

// after reports in a while, under the lock.
func (g *grant) after(d time.Duration) {
	g.timer = time.AfterFunc(d, func() { g.client.background(g.report, g.abandon) })
}

// hurry reports what would have waited, under the lock.
func (g *grant) hurry() {
	if g.timer != nil && g.timer.Stop() {
		g.timer = nil
		g.client.background(g.report, g.abandon)
	}
}

// flush is hurry for who does not hold the lock.
func (g *grant) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hurry()
}

// abandon gives up: nothing can be told any more.
func (g *grant) abandon() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drop(ErrClosed)
}

func (g *grant) drop(err error) {
	for _, n := range g.news {
		if n.done != nil {
			n.done <- err
		}
	}
	g.news, g.toldLast, g.toldEnd = nil, true, true
}

// untold reports whether there is anything to tell.
func (g *grant) untold() bool {
	return len(g.news) > 0 || g.closed && (g.shared() && !g.toldLast || g.open == 0 && !g.toldEnd)
}

// report sends what there is to be told, until there is nothing more.
func (g *grant) report(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer = nil
	for g.untold() {
		var n news
		if len(g.news) > 0 {
			n, g.news = g.news[0], g.news[1:]
		}
		m := g.message(&n)
		g.mu.Unlock()
		resp, err := g.send(ctx, m)
		g.mu.Lock()
		if errors.Is(err, ErrUnavailable) && time.Now().Before(g.expires) && !g.client.isClosed() && n.done == nil {
			g.news = append([]news{n}, g.news...) // to be told again, with the counts as they are then
			g.after(retryReport)
			return
		}
		if n.done != nil {
			n.done <- err
		}
		if err != nil {
			g.drop(err)
			g.client.options.logger.LogAttrs(ctx, slog.LevelWarn, "report not sent",
				slog.String("pool", g.resp.GetPool()), slog.String("key", g.resp.GetKeyId()), slog.String("error", err.Error()))
			break
		}
		g.toldLast = g.toldLast || m.GetNoMoreRequests()
		g.toldEnd = g.toldEnd || m.GetFinal()
		if ttl := resp.GetTtl().AsDuration(); ttl > 0 {
			g.expires = time.Now().Add(ttl)
		}
	}
	g.reporting = false
	if g.toldEnd {
		g.client.forget(g)
	}
}

// message is a report of the counts as they are.
func (g *grant) message(n *news) *keybrokerv1.ReportUsageRequest {
	m := &keybrokerv1.ReportUsageRequest{
		LeaseId: g.resp.GetLeaseId(), StatusCode: int32(n.status), NoMoreRequests: g.shared() && g.closed,
		Final:     g.closed && g.open == 0 && len(g.news) == 0,
		ErrorBody: n.errorBody[:min(len(n.errorBody), mostErrorBody)], Usage: &keybrokerv1.Usage{},
	}
	if g.shared() {
		sent := g.sent
		m.Usage.Requests = &sent
	}
	for i, p := range []**int64{&m.Usage.InputTokens, &m.Usage.CacheCreationInputTokens, &m.Usage.CacheReadInputTokens, &m.Usage.OutputTokens} {
		if g.stated[i] {
			used := g.used[i]
			*p = &used
		}
	}
	for name, values := range n.header {
		if provider.Forward(name) {
			if m.Headers == nil {
				m.Headers = make(map[string]string, 8)
			}
			m.Headers[name] = strings.Join(values, ", ")
		}
	}
	return m
}

// send makes the call. A lease of which nothing was ever sent is released.
func (g *grant) send(ctx context.Context, m *keybrokerv1.ReportUsageRequest) (*keybrokerv1.ReportUsageResponse, error) {
	ctx = g.client.options.outgoing(ctx)
	if m.GetFinal() && m.GetUsage().Requests != nil && m.GetUsage().GetRequests() == 0 {
		_, err := g.client.broker.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: m.GetLeaseId(), Unused: true})
		return nil, fromStatus(ctx, err)
	}
	resp, err := g.client.broker.ReportUsage(ctx, m)
	return resp, fromStatus(ctx, err)
}
