package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/client"
	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

const (
	chat   = "/v1/chat/completions"
	ask    = `{"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}`
	answer = `{"id": "1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}`
)

// many keys, so that there is always another one.
const many = `
  - name: many
    type: openai
    base_url: $URL/v1
    keys:
      - {id: k1, key: sk-cnry7f3a-client-1, rpm_limit: 6000, tpm_limit: 10000000}
      - {id: k2, key: sk-cnry7f3a-client-2, rpm_limit: 6000, tpm_limit: 10000000}
      - {id: k3, key: sk-cnry7f3a-client-3, rpm_limit: 6000, tpm_limit: 10000000}
      - {id: k4, key: sk-cnry7f3a-client-4, rpm_limit: 6000, tpm_limit: 10000000}
      - {id: k5, key: sk-cnry7f3a-client-5, rpm_limit: 6000, tpm_limit: 10000000}
`

// body is one that remembers whether it was closed.
type body struct {
	io.Reader
	closed atomic.Bool
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// base counts the bodies that are open.
type base struct {
	http.RoundTripper
	open, sent atomic.Int64
}

// counting is a base that reaches the provider in a bubble.
func (w *world) counting() *base { return &base{RoundTripper: &w.base} }

type counted struct {
	io.ReadCloser
	once sync.Once
	open *atomic.Int64
}

func (c *counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.ReadCloser.Close()
}

func (b *base) RoundTrip(r *http.Request) (*http.Response, error) {
	b.sent.Add(1)
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		b.open.Add(1)
		resp.Body = &counted{ReadCloser: resp.Body, open: &b.open}
	}
	return resp, err
}

func request(t testing.TB, url string, b io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, b)
	require.NoError(t, err)
	return r
}

// hinted names a model.
func hinted(r *http.Request) *http.Request {
	return r.WithContext(client.WithHint(r.Context(), client.Hint{Model: "gpt-4o"}))
}

func bodyOf(t testing.TB, resp *http.Response) string {
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return string(b)
}

// Whatever the body is like, it arrives as it was meant, and is closed; the request
// is as it was.
func TestBodies(t *testing.T) {
	w := begin(t, many)
	var got struct {
		length   int64
		encoding []string
		body     string
	}
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.length, got.encoding, got.body = r.ContentLength, r.TransferEncoding, string(b)
		_, _ = io.WriteString(rw, answer)
	})
	tr := w.client().Transport("many")
	tr.PeekBytes = 1000
	large := ask + strings.Repeat(" ", 5000)
	for name, c := range map[string]struct {
		text   string
		length int64 // of the request; -1: not known
		none   io.ReadCloser
		sent   int64 // the length that arrives
	}{
		"nil":            {sent: 0},
		"NoBody":         {none: http.NoBody, sent: 0},
		"empty":          {length: -1, sent: 0},
		"small":          {text: ask, length: int64(len(ask)), sent: int64(len(ask))},
		"unknown length": {text: ask, length: -1, sent: int64(len(ask))},
		"large":          {text: large, length: int64(len(large)), sent: int64(len(large))},
		"large, unknown": {text: large, length: -1, sent: -1},
		"just fits":      {text: large[:1000], length: -1, sent: 1000},
		"just does not":  {text: large[:1001], length: -1, sent: -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, w.url+chat, nil)
			var b *body
			if r.Body = c.none; c.length != 0 {
				b = &body{Reader: strings.NewReader(c.text)}
				r.Body, r.ContentLength, r.GetBody = b, c.length, nil
			}
			r.Header.Set("Authorization", "Bearer brokered")
			before := r.Clone(r.Context())
			given := r.Body
			r = hinted(r)
			resp, err := tr.RoundTrip(r)
			require.NoError(t, err)
			assert.Equal(t, answer, bodyOf(t, resp))
			assert.Equal(t, c.text, got.body)
			assert.Equal(t, c.sent, got.length, "%v", got.encoding)
			assert.Same(t, r, resp.Request)
			assert.Equal(t, before.Header, r.Header)
			assert.Equal(t, before.URL, r.URL)
			assert.Equal(t, before.ContentLength, r.ContentLength)
			assert.True(t, given == r.Body)
			if b != nil {
				assert.True(t, b.closed.Load())
			}
		})
	}
}

