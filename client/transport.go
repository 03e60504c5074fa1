package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Transport is an [http.RoundTripper] that leases a key for every request, sets it
// on a clone, and reports what comes back. On a refusal that another key may not
// meet it takes one, if the request can be sent again. Its fields are not to be
// changed once it is in use.
type Transport struct {
	// Client leases. Required.
	Client *Client
	// Pool to lease from. If it is empty, the request's model decides.
	Pool string
	// Base sends. Default: a clone of http.DefaultTransport that waits 10 minutes
	// for the headers of an answer.
	Base http.RoundTripper
	// Attempts is how many keys are tried. Default 3; 1 never tries another.
	Attempts int
	// SDKRetries leaves trying another key to the retries of the caller's SDK, and
	// Attempts at 1: the headers of a refusal say whether and when that is of use,
	// by X-Should-Retry, Retry-After and Retry-After-Ms, which the SDKs of Anthropic
	// and OpenAI obey. Those that the provider sent are kept as X-Broker-Orig-….
	// Without it, the SDK's own retries should be 0, or they multiply.
	SDKRetries bool
	// PeekBytes is how much of a request's body is read for its model and size,
	// and kept to send again. Default 32 MiB, the largest request that Anthropic
	// takes. What is larger goes out as it comes, once.
	PeekBytes int64
	// MaxWait is how long a request may stand in the broker's line. Default: its
	// context's deadline, or as long as the pool allows.
	MaxWait time.Duration
}

// Transport makes one for a pool; with "", the models of the requests decide.
func (c *Client) Transport(pool string) *Transport { return &Transport{Client: c, Pool: pool} }

// HTTP makes an http.Client of a Transport for a pool.
func (c *Client) HTTP(pool string) *http.Client { return &http.Client{Transport: c.Transport(pool)} }

// newBase makes the base of transports that have none.
func newBase() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // somebody knows better
		return http.DefaultTransport
	}
	t = t.Clone()
	t.ResponseHeaderTimeout = 10 * time.Minute // as the providers' own SDKs have it
	t.MaxIdleConnsPerHost = 100                // all requests go to few hosts
	return t
}

const (
	// errorPart is how much of an error's body is read before it is passed on, and
	// errorTime how long that may take: what comes later is lost.
	errorPart = 64 << 10
	errorTime = 10 * time.Second
	// tellTime is how long it may take to tell the broker of a refusal, before
	// another key is asked for.
	tellTime = time.Second
	// mostLate is how often a request is leased for again because it could not be
	// sent in time.
	mostLate = 2
)

// RoundTrip leases, sends and reports. Where no key has room in time, it answers
// in the provider's stead with a 429 that says when to try again. Its errors are
// those of Acquire but ErrExhausted, ErrLate, and those of the base.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, rest, err := peek(r, cmp.Or(max(t.PeekBytes, 0), 32<<20))
	if err != nil {
		return nil, err
	}
	ask := demand(r, body)
	ask.Pool = cmp.Or(ask.Pool, t.Pool)
	ask.MaxWait = t.MaxWait
	attempts := cmp.Or(max(t.Attempts, 0), 3)
	if t.SDKRetries || rest != nil {
		attempts = 1
	}
	var last *http.Response // refused, but better than nothing
	for attempt, late := 1, 0; ; attempt++ {
		resp, x, err := t.attempt(r, body, rest, &ask, attempt)
		if errors.Is(err, ErrLate) && !x.connected.Load() && rest == nil && late < mostLate {
			late++
			attempt--
			continue
		}
		if err != nil && last != nil {
			return last, nil
		}
		if err != nil {
			return without(r, err)
		}
		if last != nil {
			_ = last.Body.Close()
		}
		if t.SDKRetries {
			t.advise(r, resp, x, ask)
		}
		if attempt >= attempts || x.refusal == nil {
			return resp, nil
		}
		x.told(r.Context()) // or the broker may give another key of the same limit
		last = resp
		ask.Exclude = append(ask.Exclude, x.lease.KeyID())
		ask.MaxWait = NoWait // another key now, or the answer there is
	}
}

