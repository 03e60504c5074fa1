package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
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
	// PeekBytes is how much of a request's body is read for its model and size,
	// and kept to send again. Default 1 MiB. What is larger goes out as it comes,
	// once.
	PeekBytes int64
	// MaxWait is how long a request may stand in the broker's line. Default: its
	// context's deadline, or as long as the pool allows.
	MaxWait time.Duration
}

// Transport makes one for a pool; with "", the models of the requests decide.
func (c *Client) Transport(pool string) *Transport { return &Transport{Client: c, Pool: pool} }

// HTTP makes an http.Client of a Transport for a pool.
func (c *Client) HTTP(pool string) *http.Client { return &http.Client{Transport: c.Transport(pool)} }

var defaultBase = sync.OnceValue(func() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 10 * time.Minute // as the providers' own SDKs have it
	t.MaxIdleConnsPerHost = 100                // all requests go to few hosts
	return t
})

// errorPart is how much of an error's body is read.
const errorPart = 64 << 10

// RoundTrip leases, sends and reports. Where no key has room in time, it answers
// in the provider's stead with a 429 that says when to try again. Its errors are
// those of Acquire but ErrExhausted, and those of the base.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, rest, whole, err := peek(r, t.peekBytes())
	if err != nil {
		return nil, err
	}
	ask := demand(r, body)
	if ask.Pool == "" {
		ask.Pool = t.Pool
	}
	ask.MaxWait = t.MaxWait
	var last *http.Response // refused, but better than nothing
	for attempt := 1; ; attempt++ {
		lease, err := t.Client.Acquire(r.Context(), ask)
		if err != nil {
			if rest != nil {
				_ = rest.Close()
			}
			return t.without(r, last, err)
		}
		if whole && len(body) > 0 { // else it stays http.NoBody, which the base may send again by itself
			rest = io.NopCloser(bytes.NewReader(body))
		}
		resp, err := t.send(r, rest, lease)
		if last != nil {
			_ = last.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		if !whole || attempt >= t.attempts() || lease.refusal == nil {
			return resp, nil
		}
		select { // or the broker may give another key of the same limit
		case <-lease.refusal:
		case <-r.Context().Done():
		}
		last = resp
		ask.Exclude = append(ask.Exclude, lease.KeyID())
		ask.MaxWait = NoWait // another key now, or the answer there is
	}
}

func (t *Transport) peekBytes() int64 {
	if t.PeekBytes > 0 {
		return t.PeekBytes
	}
	return 1 << 20
}

func (t *Transport) attempts() int {
	if t.Attempts > 0 {
		return t.Attempts
	}
	return 3
}

// without answers a request for which there is no key: with the refusal that
// another key met, or with one of our own.
func (t *Transport) without(r *http.Request, last *http.Response, err error) (*http.Response, error) {
	var exhausted *ExhaustedError
	switch {
	case last != nil:
		return last, nil
	case errors.As(err, &exhausted):
		return tooMany(r, exhausted), nil
	}
	return nil, err
}

// worthAnother reports whether another key may be answered differently: not if
// the provider is busy, or the request wrong. Statuses do not tell: Gemini answers
// 400 to a wrong key, and Vertex 429 when it is busy.
func (l *Lease) worthAnother(r provider.Response) bool {
	d, ok := provider.Lookup(l.Provider())
	if !ok {
		d, _ = provider.Lookup("generic")
	}
	switch d.Read(r).Class {
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted, provider.AuthInvalid, provider.Forbidden:
		return true
	}
	return false
}

// send makes one attempt with a lease, which is reported whatever comes of it.
func (t *Transport) send(r *http.Request, body io.ReadCloser, l *Lease) (*http.Response, error) {
	out := r.Clone(r.Context())
	if out.Body = body; body != nil && r.ContentLength > 0 {
		out.ContentLength = r.ContentLength
	}
	if err := l.Authorize(out); err != nil {
		if body != nil {
			_ = body.Close()
		}
		l.unsent()
		return nil, err
	}
	base := t.Base
	if base == nil {
		base = defaultBase()
	}
	resp, err := base.RoundTrip(out)
	if err != nil { // perhaps it was sent, perhaps not
		l.note(&news{}, Usage{}, true)
		return nil, err
	}
	resp.Request = r // not the one with the key
	if resp.StatusCode >= 400 {
		return resp, l.refused(resp)
	}
	l.watch(resp)
	return resp, nil
}