// The body is closed whatever goes wrong.
func TestBodiesAreClosed(t *testing.T) {
	w := begin(t, many)
	c := w.client()
	gone := httptest.NewServer(nil)
	gone.Close()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, do := range map[string]func(tr *client.Transport, r *http.Request) *http.Request{
		"unknown pool": func(tr *client.Transport, r *http.Request) *http.Request { tr.Pool = "none"; return r },
		"foreign host": func(_ *client.Transport, r *http.Request) *http.Request { r.URL.Host = "example.com"; return r },
		"no answer": func(tr *client.Transport, r *http.Request) *http.Request {
			tr.Base = failing{}
			return r
		},
		"canceled": func(_ *client.Transport, r *http.Request) *http.Request { return r.WithContext(canceled) },
	} {
		for _, size := range []int{100, 5000} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				b := &body{Reader: strings.NewReader(ask + strings.Repeat(" ", size))}
				r := request(t, w.url+chat, b)
				tr := c.Transport("many")
				tr.PeekBytes = 1000
				resp, err := tr.RoundTrip(do(tr, r))
				require.Error(t, err)
				assert.Nil(t, resp)
				soon(t, "the body is closed", b.closed.Load)
			})
		}
	}
	t.Run("that cannot be read", func(t *testing.T) {
		trouble := errors.New("trouble")
		b := &body{Reader: iotest.ErrReader(trouble)}
		asked := len(told[*keybrokerv1.AcquireKeyRequest](w))
		_, err := c.Transport("many").RoundTrip(request(t, w.url+chat, b))
		require.ErrorIs(t, err, trouble)
		assert.True(t, b.closed.Load())
		assert.Len(t, told[*keybrokerv1.AcquireKeyRequest](w), asked, "no lease for nothing")
	})
	t.Run("that does not come", func(t *testing.T) {
		in, out := io.Pipe()
		defer out.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := c.Transport("many").RoundTrip(request(t, w.url+chat, in).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = out.Write([]byte("x"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})
	w.settled()
}

// failing is a base that gives no answer, and closes the body as it has to.
type failing struct{}

func (failing) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(time.Millisecond) // in a bubble nothing else takes time
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return nil, io.ErrUnexpectedEOF
}

// What a request needs is found in its hint, its body and its path.
func TestDemand(t *testing.T) {
	w := begin(t, `
  - name: openai
    type: openai
    base_url: $URL/v1
    keys: [{id: one, key: sk-cnry7f3a-client-one}]
`)
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	for name, c := range map[string]struct {
		path, body    string
		hint          client.Hint
		model         string
		input, output int64
	}{
		"body":      {path: chat, body: `{"model":"m","max_tokens":30}`, model: "m", input: 7, output: 30},
		"choices":   {path: chat, body: `{"model":"m","max_completion_tokens":30,"n":3}`, model: "m", input: 11, output: 90},
		"responses": {path: "/v1/responses", body: `{"max_output_tokens":30,"model":"m"}`, model: "m", input: 9, output: 30},
		"absurd":    {path: chat, body: `{"model":"m","max_tokens":1e300,"n":1e300}`, model: "m", input: 10, output: 1e15},
		"gemini":    {path: "/v1beta/models/gemini-2.5-pro:generateContent", body: `{"generationConfig":{"maxOutputTokens":30,"candidateCount":2}}`, model: "gemini-2.5-pro", input: 15, output: 60},
		"vertex":    {path: "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent", body: `{}`, model: "gemini-2.5-pro"},
		"bedrock":   {path: "/model/anthropic.claude-3-5-sonnet-20240620-v1:0/converse", body: `{"inferenceConfig":{"maxTokens":30}}`, model: "anthropic.claude-3-5-sonnet-20240620-v1:0", input: 9, output: 30},
		"arn":       {path: "/model/arn:aws:bedrock:eu:1:inference-profile%2Feu.claude/converse-stream", body: `{}`, model: "arn:aws:bedrock:eu:1:inference-profile/eu.claude"},
		"azure":     {path: "/openai/deployments/mine/chat/completions", body: `{"model":"gpt-4o"}`, model: "mine", input: 4},
		"foundry":   {path: "/models/chat/completions", body: `{"model":"gpt-4o"}`, model: "gpt-4o", input: 4},
		"escapes":   {path: chat, body: `{"mod\u0065l":"a\/b"}`, model: "a/b", input: 5},
		"hint":      {path: chat, body: `{"model":"m","max_tokens":30}`, hint: client.Hint{Model: "h", InputTokens: 1, MaxOutputTokens: 2}, model: "h", input: 1, output: 2},
		"half hint": {path: chat, body: `{"model":"m","max_tokens":30}`, hint: client.Hint{InputTokens: 1}, model: "m", input: 1, output: 30},
		"embedding": {path: "/v1beta/models/e:embedContent", body: `{"model":"models/e"}`, model: "e", input: 5},
		"none":      {path: "/v1/models", model: "-"},
		"not UTF-8": {path: chat, body: "{\"model\":\"m\xff\"}", model: "m\uFFFD", input: 3},
	} {
		t.Run(name, func(t *testing.T) {
			tr := w.client().Transport("openai") // one that has seen no other requests
			r := request(t, w.url+c.path, strings.NewReader(c.body))
			resp, err := tr.RoundTrip(r.WithContext(client.WithHint(r.Context(), c.hint)))
			require.NoError(t, err)
			bodyOf(t, resp)
			asks := told[*keybrokerv1.AcquireKeyRequest](w)
			got := asks[len(asks)-1]
			assert.Equal(t, c.model, got.GetModel())
			assert.Equal(t, c.input, got.GetInputTokens())
			assert.Equal(t, c.output, got.GetMaxOutputTokens())
			w.settled()
		})
	}
}

// A form with a file names its model in a field.
func TestDemandOfAForm(t *testing.T) {
	w := begin(t, many)
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	file, err := form.CreateFormFile("file", "a.mp3")
	require.NoError(t, err)
	_, _ = file.Write(make([]byte, 1<<20))
	require.NoError(t, form.WriteField("model", "whisper-1"))
	require.NoError(t, form.Close())
	resp, err := w.client().HTTP("many").Post(w.url+"/v1/audio/transcriptions", form.FormDataContentType(), &b)
	require.NoError(t, err)
	bodyOf(t, resp)
	asks := told[*keybrokerv1.AcquireKeyRequest](w)
	assert.Equal(t, "whisper-1", asks[0].GetModel())
	assert.Zero(t, asks[0].GetInputTokens())
	w.settled()
}

// A download that the provider redirects to another host is followed there
// without a key; a request with a body is not.
func TestRedirectAway(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		head, _ := httputil.DumpRequest(r, true)
		canary.Text("what another host is sent", string(head))
		assert.NotContains(t, string(head), canary.Mark)
		assert.NotContains(t, string(head), "stranger")
		_, _ = io.WriteString(rw, "the archive")
	}))
	defer elsewhere.Close()
	w := begin(t, many)
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/zip", http.StatusTemporaryRedirect)
	})
	h := w.client().HTTP("many")
	r := request(t, w.url+"/v1/files/1/content", nil)
	r.Method = http.MethodGet
	r.Header.Set("X-Goog-User-Project", "stranger")
	resp, err := h.Do(r)
	require.NoError(t, err)
	assert.Equal(t, "the archive", bodyOf(t, resp))
	_, err = h.Post(w.url+chat, "application/json", strings.NewReader(ask))
	require.ErrorIs(t, err, client.ErrHost)
	w.settled()
}

