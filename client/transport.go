package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/internal/failover"
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
	// Base sends, and sees the key. Default: a clone of http.DefaultTransport that
	// waits 10 minutes for the headers of an answer.
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

// RoundTrip leases, sends and reports. Where no key has room in time, it answers
// in the provider's stead with a 429 that says when to try again. Its errors are
// ErrLate, those of the base, and those of Acquire except ErrExhausted. A request with
// a body that is written while the answer is read is not for it.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL == nil || t.Client == nil {
		closeBody(r.Body)
		return nil, errors.New("keybroker: a request without a URL, or a Transport without a Client")
	}
	body, rest, err := peek(r, cmp.Or(min(max(t.PeekBytes, 0), 1<<40), 32<<20))
	if err != nil {
		return nil, err
	}
	ask := demand(r, body)
	ask.Pool = cmp.Or(ask.Pool, t.Pool)
	ask.MaxWait = t.MaxWait
	if ask.Pool == "" && ask.Model == provider.NoModel { // then nobody knows which pool
		ask.Model = ""
	}
	resp, err := t.try(r, body, rest, &ask)
	if errors.Is(err, ErrHost) && r.Response != nil && len(body) == 0 {
		return t.away(r)
	}
	if err != nil {
		return t.own(r, err)
	}
	return resp, nil
}

// try sends a request, with one key after another.
func (t *Transport) try(r *http.Request, body []byte, rest io.ReadCloser, ask *Request) (*http.Response, error) {
	attempts := cmp.Or(max(t.Attempts, 0), 3)
	if t.SDKRetries || rest != nil {
		attempts = 1
	}
	var last *http.Response // refused, but better than nothing
	var refused *exchange   // whose it is
	for attempt := 1; ; attempt++ {
		resp, x, err := t.attempt(r, body, rest, ask, attempt, refused)
		late := errors.Is(err, ErrLate) && !x.sent() && last == nil && rest == nil // another lease may be in time
		switch {
		case late && !x.unauthorized:
			attempt-- // it stood in line for a connection, as it may
			continue
		case late && attempt < attempts:
			continue
		case err != nil && last != nil && (x == nil || !x.reached.Load()) && r.Context().Err() == nil:
			return last, nil
		}
		if last != nil {
			_ = last.Body.Close()
		}
		if err != nil {
			return nil, err
		}
		if t.SDKRetries {
			t.advise(r, resp, x, *ask)
		}
		if attempt >= attempts || x.refusal == nil || x.class == provider.Forbidden && attempt > 1 { // it may be about the request
			return resp, nil
		}
		last, refused = resp, x
		ask.Exclude = append(ask.Exclude, x.lease.KeyID())
		ask.MaxWait = NoWait // another key now, or the answer there is
	}
}

// attempt leases and sends once. The rest of the body, if there is any, is closed
// sooner or later.
func (t *Transport) attempt(r *http.Request, body []byte, rest io.ReadCloser, ask *Request, attempt int, refused *exchange) (*http.Response, *exchange, error) {
	ctx := r.Context()
	if refused != nil {
		soon, cancel := context.WithTimeout(ctx, failover.Time)
		defer cancel()
		ctx = soon
		refused.told(ctx) // or the broker may give another key of the same limit
	}
	lease, err := t.Client.Acquire(ctx, *ask)
	if err != nil {
		closeBody(rest)
		return nil, nil, err
	}
	x := &exchange{lease: lease, hooks: &t.Client.options.hooks, labels: lease.labels(ask.Model), attempt: attempt}
	resp, err := x.send(t.base(), r, body, rest)
	return resp, x, err
}

func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close()
	}
}

func (t *Transport) base() http.RoundTripper { return cmp.Or(t.Base, t.Client.base) }

// away sends on a request that the provider has redirected to somebody else's
// host, such as one for files: without a key, and without what else is secret.
func (t *Transport) away(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	strip(out)
	return t.base().RoundTrip(out)
}

// CloseIdleConnections closes those of the base.
func (t *Transport) CloseIdleConnections() {
	if b, ok := t.base().(interface{ CloseIdleConnections() }); ok {
		b.CloseIdleConnections()
	}
}
