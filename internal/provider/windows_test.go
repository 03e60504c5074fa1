package provider_test

// The limits that answers state, as far as the vectors leave it open.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/internal/provider"
)

const unknown = provider.Unknown

// edit makes a window of which nothing is known but what set says.
func edit(d provider.Dimension, length time.Duration, limit, remaining int64, set ...func(*provider.Window)) provider.Window {
	w := provider.Window{Dimension: d, Length: length, Limit: limit, Remaining: remaining, Rounding: 1, Reset: unknown}
	for _, f := range set {
		f(&w)
	}
	return w
}

func named(s string) func(*provider.Window)         { return func(w *provider.Window) { w.Name = s } }
func resets(d time.Duration) func(*provider.Window) { return func(w *provider.Window) { w.Reset = d } }
func thousands(w *provider.Window)                  { w.Rounding = 1000 }
func refills(w *provider.Window)                    { w.Kind = provider.Refilling }
func fixed(w *provider.Window)                      { w.Kind = provider.Fixed }
func aside(w *provider.Window)                      { w.Aside = true }
func inferred(w *provider.Window)                   { w.Inferred = true }

func TestWindows(t *testing.T) {
	const (
		requests, input, output, tokens = provider.Requests, provider.InputTokens, provider.OutputTokens, provider.Tokens
		minute, hour, day               = time.Minute, time.Hour, 24 * time.Hour
	)
	anthropic := func(kv ...string) []string {
		var out []string
		for i := 0; i < len(kv); i += 2 {
			out = append(out, "anthropic-ratelimit-"+kv[i], kv[i+1])
		}
		return out
	}
	limits := func(values ...string) []string { // of the plainest family
		var out []string
		for i, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} {
			if i < len(values) {
				out = append(out, name, values[i])
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		typ    string
		header []string
		want   []provider.Window
	}{
		// Anthropic.
		"recorded, full": {"anthropic", anthropic(
			"requests-limit", "1000", "requests-remaining", "999", "requests-reset", "2026-01-15T11:59:59Z",
			"input-tokens-limit", "80000", "input-tokens-remaining", "80000", "input-tokens-reset", "2026-01-15T11:59:59Z",
			"output-tokens-limit", "16000", "output-tokens-remaining", "16000", "output-tokens-reset", "2026-01-15T11:59:59Z",
			"tokens-limit", "96000", "tokens-remaining", "96000", "tokens-reset", "2026-01-15T11:59:59Z"), []provider.Window{
			edit(requests, minute, 1000, 999, refills, resets(0)),
			edit(input, minute, 80000, 80000, refills, resets(0), thousands),
			edit(output, minute, 16000, 16000, refills, resets(0), thousands),
			edit(tokens, minute, 96000, 96000, refills, resets(0), thousands, aside),
		}},
		"a workspace's own limit": {"anthropic", anthropic(
			"input-tokens-limit", "80000", "input-tokens-remaining", "70000", "output-tokens-limit", "16000", "output-tokens-remaining", "16000",
			"tokens-limit", "30000", "tokens-remaining", "20000"), []provider.Window{
			edit(input, minute, 80000, 70000, refills, thousands),
			edit(output, minute, 16000, 16000, refills, thousands),
			edit(tokens, minute, 30000, 20000, refills, thousands),
		}},
		"priority": {"anthropic", []string{"anthropic-priority-input-tokens-limit", "10000", "anthropic-priority-input-tokens-remaining", "9618",
			"anthropic-priority-input-tokens-reset", "2026-01-15T12:00:59Z"}, []provider.Window{
			edit(input, minute, 10000, 9618, named("priority"), refills, aside, resets(59*time.Second)),
		}},
		"a subscription": {"anthropic", anthropic("unified-5h-status", "allowed_warning", "unified-5h-reset", "1768478460",
			"unified-7d_oi-status", "rejected"), []provider.Window{
			edit(provider.NumDimensions, 5*hour, unknown, unknown, named("unified-5h"), fixed, aside, resets(minute)),
			edit(provider.NumDimensions, 7*day, unknown, 0, named("unified-7d_oi"), fixed, aside),
		}},
		"a wrong format is not guessed at": {"anthropic", anthropic("requests-limit", "50", "requests-reset", "60"), []provider.Window{
			edit(requests, minute, 50, unknown, refills),
		}},
		"a reset alone is nothing": {"anthropic", anthropic("requests-reset", "2026-01-15T12:00:59Z"), nil},
		"a reset beyond belief": {"anthropic", anthropic("requests-limit", "50", "requests-reset", "2026-03-15T12:00:59Z"), []provider.Window{
			edit(requests, minute, 50, unknown, refills),
		}},

		// OpenAI and its likes.
		"a day is inferred": {"openai", []string{"x-ratelimit-limit-requests", "10000", "x-ratelimit-remaining-requests", "9999", "x-ratelimit-reset-requests", "8.64s"},
			[]provider.Window{edit(requests, day, 10000, 9999, refills, resets(8640*time.Millisecond), inferred)}},
		"an hour is inferred": {"openai", []string{"x-ratelimit-limit-tokens", "3600", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "1h5m0s"},
			[]provider.Window{edit(tokens, hour, 3600, 0, refills, resets(hour+5*minute), inferred)}},
		"nothing is inferred of what is full": {"openai", []string{"x-ratelimit-limit-tokens", "3600", "x-ratelimit-remaining-tokens", "3600", "x-ratelimit-reset-tokens", "0s"},
			[]provider.Window{edit(tokens, 0, 3600, 3600, refills, resets(0))}},
		"a reset without a unit is not OpenAI's": {"openai", []string{"x-ratelimit-limit-tokens", "3600", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-reset-tokens", "60"},
			[]provider.Window{edit(tokens, 0, 3600, 0, refills)}},
		"a negative duration": {"openai", []string{"x-ratelimit-limit-tokens", "3600", "x-ratelimit-reset-tokens", "-5s"},
			[]provider.Window{edit(tokens, 0, 3600, unknown, refills)}},
		"Azure's seconds": {"azure", []string{"x-ratelimit-limit-tokens", "1000", "x-ratelimit-remaining-tokens", "900", "x-ratelimit-reset-tokens", "6"},
			[]provider.Window{edit(tokens, 0, 1000, 900, resets(6*time.Second))}},
		"Azure, only what remains": {"azure", []string{"x-ratelimit-remaining-requests", "79", "x-ratelimit-remaining-tokens", "61353"},
			[]provider.Window{edit(requests, 0, unknown, 79), edit(tokens, 0, unknown, 61353)}},
		"Azure, misspelt": {"azure", []string{"x-rate-limit-reset-tokens", "55"}, []provider.Window{edit(tokens, 0, unknown, unknown, resets(55*time.Second))}},
		"Mistral's large numbers": {"mistral", []string{"x-ratelimit-limit-tokens-month", "1000000000000", "x-ratelimit-remaining-tokens-month", "999999999999",
			"x-ratelimit-limit-req-10-second", "10"}, []provider.Window{
			edit(requests, 10*time.Second, 10, unknown),
			edit(tokens, 0, 1e12, 999999999999, named("month"), fixed, aside, resets(396*hour)),
		}},
		"Mistral of 2025": {"mistral", []string{"x-ratelimitbysize-limit-minute", "500000", "x-ratelimitbysize-remaining-minute", "499000", "ratelimitbysize-reset", "39"},
			[]provider.Window{edit(tokens, minute, 500000, 499000, resets(39*time.Second))}},
		"Fireworks states a second's and enforces a minute's": {"fireworks", []string{"x-ratelimit-limit-tokens-prompt", "1000", "x-ratelimit-remaining-tokens-prompt", "500",
			"x-ratelimit-limit-tokens-generated", "9223372036854775807", "x-ratelimit-limit-tokens-cache-adjusted-prompt", "800"}, []provider.Window{
			edit(input, minute, 60000, 30000),
			edit(output, minute, 9223372036854775807, unknown),
			edit(input, minute, 48000, unknown, named("cache-adjusted"), aside),
		}},
		"Together": {"together", []string{"x-ratelimit-limit", "10", "x-ratelimit-remaining", "9", "x-ratelimit-reset", "1", "x-tokenlimit-limit", "3000", "x-tokenlimit-remaining", "2990"},
			[]provider.Window{edit(requests, time.Second, 10, 9, resets(time.Second)), edit(tokens, time.Second, 3000, 2990)}},
		"OpenRouter": {"openrouter", limits("20", "0", "1768478460000"), []provider.Window{edit(requests, 0, 20, 0, fixed, resets(minute))}},
		"Cohere's trial": {"cohere", []string{"x-endpoint-monthly-call-limit", "1000", "x-trial-endpoint-call-limit", "40", "x-trial-endpoint-call-remaining", "39"},
			[]provider.Window{edit(requests, minute, 40, 39), edit(requests, 0, 1000, unknown, named("month"), fixed, aside)}},
		"xAI": {"xai", []string{"x-ratelimit-limit-requests", "480", "x-ratelimit-remaining-requests", "479"}, []provider.Window{edit(requests, 0, 480, 479)}},

		// GitHub.
		"core":    {"github", append(limits("5000", "4999", "1768480200"), "X-RateLimit-Resource", "core"), []provider.Window{edit(requests, hour, 5000, 4999, fixed, resets(30*minute))}},
		"search":  {"github", append(limits("30", "29", "1768478460"), "X-RateLimit-Resource", "search"), []provider.Window{edit(requests, minute, 30, 29, fixed, resets(minute), named("search"), aside)}},
		"graphql": {"github", append(limits("5000", "4999"), "X-RateLimit-Resource", "graphql"), []provider.Window{edit(requests, hour, 5000, 4999, fixed, named("graphql"), aside)}},

		// No headers.
		"Gemini":   {"gemini", limits("1", "1"), nil},
		"DeepSeek": {"deepseek", limits("1", "1"), nil},
		"Bedrock":  {"bedrock", limits("1", "1"), nil},

		// The standard, and what came before.
		"a duration":           {"generic", limits("9", "8", "7s"), []provider.Window{edit(requests, 0, 9, 8, resets(7*time.Second))}},
		"0s":                   {"generic", limits("9", "8", "0s"), []provider.Window{edit(requests, 0, 9, 8, resets(0))}},
		"a fraction":           {"generic", limits("9", "8", "7.5"), []provider.Window{edit(requests, 0, 9, 8, resets(7500*time.Millisecond))}},
		"RFC 3339":             {"generic", limits("9", "8", "2026-01-15T12:00:01.5Z"), []provider.Window{edit(requests, 0, 9, 8, resets(1500*time.Millisecond))}},
		"an HTTP date":         {"generic", limits("9", "8", "Thu, 15 Jan 2026 12:00:09 GMT"), []provider.Window{edit(requests, 0, 9, 8, resets(9*time.Second))}},
		"an HTTP date gone by": {"generic", limits("9", "8", "Thu, 15 Jan 2026 11:00:09 GMT"), []provider.Window{edit(requests, 0, 9, 8, resets(0))}},
		"seconds since 1970":   {"generic", limits("9", "8", "1768478401"), []provider.Window{edit(requests, 0, 9, 8, resets(time.Second))}},
		"ms since 1970":        {"generic", limits("9", "8", "1768478400250"), []provider.Window{edit(requests, 0, 9, 8, resets(250*time.Millisecond))}},
		"years":                {"generic", limits("9", "8", "99999999"), []provider.Window{edit(requests, 0, 9, 8)}},
		"NaN":                  {"generic", limits("9", "8", "NaN"), []provider.Window{edit(requests, 0, 9, 8)}},
		"negative":             {"generic", limits("9", "8", "-8"), []provider.Window{edit(requests, 0, 9, 8)}},
		"empty":                {"generic", limits("", " ", ""), nil},
		"nothing is limited":   {"generic", limits("-1", "-1", "0"), nil},
		"a limit of 0":         {"generic", limits("0", "0"), []provider.Window{edit(requests, 0, 0, 0)}},
		"with another hyphen":  {"generic", []string{"X-Rate-Limit-Limit", "9"}, []provider.Window{edit(requests, 0, 9, unknown)}},
		"OpenAI's names":       {"generic", []string{"x-ratelimit-limit-tokens", "9"}, []provider.Window{edit(tokens, 0, 9, unknown)}},
		"the standard first":   {"generic", append(limits("9"), "RateLimit-Limit", "8"), []provider.Window{edit(requests, 0, 8, unknown)}},
		"sent twice":           {"generic", []string{"X-RateLimit-Limit", "9", "X-RateLimit-Limit", "90"}, []provider.Window{edit(requests, 0, 9, unknown)}},
		"cached":               {"generic", append(limits("9", "8"), "Age", "3"), nil},
		"fresh":                {"generic", append(limits("9", "8"), "Age", "0"), []provider.Window{edit(requests, 0, 9, 8)}},
		"draft 03": {"generic", []string{"RateLimit-Limit", `10, 10;w=1;burst=1000, 1000;w=3600;comment="an hour"`, "RateLimit-Remaining", "9", "RateLimit-Reset", "1"},
			[]provider.Window{edit(requests, time.Second, 10, 9, resets(time.Second))}},
		"draft 03 without a bare number": {"generic", []string{"RateLimit-Limit", `10;w=60`}, []provider.Window{edit(requests, minute, 10, unknown)}},
		"draft 07, one policy": {"generic", []string{"RateLimit", "limit=10, remaining=90, reset=50", "RateLimit-Policy", "10;w=60"},
			[]provider.Window{edit(requests, minute, 10, 10, resets(50*time.Second))}},
		"draft 07, malformed": {"generic", []string{"RateLimit", "limit=10; remaining=9,"}, nil},
		"draft 07, negative":  {"generic", []string{"RateLimit", "limit=-10, remaining=3, reset=-3"}, []provider.Window{edit(requests, 0, unknown, 3)}},
		"a policy alone":      {"generic", []string{"RateLimit-Policy", `"day";q=1000;w=86400`}, []provider.Window{edit(requests, day, 1000, unknown, named("day"))}},
		"no policy":           {"generic", []string{"RateLimit", `"day";r=10`}, []provider.Window{edit(requests, 0, unknown, 10, named("day"))}},
		"units": {"generic", []string{"RateLimit-Policy", `"b";q=9;qu="content-bytes";w=1, "c";q=5;qu="concurrent-requests", "r";q=7;w=1;qu="requests"`}, []provider.Window{
			edit(provider.NumDimensions, time.Second, 9, unknown, named("b"), aside),
			edit(provider.Concurrency, 0, 5, unknown, named("c"), aside),
			edit(requests, time.Second, 7, unknown, named("r")),
		}},
		"a member without its due":    {"generic", []string{"RateLimit", `"a";t=5, "b";r=5;t="x", "c";r=5`}, []provider.Window{edit(requests, 0, unknown, 5, named("c"))}},
		"two partitions":              {"generic", []string{"RateLimit", `"a";r=0;t=9;pk=:YQ==:, "a";r=5;t=50;pk=:Yg==:, "a";r=0;t=7`}, []provider.Window{edit(requests, 0, unknown, 0, named("a"), resets(9*time.Second))}},
		"a malformed member":          {"generic", []string{"RateLimit", `"a";r=5;t=5, "b`}, nil},
		"a name with odd signs":       {"generic", []string{"RateLimit", `"a\"b\\c";r=5`}, []provider.Window{edit(requests, 0, unknown, 5, named(`a"b\c`))}},
		"draft 03, two policies":      {"generic", []string{"RateLimit-Limit", `5;w=1, 9;w=60`}, []provider.Window{edit(requests, time.Second, 5, unknown)}},
		"a list of no numbers":        {"generic", []string{"RateLimit-Limit", `a, b`}, nil},
		"a policy of less than none":  {"generic", []string{"RateLimit-Remaining", "5", "RateLimit-Policy", `-1;w=60`}, []provider.Window{edit(requests, 0, unknown, 5)}},
		"a window longer than belief": {"generic", []string{"RateLimit-Policy", `"a";q=5;w=999999999999999`}, []provider.Window{edit(requests, 0, 5, unknown, named("a"))}},
		"more digits than allowed":    {"generic", []string{"RateLimit-Policy", `"a";q=9999999999999999;w=1`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := lookup(t, c.typ).Read(provider.Response{Status: 200, Header: headers(append([]string{"Date", noon}, c.header...)...)})
			assert.Equal(t, c.want, s.Windows)
			assert.Equal(t, name == "cached", s.Cached)
		})
	}
}

// Absolute times count from the response's Date, else from when it was seen, else
// not at all.
func TestAnchor(t *testing.T) {
	at := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		date string
		at   time.Time
		want time.Duration
	}{
		"date":       {noon, time.Time{}, time.Minute},
		"date first": {noon, at.Add(time.Hour), time.Minute},
		"seen":       {"", at.Add(30 * time.Second), 30 * time.Second},
		"bad date":   {"today", at, time.Minute},
		"neither":    {"", time.Time{}, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			s := lookup(t, "generic").Read(provider.Response{Status: 200, At: c.at, Header: headers(
				"Date", c.date, "X-RateLimit-Limit", "9", "X-RateLimit-Reset", "1768478460")})
			assert.Equal(t, c.want, s.Windows[0].Reset)
		})
	}
}