// A caller that has the headers of its request traced is not shown the key.
func TestKeyIsNotTraced(t *testing.T) {
	w := begin(t, many)
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	var traced []string
	r := request(t, w.url+chat, strings.NewReader(ask))
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteHeaderField: func(name string, values []string) { traced = append(traced, name+": "+strings.Join(values, ",")) },
	}))
	resp, err := w.client().Transport("many").RoundTrip(r)
	require.NoError(t, err)
	bodyOf(t, resp)
	assert.Contains(t, traced, "Authorization: (leased)")
	canary.Text("what is traced", strings.Join(traced, "\n"))
	assert.NotContains(t, strings.Join(traced, "\n"), canary.Mark)
}

// No credential but the leased one reaches the provider.
func TestCredentialsAreReplaced(t *testing.T) {
	w := begin(t, many)
	var got *http.Request
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		_, _ = io.WriteString(rw, answer)
	})
	url := strings.Replace(w.url, "http://", "http://user:stranger@", 1)
	r := request(t, url+chat+"?b=1&key=stranger&%6bey=stranger&a=2;3&KEY=stranger", strings.NewReader(ask))
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Openai-Organization", "Cookie"} {
		r.Header.Set(name, "stranger")
	}
	r.Header["x-api-key"] = []string{"stranger"} // as it is written
	r.Header["aUTHORIZATION"] = []string{"stranger"}
	r.Header.Set("X-Other", "kept")
	resp, err := w.client().Transport("many").RoundTrip(r)
	require.NoError(t, err)
	bodyOf(t, resp)
	dump, err := httputil.DumpRequest(got, false)
	require.NoError(t, err)
	assert.NotContains(t, string(dump), "stranger")
	assert.Equal(t, 1, strings.Count(string(dump), canary.Mark))
	assert.Equal(t, "b=1&a=2&3", got.URL.RawQuery)
	assert.Equal(t, "kept", got.Header.Get("X-Other"))

	r = request(t, w.url+chat+"?a=1;2&b", strings.NewReader(ask))
	resp, err = w.client().Transport("many").RoundTrip(r)
	require.NoError(t, err)
	bodyOf(t, resp)
	assert.Equal(t, "a=1;2&b", got.URL.RawQuery, "what has no credential is left alone")

	r = request(t, w.url+chat, strings.NewReader(ask))
	r.Header = nil
	resp, err = w.client().Transport("many").RoundTrip(r)
	require.NoError(t, err)
	bodyOf(t, resp)
	assert.Nil(t, r.Header)
}

