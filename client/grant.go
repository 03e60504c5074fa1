package client

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
)

// grant is a lease as the broker gave it: for one request, or for several, which
// are shared out here. What is known of them is added up, so that a report that
// is lost or repeated changes nothing.
//
// Locks are taken in the order batcher, grant, client.
type grant struct {
	client  *Client
	resp    *keybrokerv1.AcquireKeyResponse
	startBy time.Time   // for sending requests
	useBy   time.Time   // for giving them out
	ends    *time.Timer // giving them out; nil unless it is shared

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

	pending   []pendingReport // in order
	toldLast  bool            // the broker knows that no more will be sent
	toldEnd   bool            // and that nothing is to come
	reporting bool            // somebody reports, or timer will
	timer     *time.Timer     // of the next report; nil if that is on its way
	gone      bool            // the broker is told nothing more
	why       error           // nil if it never knew
}

// shared reports whether it is for several requests.
func (g *grant) shared() bool { return g.resp.GetRequests() > 1 }

// pendingReport is what a report will tell beside the counts.
type pendingReport struct {
	status    int
	header    map[string]string
	errorBody []byte
	coolsDown bool       // the answer makes something cool down, as others are to hear
	done      chan error // hears when it has been sent; nil if nobody waits
}

// mostErrorBody is how much of an error's body is sent.
const mostErrorBody = 16 << 10

// newPendingReport copies what a report may tell of an answer. The answer is its reader's,
// who may change it.
func newPendingReport(status int, header http.Header, errorBody []byte) *pendingReport {
	p := &pendingReport{status: status, errorBody: bytes.Clone(errorBody[:min(len(errorBody), mostErrorBody)])}
	for name, values := range header {
		if provider.Forward(name) {
			if p.header == nil {
				p.header = make(map[string]string, 8)
			}
			p.header[name] = strings.ToValidUTF8(strings.Join(values, ", "), "?")
		}
	}
	return p
}

func (p *pendingReport) refusal() bool { return p.status >= 400 || len(p.errorBody) > 0 }

// plain reports whether a later report may take its place.
func (p *pendingReport) plain() bool { return !p.coolsDown && p.done == nil }

const (
	// batch is how long a report on a shared lease waits, so that it tells of more. What
	// other clients must hear at once does not wait.
	batch = 250 * time.Millisecond
	// retryReport is how long after a failure a report is tried again.
	retryReport = time.Second
	// safety is the part of a lease's time to start that is left unused, so that
	// whoever gets a share has the time to use it.
	safety = 0.2
)

func newGrant(c *Client, resp *keybrokerv1.AcquireKeyResponse, asked time.Time) *grant {
	startBy := asked.Add(resp.GetStartWithin().AsDuration())
	return &grant{
		client: c, resp: resp, left: int(max(resp.GetRequests(), 1)), startBy: startBy,
		useBy: startBy.Add(-time.Duration(safety * float64(startTime(resp)))), expires: asked.Add(resp.GetTtl().AsDuration()),
	}
}

// startTime is how long after a grant its requests may be sent.
func startTime(resp *keybrokerv1.AcquireKeyResponse) time.Duration {
	return resp.GetStartWithin().AsDuration() - resp.GetWaited().AsDuration()
}

// share gives out one request, under the lock. The caller has made sure that
// there is one.
func (g *grant) share(input, output int64) *Lease {
	g.left--
	g.input -= input
	g.output -= output
	g.sent++
	g.open++
	if g.left == 0 {
		g.stop()
	}
	return &Lease{grant: g, asked: [4]int64{0: input, outputTokens: output}}
}

// stop gives out no more, under the lock.
func (g *grant) stop() {
	g.closed, g.left = true, 0
	if g.ends == nil {
		return
	}
	if g.ends.Stop(); g.timer == nil {
		g.client.forget(g)
	}
}

// close stops giving out. What was not given out goes back.
func (g *grant) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.retire()
}

// retire is close under the lock.
func (g *grant) retire() {
	if !g.closed {
		g.stop()
		g.tell(nil)
	}
}

// tell sees to it that the broker gets a report, and the counts as they are then. It is
// called under the lock.
func (g *grant) tell(p *pendingReport) {
	if p != nil && g.gone {
		p.answer(g.why)
		return
	}
	if p != nil {
		g.add(p)
	}
	switch {
	case !g.untold():
	case !g.reporting && !g.client.begin():
		g.drop(ErrClosed)
	case !g.reporting && g.mayWait():
		g.reporting = true
		g.after(batch)
	case !g.reporting:
		g.reporting = true
		go g.report()
	case !g.mayWait():
		g.hurry()
	}
}