// attempt leases and sends once. The rest of the body, if there is any, is closed
// sooner or later.
func (t *Transport) attempt(r *http.Request, body []byte, rest io.ReadCloser, ask *Request, attempt int) (*http.Response, *exchange, error) {
	lease, err := t.Client.Acquire(r.Context(), *ask)
	if err != nil {
		if rest != nil {
			_ = rest.Close()
		}
		return nil, nil, err
	}
	x := &exchange{lease: lease, hooks: &t.Client.options.hooks, labels: lease.labels(ask.Model)}
	resp, err := x.send(cmp.Or(t.Base, t.Client.base), r, body, rest, attempt)
	return resp, x, err
}

// without answers a request for which there is no key.
func without(r *http.Request, err error) (*http.Response, error) {
	var exhausted *ExhaustedError
	if errors.As(err, &exhausted) {
		return tooMany(r, exhausted), nil
	}
	return nil, err
}

// exchange is a request under a lease, and the body of its answer, which is
// reported as it is read.
type exchange struct {
	lease  *Lease
	ctx    context.Context
	cancel context.CancelCauseFunc
	hooks  *Hooks
	labels Labels
	began  time.Time

	// Whether the base has begun to look for a connection, and has found one, for
	// bases that tell.
	seeking, connected atomic.Bool

	class provider.Class // of the answer

	// refusal hears when the broker has been told of an answer that another key may
	// not get; nil if it was none.
	refusal chan error

	io.ReadCloser
	mu     sync.Mutex
	timer  *time.Timer // of the next report
	status int
	body   provider.Body
	read   time.Time // when anybody last did
	ended  bool
}

// send sends a clone of a request. The lease is reported whatever comes of it.
func (x *exchange) send(base http.RoundTripper, r *http.Request, body []byte, rest io.ReadCloser, attempt int) (*http.Response, error) {
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	late := time.AfterFunc(x.lease.StartLeft(), x.tooLate)
	defer late.Stop()
	out := r.Clone(httptrace.WithClientTrace(x.ctx, &httptrace.ClientTrace{
		GetConn: func(string) { x.seeking.Store(true) },
		GotConn: func(httptrace.GotConnInfo) {
			x.connected.Store(true)
			late.Stop()
		},
	}))
	setBody(out, body, rest)
	if err := x.lease.Authorize(out); err != nil {
		if rest != nil {
			_ = rest.Close()
		}
		x.lease.unsent(nil)
		x.cancel(nil)
		return nil, err
	}
	x.mu.Lock()
	x.timer = time.AfterFunc(partEvery, x.part)
	x.mu.Unlock()
	x.began = time.Now()
	resp, err := base.RoundTrip(out)
	answer := Answered{Labels: x.labels, Attempt: attempt, Took: time.Since(x.began)}
	switch {
	case err != nil:
		resp, err = nil, x.failed(err)
		x.class = provider.NoAnswer
	case resp.StatusCode >= 400:
		x.refused(resp)
	default:
		x.watch(resp)
	}
	if x.hooks.Answered != nil {
		if answer.Outcome, answer.Err = x.class.String(), err; resp != nil {
			answer.Status = resp.StatusCode
		}
		x.hooks.Answered(r.Context(), answer)
	}
	if resp != nil {
		resp.Request = r // not the one with the key
	}
	return resp, err
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
		if out.ContentLength <= 0 {
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

// failed reports a request that got no answer: perhaps it was sent.
func (x *exchange) failed(err error) error {
	if context.Cause(x.ctx) == ErrLate { // not the caller's cancellation, then
		err = fmt.Errorf("keybroker: %w", ErrLate)
	}
	x.stop()
	if x.connected.Load() || !x.seeking.Load() {
		x.lease.note(&news{}, Usage{}, true)
	} else {
		x.lease.unsent(nil)
	}
	return err
}

// stop ends the reports on the way. It gives false if they had ended before.
func (x *exchange) stop() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return false
	}
	x.ended = true
	x.timer.Stop()
	x.cancel(nil)
	return true
}

