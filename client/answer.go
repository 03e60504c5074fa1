package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

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
		sayWhen(resp.Header, -1)
	case x.refusal != nil:
		x.told(r.Context()) // or the broker may give the same key again
		ask.MaxWait = NoWait
		var exhausted *ExhaustedError
		switch lease, err := t.Client.one(r.Context(), &ask); {
		case err == nil:
			lease.unsent(nil)
			sayWhen(resp.Header, 0)
		case errors.As(err, &exhausted) && exhausted.Retry > 0:
			sayWhen(resp.Header, exhausted.Retry)
		default:
			sayWhen(resp.Header, -1)
		}
	}
}

// sayWhen says when a request is to be tried again, in the headers that SDKs
// read; negative is never.
func sayWhen(h http.Header, wait time.Duration) {
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
	h.Set(should, fmt.Sprint(0 <= wait && wait <= longestSleep))
}

func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }

// tooMany is a 429 as the provider would have worded it.
func tooMany(r *http.Request, e *ExhaustedError) *http.Response {
	text := strings.TrimPrefix(e.Error(), "keybroker: ")
	header := http.Header{"Content-Type": {"application/json"}, "X-Keybroker": {"exhausted"}}
	if e.Retry > 0 {
		sayWhen(header, e.Retry)
	} else {
		sayWhen(header, -1)
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
