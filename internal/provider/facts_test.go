package provider_test

// The facts about providers that no recorded vector shows: every code that is
// documented, every precedence, every odd form.

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/internal/provider"
)

const noon = "Thu, 15 Jan 2026 12:00:00 GMT"

type fact struct {
	typ    string
	status int
	header []string // names and values in turn
	body   string
	class  provider.Class
	scope  provider.Scope
	wait   time.Duration
	source provider.Source
}

func (f *fact) read(t testing.TB) provider.Signal {
	h := headers(append([]string{"Date", noon}, f.header...)...)
	return lookup(t, f.typ).Read(provider.Response{Status: f.status, Header: h, Body: []byte(f.body)})
}

func replace(in, id string) string { return strings.Replace(in, "%", id, 1) }
func message(s string) string      { return `{"error":{"message":"` + s + `"}}` }
func code(s string) string         { return `{"error":{"message":"m","code":"` + s + `"}}` }
func kind(s string) string         { return `{"type":"error","error":{"type":"` + s + `","message":"m"}}` }

const (
	ok, limited, concurrent, quota = provider.OK, provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted
	auth, forbidden, busy          = provider.AuthInvalid, provider.Forbidden, provider.Overloaded
	large, invalid, noAnswer       = provider.RequestTooLarge, provider.InvalidRequest, provider.NoAnswer

	nothing, key, keyModel, group = provider.NoScope, provider.KeyScope, provider.KeyModelScope, provider.GroupScope
	class, model, whole           = provider.ClassScope, provider.ModelScope, provider.ProviderScope

	ms, sec, hour = time.Millisecond, time.Second, time.Hour
)

