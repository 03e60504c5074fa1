package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// exchange is a request under a lease, and the body of its answer, which is
// reported as it is read.
type exchange struct {
	lease   *Lease
	ctx     context.Context
	cancel  context.CancelCauseFunc
	hooks   *Hooks
	labels  Labels
	attempt int
	began   time.Time

	// For bases that tell: whether one has looked for a connection, has found one, and
	// has one now. It may take another if that was of no use.
	seeking, reached, connected atomic.Bool

	unauthorized bool // The lease did not allow the request, so the base never got it.

	class provider.Class // of the answer

	// refusal hears when the broker has been told of an answer that another key may
	// not get; nil if it was none.
	refusal chan error

	io.ReadCloser
	mu     sync.Mutex
	timer  *time.Timer // of the next report
	status int
	body   provider.Body
	reads  int       // under way
	read   time.Time // when the last one ended
	ended  bool
}

// send sends a clone of a request. The lease is reported whatever comes of it.
func (x *exchange) send(base http.RoundTripper, r *http.Request, body []byte, rest io.ReadCloser) (*http.Response, error) {
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	late := time.AfterFunc(x.lease.StartLeft(), x.tooLate)
	defer late.Stop()
	out := r.Clone(x.traced(late))
	setBody(out, body, rest)
	if err := x.lease.Authorize(out); err != nil {
		x.unauthorized = true
		closeBody(rest)
		x.lease.unsent(nil)
		x.cancel(nil)
		return nil, err
	}
	x.mu.Lock()
	x.timer = time.AfterFunc(partEvery, x.part)
	x.mu.Unlock()
	x.began = time.Now()
	back := false
	defer func() {
		if !back { // the base has panicked
			_ = x.failed(nil)
		}
	}()
	resp, err := base.RoundTrip(out)
	back = true
	took := time.Since(x.began)
	var last *pendingReport // nothing is to come after it
	switch {
	case err != nil:
		resp, err = nil, x.failed(err)
	case resp.StatusCode >= 400:
		last = x.refused(resp)
	default:
		last = x.watch(resp)
	}
	x.answered(r.Context(), resp, err, took)
	if last != nil {
		x.finish(last, Usage{}, true)
	}
	if resp != nil {
		resp.Request = r // not the one with the key
	}
	return resp, err
}

// traced is the request's context, from which the base tells how it gets on. If the
// caller has it told headers as well, keys are none of them.
func (x *exchange) traced(late *time.Timer) context.Context {
	t := &httptrace.ClientTrace{
		GetConn: func(string) {
			x.seeking.Store(true)
			x.connected.Store(false)
			if left := x.lease.StartLeft(); left > 0 {
				late.Reset(left)
			} else {
				x.cancel(ErrLate)
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			late.Stop()
			x.reached.Store(true)
			x.connected.Store(true)
		},
	}
	ctx := httptrace.WithClientTrace(x.ctx, t) // which adds the hooks that the caller has
	if tell := t.WroteHeaderField; tell != nil {
		t.WroteHeaderField = func(name string, values []string) {
			if own, _ := x.lease.Header(); isCredentialHeader(name) || http.CanonicalHeaderKey(name) == own {
				values = []string{"(leased)"}
			}
			tell(name, values)
		}
	}
	return ctx
}

// answered tells the hook of a request that was sent.
func (x *exchange) answered(ctx context.Context, resp *http.Response, err error, took time.Duration) {
	if x.hooks.Answered == nil || !x.sent() {
		return
	}
	a := Answered{Labels: x.labels, Attempt: x.attempt, Took: took, Outcome: provider.NoAnswer.String(), Err: err}
	if resp != nil {
		a.Status, a.Outcome = resp.StatusCode, x.class.String()
	}
	x.hooks.Answered(ctx, a)
}

// setBody gives a clone what has been read of the body. The base may send it again
// by itself, if that is all.
func setBody(out *http.Request, body []byte, rest io.ReadCloser) {
	switch {
	case rest != nil:
		out.Body = rest
	case len(body) == 0:
		out.Body, out.GetBody = http.NoBody, nil
	default:
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody()
		if out.ContentLength <= 0 && out.Trailer == nil { // which need chunks
			out.ContentLength = int64(len(body))
		}
	}
}

// tooLate gives up a request that waits for a connection.
func (x *exchange) tooLate() {
	if x.seeking.Load() && !x.connected.Load() {
		x.cancel(ErrLate)
	}
}

// sent reports whether the request may have been sent.
func (x *exchange) sent() bool {
	return !x.unauthorized && (x.reached.Load() || !x.seeking.Load())
}

// failed reports a request that got no answer: perhaps it was sent.
func (x *exchange) failed(err error) error {
	if context.Cause(x.ctx) == ErrLate { // not the caller's cancellation, then
		err = fmt.Errorf("keybroker: %w", ErrLate)
	}
	x.stop()
	x.cancel(nil)
	if x.sent() {
		x.lease.note(&pendingReport{}, Usage{}, true)
	} else {
		x.lease.unsent(nil)
	}
	return err
}

// stop ends the reports on the way. It gives false if they had ended before. The
// answer may still be read.
func (x *exchange) stop() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return false
	}
	x.ended = true
	x.timer.Stop()
	return true
}