// told waits until the broker knows of a refusal.
func (x *exchange) told(ctx context.Context) {
	late := time.NewTimer(tellTime)
	defer late.Stop()
	select {
	case <-x.refusal:
	case <-late.C:
	case <-ctx.Done():
	}
}

// refused reports an error with the beginning of its body, which it puts back.
func (x *exchange) refused(resp *http.Response) {
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	late := time.AfterFunc(errorTime, func() { _ = resp.Body.Close() })
	part, err := io.ReadAll(io.LimitReader(resp.Body, errorPart))
	late.Stop()
	n := newNews(resp.StatusCode, resp.Header, part)
	if x.class = x.lease.signal(n).Class; worthAnother(x.class) {
		x.refusal = make(chan error, 1)
		n.done = x.refusal
	}
	x.finish(n, Usage{}, true)
	resp.Body = &restored{io.MultiReader(bytes.NewReader(part), &failing{resp.Body, err}), resp.Body, x}
	if err != nil || len(part) < errorPart {
		x.stop() // nothing is to come
	}
}

// worthAnother reports whether another key may be answered differently: not if
// the provider is busy, or the request wrong. Statuses do not tell: Gemini answers
// 400 to a wrong key, and Vertex 429 when it is busy.
func worthAnother(c provider.Class) bool {
	switch c {
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted, provider.AuthInvalid, provider.Forbidden:
		return true
	}
	return false
}

// restored is the body of an error of which the beginning has been read.
type restored struct {
	io.Reader
	body io.Closer
	x    *exchange
}

func (b *restored) Close() error {
	err := b.body.Close()
	b.x.stop()
	return err
}

// failing reads on where the beginning ended, or fails as it did.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return f.r.Read(p)
}

// partEvery is how often a request under way is reported, so that its lease lives:
// well within the half minute for which the broker holds what may still come.
const partEvery = 10 * time.Second

// watch reports the headers of an answer at once and its use as it is read.
func (x *exchange) watch(resp *http.Response) {
	n := newNews(resp.StatusCode, resp.Header, nil)
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols { // nothing that can be read here
		x.stop()
		x.finish(n, Usage{}, true)
		return
	}
	x.lease.note(n, Usage{}, false)
	x.mu.Lock()
	x.status, x.ReadCloser, x.read = resp.StatusCode, resp.Body, time.Now()
	x.mu.Unlock()
	resp.Body = x
}

// Read reads the answer.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.ReadCloser.Read(p)
	x.mu.Lock()
	_, _ = x.body.Write(p[:n])
	x.read = time.Now()
	x.mu.Unlock()
	if err != nil {
		x.end(err == io.EOF)
	}
	return n, err
}

// Close closes the answer, read or not.
func (x *exchange) Close() error {
	err := x.ReadCloser.Close()
	x.end(false)
	return err
}

// forgotten is how long an answer may wait for its reader before it is taken for
// one that nobody will close.
const forgotten = 10 * time.Minute

// part reports what has been used so far, for as long as there is anybody to read.
func (x *exchange) part() {
	x.mu.Lock()
	unread := x.ReadCloser != nil && time.Since(x.read) > forgotten
	x.mu.Unlock()
	if unread || x.ctx.Err() != nil {
		x.end(false)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return
	}
	x.lease.note(&news{status: x.status}, usage(x.body.Usage()), false)
	x.timer.Reset(partEvery)
}

// end makes the last report. An answer that was not read to its end may have used
// more than it has said.
func (x *exchange) end(complete bool) {
	if !x.stop() {
		return
	}
	x.mu.Lock()
	n, used := newNews(x.status, nil, x.body.Error()), usage(x.body.Usage())
	complete = complete || x.body.Ended()
	if !complete || len(n.errorBody) > 0 {
		used.OutputTokens = nil
	}
	x.mu.Unlock()
	x.finish(n, used, complete)
}

// finish makes the last report.
func (x *exchange) finish(n *news, used Usage, complete bool) {
	x.lease.note(n, used, true)
	if x.hooks.Finished != nil {
		x.hooks.Finished(context.WithoutCancel(x.ctx), Finished{
			Labels: x.labels, Status: n.status, Usage: used, Complete: complete, Took: time.Since(x.began),
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
