package sandbox_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/sandbox"
)

const (
	// 4 + 17 + 15 bytes of text: 9 tokens.
	hello = `{"model":"claude-x","max_tokens":1000,"system":"Be ","messages":[{"role":"user",` +
		`"content":"What is the time?"},{"role":"user","content":[{"type":"text","text":"Say it in words"}]}]}`
	helloStream = `{"model":"claude-x","max_tokens":1000,"stream":true,"messages":[{"role":"user","content":"Hello"}]}`
)

func anthropicWorld(t *testing.T, o sandbox.Options, l sandbox.Limits) *world {
	return open(t, o, sandbox.Account{Type: "anthropic", Name: "org-a", Keys: []string{"cnry7f3a-k"}, Default: l})
}

// ask posts a message of given sizes.
func (w *world) ask(input, output string) reply {
	return w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-k", "x-sandbox-input-tokens", input, "x-sandbox-output-tokens", output)
}

func TestMessage(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{})
	got := w.post("/v1/messages", hello, "x-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "11")
	require.Equal(t, 200, got.status, got.body)
	assert.Equal(t, "application/json", got.header.Get("Content-Type"))
	assert.Equal(t, "org-a", got.header.Get("anthropic-organization-id"))
	assert.NotEmpty(t, got.header.Get("request-id"))
	assert.Empty(t, got.header.Get("anthropic-ratelimit-requests-limit"), "not limited")

	m := got.json(t)
	assert.Equal(t, "message", at(t, m, "type"))
	assert.Equal(t, "claude-x", at(t, m, "model"))
	assert.Equal(t, "end_turn", at(t, m, "stop_reason"))
	assert.EqualValues(t, 9, at(t, m, "usage", "input_tokens"))
	assert.EqualValues(t, 11, at(t, m, "usage", "output_tokens"))
	assert.Len(t, strings.Fields(at(t, m, "content", 0, "text").(string)), 11)

	s := w.class("org-a", "claude-x")
	assert.Equal(t, sandbox.ClassStats{Name: "claude-x", Admitted: 1, InputTokens: 9, OutputTokens: 11}, s)
}

func TestMessageCutByMaxTokens(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{})
	m := w.ask("1", "1001").json(t)
	assert.Equal(t, "max_tokens", at(t, m, "stop_reason"))
	assert.EqualValues(t, 1000, at(t, m, "usage", "output_tokens"))
}

func TestMessageStream(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{RPM: 5})
	got := w.post("/v1/messages", helloStream, "x-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "20")
	require.Equal(t, 200, got.status, got.body)
	assert.Contains(t, got.header.Get("Content-Type"), "text/event-stream")
	assert.Equal(t, "4", got.header.Get("anthropic-ratelimit-requests-remaining"))

	fs := got.frames(t)
	var names []string
	var text strings.Builder
	for _, f := range fs {
		names = append(names, f.name)
		assert.Equal(t, f.name, at(t, f.json(t), "type"))
		if f.name == "content_block_delta" {
			text.WriteString(at(t, f.json(t), "delta", "text").(string))
		}
	}
	assert.Equal(t, []string{
		"message_start", "content_block_start", "ping",
		"content_block_delta", "content_block_delta", "content_block_delta",
		"content_block_stop", "message_delta", "message_stop",
	}, names)
	assert.Len(t, strings.Fields(text.String()), 20)
	assert.EqualValues(t, 2, at(t, fs[0].json(t), "message", "usage", "input_tokens"))
	assert.EqualValues(t, 20, at(t, fs[7].json(t), "usage", "output_tokens"))
	assert.Equal(t, "end_turn", at(t, fs[7].json(t), "delta", "stop_reason"))
}