// A key goes to its provider and nowhere else; what was leased comes back.
func TestForeignHosts(t *testing.T) {
	w := begin(t, many)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") }))
	defer other.Close()
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	h := w.client().HTTP("many")
	for _, url := range []string{other.URL, w.url, strings.Replace(w.url, "127.0.0.1", "localhost", 1)} {
		_, err := h.Post(url+chat, "application/json", strings.NewReader(ask))
		require.ErrorContains(t, err, "must not go to")
		assert.NotContains(t, err.Error(), canary.Mark)
	}
	w.settled()
	released := told[*keybrokerv1.ReleaseKeyRequest](w)
	require.Len(t, released, 3)
	for _, r := range released {
		assert.True(t, r.GetUnused())
	}
}

// keyOf is the number of the key of a request.
func keyOf(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "+canary.Key("client-"))
}

// A refusal that another key may not meet is met with another key.
func TestFailover(t *testing.T) {
	limited := func(rw http.ResponseWriter) {
		rw.Header().Set("Retry-After", "30")
		rw.WriteHeader(429)
		_, _ = io.WriteString(rw, `{"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}`)
	}
	status := func(n int) func(http.ResponseWriter) {
		return func(rw http.ResponseWriter) {
			rw.WriteHeader(n)
			_, _ = io.WriteString(rw, `{"error": {"message": "no", "type": "x"}}`)
		}
	}
	for name, c := range map[string]struct {
		refuse   func(http.ResponseWriter)
		refusals int // before the provider answers
		attempts int
		large    bool
		keys     int // tried
		status   int
	}{
		"429":             {limited, 1, 0, false, 2, 200},
		"401":             {status(401), 1, 0, false, 2, 200},
		"402":             {status(402), 1, 0, false, 2, 200},
		"403":             {status(403), 1, 0, false, 2, 200},
		"403 again":       {status(403), 99, 0, false, 2, 403},
		"always":          {status(401), 99, 0, false, 3, 401},
		"as often":        {limited, 99, 4, false, 4, 429},
		"never":           {limited, 99, 1, false, 1, 429},
		"more than there": {status(401), 99, 9, false, 5, 401},
		"large":           {limited, 1, 0, true, 1, 429},
		"busy":            {status(503), 1, 0, false, 1, 503},
		"broken":          {status(500), 1, 0, false, 1, 500},
		"wrong":           {status(400), 1, 0, false, 1, 400},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := bubble(t, many)
				keys := map[string]bool{}
				w.answers(func(rw http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					assert.Contains(t, string(b), ask, "the whole body, each time")
					keys[keyOf(r)] = true
					if len(keys) <= c.refusals {
						c.refuse(rw)
						return
					}
					_, _ = io.WriteString(rw, answer)
				})
				b := w.counting()
				tr := w.client().Transport("many")
				tr.Base, tr.Attempts, tr.PeekBytes = b, c.attempts, 1000
				text := ask
				if c.large {
					text += strings.Repeat(" ", 2000)
				}
				resp, err := tr.RoundTrip(request(t, w.url+chat, strings.NewReader(text)))
				require.NoError(t, err)
				assert.EqualValues(t, 1, b.open.Load(), "the bodies of the others are closed")
				assert.Equal(t, c.status, resp.StatusCode)
				if got := bodyOf(t, resp); c.status != 200 {
					assert.Contains(t, got, "error")
				}
				assert.Zero(t, b.open.Load())
				assert.Len(t, keys, c.keys)
				assert.EqualValues(t, c.keys, b.sent.Load())
				assert.Len(t, w.finals(), c.keys)
			})
		})
	}
}

