package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/failover"
	"github.com/keybroker/keybroker/internal/provider"
)

// longestSleep is the longest wait that an SDK is told to sleep through and try
// again. Some sleep as long as they are told, though it be days.
const longestSleep = time.Minute

// original is put before the names of the provider's headers that advise replaces.
const original = "X-Broker-Orig-"

// advise tells the retries of the caller's SDK what is known here: at once with
// another key, in a while, or never. What is no matter of keys is the SDK's own to
// judge.
func (t *Transport) advise(r *http.Request, resp *http.Response, x *exchange, ask Request) {
	switch {
	case x.class == provider.RequestTooLarge:
		sayWhen(r.Context(), resp.Header, never)
	case x.refusal != nil:
		ctx, cancel := context.WithTimeout(r.Context(), failover.Time)
		defer cancel()
		x.told(ctx) // or the broker may give the same key again
		ask.MaxWait = NoWait
		var exhausted *ExhaustedError
		switch lease, err := t.Client.one(ctx, &ask); {
		case err == nil:
			_ = lease.Release(ctx, true)
			sayWhen(r.Context(), resp.Header, 0)
		case errors.As(err, &exhausted) && exhausted.Retry > 0:
			sayWhen(r.Context(), resp.Header, exhausted.Retry)
		default:
			sayWhen(r.Context(), resp.Header, never)
		}
	}
}

// never is a wait that is of no use.
const never = -1

// sayWhen says when a request is to be tried again, in the headers that SDKs
// read. Not after the end of its context: who sleeps until then hears nothing of the
// refusal.
func sayWhen(ctx context.Context, h http.Header, wait time.Duration) {
	const should, millis, seconds = "X-Should-Retry", "Retry-After-Ms", "Retry-After"
	for _, name := range [...]string{should, millis, seconds} {
		if v := h.Values(name); len(v) > 0 {
			h[original+name] = v
			h.Del(name)
		}
	}
	if wait >= 0 {
		h.Set(millis, fmt.Sprint(ceil(wait, time.Millisecond)))
		h.Set(seconds, fmt.Sprint(ceil(wait, time.Second)))
	}
	most := longestSleep
	if deadline, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(deadline))
	}
	h.Set(should, fmt.Sprint(0 <= wait && wait <= most))
}

func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }

// refusal is an answer in the provider's stead, as each kind of them words it.
type refusal struct {
	status                    int
	anthropic, openai, google string
}

var (
	tooMany = refusal{http.StatusTooManyRequests, "rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"}
	// What trying again does not cure.
	hopeless = map[error]refusal{
		ErrTooLarge: {http.StatusRequestEntityTooLarge, "request_too_large", "request_too_large", "INVALID_ARGUMENT"},
		ErrInvalid:  {http.StatusBadRequest, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"},
		ErrHost:     {http.StatusForbidden, "permission_error", "permission_denied", "PERMISSION_DENIED"},
		ErrDenied:   {http.StatusForbidden, "permission_error", "permission_denied", "PERMISSION_DENIED"},
	}
)

// own answers a request for which there is no key, where an answer serves the
// caller better than an error: SDKs try again after any error.
func (t *Transport) own(r *http.Request, err error) (*http.Response, error) {
	var exhausted *ExhaustedError
	if errors.As(err, &exhausted) {
		wait := exhausted.Retry
		if wait <= 0 {
			wait = never
		}
		return tooMany.answer(r, err, wait), nil
	}
	for kind, f := range hopeless {
		if t.SDKRetries && errors.Is(err, kind) {
			return f.answer(r, err, never), nil
		}
	}
	return nil, err
}

func (f refusal) answer(r *http.Request, err error, wait time.Duration) *http.Response {
	header := http.Header{"Content-Type": {"application/json"}, "X-Keybroker": {"refused"}}
	sayWhen(r.Context(), header, wait)
	body := f.shape(r.URL.Path, strings.TrimPrefix(err.Error(), "keybroker: "), wait)
	return &http.Response{
		Status: fmt.Sprint(f.status, " ", http.StatusText(f.status)), StatusCode: f.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}
}

// shape is an error as the provider of a path words it.
func (f refusal) shape(at, text string, wait time.Duration) []byte {
	var e any
	method := path.Base(at)
	switch {
	case strings.Contains(at, "/messages"):
		e = map[string]any{"type": "error", "error": map[string]any{"type": f.anthropic, "message": text}}
	case strings.Contains(method, ":") && !strings.Contains(at, "/model/"):
		inner := map[string]any{"code": f.status, "message": text, "status": f.google}
		if wait > 0 { // its SDK shows no headers
			inner["details"] = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": fmt.Sprintf("%.3fs", wait.Seconds())}}
		}
		e = map[string]any{"error": inner}
	case strings.Contains(at, "/chat/completions"), strings.HasPrefix(at, "/v1/"), strings.Contains(at, "/openai/"):
		e = map[string]any{"error": map[string]any{"message": text, "type": f.openai, "param": nil, "code": f.openai}}
	default: // Bedrock, Cohere, GitHub
		e = map[string]any{"message": text}
	}
	b, _ := json.Marshal(e) // of strings and numbers only
	return b
}