func TestAnthropicHeaders(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{RPM: 50, ITPM: 20000, OTPM: 8000})
	w.clock.advance(500 * time.Millisecond)
	got := w.ask("6000", "400")
	for name, want := range map[string]string{
		"Date":                                        "Thu, 15 Jan 2026 12:00:00 GMT",
		"anthropic-ratelimit-requests-limit":          "50",
		"anthropic-ratelimit-requests-remaining":      "49",
		"anthropic-ratelimit-requests-reset":          "2026-01-15T12:00:02Z", // 1.2 s to full, at 0.5
		"anthropic-ratelimit-input-tokens-limit":      "20000",
		"anthropic-ratelimit-input-tokens-remaining":  "14000",
		"anthropic-ratelimit-input-tokens-reset":      "2026-01-15T12:00:19Z",
		"anthropic-ratelimit-output-tokens-limit":     "8000",
		"anthropic-ratelimit-output-tokens-remaining": "8000", // 7600, rounded
		"anthropic-ratelimit-output-tokens-reset":     "2026-01-15T12:00:04Z",
		"anthropic-ratelimit-tokens-limit":            "28000",
		"anthropic-ratelimit-tokens-remaining":        "22000", // 21600, rounded
		"anthropic-ratelimit-tokens-reset":            "2026-01-15T12:00:19Z",
	} {
		assert.Equal(t, want, got.header.Get(name), name)
	}
}

func TestAnthropicLimitsToTheLastToken(t *testing.T) {
	for name, c := range map[string]struct {
		limits        sandbox.Limits
		input, output string
		retryAfter    string
		message       string
	}{
		"RPM":     {sandbox.Limits{RPM: 3}, "0", "0", "20", "3 requests per minute"},
		"ITPM":    {sandbox.Limits{ITPM: 30000}, "10000", "0", "20", "30,000 input tokens per minute"},
		"OTPM":    {sandbox.Limits{OTPM: 300}, "0", "100", "20", "300 output tokens per minute"},
		"TPM":     {sandbox.Limits{TPM: 3000}, "900", "100", "20", "3,000 tokens per minute"},
		"RPD":     {sandbox.Limits{RPD: 3}, "0", "0", "28800", "3 requests per day"},
		"TPD":     {sandbox.Limits{TPD: 3000}, "900", "100", "28800", "3,000 tokens per day"},
		"binding": {sandbox.Limits{RPM: 3, OTPM: 300, RPD: 3}, "0", "100", "28800", "3 requests per day"},
	} {
		t.Run(name, func(t *testing.T) {
			w := anthropicWorld(t, sandbox.Options{}, c.limits)
			for range 3 {
				require.Equal(t, 200, w.ask(c.input, c.output).status)
			}
			got := w.ask(c.input, c.output)
			require.Equal(t, 429, got.status)
			assert.Equal(t, c.retryAfter, got.header.Get("retry-after"))
			assert.Equal(t, "rate_limit_error", at(t, got.json(t), "error", "type"))
			assert.Contains(t, at(t, got.json(t), "error", "message"), c.message)
			assert.Equal(t, got.header.Get("request-id"), at(t, got.json(t), "request_id"))

			wait := time.Duration(num(t, got.header.Get("retry-after"))) * time.Second
			w.clock.advance(wait - time.Nanosecond)
			require.Equal(t, 429, w.ask(c.input, c.output).status, "too early")
			w.clock.advance(time.Nanosecond)
			require.Equal(t, 200, w.ask(c.input, c.output).status, "waited as told")
			assert.Zero(t, w.class("org-a", "claude-x").OverLimit)
		})
	}
}

func TestRefusalsCostNothing(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{RPM: 2, ITPM: 1000})
	require.Equal(t, 200, w.ask("600", "0").status)
	for range 5 {
		require.Equal(t, 429, w.ask("600", "0").status)
	}
	assert.Equal(t, 200, w.ask("400", "0").status, "the refused took neither requests nor tokens")
}

func TestLargerThanTheLimitWaitsForNothing(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{ITPM: 1000})
	got := w.ask("1001", "0")
	assert.Equal(t, 429, got.status)
	assert.Equal(t, "60", got.header.Get("retry-after"))
}