// Gemini's day ends at midnight on the Pacific coast, summer or winter.
func TestMidnightPacific(t *testing.T) {
	const body = `{"error":{"code":429,"details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"250"}]}]}}`
	for now, want := range map[string]string{
		"2026-01-15T12:00:00Z": "2026-01-16T08:00:00Z",
		"2026-01-15T07:59:59Z": "2026-01-15T08:00:00Z",
		"2026-01-15T08:00:00Z": "2026-01-16T08:00:00Z",
		"2026-07-01T12:00:00Z": "2026-07-02T07:00:00Z",
		"2026-07-01T06:59:00Z": "2026-07-01T07:00:00Z",
		"2026-07-01T07:00:00Z": "2026-07-02T07:00:00Z",
		"2026-12-31T12:00:00Z": "2027-01-01T08:00:00Z",
		"2026-03-08T07:30:00Z": "2026-03-08T08:00:00Z", // clocks go forward this night
		"2026-03-08T09:30:00Z": "2026-03-09T07:00:00Z",
		"2026-03-08T10:30:00Z": "2026-03-09T07:00:00Z",
		"2026-11-01T06:30:00Z": "2026-11-01T07:00:00Z", // and back
		"2026-11-01T08:30:00Z": "2026-11-02T08:00:00Z",
		"2026-11-01T09:30:00Z": "2026-11-02T08:00:00Z",
		"2027-03-14T12:00:00Z": "2027-03-15T07:00:00Z",
		"2028-11-05T12:00:00Z": "2028-11-06T08:00:00Z",
	} {
		t.Run(now, func(t *testing.T) {
			at, _ := time.Parse(time.RFC3339, now)
			s := lookup(t, "gemini").Read(provider.Response{Status: 429, Body: []byte(body), At: at})
			assert.Equal(t, want, at.Add(s.Wait).Format(time.RFC3339))
			assert.Equal(t, []provider.Window{
				edit(provider.Requests, 24*time.Hour, 250, 0, fixed, resets(s.Wait)),
			}, s.Windows)
		})
	}
}

