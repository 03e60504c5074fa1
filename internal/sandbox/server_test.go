package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/sandbox"
)

// noon is when every test's clock starts.
var noon = time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a sandbox behind real HTTP.
type world struct {
	t     *testing.T
	url   string
	clock *clock
	*sandbox.Server
}

func open(t *testing.T, o sandbox.Options, accounts ...sandbox.Account) *world {
	c := &clock{now: noon}
	o.Now = c.Now
	s := sandbox.New(accounts, o)
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	return &world{t, ts.URL, c, s}
}

// reply is an answer read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// post sends a body with headers given in pairs.
func (w *world) post(path, body string, headers ...string) reply {
	return w.do(http.MethodPost, path, body, headers...)
}

func (w *world) do(method, path, body string, headers ...string) reply {
	w.t.Helper()
	resp := w.send(w.t.Context(), method, path, body, headers...)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return reply{resp.StatusCode, resp.Header, string(got)}
}

func (w *world) send(ctx context.Context, method, path, body string, headers ...string) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	require.NoError(w.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	return resp
}

// class is the statistics of an account's class.
func (w *world) class(account, name string) sandbox.ClassStats {
	w.t.Helper()
	for _, a := range w.Stats().Accounts {
		for _, c := range a.Classes {
			if a.Name == account && c.Name == name {
				return c
			}
		}
	}
	require.Fail(w.t, "no such class", "%s %s", account, name)
	return sandbox.ClassStats{}
}

// json decodes a body into plain values.
func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &v), r.body)
	return v
}

// at digs into plain values: names for objects, numbers for arrays.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			require.Contains(t, v, p)
			v = v.(map[string]any)[p]
		case int:
			require.Greater(t, len(v.([]any)), p)
			v = v.([]any)[p]
		}
	}
	return v
}

// frame is one server-sent event.
type frame struct{ name, data string }

func (f frame) json(t *testing.T) map[string]any { return reply{body: f.data}.json(t) }

func (r reply) frames(t *testing.T) (fs []frame) {
	t.Helper()
	require.True(t, strings.HasSuffix(r.body, "\n\n"))
	for block := range strings.SplitSeq(strings.TrimSuffix(r.body, "\n\n"), "\n\n") {
		var f frame
		for line := range strings.SplitSeq(block, "\n") {
			field, value, ok := strings.Cut(line, ": ")
			require.True(t, ok, line)
			switch field {
			case "event":
				f.name = value
			case "data":
				f.data = value
			default:
				require.Fail(t, "unexpected field", line)
			}
		}
		fs = append(fs, f)
	}
	return fs
}

func TestCredentials(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-key-a", ""}},
		sandbox.Account{Type: "openai", Name: "org-o", Keys: []string{"cnry7f3a-key-o"}},
	)
	for name, c := range map[string]struct {
		path, body string
		headers    []string
		status     int
	}{
		"anthropic x-api-key":     {"/v1/messages", hello, []string{"x-api-key", "cnry7f3a-key-a"}, 200},
		"anthropic bearer":        {"/v1/messages", hello, []string{"Authorization", "Bearer cnry7f3a-key-a"}, 200},
		"anthropic missing":       {"/v1/messages", hello, nil, 401},
		"anthropic empty":         {"/v1/messages", hello, []string{"Authorization", "Bearer "}, 401},
		"anthropic unknown":       {"/v1/messages", hello, []string{"x-api-key", "canary-key"}, 401},
		"anthropic other surface": {"/v1/messages", hello, []string{"x-api-key", "cnry7f3a-key-o"}, 401},
		"openai bearer":           {"/v1/chat/completions", hi, []string{"Authorization", "bearer cnry7f3a-key-o"}, 200},
		"openai missing":          {"/v1/chat/completions", hi, nil, 401},
		"openai x-api-key":        {"/v1/chat/completions", hi, []string{"x-api-key", "cnry7f3a-key-o"}, 401},
		"openai unknown":          {"/v1/responses", hi, []string{"Authorization", "Bearer canary-key"}, 401},
		"openai other surface":    {"/v1/responses", hi, []string{"Authorization", "Bearer cnry7f3a-key-a"}, 401},
		"openai basic":            {"/v1/responses", hi, []string{"Authorization", "Basic cnry7f3a-key-o"}, 401},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.post(c.path, c.body, c.headers...)
			assert.Equal(t, c.status, got.status, got.body)
			assert.NotContains(t, got.body, "canary", "a key must not be echoed")
		})
	}
	assert.EqualValues(t, 9, w.Stats().UnknownKeys)
}