// Two answers that both fit when they arrived can overdraw together: only the
// real output is counted, and only as it is generated.
func TestConcurrentOutputOverdraws(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{OTPM: 100})
	first := &stuck{httptest.NewRecorder(), make(chan struct{}), make(chan struct{}), sync.Once{}}
	req := httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(helloStream))
	req.Header.Set("x-api-key", "cnry7f3a-k")
	req.Header.Set("x-sandbox-output-tokens", "80")
	done := make(chan struct{})
	go func() { w.ServeHTTP(first, req); close(done) }()
	<-first.reached
	require.Equal(t, 200, w.ask("0", "80").status)
	close(first.release)
	<-done

	s := w.class("org-a", "claude-x")
	assert.EqualValues(t, 160, s.OutputTokens)
	assert.EqualValues(t, 8, s.OverLimit) // of 20 slices of 8, those after the 12th
	got := w.ask("0", "1")
	assert.Equal(t, "37", got.header.Get("retry-after"), "61 tokens at 100 a minute")
	assert.Equal(t, "0", got.header.Get("anthropic-ratelimit-output-tokens-remaining"))
}

// stuck is a client that does not read until it is released.
type stuck struct {
	*httptest.ResponseRecorder
	reached, release chan struct{}
	once             sync.Once
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.reached) })
	<-s.release
	return s.ResponseRecorder.Write(b)
}

func TestClientGoneInMidStream(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{TokensPerSecond: 100}, sandbox.Limits{OTPM: 10000})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp := w.send(ctx, http.MethodPost, "/v1/messages", helloStream, "x-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "1000")
	lines := bufio.NewScanner(resp.Body)
	for deltas := 0; deltas < 3; {
		require.True(t, lines.Scan())
		if lines.Text() == "event: content_block_delta" {
			deltas++
		}
	}
	cancel()
	resp.Body.Close()
	require.Eventually(t, func() bool { return w.class("org-a", "claude-x").InFlight == 0 }, time.Minute, time.Millisecond)
	s := w.class("org-a", "claude-x")
	assert.GreaterOrEqual(t, s.OutputTokens, int64(24))
	assert.Less(t, s.OutputTokens, int64(1000))

	// The bucket misses exactly what was generated.
	require.True(t, w.SetLimits("org-a", "claude-x", sandbox.Limits{OTPM: s.OutputTokens + 100}))
	assert.Equal(t, 429, w.ask("0", "101").status)
	assert.Equal(t, 200, w.ask("0", "100").status)
}

func TestClientGoneBeforeTheAnswer(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{Latency: time.Hour}, sandbox.Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+"/v1/messages", strings.NewReader(hello))
	require.NoError(t, err)
	req.Header.Set("x-api-key", "cnry7f3a-k")
	gone := make(chan error)
	go func() {
		_, err := http.DefaultClient.Do(req)
		gone <- err
	}()
	inFlight := func(n int64) func() bool {
		return func() bool {
			cs := w.Stats().Accounts[0].Classes
			return len(cs) == 1 && cs[0].Admitted == 1 && cs[0].InFlight == n
		}
	}
	require.Eventually(t, inFlight(1), time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.Eventually(t, inFlight(0), time.Minute, time.Millisecond)
	assert.Zero(t, w.class("org-a", "claude-x").OutputTokens)
}

func TestAnthropicMagicModels(t *testing.T) {
	w := anthropicWorld(t, sandbox.Options{}, sandbox.Limits{RPM: 10})
	fail := func(suffix string) reply {
		return w.post("/v1/messages", strings.Replace(hello, "claude-x", "claude-x-"+suffix, 1), "x-api-key", "cnry7f3a-k")
	}
	got := fail("overloaded")
	assert.Equal(t, 529, got.status)
	assert.Equal(t, "overloaded_error", at(t, got.json(t), "error", "type"))

	got = fail("exhausted")
	assert.Equal(t, 429, got.status)
	assert.Empty(t, got.header.Get("retry-after"))
	assert.Equal(t, "enforced_spend_limit_reached", at(t, got.json(t), "error", "details", "error_code"))
	assert.Contains(t, at(t, got.json(t), "error", "message"), "regain access on 2026-02-01 at 00:00 UTC.")
	assert.Equal(t, "10", got.header.Get("anthropic-ratelimit-requests-remaining"), "at no charge")
	assert.Equal(t, sandbox.ClassStats{
		Name: "claude-x", Failed: 2, Limits: []sandbox.LimitStats{{Name: "rpm", Window: time.Minute, Limit: 10}},
	}, w.class("org-a", "claude-x"))
}