// refused reports an error with the beginning of its body, which it puts back.
func (l *Lease) refused(resp *http.Response) error {
	part, err := io.ReadAll(io.LimitReader(resp.Body, errorPart))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(part), &failing{resp.Body, err}), resp.Body}
	n := &news{status: resp.StatusCode, header: resp.Header, errorBody: part}
	if l.worthAnother(provider.Response{Status: n.status, Header: n.header, Body: part}) {
		l.refusal = make(chan error, 1)
		n.done = l.refusal
	}
	l.note(n, Usage{}, true)
	return nil
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

// partEvery is how often an answer under way is reported: well within the half
// minute for which the broker holds what may still come.
const partEvery = 10 * time.Second

// watch reports the headers of an answer at once and its use as it is read.
func (l *Lease) watch(resp *http.Response) {
	w := &watched{ReadCloser: resp.Body, lease: l, status: resp.StatusCode}
	l.note(&news{status: w.status, header: resp.Header}, Usage{}, false)
	w.timer = time.AfterFunc(partEvery, w.part)
	resp.Body = w
}

// watched is the body of an answer that is being read.
type watched struct {
	io.ReadCloser
	lease  *Lease
	status int
	timer  *time.Timer

	mu    sync.Mutex
	body  provider.Body
	ended bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.mu.Lock()
	_, _ = w.body.Write(p[:n])
	w.mu.Unlock()
	if err != nil {
		w.end(err == io.EOF)
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	w.end(false)
	return err
}

// part reports what has been used so far.
func (w *watched) part() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.lease.note(&news{status: w.status}, usage(w.body.Usage()), false)
	w.timer.Reset(partEvery)
}

// end makes the last report. An answer that was not read to its end may have used
// more than it has said.
func (w *watched) end(complete bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.ended = true
	w.timer.Stop()
	n, used := news{status: w.status, errorBody: w.body.Error()}, usage(w.body.Usage())
	if !complete && !w.body.Ended() || n.errorBody != nil {
		used.OutputTokens = nil
	}
	w.lease.note(&n, used, true)
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

// tooMany is a 429 as the provider would have worded it.
func tooMany(r *http.Request, e *ExhaustedError) *http.Response {
	text := strings.TrimPrefix(e.Error(), "keybroker: ")
	header := http.Header{"Content-Type": {"application/json"}, "X-Keybroker": {"exhausted"}}
	if e.Retry > 0 {
		header.Set("Retry-After", fmt.Sprint(int64((e.Retry+time.Second-1)/time.Second)))
		header.Set("Retry-After-Ms", fmt.Sprint(e.Retry.Milliseconds()))
	} else {
		header.Set("X-Should-Retry", "false")
	}
	body := errorShape(r, text, e.Retry)
	return &http.Response{
		Status: "429 Too Many Requests", StatusCode: http.StatusTooManyRequests,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// errorShape is an error as the provider of a request words it.
func errorShape(r *http.Request, text string, retry time.Duration) []byte {
	path := r.URL.Path
	var e any
	switch {
	case strings.HasSuffix(path, "/messages"):
		e = map[string]any{"type": "error", "error": map[string]any{"type": "rate_limit_error", "message": text}}
	case strings.Contains(path, ":generateContent"), strings.Contains(path, ":streamGenerateContent"):
		inner := map[string]any{"code": http.StatusTooManyRequests, "message": text, "status": "RESOURCE_EXHAUSTED"}
		if retry > 0 { // its SDK shows no headers
			inner["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fmt.Sprintf("%.3fs", retry.Seconds())}}
		}
		e = map[string]any{"error": inner}
	case strings.Contains(path, "/converse"), strings.HasPrefix(path, "/v2/"):
		e = map[string]any{"message": text}
	default:
		e = map[string]any{"error": map[string]any{"message": text, "type": "rate_limit_exceeded", "param": nil, "code": "rate_limit_exceeded"}}
	}
	b, _ := json.Marshal(e) // of strings and numbers only
	return b
}