// What another key cannot better is still an answer: the refusal, not the trouble
// that came after it.
func TestRefusalRatherThanNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, many)
		w.answers(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) })
		tr := w.client().Transport("many")
		b := w.counting()
		tr.Base = once{b}
		resp, err := tr.RoundTrip(request(t, w.url+chat, strings.NewReader(ask)))
		require.NoError(t, err)
		assert.Equal(t, 401, resp.StatusCode)
		bodyOf(t, resp)
		assert.Zero(t, b.open.Load())
		w.settled()
	})
}

// once is a base that fails from the second time on.
type once struct{ *base }

func (o once) RoundTrip(r *http.Request) (*http.Response, error) {
	if o.sent.Load() > 0 {
		return failing{}.RoundTrip(r)
	}
	return o.base.RoundTrip(r)
}

const one = `
  - name: one
    type: openai
    base_url: $URL/v1
    keys: [{id: k, key: sk-cnry7f3a-client-1, rpm_limit: 1, tpm_limit: 100000}]
`

// A request leaves the line when its context ends, and is answered in the
// provider's stead when its time does.
func TestInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, one)
		c := w.client()
		in := func(ctx context.Context, maxWait time.Duration) (resp *http.Response, waited time.Duration, err error) {
			tr := c.Transport("one")
			tr.Base, tr.MaxWait = &w.base, maxWait
			start := time.Now()
			resp, err = tr.RoundTrip(request(t, w.url+chat, strings.NewReader(ask)).WithContext(ctx))
			return resp, time.Since(start), err
		}
		resp, _, err := in(t.Context(), 0)
		require.NoError(t, err)
		bodyOf(t, resp)
		w.settled()

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, waited, err := in(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 50*time.Millisecond, waited)
		soon(t, "nobody waits", func() bool { return w.pool(w.name).GetSummary().GetWaiters() == 0 })

		deadline, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		for _, c := range []struct {
			name    string
			ctx     context.Context
			maxWait time.Duration
			most    time.Duration
		}{
			{"deadline", deadline, 0, 300 * time.Millisecond},
			{"MaxWait", t.Context(), 50 * time.Millisecond, 50 * time.Millisecond},
			{"NoWait", t.Context(), client.NoWait, 0},
		} {
			resp, waited, err := in(c.ctx, c.maxWait)
			require.NoError(t, err, c.name)
			assert.LessOrEqual(t, waited, c.most, c.name)
			assert.Equal(t, 429, resp.StatusCode, c.name)
		}
	})
}