func TestRevokeAndRestore(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-key-1", "cnry7f3a-key-2"}})
	w.Revoke("cnry7f3a-key-1")
	got := w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-key-1")
	assert.Equal(t, 401, got.status)
	assert.Equal(t, "authentication_error", at(t, got.json(t), "error", "type"))
	assert.Equal(t, 200, w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-key-2").status)
	w.Restore("cnry7f3a-key-1")
	assert.Equal(t, 200, w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-key-1").status)
	assert.EqualValues(t, 1, w.Stats().Accounts[0].Unauthorized)
	assert.Zero(t, w.Stats().UnknownKeys)
}

func TestGarbage(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}},
		sandbox.Account{Type: "openai", Name: "org-o", Keys: []string{"cnry7f3a-k"}},
	)
	for name, c := range map[string]struct {
		path, body string
		message    string
	}{
		"not JSON":           {"/v1/messages", "{", "not a valid JSON object"},
		"empty":              {"/v1/messages", "", "not a valid JSON object"},
		"array":              {"/v1/messages", "[]", "not a valid JSON object"},
		"trailing":           {"/v1/messages", hello + "x", "not a valid JSON object"},
		"no model":           {"/v1/messages", `{"max_tokens":1,"messages":[{}]}`, "model: "},
		"no max_tokens":      {"/v1/messages", `{"model":"m","messages":[{}]}`, "max_tokens: "},
		"max_tokens zero":    {"/v1/messages", `{"model":"m","max_tokens":0,"messages":[{}]}`, "max_tokens: "},
		"max_tokens string":  {"/v1/messages", `{"model":"m","max_tokens":"9"}`, "max_tokens: "},
		"max_tokens huge":    {"/v1/messages", `{"model":"m","max_tokens":99999999999999999999}`, "max_tokens: "},
		"no messages":        {"/v1/messages", `{"model":"m","max_tokens":1}`, "messages: "},
		"chat not JSON":      {"/v1/chat/completions", "\x00", "not a valid JSON object"},
		"chat no model":      {"/v1/chat/completions", `{"messages":[{}]}`, "model"},
		"chat no messages":   {"/v1/chat/completions", `{"model":"m"}`, "messages"},
		"chat negative":      {"/v1/chat/completions", `{"model":"m","messages":[{}],"max_tokens":-1}`, "max_tokens"},
		"responses no model": {"/v1/responses", `{}`, "model"},
		"responses negative": {"/v1/responses", `{"model":"m","max_output_tokens":-1}`, "max_output_tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.post(c.path, c.body, "Authorization", "Bearer cnry7f3a-k")
			assert.Equal(t, 400, got.status)
			assert.Equal(t, "invalid_request_error", at(t, got.json(t), "error", "type"))
			assert.Contains(t, at(t, got.json(t), "error", "message"), c.message)
		})
	}
	for _, v := range []string{"-1", "x", "1e3", "9999999999999999999"} {
		got := w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-k", "x-sandbox-input-tokens", v)
		assert.Equal(t, 400, got.status, v)
	}
}

func TestBodyTooLarge(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}},
		sandbox.Account{Type: "openai", Name: "org-o", Keys: []string{"cnry7f3a-k"}})
	for path, typ := range map[string]string{
		"/v1/messages":         "request_too_large",
		"/v1/chat/completions": "invalid_request_error",
	} {
		// In memory, because a server that stops reading resets the connection.
		rec := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(make([]byte, 32<<20+1)))
		req.Header.Set("Authorization", "Bearer cnry7f3a-k")
		w.ServeHTTP(rec, req)
		assert.Equal(t, 413, rec.Code)
		assert.Contains(t, rec.Body.String(), typ)
	}
}

func TestUnknownPaths(t *testing.T) {
	w := open(t, sandbox.Options{})
	got := w.do(http.MethodGet, "/v1/messages", "", "anthropic-version", "2023-06-01")
	assert.Equal(t, 404, got.status)
	assert.Equal(t, "not_found_error", at(t, got.json(t), "error", "type"))
	assert.NotEmpty(t, got.header.Get("request-id"))

	got = w.post("/v1/embeddings", "{}")
	assert.Equal(t, 404, got.status)
	assert.Equal(t, "not_found", at(t, got.json(t), "error", "code"))
	assert.NotEmpty(t, got.header.Get("x-request-id"))
}

func TestModels(t *testing.T) {
	classes := []sandbox.Class{{Name: "big", Models: []string{"m-2", "m-1"}}, {Name: "small", Models: []string{"m-0"}}}
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}, Classes: classes},
		sandbox.Account{Type: "other", Name: "org-o", Keys: []string{"cnry7f3a-k"}, Classes: classes})

	got := w.do(http.MethodGet, "/v1/models", "", "x-api-key", "cnry7f3a-k").json(t)
	assert.Equal(t, "m-0", at(t, got, "first_id"))
	assert.Equal(t, "m-2", at(t, got, "data", 2, "id"))

	got = w.do(http.MethodGet, "/v1/models", "", "Authorization", "Bearer cnry7f3a-k").json(t)
	assert.Equal(t, "list", at(t, got, "object"))
	assert.Equal(t, "m-1", at(t, got, "data", 1, "id"))

	assert.Equal(t, 401, w.do(http.MethodGet, "/v1/models", "").status)
}