func TestRefused(t *testing.T) {
	const openai = "Rate limit reached for gpt-x in organization org-Ab1 on "
	refusal := func(d provider.Dimension, length time.Duration, limit, used, requested int64, name ...string) *provider.Refusal {
		r := &provider.Refusal{Dimension: d, Length: length, Limit: limit, Used: used, Requested: requested}
		for _, r.Name = range name {
		}
		return r
	}
	const requests, input, tokens = provider.Requests, provider.InputTokens, provider.Tokens
	for name, c := range map[string]struct {
		typ    string
		status int
		header []string
		body   string
		want   *provider.Refusal
	}{
		"TPM":                     {"openai", 429, nil, message(openai + "tokens per min (TPM): Limit 30000, Used 29937, Requested 385."), refusal(tokens, time.Minute, 30000, 29937, 385)},
		"RPD":                     {"openai", 429, nil, message(openai + "requests per day (RPD): Limit 200, Used 200, Requested 1."), refusal(requests, 24*time.Hour, 200, 200, 1)},
		"of an older form":        {"openai", 429, nil, message(openai + "requests per min. Limit: 3 / min. Please try again in 20s."), refusal(requests, time.Minute, 3, unknown, unknown)},
		"too large":               {"openai", 429, nil, message("Request too large on tokens per min (TPM): Limit 30000, Requested 36278."), refusal(tokens, time.Minute, 30000, unknown, 36278)},
		"images":                  {"openai", 429, nil, message(openai + "images per minute (IPM): Limit 5, Used 5, Requested 1."), refusal(provider.NumDimensions, time.Minute, 5, 5, 1)},
		"audio":                   {"groq", 429, nil, message("Rate limit reached on seconds of audio per hour (ASH): Limit 7200, Used 7200, Requested 30."), refusal(provider.NumDimensions, time.Hour, 7200, 7200, 30)},
		"by type":                 {"openai", 429, nil, `{"error":{"type":"requests","code":"rate_limit_exceeded","message":"m"}}`, refusal(requests, 0, unknown, unknown, unknown)},
		"by an empty window":      {"groq", 429, []string{"x-ratelimit-limit-tokens", "9", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-limit-requests", "9", "x-ratelimit-remaining-requests", "1"}, "", refusal(tokens, time.Minute, 9, unknown, unknown)},
		"two empty windows":       {"groq", 429, []string{"x-ratelimit-limit-tokens", "9", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-limit-requests", "9", "x-ratelimit-remaining-requests", "0"}, "", nil},
		"of two, the named":       {"groq", 429, []string{"x-ratelimit-limit-tokens", "9", "x-ratelimit-remaining-tokens", "0", "x-ratelimit-limit-requests", "9", "x-ratelimit-remaining-requests", "0"}, kind("tokens"), refusal(tokens, time.Minute, 9, unknown, unknown)},
		"another window's":        {"groq", 429, []string{"x-ratelimit-limit-tokens", "9", "x-ratelimit-remaining-tokens", "0"}, message("on tokens per day (TPD): Limit 100, Used 100, Requested 3"), refusal(tokens, 24*time.Hour, 100, 100, 3)},
		"a project's":             {"openai", 429, []string{"x-ratelimit-limit-project-tokens", "9", "x-ratelimit-remaining-project-tokens", "0"}, "", refusal(tokens, 0, 9, unknown, unknown, "project")},
		"Anthropic":               {"anthropic", 429, nil, message("would exceed the rate limit for your organization of 4,000,000 output tokens per minute."), refusal(provider.OutputTokens, time.Minute, 4e6, unknown, unknown)},
		"Anthropic, requests":     {"anthropic", 429, nil, message("your organization's rate limit of 50 requests per minute"), refusal(requests, time.Minute, 50, unknown, unknown)},
		"fast":                    {"anthropic", 429, []string{"anthropic-fast-input-tokens-limit", "9", "anthropic-fast-input-tokens-remaining", "0"}, "", refusal(input, time.Minute, 9, unknown, unknown, "fast")},
		"Azure, calls":            {"azure", 429, nil, message("have exceeded call rate limit of your current tier"), refusal(requests, 0, unknown, unknown, unknown)},
		"Azure's policy":          {"azure", 429, []string{"policy-id", "DeploymentRatelimit-Token"}, "", refusal(tokens, 0, unknown, unknown, unknown)},
		"Gemini":                  {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"GenerateContentInputTokensPerModelPerMinute","quotaValue":"250000"}]}]}}`, refusal(input, time.Minute, 250000, unknown, unknown)},
		"Gemini's day":            {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel","quotaValue":"50"}]}]}}`, refusal(requests, 24*time.Hour, 50, unknown, unknown)},
		"Gemini by its metric":    {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaMetric":"generate_content_free_tier_input_token_count","quotaValue":"7"}]}]}}`, refusal(input, 0, 7, unknown, unknown)},
		"Gemini's output":         {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"OutputTokensPerMinute"}]}]}}`, refusal(provider.OutputTokens, time.Minute, unknown, unknown, unknown)},
		"Gemini's tokens":         {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"TokensPerMinute"}]}]}}`, refusal(tokens, time.Minute, unknown, unknown, unknown)},
		"Gemini's spending":       {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"SpendPerProject","quotaValue":"10"}]}]}}`, refusal(provider.NumDimensions, 0, 10, unknown, unknown)},
		"Gemini, two quotas":      {"gemini", 429, nil, `{"error":{"details":[{"violations":[{"quotaId":"RequestsPerMinute"},{"quotaId":"InputTokensPerMinute"}]}]}}`, nil},
		"a name without a window": {"generic", 429, []string{"RateLimit", `"b";r=0`}, `{"type":"x","title":"y","violated-policies":["a"]}`, refusal(provider.NumDimensions, 0, unknown, unknown, unknown, "a")},
		"Bedrock":                 {"bedrock", 429, nil, `{"message":"Too many tokens per day, please wait before trying again."}`, refusal(tokens, 24*time.Hour, unknown, unknown, unknown)},
		"Cohere":                  {"cohere", 429, nil, `{"message":"You are using a Trial key, which is limited to 40 API calls / minute."}`, refusal(requests, time.Minute, 40, unknown, unknown)},
		"Mistral's month":         {"mistral", 429, []string{"x-ratelimit-limit-tokens-month", "9", "x-ratelimit-remaining-tokens-month", "0"}, "", refusal(tokens, 0, 9, unknown, unknown, "month")},
		"Together":                {"together", 429, nil, `{"error_type":"dynamic_token_limited","error":{"message":"m"}}`, refusal(tokens, 0, unknown, unknown, unknown)},
		"a policy":                {"generic", 429, []string{"RateLimit-Policy", `"a";q=5;w=60`}, `{"type":"x","title":"y","violated-policies":["a"]}`, refusal(requests, time.Minute, 5, unknown, unknown, "a")},
		"a policy not stated":     {"generic", 429, nil, `{"type":"x","title":"y","violated-policies":["a"]}`, refusal(provider.NumDimensions, 0, unknown, unknown, unknown, "a")},
		"several policies":        {"generic", 429, nil, `{"type":"x","title":"y","violated-policies":["a","b"]}`, nil},
		"words without a limit":   {"generic", 429, nil, message("rate limit exceeded, try once per minute"), nil},
		"an overload":             {"openai", 503, nil, message("on tokens per min (TPM): Limit 30000"), nil},
		"a bad request":           {"openai", 400, nil, message("limit is 3 tokens per minute"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := (&fact{typ: c.typ, status: c.status, header: c.header, body: c.body}).read(t)
			assert.Equal(t, c.want, s.Refused)
		})
	}
}

func TestOrganization(t *testing.T) {
	for name, c := range map[string]struct {
		typ    string
		header []string
		body   string
		want   string
	}{
		"Anthropic":            {"anthropic", []string{"anthropic-organization-id", " 1234-abcd "}, "", "1234-abcd"},
		"OpenAI":               {"openai", []string{"openai-organization", "user-x"}, "", "user-x"},
		"OpenAI's message":     {"openai", nil, message("Rate limit reached for gpt-x in organization org-Ab_1 on tokens"), "org-Ab_1"},
		"Groq's message":       {"groq", nil, message("for model `x` in organization `org_01Ab` service tier"), "org_01Ab"},
		"no id":                {"anthropic", nil, message("the rate limit for your organization of 20,000 tokens"), ""},
		"another's header":     {"groq", []string{"openai-organization", "x"}, "", ""},
		"the second mentioned": {"openai", nil, message("Your organization must verify: organization org-x."), "org-x"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.want, (&fact{typ: c.typ, status: 429, header: c.header, body: c.body}).read(t).Organization)
		})
	}
}

// What a report says is kept, so there is an end to it.
func TestPoliciesAreBounded(t *testing.T) {
	long, many := strings.Repeat("x", 65), ""
	for i := range 10_000 {
		many += fmt.Sprintf(`"p%d";q=10;w=60, `, i)
	}
	for value, want := range map[string]int{
		`"` + long + `";q=10;w=60`:     0,
		`"` + long[1:] + `";q=10;w=60`: 1,
		many + `"last";q=10;w=60`:      32,
	} {
		d, _ := provider.Lookup("generic")
		s := d.Read(provider.Response{Status: 200, Header: http.Header{"Ratelimit-Policy": {value}}})
		assert.Len(t, s.Windows, want)
	}
}