// A refusal of ours is in the provider's words.
func TestOwnRefusals(t *testing.T) {
	w := begin(t, one)
	tr := w.client().Transport("one")
	tr.MaxWait = client.NoWait
	resp, err := tr.RoundTrip(hinted(request(t, w.url+chat, strings.NewReader(ask))))
	require.NoError(t, err)
	bodyOf(t, resp)
	for path, want := range map[string]string{
		chat:                                    `"code":"rate_limit_exceeded"`,
		"/v1/messages":                          `"type":"rate_limit_error"`,
		"/v1beta/models/gemini:generateContent": `"status":"RESOURCE_EXHAUSTED"`,
		"/v1beta/models/gemini:countTokens":     `"retryDelay"`,
		"/v1/messages/count_tokens":             `"type":"rate_limit_error"`,
		"/repos/a/b/issues":                     `{"message":"pool`,
		"/model/claude:0/converse":              `{"message":"pool`,
		"/v2/chat":                              `{"message":"pool`,
	} {
		resp, err := tr.RoundTrip(hinted(request(t, w.url+path, strings.NewReader("{}"))))
		require.NoError(t, err)
		assert.Equal(t, 429, resp.StatusCode)
		assert.NotEmpty(t, resp.Header.Get("Retry-After"))
		assert.NotEmpty(t, resp.Header.Get("Retry-After-Ms"))
		assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		text := bodyOf(t, resp)
		assert.Contains(t, text, want)
		assert.EqualValues(t, len(text), resp.ContentLength)
	}
}

// An error's body is passed on whole, though only its beginning is reported; and
// what fails on the way fails for the caller.
func TestErrorBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, many)
		large := `{"error": {"message": "` + strings.Repeat("x", 200<<10) + `"}}`
		cut := false
		w.answers(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(len(large)))
			rw.WriteHeader(500)
			if cut {
				_, _ = io.WriteString(rw, large[:100])
				return
			}
			_, _ = io.WriteString(rw, large)
		})
		tr := w.client().Transport("many")
		tr.Base = &w.base
		h := &http.Client{Transport: tr}
		resp, err := h.Post(w.url+chat, "application/json", strings.NewReader(ask))
		require.NoError(t, err)
		assert.Equal(t, large, bodyOf(t, resp))
		w.settled() // so that its report is the first
		cut = true
		resp, err = h.Post(w.url+chat, "application/json", strings.NewReader(ask))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Equal(t, large[:100], string(got))
		require.NoError(t, resp.Body.Close())
		final := w.finals()
		require.Len(t, final, 2)
		assert.Equal(t, 16<<10, len(final[0].GetErrorBody()))
		assert.Equal(t, 100, len(final[1].GetErrorBody()))
	})
}