func TestClasses(t *testing.T) {
	one := sandbox.Limits{RPM: 1}
	shared := []sandbox.Class{{Name: "shared", Models: []string{"a", "b"}, Limits: one}}
	w := open(t, sandbox.Options{},
		sandbox.Account{Name: "classed", Keys: []string{"cnry7f3a-k1", "cnry7f3a-k2"}, Classes: shared, Default: one},
		sandbox.Account{Name: "flat", Keys: []string{"cnry7f3a-k3"}, Flat: true, Default: one})
	ask := func(key, model string) int {
		return w.post("/v1/chat/completions", `{"model":"`+model+`","messages":[{}]}`, "Authorization", "Bearer "+key).status
	}
	assert.Equal(t, 200, ask("cnry7f3a-k1", "a"))
	assert.Equal(t, 429, ask("cnry7f3a-k2", "b"), "one class, and keys of one account")
	assert.Equal(t, 200, ask("cnry7f3a-k1", "c"), "a class of its own")
	assert.Equal(t, 200, ask("cnry7f3a-k1", "d"))
	assert.Equal(t, 429, ask("cnry7f3a-k2", "d"))
	assert.Equal(t, 200, ask("cnry7f3a-k3", "a"), "another account")
	assert.Equal(t, 429, ask("cnry7f3a-k3", "z"), "flat")

	require.True(t, w.SetLimits("classed", "shared", sandbox.Limits{RPM: 2}))
	assert.Equal(t, 200, ask("cnry7f3a-k1", "a"), "one was used, and stays used")
	assert.Equal(t, 429, ask("cnry7f3a-k1", "a"))
	require.True(t, w.SetLimits("classed", "shared", sandbox.Limits{}))
	assert.Equal(t, 200, ask("cnry7f3a-k1", "a"))
	assert.False(t, w.SetLimits("nobody", "shared", one))
	assert.EqualValues(t, 3, w.class("classed", "shared").Admitted)
	assert.EqualValues(t, 2, w.class("classed", "shared").Limited)
}

func TestConcurrency(t *testing.T) {
	w := open(t, sandbox.Options{TokensPerSecond: 8},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}, Flat: true, Default: sandbox.Limits{Concurrency: 1}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow := w.send(ctx, http.MethodPost, "/v1/messages", helloStream, "x-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "1000")
	defer slow.Body.Close()

	got := w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-k")
	assert.Equal(t, 429, got.status)
	assert.Equal(t, "1", got.header.Get("retry-after"))
	cancel()
	require.Eventually(t, func() bool { return w.class("org-a", "all").InFlight == 0 }, time.Minute, time.Millisecond)
	assert.Equal(t, 200, w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "0").status)
}

// A client that has read an answer to its end can ask again: the slot is free.
func TestConcurrencyOneAfterTheOther(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}, Default: sandbox.Limits{Concurrency: 1}})
	for i := range 100 {
		body := []string{hello, helloStream}[i%2]
		require.Equal(t, 200, w.post("/v1/messages", body, "x-api-key", "cnry7f3a-k").status)
	}
}

func TestManyClientsGetExactlyTheLimit(t *testing.T) {
	w := open(t, sandbox.Options{},
		sandbox.Account{Name: "org", Keys: []string{"cnry7f3a-k"}, Flat: true, Default: sandbox.Limits{RPM: 20, TPM: 1 << 40}})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				req, _ := http.NewRequest(http.MethodPost, w.url+"/v1/chat/completions", strings.NewReader(hi))
				req.Header.Set("Authorization", "Bearer cnry7f3a-k")
				resp, err := http.DefaultClient.Do(req)
				if assert.NoError(t, err) {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	group.Wait()
	assert.EqualValues(t, 20, w.class("org", "all").Admitted)
	assert.EqualValues(t, 60, w.class("org", "all").Limited)
}

func TestLengthsAreRepeatable(t *testing.T) {
	lengths := func(seed uint64) (out []int64) {
		w := open(t, sandbox.Options{Seed: seed, OutputTokens: 100},
			sandbox.Account{Name: "org", Keys: []string{"cnry7f3a-k"}, Flat: true})
		var before int64
		for range 20 {
			w.post("/v1/chat/completions", hi, "Authorization", "Bearer cnry7f3a-k")
			after := w.class("org", "all").OutputTokens
			assert.GreaterOrEqual(t, after-before, int64(50))
			assert.LessOrEqual(t, after-before, int64(150))
			out, before = append(out, after-before), after
		}
		return out
	}
	assert.Equal(t, lengths(1), lengths(1))
	assert.NotEqual(t, lengths(1), lengths(2))
}

func num(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}
