package sandbox_test

// What each dialect says, against what was recorded or documented of it.

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/sandbox"
)

const (
	gemini   = `{"contents":[{"role":"user","parts":[{"text":"Hello there"}]}],"generationConfig":{"maxOutputTokens":40}}`
	converse = `{"messages":[{"role":"user","content":[{"text":"Hello there"}]}],"inferenceConfig":{"maxTokens":40}}`
)

// flavour is how one type is asked, and what it says.
type flavour struct {
	typ, path, body, auth string
	limits                sandbox.Limits
	headers               map[string]string // of the first answer; nil: none about limits
	limited               refusal           // of the second request
	overloaded, exhausted refusal
	revoked, forbidden    refusal
}

// refusal is a status, and what is in the body or a header.
type refusal struct {
	status  int
	body    string
	headers map[string]string
}

var flavours = []flavour{
	{typ: "azure", path: "/openai/deployments/m/chat/completions?api-version=1", body: strings.Replace(hi, `"model":"gpt-x",`, "", 1), auth: "api-key",
		limits:    sandbox.Limits{RPM: 1},
		headers:   map[string]string{"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60"},
		limited:   refusal{429, "have exceeded requests rate limit of your current OpenAI S0 pricing tier. Please retry after 60 seconds.", map[string]string{"retry-after": "60", "retry-after-ms": "60000"}},
		exhausted: refusal{429, "Please retry after 86400 seconds.", nil}, overloaded: refusal{503, `"error"`, nil},
		revoked: refusal{401, `"code":"401"`, nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "groq", path: "/openai/v1/chat/completions", body: hi, limits: sandbox.Limits{RPD: 1},
		headers:   map[string]string{"x-ratelimit-limit-requests": "1", "x-ratelimit-reset-requests": "24h0m0s"},
		limited:   refusal{429, "in organization `org` service tier `on_demand` on requests per day (RPD): Limit 1, Used 1, Requested 1. Please try again in 24h0m0s.", map[string]string{"retry-after": "86400"}},
		exhausted: refusal{429, "on tokens per day (TPD)", nil}, overloaded: refusal{503, `"error"`, nil},
		revoked: refusal{401, "invalid_api_key", nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "mistral", path: "/v1/chat/completions", body: hi, limits: sandbox.Limits{RPM: 1},
		headers:    map[string]string{"x-ratelimit-limit-req-minute": "1", "x-ratelimit-remaining-req-minute": "0"},
		limited:    refusal{429, `"code":"1300"`, map[string]string{"retry-after": "60"}},
		exhausted:  refusal{429, `"type":"rate_limited"`, map[string]string{"x-ratelimit-remaining-tokens-month": "0"}},
		overloaded: refusal{503, "Service tier capacity exceeded", nil}, revoked: refusal{401, `"object":"error"`, nil}, forbidden: refusal{403, `"object":"error"`, nil}},
	{typ: "cerebras", path: "/v1/chat/completions", body: hi, limits: sandbox.Limits{RPD: 1},
		headers:   map[string]string{"x-ratelimit-limit-requests-day": "1", "x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "43200"},
		limited:   refusal{429, `"code":"requests_quota_exceeded"`, map[string]string{"retry-after": ""}},
		exhausted: refusal{402, `"error"`, nil}, overloaded: refusal{503, `"error"`, nil}, revoked: refusal{401, `"error"`, nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "fireworks", path: "/inference/v1/chat/completions", body: hi, limits: sandbox.Limits{ITPM: 600, RPM: 1},
		headers:   map[string]string{"x-ratelimit-limit-tokens-prompt": "10", "x-ratelimit-remaining-tokens-prompt": "9"},
		limited:   refusal{429, `{"error":"Too Many Requests","message":"You have exceeded your usage limits.`, map[string]string{"x-ratelimit-over-limit": "yes"}},
		exhausted: refusal{402, `"message"`, nil}, overloaded: refusal{503, `"message"`, nil}, revoked: refusal{401, `"message"`, nil}, forbidden: refusal{403, `"message"`, nil}},
	{typ: "together", path: "/v1/chat/completions", body: hi, limits: sandbox.Limits{RPM: 60},
		headers:   map[string]string{"x-ratelimit-limit": "1", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"},
		limited:   refusal{429, `"error_type":"dynamic_request_limited"`, nil},
		exhausted: refusal{402, `"error"`, nil}, overloaded: refusal{503, `"error"`, nil}, revoked: refusal{401, `"error"`, nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "openrouter", path: "/api/v1/chat/completions", body: hi, limits: sandbox.Limits{RPM: 1},
		limited:   refusal{429, `"metadata":{"headers":{"X-RateLimit-Limit":"1","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1768478460000"}}`, nil},
		exhausted: refusal{402, `"limit_source":"openrouter_credits"`, nil}, overloaded: refusal{429, "Provider returned error", nil},
		revoked: refusal{401, `"code":401`, nil}, forbidden: refusal{403, `"code":403`, nil}},
	{typ: "deepseek", path: "/chat/completions", body: hi, limits: sandbox.Limits{RPM: 1},
		limited: refusal{429, "Rate Limit Reached", nil}, exhausted: refusal{402, "Insufficient Balance", nil},
		overloaded: refusal{503, `"error"`, nil}, revoked: refusal{401, "Authentication Fails", nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "xai", path: "/v1/chat/completions", body: hi, limits: sandbox.Limits{RPM: 1},
		limited: refusal{429, `"error":"Too many requests`, nil}, exhausted: refusal{429, "used all available credits", nil},
		overloaded: refusal{503, `"error"`, nil}, revoked: refusal{400, `"error":"Incorrect API key provided`, nil}, forbidden: refusal{403, `"error"`, nil}},
	{typ: "gemini", path: "/v1beta/models/m:generateContent", body: gemini, auth: "x-goog-api-key", limits: sandbox.Limits{RPM: 1},
		limited:    refusal{429, `"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaMetric":"generativelanguage.googleapis.com/generate_content_requests","quotaValue":"1"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"60s"}`, nil},
		exhausted:  refusal{429, "GenerateRequestsPerDayPerProjectPerModel-FreeTier", nil},
		overloaded: refusal{503, "UNAVAILABLE", nil}, revoked: refusal{400, `"reason":"API_KEY_INVALID"`, nil}, forbidden: refusal{403, "PERMISSION_DENIED", nil}},
	{typ: "vertex", path: "/v1/projects/p/locations/global/publishers/google/models/m:generateContent", body: gemini, auth: "x-goog-api-key", limits: sandbox.Limits{RPM: 1},
		limited: refusal{429, "Exceeded the Provisioned Throughput.", nil}, exhausted: refusal{429, "PerDay", nil},
		overloaded: refusal{429, "Resource exhausted. Please try again later.", nil}, revoked: refusal{401, "UNAUTHENTICATED", nil}, forbidden: refusal{403, "PERMISSION_DENIED", nil}},
	{typ: "bedrock", path: "/model/m/converse", body: converse, limits: sandbox.Limits{RPM: 1},
		limited:    refusal{429, `{"message":"Too many requests, please wait before trying again."}`, map[string]string{"x-amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/"}},
		exhausted:  refusal{400, "quota", map[string]string{"x-amzn-ErrorType": "ServiceQuotaExceededException:http://internal.amazon.com/coral/com.amazon.bedrock/"}},
		overloaded: refusal{503, `"message"`, nil}, revoked: refusal{403, `{"Message":"Authentication failed: Please make sure your API Key is valid."}`, nil}, forbidden: refusal{403, `"message"`, nil}},
	{typ: "cohere", path: "/v2/chat", body: hi, limits: sandbox.Limits{RPM: 1},
		limited:   refusal{429, `{"message":"You are using a Trial key, which is limited to 1 API calls / minute."}`, nil},
		exhausted: refusal{429, "1000 API calls / month", nil}, overloaded: refusal{503, `"message"`, nil}, revoked: refusal{401, "invalid api token", nil}, forbidden: refusal{403, `"message"`, nil}},
	{typ: "github", path: "/repos/o/r", limits: sandbox.Limits{RPH: 1},
		headers: map[string]string{"x-ratelimit-limit": "1", "x-ratelimit-remaining": "0", "x-ratelimit-used": "1",
			"x-ratelimit-reset": "1768482000", "x-ratelimit-resource": "core"},
		limited:    refusal{403, "API rate limit exceeded", map[string]string{"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1768482000"}},
		exhausted:  refusal{403, "API rate limit exceeded", map[string]string{"x-ratelimit-remaining": "0"}},
		overloaded: refusal{503, `"message"`, nil}, revoked: refusal{401, "Bad credentials", nil}, forbidden: refusal{403, "Resource not accessible", nil}},
	{typ: "generic", path: "/v1/call", body: `{"model":"m","input":"Hello there"}`, limits: sandbox.Limits{RPM: 1, RPD: 9},
		headers: map[string]string{"RateLimit-Policy": `"minute";q=1;w=60, "day";q=9;w=86400`, "RateLimit": `"minute";r=0;t=60, "day";r=8;t=86400`},
		limited: refusal{429, `"violated-policies":["minute"]`, nil}, exhausted: refusal{402, `"status":402`, nil},
		overloaded: refusal{503, `"status":503`, nil}, revoked: refusal{401, `"status":401`, nil}, forbidden: refusal{403, `"status":403`, nil}},
}

func TestFlavours(t *testing.T) {
	for _, f := range flavours {
		t.Run(f.typ, func(t *testing.T) {
			w := open(t, sandbox.Options{}, sandbox.Account{Type: f.typ, Name: "org", Keys: []string{"cnry7f3a-k"}, Default: f.limits})
			ask := func() reply {
				method, auth, key := "POST", "Authorization", "Bearer cnry7f3a-k"
				if f.body == "" {
					method = "GET"
				}
				if f.auth != "" {
					auth, key = f.auth, "cnry7f3a-k"
				}
				return w.do(method, f.path, f.body, auth, key)
			}
			model := "m"
			if strings.Contains(f.body, "gpt-x") && f.typ != "azure" {
				model = "gpt-x"
			} else if f.typ == "github" {
				model = "core"
			}
			got := ask()
			require.Equal(t, 200, got.status, got.body)
			for name, want := range f.headers {
				assert.Equal(t, want, got.header.Get(name), name)
			}
			if f.headers == nil {
				for name := range got.header {
					assert.NotContains(t, strings.ToLower(name), "limit")
				}
			}
			check := func(what string, want refusal) {
				t.Helper()
				got := ask()
				assert.Equal(t, want.status, got.status, what)
				assert.Contains(t, got.body, want.body, what)
				for name, value := range want.headers {
					assert.Equal(t, value, got.header.Get(name), what)
				}
			}
			check("limited", f.limited)
			require.True(t, w.Overload("org", true))
			check("overloaded", f.overloaded)
			require.True(t, w.Exhaust("org", true))
			check("exhausted", f.exhausted)
			w.Forbid("cnry7f3a-k", model, true)
			check("forbidden", f.forbidden)
			w.Revoke("cnry7f3a-k")
			check("revoked", f.revoked)

			w.Restore("cnry7f3a-k")
			w.Forbid("cnry7f3a-k", model, false)
			require.True(t, w.Exhaust("org", false))
			require.True(t, w.Overload("org", false))
			w.clock.advance(24 * time.Hour)
			assert.Equal(t, 200, ask().status)
			assert.EqualValues(t, 3, w.class("org", model).Failed)
		})
	}
}

func TestSomebodyElse(t *testing.T) {
	w := open(t, sandbox.Options{}, sandbox.Account{Type: "deepseek", Name: "org", Keys: []string{"cnry7f3a-k"},
		Default: sandbox.Limits{RPM: 10, Concurrency: 2}})
	assert.False(t, w.Use("nobody", "gpt-x", sandbox.Limits{}))
	require.True(t, w.Use("org", "gpt-x", sandbox.Limits{RPM: 9, Concurrency: 2}))
	assert.Equal(t, 429, w.chat("").status, "no slot")
	require.True(t, w.Use("org", "gpt-x", sandbox.Limits{Concurrency: -1}))
	assert.Equal(t, 200, w.chat("").status)
	assert.Equal(t, 429, w.chat("").status)
	require.True(t, w.Use("org", "gpt-x", sandbox.Limits{RPM: 1000}))
	w.clock.advance(time.Minute)
	assert.Equal(t, 200, w.chat("").status, "it used no more than there was")
	assert.EqualValues(t, 2, w.class("org", "gpt-x").Limits[0].Charged, "nobody else's is counted")
}

func TestWhatTokensCount(t *testing.T) {
	for typ, want := range map[string]int64{ // of 30 in, 10 out, of at most 40
		"openai": 40, "azure": 70, "cerebras": 70, "groq": 40, "mistral": 40, "xai": 40, "gemini": 30, "bedrock": 80, "cohere": 40, "generic": 40,
	} {
		path, body := "/v1/chat/completions", strings.TrimSuffix(hi, "}")+`,"max_tokens":40,"max_output_tokens":40}`
		switch typ {
		case "gemini":
			path, body = "/v1beta/models/gpt-x:generateContent", gemini
		case "bedrock":
			path, body = "/model/gpt-x/converse", converse
		case "cohere":
			path = "/v2/chat"
		case "generic":
			path = "/v1/call"
		}
		w := open(t, sandbox.Options{}, sandbox.Account{Type: typ, Name: "org", Keys: []string{"cnry7f3a-k"}, Default: sandbox.Limits{TPM: 1000}})
		got := w.post(path, body, "Authorization", "Bearer cnry7f3a-k", "x-sandbox-input-tokens", "30", "x-sandbox-output-tokens", "10")
		require.Equal(t, 200, got.status, got.body)
		assert.Equal(t, want, w.class("org", "gpt-x").Limits[0].Charged, typ)
	}
}

func TestContentStreams(t *testing.T) {
	w := open(t, sandbox.Options{}, sandbox.Account{Type: "gemini", Name: "org", Keys: []string{"cnry7f3a-k"}})
	stream := func(query string) reply {
		return w.post("/v1beta/models/m:streamGenerateContent"+query, gemini, "x-goog-api-key", "cnry7f3a-k", "x-sandbox-output-tokens", "12")
	}
	got := stream("?alt=sse")
	assert.Contains(t, got.header.Get("Content-Type"), "text/event-stream")
	fs := got.frames(t)
	last := fs[len(fs)-1].json(t)
	assert.Equal(t, "STOP", at(t, last, "candidates", 0, "finishReason"))
	assert.EqualValues(t, 12, at(t, last, "usageMetadata", "candidatesTokenCount"))

	got = stream("")
	assert.Equal(t, "application/json", got.header.Get("Content-Type"))
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.body), &list), got.body)
	assert.Len(t, list, 3)
	assert.EqualValues(t, 12, at(t, list[2], "usageMetadata", "candidatesTokenCount"))
}

func TestConverseStream(t *testing.T) {
	w := open(t, sandbox.Options{}, sandbox.Account{Type: "bedrock", Name: "org", Keys: []string{"cnry7f3a-k"}})
	got := w.post("/model/anthropic.claude-v1:0/converse-stream", converse, "Authorization", "Bearer cnry7f3a-k", "x-sandbox-output-tokens", "12")
	assert.Equal(t, "application/vnd.amazon.eventstream", got.header.Get("Content-Type"))
	body, last := []byte(got.body), ""
	for len(body) > 0 {
		total, headers := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
		assert.Equal(t, crc32.ChecksumIEEE(body[:8]), binary.BigEndian.Uint32(body[8:]))
		assert.Equal(t, crc32.ChecksumIEEE(body[:total-4]), binary.BigEndian.Uint32(body[total-4:]))
		assert.Contains(t, string(body[12:12+headers]), ":event-type")
		last, body = string(body[12+headers:total-4]), body[total:]
	}
	assert.Contains(t, last, `"outputTokens":12`)
}

func TestCohereStream(t *testing.T) {
	w := open(t, sandbox.Options{}, sandbox.Account{Type: "cohere", Name: "org", Keys: []string{"cnry7f3a-k"}})
	fs := w.post("/v2/chat", strings.TrimSuffix(hi, "}")+`,"stream":true}`, "Authorization", "Bearer cnry7f3a-k", "x-sandbox-output-tokens", "12").frames(t)
	assert.Equal(t, "message-end", fs[len(fs)-1].name)
	assert.EqualValues(t, 12, at(t, fs[len(fs)-1].json(t), "delta", "usage", "tokens", "output_tokens"))
}