// What was used is read from the answer as it passes, and its end is told once.
func TestUsage(t *testing.T) {
	events := `data: {"choices": [{"delta": {"content": "Hello"}}], "usage": null}` + "\n\n" +
		`data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}` + "\n\ndata: [DONE]\n\n"
	plain := func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) }
	stream := func(text string, more bool) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			for _, line := range strings.SplitAfter(text, "\n\n") {
				_, _ = io.WriteString(rw, line)
				_ = http.NewResponseController(rw).Flush()
			}
			if more {
				<-r.Context().Done()
			}
		}
	}
	readAll := func(t *testing.T, resp *http.Response, _ func()) {
		_, _ = io.Copy(io.Discard, resp.Body)
		_, _ = resp.Body.Read(make([]byte, 1))
		require.NoError(t, resp.Body.Close())
		_ = resp.Body.Close()
	}
	leave := func(t *testing.T, resp *http.Response, _ func()) {
		_, err := resp.Body.Read(make([]byte, 10))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	seven, five := int64(7), int64(5)
	for name, c := range map[string]struct {
		answer        http.HandlerFunc
		read          func(*testing.T, *http.Response, func())
		input, output *int64
		status        int32
	}{
		"JSON": {plain, readAll, &seven, &five, 200},
		"JSON, and not to its end": {plain, func(t *testing.T, resp *http.Response, _ func()) {
			_, err := io.ReadFull(resp.Body, make([]byte, len(answer)))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}, &seven, &five, 200},
		"gzip": {func(rw http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "gzip", r.Header.Get("Accept-Encoding"))
			rw.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(rw)
			_, _ = io.WriteString(z, answer)
			_ = z.Close()
		}, func(t *testing.T, resp *http.Response, _ func()) {
			assert.True(t, resp.Uncompressed)
			assert.Equal(t, answer, bodyOf(t, resp))
		}, &seven, &five, 200},
		"SSE":         {stream(events, false), readAll, &seven, &five, 200},
		"early Close": {stream(events[:70], true), leave, nil, nil, 200},
		"no body":     {func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) }, readAll, nil, nil, 204},
		"never closed": {stream(events[:70], true), func(t *testing.T, resp *http.Response, cancel func()) {
			cancel()
			_, err := io.Copy(io.Discard, resp.Body)
			require.ErrorIs(t, err, context.Canceled)
		}, nil, nil, 200},
		"broken off": {func(rw http.ResponseWriter, r *http.Request) {
			stream(`data: {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}`+"\n\n", false)(rw, r)
			panic(http.ErrAbortHandler)
		}, readAll, &seven, nil, 200},
		"error in the stream": {stream(`data: {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}`+"\n\n"+
			`data: {"error": {"message": "overloaded", "type": "server_error", "code": "server_is_overloaded"}}`+"\n\n", false), readAll, &seven, nil, 200},
	} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, many)
			w.answers(c.answer)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := w.client().Transport("many").RoundTrip(request(t, w.url+chat, strings.NewReader(ask)).WithContext(ctx))
			require.NoError(t, err)
			c.read(t, resp, cancel)
			final := w.finals()
			require.Len(t, final, 1)
			assert.Equal(t, c.status, final[0].GetStatusCode())
			assert.Equal(t, c.input, final[0].Usage.InputTokens)
			assert.Equal(t, c.output, final[0].Usage.OutputTokens)
		})
	}
}

// Headers are told when they arrive, those about limits and no others.
func TestHeadersAreToldAtOnce(t *testing.T) {
	w := begin(t, many)
	end := make(chan struct{})
	w.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("X-Ratelimit-Remaining-Requests", "17")
		rw.Header().Set("Set-Cookie", "secret")
		rw.Header().Set("X-Request-Id", "not \xff text")
		_ = http.NewResponseController(rw).Flush()
		<-end
		_, _ = io.WriteString(rw, answer)
	})
	resp, err := w.client().HTTP("many").Post(w.url+chat, "application/json", strings.NewReader(ask))
	require.NoError(t, err)
	var first *keybrokerv1.ReportUsageRequest
	soon(t, "the broker is told", func() bool {
		if all := told[*keybrokerv1.ReportUsageRequest](w); len(all) > 0 {
			first = all[0]
		}
		return first != nil
	})
	resp.Header.Set("X-Ratelimit-Remaining-Requests", "the caller's now")
	assert.False(t, first.GetFinal())
	assert.Equal(t, "17", first.GetHeaders()["X-Ratelimit-Remaining-Requests"])
	assert.Equal(t, "not ? text", first.GetHeaders()["X-Request-Id"])
	assert.NotContains(t, first.GetHeaders(), "Set-Cookie")
	close(end)
	bodyOf(t, resp)
	assert.Len(t, w.finals(), 1)
}