// told waits until the broker knows of a refusal.
func (x *exchange) told(ctx context.Context) {
	select {
	case <-x.refusal:
	case <-ctx.Done():
	}
}

// refused reads the beginning of an error's body, which it puts back, and gives what
// is to be reported.
func (x *exchange) refused(resp *http.Response) *pendingReport {
	x.stop()
	body := newErrorBody(resp.Body, func() { x.cancel(nil) })
	p := newPendingReport(resp.StatusCode, resp.Header, body.beginning())
	s := x.lease.signal(p)
	if x.class = s.Class; worthAnother(s) {
		x.refusal = make(chan error, 1)
		p.done = x.refusal
	}
	resp.Body = body
	return p
}

// worthAnother reports whether another key may be answered differently: not if
// the provider is busy, or the request wrong. Statuses do not tell: Gemini answers
// 400 to a wrong key, and Vertex 429 when it is busy.
func worthAnother(s provider.Signal) bool {
	if s.Scope == provider.NoScope {
		return false
	}
	switch s.Class {
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted, provider.AuthInvalid, provider.Forbidden:
		return true
	}
	return false
}

// partEvery is how often a request under way is reported, so that its lease lives:
// well within the half minute for which the broker holds what may still come.
const partEvery = 10 * time.Second

// watch reports the headers of an answer at once and its use as it is read. If
// nothing can be read here, it gives what is to be reported.
func (x *exchange) watch(resp *http.Response) (last *pendingReport) {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	p := newPendingReport(resp.StatusCode, resp.Header, nil)
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		x.stop()
		if resp.Body == http.NoBody { // else the connection is the caller's from now on
			x.cancel(nil)
		}
		return p
	}
	x.lease.note(p, Usage{}, false)
	x.mu.Lock()
	x.status, x.ReadCloser, x.read = resp.StatusCode, resp.Body, time.Now()
	x.mu.Unlock()
	resp.Body = x
	return nil
}

// Read reads the answer.
func (x *exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	x.reads++
	x.mu.Unlock()
	n, err := x.ReadCloser.Read(p)
	x.mu.Lock()
	_, _ = x.body.Write(p[:n])
	x.reads--
	x.read = time.Now()
	x.mu.Unlock()
	if err != nil {
		x.end(err == io.EOF)
		x.cancel(nil)
	}
	return n, err
}

// Close closes the answer, read or not.
func (x *exchange) Close() error {
	err := x.ReadCloser.Close()
	x.end(false)
	x.cancel(nil)
	return err
}

// forgotten is how long an answer may wait for a reader before its lease is given
// up. Who reads on after all can do so.
const forgotten = 10 * time.Minute

// part reports what has been used so far, for as long as there is anybody to read.
func (x *exchange) part() {
	x.mu.Lock()
	alone := x.ReadCloser != nil && x.reads == 0 && time.Since(x.read) > forgotten
	x.mu.Unlock()
	if alone || x.ctx.Err() != nil {
		x.end(false)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return
	}
	x.lease.note(&pendingReport{status: x.status}, usage(x.body.Usage()), false)
	x.timer.Reset(partEvery)
}

// end makes the last report. An answer that was not read to its end may have used
// more than it has said.
func (x *exchange) end(complete bool) {
	if !x.stop() {
		return
	}
	x.mu.Lock()
	p, used := newPendingReport(x.status, nil, x.body.Error()), usage(x.body.Usage())
	complete = complete || x.body.Ended()
	if !complete || len(p.errorBody) > 0 {
		used.OutputTokens = nil
	}
	x.mu.Unlock()
	x.finish(p, used, complete)
}

// finish makes the last report.
func (x *exchange) finish(p *pendingReport, used Usage, complete bool) {
	x.lease.note(p, used, true)
	if x.hooks.Finished != nil {
		x.hooks.Finished(context.WithoutCancel(x.ctx), Finished{
			Labels: x.labels, Status: p.status, Usage: used, Complete: complete, Took: time.Since(x.began),
		})
	}
}

func usage(u provider.Usage) Usage {
	known := func(n int64) *int64 {
		if n == provider.Unknown {
			return nil
		}
		return &n
	}
	return Usage{known(u.Input), known(u.CacheWrite), known(u.CacheRead), known(u.Output)}
}