func TestClassification(t *testing.T) {
	const google = `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[` +
		`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"%"}]},` +
		`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"58.5s"}]}}`
	sse := func(event string) string { return "event: x\ndata: {}\n\nevent: error\ndata: " + event + "\n\n" }
	for name, f := range map[string]fact{
		// Statuses, as any provider means them.
		"0 is not known":                   {"generic", 0, nil, "", noAnswer, nothing, 0, 0},
		"negative":                         {"generic", -429, nil, "", noAnswer, nothing, 0, 0},
		"informational":                    {"generic", 103, nil, "", noAnswer, nothing, 0, 0},
		"a redirection":                    {"generic", 302, nil, "", noAnswer, nothing, 0, 0},
		"204":                              {"openai", 204, nil, "", ok, nothing, 0, 0},
		"200 ignores a wait":               {"openai", 200, []string{"Retry-After", "60"}, "", ok, nothing, 0, 0},
		"200 and an ordinary body":         {"openai", 200, nil, `{"choices":[{"message":{"content":"error"}}]}`, ok, nothing, 0, 0},
		"200 and no error":                 {"openai", 200, nil, `{"id":"r","status":"completed","error":null,"output":[]}`, ok, nothing, 0, 0},
		"an error that the model wrote":    {"openai", 200, nil, `{"choices":[{"message":{"tool_calls":[{"error":{"code":429,"type":"rate_limit_error"}}]}}]}`, ok, nothing, 0, 0},
		"400":                              {"openai", 400, []string{"Retry-After", "60"}, kind("invalid_request_error"), invalid, nothing, 0, 0},
		"404":                              {"anthropic", 404, nil, kind("not_found_error"), invalid, nothing, 0, 0},
		"413":                              {"anthropic", 413, nil, kind("request_too_large"), large, nothing, 0, 0},
		"413 without a body":               {"generic", 413, nil, "", large, nothing, 0, 0},
		"422":                              {"mistral", 422, nil, `{"detail":[{"msg":"x"}]}`, invalid, nothing, 0, 0},
		"408 is tried again":               {"openai", 408, nil, "", busy, nothing, 0, 0},
		"409 is tried again":               {"anthropic", 409, nil, "", busy, nothing, 0, 0},
		"401":                              {"openai", 401, nil, code("invalid_api_key"), auth, key, 0, 0},
		"401 without a body":               {"generic", 401, nil, "", auth, key, 0, 0},
		"402":                              {"generic", 402, nil, "", quota, group, 0, 0},
		"403":                              {"openai", 403, []string{"Retry-After", "60"}, "", forbidden, keyModel, 0, 0},
		"429 of a proxy, in HTML":          {"generic", 429, nil, "<html><body>429 Too Many Requests</body></html>", limited, group, 0, 0},
		"502 of a proxy, in HTML":          {"openai", 502, nil, "<!DOCTYPE html><title>Bad gateway</title>", busy, model, 0, 0},
		"500":                              {"openai", 500, nil, kind("server_error"), busy, model, 0, 0},
		"504":                              {"gemini", 504, nil, "", busy, model, 0, 0},
		"503 at nobody knows whom":         {"generic", 503, []string{"Retry-After", "7"}, "", busy, whole, 7 * sec, provider.RetryAfter},
		"beyond all statuses":              {"generic", 999, nil, "", busy, whole, 0, 0},
		"a window does not rest overloads": {"groq", 503, []string{"x-ratelimit-limit-tokens", "10", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "9s"}, "", busy, model, 0, 0},

		// Anthropic.
		"529":                             {"anthropic", 529, nil, kind("overloaded_error"), busy, model, 0, 0},
		"529 with a wait":                 {"anthropic", 529, []string{"retry-after", "3"}, kind("overloaded_error"), busy, model, 3 * sec, provider.RetryAfter},
		"529 of fast requests":            {"anthropic", 529, []string{"anthropic-fast-input-tokens-limit", "100", "anthropic-fast-input-tokens-remaining", "50"}, "", busy, nothing, 0, 0},
		"402 billing":                     {"anthropic", 402, nil, kind("billing_error"), quota, group, 0, 0},
		"429 without headers":             {"anthropic", 429, nil, kind("rate_limit_error"), limited, class, 0, 0},
		"workspace spend limit":           {"anthropic", 400, nil, message("You have reached your specified workspace API usage limits. You will regain access on 2026-02-01 at 06:30 UTC."), quota, group, 16*24*hour + 18*hour + 30*time.Minute, provider.InMessageDate},
		"spend cap without a date":        {"anthropic", 429, []string{"retry-after", "5"}, `{"error":{"type":"rate_limit_error","message":"x","details":{"error_code":"enforced_spend_limit_reached"}}}`, quota, group, 0, 0},
		"a customer's limit with a 429":   {"anthropic", 429, []string{"retry-after", "5"}, message("You have reached your specified API usage limits. You will regain access on 2026-02-01 at 00:00 UTC."), quota, group, 396 * hour, provider.InMessageDate},
		"a date gone by":                  {"anthropic", 400, nil, message("You have reached your specified API usage limits. You will regain access on 2025-12-01."), quota, group, 0, provider.InMessageDate},
		"a date that is none":             {"anthropic", 400, nil, message("You have reached your specified API usage limits. You will regain access on Monday"), quota, group, 0, 0},
		"a distant date":                  {"anthropic", 400, nil, message("You have reached your specified API usage limits. You will regain access on 9999-12-01"), quota, group, provider.LongestWait, provider.InMessageDate},
		"a window's reset":                {"anthropic", 429, []string{"anthropic-ratelimit-input-tokens-limit", "100", "anthropic-ratelimit-input-tokens-remaining", "0", "anthropic-ratelimit-input-tokens-reset", "2026-01-15T12:00:30Z"}, "", limited, class, 30 * sec, provider.WindowReset},
		"priority spent does not block":   {"anthropic", 429, []string{"anthropic-priority-input-tokens-limit", "100", "anthropic-priority-input-tokens-remaining", "0", "anthropic-priority-input-tokens-reset", "2026-01-15T12:00:30Z"}, "", limited, class, 0, 0},
		"fast is not granted":             {"anthropic", 429, []string{"anthropic-fast-input-tokens-limit", "0", "anthropic-fast-input-tokens-remaining", "0"}, "", limited, nothing, 0, 0},
		"fast and ordinary":               {"anthropic", 429, []string{"anthropic-fast-input-tokens-limit", "9", "anthropic-fast-input-tokens-remaining", "0", "anthropic-ratelimit-requests-limit", "9", "anthropic-ratelimit-requests-remaining", "0", "anthropic-ratelimit-requests-reset", "2026-01-15T12:00:09Z"}, "", limited, class, 9 * sec, provider.WindowReset},
		"the latest rejected window":      {"anthropic", 429, []string{"anthropic-ratelimit-unified-status", "rejected", "anthropic-ratelimit-unified-5h-status", "rejected", "anthropic-ratelimit-unified-5h-reset", "1768478460", "anthropic-ratelimit-unified-7d-status", "rejected", "anthropic-ratelimit-unified-7d-reset", "2026-01-15T13:00:00Z"}, "", limited, group, hour, provider.WindowReset},
		"a subscription's model":          {"anthropic", 429, []string{"anthropic-ratelimit-unified-7d_oi-status", "rejected", "anthropic-ratelimit-unified-7d_oi-reset", "1768478460"}, "", limited, class, time.Minute, provider.WindowReset},
		"33 hours are not cut":            {"anthropic", 429, []string{"retry-after", "121180"}, "", limited, class, 121180 * sec, provider.RetryAfter},
		"in a stream: rate":               {"anthropic", 200, nil, sse(kind("rate_limit_error")), limited, class, 0, 0},
		"in a stream: trouble":            {"anthropic", 200, nil, sse(kind("api_error")), busy, model, 0, 0},
		"in a stream: credentials":        {"anthropic", 200, nil, sse(kind("authentication_error")), auth, key, 0, 0},
		"in a stream: money":              {"anthropic", 200, nil, sse(kind("billing_error")), quota, group, 0, 0},
		"in a stream: permission":         {"anthropic", 200, nil, sse(kind("permission_error")), forbidden, keyModel, 0, 0},
		"in a stream: mistake":            {"anthropic", 200, nil, sse(kind("invalid_request_error")), invalid, nothing, 0, 0},
		"in a stream: what nobody knows":  {"anthropic", 200, nil, sse(kind("new_error")), busy, model, 0, 0},
		"an error of an unknown status":   {"anthropic", 0, nil, kind("overloaded_error"), busy, model, 0, 0},
		"a message that quotes the words": {"anthropic", 404, nil, message("no model insufficient_quota"), invalid, nothing, 0, 0},

		"a stream that quotes an error": {"anthropic", 200, nil, "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"{\\\"type\\\":\\\"error\\\",\\\"error\\\":{\\\"type\\\":\\\"overloaded_error\\\"}}\"}}\n\n", ok, nothing, 0, 0},

		// OpenAI.
		"insufficient_quota as code":           {"openai", 429, []string{"Retry-After", "1"}, code("insufficient_quota"), quota, group, 0, 0},
		"insufficient_quota as type":           {"openai", 429, nil, kind("insufficient_quota"), quota, group, 0, 0},
		"organization_usage_limit_exceeded":    {"openai", 429, nil, code("organization_usage_limit_exceeded"), quota, group, 0, 0},
		"server_is_overloaded":                 {"openai", 503, nil, code("server_is_overloaded"), busy, model, 0, 0},
		"server_is_overloaded with a 429":      {"openai", 429, nil, code("server_is_overloaded"), busy, model, 0, 0},
		"larger than the limit":                {"openai", 429, nil, message("Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 36278."), large, nothing, 0, 0},
		"in a stream: quota":                   {"openai", 200, nil, "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"insufficient_quota\",\"message\":\"m\"}}}\n\n", quota, group, 0, 0},
		"in a stream: server_error":            {"openai", 200, nil, "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"m\"}}}\n\n", busy, model, 0, 0},
		"in a stream: too long a prompt":       {"openai", 200, nil, "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"m\"}}}\n\n", invalid, nothing, 0, 0},
		"billing_not_active":                   {"openai", 429, []string{"Retry-After", "1"}, code("billing_not_active"), quota, group, 0, 0},
		"a wait in seconds":                    {"openai", 429, nil, message("Please try again in 18.642s."), limited, class, 18642 * ms, provider.InMessage},
		"a wait in words":                      {"openai", 429, nil, message("Please try again in 1 minute and a bit."), limited, class, time.Minute, provider.InMessage},
		"headers before the message":           {"openai", 429, []string{"Retry-After", "3"}, message("Please try again in 18s."), limited, class, 3 * sec, provider.RetryAfter},
		"unreadable headers give way":          {"openai", 429, []string{"Retry-After", "soon", "Retry-After-Ms", "-1"}, message("Please try again in 18s."), limited, class, 18 * sec, provider.InMessage},
		"the message before the window":        {"openai", 429, []string{"x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "59s"}, message("Please try again in 174ms."), limited, class, 174 * ms, provider.InMessage},
		"the window last":                      {"openai", 429, []string{"x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "59s", "x-ratelimit-remaining-requests", "0", "x-ratelimit-reset-requests", "1h0m1s"}, "", limited, class, hour + sec, provider.WindowReset},
		"a window with room says nothing":      {"openai", 429, []string{"x-ratelimit-remaining-tokens", "1", "x-ratelimit-reset-tokens", "59s"}, "", limited, class, 0, 0},
		"a limit of 0 is none":                 {"openai", 429, []string{"x-ratelimit-limit-tokens", "0", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "59s"}, "", limited, class, 0, 0},
		"an absurd wait in a message":          {"openai", 429, nil, message("try again in 99999999999999999999 days"), limited, class, provider.LongestWait, provider.InMessage},
		"headers win over a reset in the past": {"generic", 429, []string{"Retry-After", "4", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1"}, "", limited, group, 4 * sec, provider.RetryAfter},

		// Azure.
		"37 seconds":    {"azure", 429, nil, message("Please retry after 37 seconds."), limited, class, 37 * sec, provider.InMessage},
		"misspelt":      {"azure", 429, []string{"x-rate-limit-reset-tokens", "55", "policy-id", "DeploymentRatelimit-Token"}, "", limited, class, 55 * sec, provider.WindowReset},
		"whole seconds": {"azure", 429, []string{"x-ratelimit-remaining-requests", "0", "x-ratelimit-reset-requests", "9"}, "", limited, class, 9 * sec, provider.WindowReset},

		// Gemini and Vertex.
		"a day's quota ends at midnight":  {"gemini", 429, nil, replace(google, "GenerateRequestsPerDayPerProjectPerModel-FreeTier"), quota, class, 20 * hour, provider.Calendar},
		"a minute's quota":                {"gemini", 429, nil, replace(google, "GenerateContentInputTokensPerModelPerMinute-FreeTier"), limited, class, 58500 * ms, provider.RetryInfo},
		"a wait in Gemini's message":      {"gemini", 429, nil, message(`Quota exceeded\nPlease retry in 58.217843437s.`), limited, class, 58217843437, provider.InMessage},
		"a bad key is a 400":              {"gemini", 400, nil, `{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}`, auth, key, 0, 0},
		"a bad key without details":       {"gemini", 400, nil, message("API key not valid. Please pass a valid API key."), auth, key, 0, 0},
		"the bill of a key":               {"gemini", 402, nil, "", quota, group, 0, 0},
		"in a stream: 503":                {"gemini", 200, nil, `[{"candidates":[]},{"error":{"code":503,"status":"UNAVAILABLE","message":"m"}}]`, busy, model, 0, 0},
		"provisioned throughput":          {"vertex", 429, nil, message("Exceeded the Provisioned Throughput."), limited, class, 0, 0},
		"a project's quota":               {"gemini", 429, nil, replace(google, "RequestsPerMinutePerProject"), limited, group, 58500 * ms, provider.RetryInfo},
		"a quota at Vertex":               {"vertex", 429, nil, message("Quota exceeded for aiplatform.googleapis.com/x with base model: y."), limited, class, 0, 0},
		"a day's quota is not the pool's": {"vertex", 429, nil, replace(google, "RequestsPerDayPerProjectPerModel"), quota, class, 20 * hour, provider.Calendar},
		"Vertex without a body":           {"vertex", 429, nil, "", busy, model, 0, 0},

		// Bedrock.
		"unavailable":                     {"bedrock", 503, []string{"x-amzn-ErrorType", "ServiceUnavailableException"}, `{"message":"m"}`, busy, model, 0, 0},
		"service quota":                   {"bedrock", 400, []string{"x-amzn-ErrorType", "ServiceQuotaExceededException:http://x"}, `{"message":"m"}`, quota, group, 0, 0},
		"validation":                      {"bedrock", 400, []string{"x-amzn-ErrorType", "ValidationException"}, `{"message":"m"}`, invalid, nothing, 0, 0},
		"throttled":                       {"bedrock", 429, nil, `{"message":"Too many requests, please wait before trying again."}`, limited, class, 0, 0},
		"access denied":                   {"bedrock", 403, []string{"x-amzn-ErrorType", "AccessDeniedException"}, `{"message":"m"}`, forbidden, keyModel, 0, 0},
		"in a stream: mistake at Bedrock": {"bedrock", 200, nil, sse(kind("validationException")), invalid, nothing, 0, 0},
		"in a stream: no access":          {"bedrock", 200, nil, sse(kind("accessDeniedException")), forbidden, keyModel, 0, 0},
		"model not ready":                 {"bedrock", 429, []string{"x-amzn-ErrorType", "ModelNotReadyException:"}, "", busy, model, 0, 0},

		// OpenAI's likes.
		"more than Groq ever gives":         {"groq", 429, nil, message("Rate limit reached for model `x` in organization `org_x` on tokens per minute (TPM): Limit 6000, Used 10, Requested 7010. Please try again in 11.2s."), large, nothing, 0, 0},
		"Groq's 413":                        {"groq", 413, nil, message("Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 7010"), large, nothing, 0, 0},
		"Mistral's words":                   {"mistral", 429, nil, `{"message":"Requests rate limit exceeded"}`, limited, class, 0, 0},
		"Mistral's tier":                    {"mistral", 429, nil, `{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","code":"3505"}`, busy, model, 0, 0},
		"a month outranks a wait":           {"mistral", 429, []string{"Retry-After", "2", "x-ratelimit-limit-tokens-month", "5", "x-ratelimit-remaining-tokens-month", "0", "x-ratelimit-remaining-req-minute", "0"}, "", quota, group, 396 * hour, provider.Calendar},
		"Mistral's old reset":               {"mistral", 429, []string{"x-ratelimitbysize-limit-minute", "500000", "x-ratelimitbysize-remaining-minute", "0", "ratelimitbysize-reset", "39"}, "", limited, class, 39 * sec, provider.WindowReset},
		"Cohere's month":                    {"cohere", 429, nil, `{"message":"You are using a Trial key, which is limited to 1000 API calls / month."}`, quota, group, 396 * hour, provider.Calendar},
		"Fireworks sheds load":              {"fireworks", 503, nil, "", busy, model, 0, 0},
		"Together, requests":                {"together", 429, []string{"x-ratelimit-limit", "10", "x-ratelimit-remaining", "0", "x-ratelimit-reset", "2"}, `{"error":{"message":"m"},"error_type":"dynamic_request_limited"}`, limited, class, 2 * sec, provider.WindowReset},
		"Cerebras":                          {"cerebras", 429, []string{"x-ratelimit-limit-tokens-minute", "10", "x-ratelimit-remaining-tokens-minute", "0", "x-ratelimit-reset-tokens-minute", "11.5"}, "", limited, class, 11500 * ms, provider.WindowReset},
		"DeepSeek is busy":                  {"deepseek", 503, nil, "", busy, model, 0, 0},
		"DeepSeek states a wait":            {"deepseek", 429, []string{"Retry-After", "2"}, "", concurrent, class, 2 * sec, provider.RetryAfter},
		"xAI's credits with a 403":          {"xai", 403, nil, `{"code":"x","error":"Your team t has either used all available credits or reached its monthly spending limit."}`, quota, group, 0, 0},
		"xAI":                               {"xai", 429, nil, `{"code":"x","error":"Too many requests"}`, limited, class, 0, 0},
		"xAI forbids":                       {"xai", 403, nil, `{"code":"x","error":"no"}`, forbidden, keyModel, 0, 0},
		"OpenRouter's own limit":            {"openrouter", 429, nil, `{"error":{"code":429,"message":"Rate limit exceeded: limit_rpm","metadata":{"headers":{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1768478460000"}}}}`, limited, group, time.Minute, provider.WindowReset},
		"OpenRouter's own, by name":         {"openrouter", 429, nil, message("Rate limit exceeded: free-models-per-day"), limited, group, 0, 0},
		"a provider behind it":              {"openrouter", 429, []string{"Retry-After", "9"}, message("Provider returned error"), limited, model, 9 * sec, provider.RetryAfter},
		"what is in flight":                 {"openrouter", 402, nil, `{"error":{"code":402,"message":"m","metadata":{"reason":"in_flight_budget_exhausted","limit_source":"openrouter_credits"}}}`, limited, group, 0, 0},
		"credits":                           {"openrouter", 402, nil, `{"error":{"code":402,"message":"m","metadata":{"limit_source":"openrouter_credits"}}}`, quota, group, 0, 0},
		"flagged":                           {"openrouter", 403, nil, message("Your chosen model requires moderation and your input was flagged"), invalid, nothing, 0, 0},
		"OpenRouter's 402 of nobody's word": {"openrouter", 402, nil, "", quota, group, 0, 0},

		// GitHub.
		"primary":                       {"github", 403, []string{"x-ratelimit-limit", "60", "x-ratelimit-remaining", "0", "x-ratelimit-reset", "1768480200"}, message("API rate limit exceeded for 1.2.3.4"), limited, group, 1800 * sec, provider.WindowReset},
		"primary with a 429":            {"github", 429, []string{"x-ratelimit-limit", "60", "x-ratelimit-remaining", "0", "x-ratelimit-reset", "1768480200"}, "", limited, group, 1800 * sec, provider.WindowReset},
		"primary without words":         {"github", 403, []string{"x-ratelimit-limit", "60", "x-ratelimit-remaining", "0", "x-ratelimit-reset", "1768480200"}, "", limited, group, 1800 * sec, provider.WindowReset},
		"secondary without headers":     {"github", 403, nil, `{"message":"You have exceeded a secondary rate limit."}`, limited, group, 60 * sec, provider.ByDefault},
		"429 without anything":          {"github", 429, nil, "", limited, group, 60 * sec, provider.ByDefault},
		"a wait marks a 403":            {"github", 403, []string{"Retry-After", "90"}, "", limited, group, 90 * sec, provider.RetryAfter},
		"too many at one time":          {"github", 403, nil, `{"message":"Too many concurrent requests: secondary rate limit"}`, concurrent, group, 60 * sec, provider.ByDefault},
		"a reset gone by":               {"github", 403, []string{"x-ratelimit-limit", "60", "x-ratelimit-remaining", "0", "x-ratelimit-reset", "1768400000"}, "", limited, group, 60 * sec, provider.ByDefault},
		"bad credentials":               {"github", 401, nil, `{"message":"Bad credentials"}`, auth, key, 0, 0},
		"nothing is forbidden to a key": {"github", 403, nil, "", forbidden, nothing, 0, 0},

		// The standard.
		"a problem type":                 {"generic", 403, nil, `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"x"}`, limited, group, 0, 0},
		"a policy called priority":       {"generic", 429, []string{"RateLimit", `"priority";r=0;t=12`}, "", limited, group, 12 * sec, provider.WindowReset},
		"a policy called month":          {"generic", 429, []string{"RateLimit", `"month";r=0;t=12`}, "", limited, group, 12 * sec, provider.WindowReset},
		"a malformed standard gives way": {"generic", 429, []string{"RateLimit", `"a";r=9;t=`, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "20"}, "", limited, group, 20 * sec, provider.WindowReset},
		"Retry-After wins":               {"generic", 429, []string{"RateLimit", `"a";r=0;t=12`, "Retry-After", "40"}, "", limited, group, 40 * sec, provider.RetryAfter},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.read(t)
			assert.Equal(t, f.class, s.Class, s.Class.String())
			assert.Equal(t, f.scope, s.Scope, s.Scope.String())
			assert.Equal(t, f.wait, s.Wait)
			assert.Equal(t, f.source, s.Source, s.Source.String())
			assert.Equal(t, s.Class == auth || s.Class == quota && s.Source != provider.Calendar, s.Operator)
		})
	}
}