// A request that cannot be sent in time is leased for anew; nothing is sent late.
func TestTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, strings.Replace(many, "    keys:", "    lease: {start_within: 250ms}\n    keys:", 1))
		var arrived atomic.Int64
		w.answers(func(rw http.ResponseWriter, _ *http.Request) {
			arrived.Add(1)
			_, _ = io.WriteString(rw, answer)
		})
		c := w.client()
		tr := c.Transport("many")
		var dials atomic.Int64
		tr.Base = &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) == 1 {
				time.Sleep(600 * time.Millisecond)
			}
			return w.base.DialContext(ctx, network, addr)
		}, DisableKeepAlives: true}
		resp, err := tr.RoundTrip(request(t, w.url+chat, strings.NewReader(ask)))
		require.NoError(t, err)
		bodyOf(t, resp)
		assert.EqualValues(t, 1, arrived.Load())
		assert.Len(t, w.finals(), 1)
		assert.Len(t, told[*keybrokerv1.ReleaseKeyRequest](w), 1)

		tr.PeekBytes = 10 // what cannot be sent again
		dials.Store(0)
		_, err = tr.RoundTrip(hinted(request(t, w.url+chat, strings.NewReader(ask))))
		require.ErrorIs(t, err, client.ErrLate)
		assert.False(t, errors.Is(err, context.Canceled), "nobody has canceled it")

		tr.Base = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.ErrClosedPipe }}
		_, err = tr.RoundTrip(hinted(request(t, w.url+chat, strings.NewReader(ask))))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		w.settled()
		assert.Len(t, told[*keybrokerv1.ReleaseKeyRequest](w), 3, "what was never sent comes back")
		time.Sleep(time.Second) // the dials that nobody waits for end
	})
}

// goroutines counts them when they are few enough, or do not get fewer.
func goroutines(most int) (n int) {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if n = runtime.NumGoroutine(); n <= most || time.Now().After(end) {
			return n
		}
	}
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// No goroutine outlives Close.
func TestCloseLeavesNothing(t *testing.T) {
	w := begin(t, many)
	w.settled()
	before := runtime.NumGoroutine()
	c, err := client.New(w.target)
	require.NoError(t, err)
	h := c.HTTP("many")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 5 {
				resp, err := h.Post(w.url+chat, "application/json", strings.NewReader(ask))
				if assert.NoError(t, err) {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}
		})
	}
	all.Wait()
	held, err := c.Acquire(t.Context(), client.Request{Pool: "many", Model: "gpt-4o", TTL: time.Minute})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	for range 3 { // nor does anything hang
		require.ErrorIs(t, held.Report(t.Context(), client.Report{Status: 200}), client.ErrClosed)
	}
	require.ErrorIs(t, held.Release(t.Context(), true), client.ErrClosed)
	assert.LessOrEqual(t, w.pool(w.name).GetSummary().GetOpenLeases(), int64(1))
	if n := goroutines(before); n > before {
		t.Errorf("%d goroutines, %d before:\n%s", n, before, stacks())
	}
}

// syncBuffer takes what is logged.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// The key is nowhere to be seen.
func TestKeyIsNotShown(t *testing.T) {
	w := begin(t, many)
	var out syncBuffer
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := w.client(client.WithLogger(log))
	l, err := c.Acquire(t.Context(), client.Request{Pool: "many", Model: "gpt-4o"})
	require.NoError(t, err)
	require.Contains(t, l.Key(), canary.Mark)
	fmt.Fprintf(&out, "%v %+v %#v %s %d %x %v %+v %#v\n", l, l, l, l, l, l, *l, *l, *l)
	fmt.Fprintf(&out, "%v %+v %#v\n", struct{ L *client.Lease }{l}, []any{l}, map[string]any{"l": l})
	log.Info("lease", "l", l)
	foreign := request(t, "https://example.com", nil)
	err = l.Authorize(foreign)
	fmt.Fprintf(&out, "%v %+v %#v %v\n", err, err, err, foreign)
	require.NoError(t, l.Release(t.Context(), true))

	show := func(resp *http.Response, err error) {
		fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
		if resp == nil {
			return
		}
		dump, _ := httputil.DumpRequest(resp.Request, true)
		fmt.Fprintf(&out, "%s %+v %#v %+v %#v %+v\n", dump, resp, resp, resp.Body, resp.Body, resp.Request)
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		fmt.Fprintf(&out, "%s\n", b)
	}
	for _, f := range []http.HandlerFunc{
		func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) },
		func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) },
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://example.com", http.StatusTemporaryRedirect)
		},
	} {
		w.answers(f)
		show(c.HTTP("many").Post(w.url+chat, "application/json", strings.NewReader(ask)))
	}
	require.NoError(t, c.Close())
	show(nil, l.Report(t.Context(), client.Report{Final: true}))
	assert.Contains(t, out.String(), "lease of key")
	canary.Text("what is shown", out.String())
	assert.NotContains(t, out.String(), canary.Mark)
}