// add appends a pending report, in place of the last one if both are plain.
func (g *grant) add(p *pendingReport) {
	if i := len(g.pending) - 1; i >= 0 && p.plain() && g.pending[i].plain() {
		if p.header == nil {
			p.header = g.pending[i].header
		}
		if p.status == 0 {
			p.status, p.errorBody = g.pending[i].status, g.pending[i].errorBody
		}
		g.pending[i] = *p
		return
	}
	g.pending = append(g.pending, *p)
}

func (p *pendingReport) answer(err error) {
	if p.done != nil {
		p.done <- err
		p.done = nil
	}
}

// untold reports whether there is anything to tell.
func (g *grant) untold() bool {
	return !g.gone && (len(g.pending) > 0 || g.returns() || g.over())
}

// returns reports whether there are requests to give back.
func (g *grant) returns() bool {
	return g.shared() && g.closed && !g.toldLast && g.sent < int64(g.resp.GetRequests())
}

// over reports whether the end is to be told.
func (g *grant) over() bool { return g.closed && g.open == 0 && !g.toldEnd }

// mayWait reports whether what is to be told may wait for more of it.
func (g *grant) mayWait() bool {
	return g.shared() && !g.returns() && !g.over() && !slices.ContainsFunc(g.pending, func(p pendingReport) bool { return !p.plain() })
}

// after reports in a while. Close finds it meanwhile.
func (g *grant) after(d time.Duration) {
	g.timer = time.AfterFunc(d, g.report)
	g.client.remember(g)
}

// hurry reports what would have waited.
func (g *grant) hurry() {
	if g.timer != nil && g.timer.Stop() {
		g.timer = nil
		go g.report()
	}
}

// flush is hurry for who does not hold the lock.
func (g *grant) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hurry()
}

// drop gives up: nothing can be told any more, and nothing given out.
func (g *grant) drop(err error) {
	g.stop()
	g.gone, g.why = true, err
	g.answer(err)
	g.pending = nil
}

// answer tells all who wait for a report.
func (g *grant) answer(err error) {
	for i := range g.pending {
		g.pending[i].answer(err)
	}
}

// report sends what there is to be told, until there is nothing more, or all of
// it may wait.
func (g *grant) report() {
	c := g.client
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timer = nil
	for first := true; g.untold(); first = false {
		if !first && g.mayWait() {
			g.after(batch)
			return
		}
		if err := g.reportOne(); err != nil && g.again(err) {
			g.after(retryReport)
			return
		} else if err != nil {
			g.drop(err)
			c.options.logger.LogAttrs(context.Background(), slog.LevelWarn, "report not sent",
				slog.String("pool", g.resp.GetPool()), slog.String("key", g.resp.GetKeyId()), slog.String("error", err.Error()))
		}
	}
	g.reporting = false
	if g.closed {
		c.forget(g)
	}
	c.pending.Done()
}

// again reports whether the broker may still hear what it could not be told.
func (g *grant) again(err error) bool {
	return errors.Is(err, ErrUnavailable) &&
		time.Now().Before(g.expires) && g.client.ending.Err() == nil
}

// reportOne sends the first pending report with the counts as they are. The lock is not
// held meanwhile. If that fails, the report is the first one still.
func (g *grant) reportOne() error {
	var p pendingReport
	some := len(g.pending) > 0
	if some {
		p, g.pending = g.pending[0], g.pending[1:]
	}
	m := g.message(&p)
	unused := m.GetFinal() && g.sent == 0
	g.mu.Unlock()
	began := time.Now()
	ttl, err := g.client.send(m, unused)
	g.mu.Lock()
	p.answer(err)
	if err != nil && some {
		g.pending = append([]pendingReport{p}, g.pending...)
	}
	if err != nil {
		g.answer(err) // who waits need not wait until it is tried again
		return err
	}
	g.toldLast = g.toldLast || m.GetNoMoreRequests()
	g.toldEnd = g.toldEnd || m.GetFinal()
	if ttl > 0 {
		g.expires = began.Add(ttl)
	}
	return nil
}

// message is a report of the counts as they are.
func (g *grant) message(p *pendingReport) *keybrokerv1.ReportUsageRequest {
	m := &keybrokerv1.ReportUsageRequest{
		LeaseId: g.resp.GetLeaseId(), StatusCode: int32(p.status), NoMoreRequests: g.shared() && g.closed,
		Final:   g.closed && g.open == 0 && len(g.pending) == 0,
		Headers: p.header, ErrorBody: p.errorBody, Usage: &keybrokerv1.Usage{},
	}
	if g.shared() {
		sent := g.sent
		m.Usage.Requests = &sent
	}
	for i, field := range []**int64{&m.Usage.InputTokens, &m.Usage.CacheCreationInputTokens, &m.Usage.CacheReadInputTokens, &m.Usage.OutputTokens} {
		if g.stated[i] {
			used := min(g.used[i], mostReported)
			*field = &used
		}
	}
	return m
}

// mostReported is the most tokens that a report can state.
const mostReported = 1e15
