package provider_test

import (
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/internal/provider"
)

// What comes beside the limits.
var ordinary = []string{
	"Date", noon, "Content-Type", "application/json", "Content-Encoding", "gzip", "Server", "cloudflare",
	"X-Request-Id", "req_011CQ", "Cf-Ray", "8d3f", "Strict-Transport-Security", "max-age=31536000", "Via", "1.1 google",
	"X-Envoy-Upstream-Service-Time", "812", "Cf-Cache-Status", "DYNAMIC",
}

var full = map[string]http.Header{
	"anthropic": headers(append([]string{
		"anthropic-organization-id", "1234-abcd",
		"anthropic-ratelimit-requests-limit", "1000", "anthropic-ratelimit-requests-remaining", "999",
		"anthropic-ratelimit-requests-reset", "2026-01-15T12:00:01Z",
		"anthropic-ratelimit-input-tokens-limit", "80000", "anthropic-ratelimit-input-tokens-remaining", "79000",
		"anthropic-ratelimit-input-tokens-reset", "2026-01-15T12:00:01Z",
		"anthropic-ratelimit-output-tokens-limit", "16000", "anthropic-ratelimit-output-tokens-remaining", "16000",
		"anthropic-ratelimit-output-tokens-reset", "2026-01-15T12:00:00Z",
		"anthropic-ratelimit-tokens-limit", "96000", "anthropic-ratelimit-tokens-remaining", "95000",
		"anthropic-ratelimit-tokens-reset", "2026-01-15T12:00:01Z",
	}, ordinary...)...),
	"openai": headers(append([]string{
		"openai-organization", "user-x", "openai-processing-ms", "700", "openai-version", "2020-10-01",
		"x-ratelimit-limit-requests", "5000", "x-ratelimit-remaining-requests", "4999", "x-ratelimit-reset-requests", "12ms",
		"x-ratelimit-limit-tokens", "160000", "x-ratelimit-remaining-tokens", "159976", "x-ratelimit-reset-tokens", "9ms",
	}, ordinary...)...),
	"generic": headers(append([]string{
		"RateLimit-Policy", `"burst";q=100;w=60,"daily";q=1000;w=86400`, "RateLimit", `"burst";r=50;t=30, "daily";r=999`,
	}, ordinary...)...),
	"gemini": headers(ordinary...),
}

// Every answer is read once, while nobody holds the pool's lock.
func BenchmarkReadHeaders(b *testing.B) {
	for _, typ := range []string{"anthropic", "openai", "generic", "gemini"} {
		b.Run(typ, func(b *testing.B) {
			d, r := lookup(b, typ), provider.Response{Status: 200, Header: full[typ]}
			b.ReportAllocs()
			for b.Loop() {
				d.Read(r)
			}
		})
	}
}

func BenchmarkReadRefusal(b *testing.B) {
	d := lookup(b, "groq")
	r := provider.Response{Status: 429, Header: full["openai"], Body: []byte(`{"error":{"message":"Rate limit reached for model ` +
		"`llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand`" + ` on tokens per day (TPD): Limit 100000, Used 97050, ` +
		`Requested 3619. Please try again in 9m38.016s.","type":"tokens","code":"rate_limit_exceeded"}}`)}
	b.ReportAllocs()
	for b.Loop() {
		d.Read(r)
	}
}
