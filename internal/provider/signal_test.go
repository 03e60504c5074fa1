package provider_test

// What a provider's answers mean, against header values as they were seen in the
// wild, and against nonsense, which must mean nothing.

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

func lookup(t testing.TB, typ string) *provider.Dialect {
	d, ok := provider.Lookup(typ)
	require.True(t, ok)
	return d
}

// headers makes a header of names and values in turn, names as seen.
func headers(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Add(kv[i], kv[i+1])
	}
	return h
}

func minute(d provider.Dimension, limit, remaining, rounding int64) provider.Window {
	return provider.Window{Dimension: d, Length: time.Minute, Limit: limit, Remaining: remaining, Rounding: rounding}
}

func TestTypes(t *testing.T) {
	assert.Equal(t, []string{"anthropic", "generic", "openai"}, provider.Types())
	for _, typ := range provider.Types() {
		assert.Equal(t, typ, lookup(t, typ).Type)
	}
	_, ok := provider.Lookup("none")
	assert.False(t, ok)
}

func TestAnthropicAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header http.Header
		want   provider.Signal
	}{
		"429 itpm": {429, headers(
			"Date", "Thu, 15 Jan 2026 12:00:00 GMT", "retry-after", "12",
			"anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", "49",
			"anthropic-ratelimit-input-tokens-limit", "20000", "anthropic-ratelimit-input-tokens-remaining", "0",
			"anthropic-ratelimit-output-tokens-limit", "8000", "anthropic-ratelimit-output-tokens-remaining", "8000",
		), provider.Signal{Class: provider.RateLimited, Wait: 12 * time.Second, Windows: []provider.Window{
			minute(provider.Requests, 50, 49, 1), minute(provider.InputTokens, 20000, 0, 1000), minute(provider.OutputTokens, 8000, 8000, 1000),
		}}},
		"401 revoked":             {401, headers("x-should-retry", "false"), provider.Signal{Class: provider.AuthInvalid}},
		"403 permission":          {403, nil, provider.Signal{Class: provider.Forbidden}},
		"400 bad request":         {400, nil, provider.Signal{Class: provider.InvalidRequest}},
		"402 billing":             {402, nil, provider.Signal{Class: provider.QuotaExhausted}},
		"529 overloaded":          {529, headers("retry-after", "3"), provider.Signal{Class: provider.Overloaded, Wait: 3 * time.Second}},
		"429 fast mode only":      {429, headers("retry-after", "2", "anthropic-fast-input-tokens-limit", "100000", "anthropic-ratelimit-tokens-remaining", "50000"), provider.Signal{Class: provider.RateLimited, Wait: 2 * time.Second}},
		"200 ignores a wait":      {200, headers("retry-after", "60"), provider.Signal{}},
		"0 is a status not known": {0, nil, provider.Signal{Class: provider.NoAnswer}},
		"a limit alone": {200, headers("anthropic-ratelimit-requests-limit", "50"),
			provider.Signal{Windows: []provider.Window{minute(provider.Requests, 50, provider.Unknown, 1)}}},
		"thousands": {200, headers("anthropic-ratelimit-requests-limit", "30,000", "anthropic-ratelimit-requests-remaining", " 29900 "),
			provider.Signal{Windows: []provider.Window{minute(provider.Requests, 30000, 29900, 1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.want, lookup(t, "anthropic").Read(provider.Response{Status: c.status, Header: c.header}))
		})
	}
}

// A value that cannot be read is as good as missing; the others stay.
func TestNonsenseIsIgnored(t *testing.T) {
	for _, v := range []string{"", " ", "-1", "-9223372036854775808", "1.5", "1e3", "0x10", "ten", "50 50", "9223372036854775808", "0", "NaN", "+-3"} {
		t.Run(v, func(t *testing.T) {
			s := lookup(t, "anthropic").Read(provider.Response{Status: 200, Header: headers(
				"anthropic-ratelimit-requests-limit", v, "anthropic-ratelimit-requests-remaining", "1",
				"anthropic-ratelimit-input-tokens-limit", "2000", "anthropic-ratelimit-input-tokens-remaining", "1000",
			)})
			assert.Equal(t, []provider.Window{minute(provider.InputTokens, 2000, 1000, 1000)}, s.Windows)
		})
	}
	s := lookup(t, "anthropic").Read(provider.Response{Status: 200, Header: headers(
		"anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", "-3")})
	assert.Equal(t, []provider.Window{minute(provider.Requests, 50, provider.Unknown, 1)}, s.Windows)
}

func TestRetryAfter(t *testing.T) {
	const date, later = "Thu, 15 Jan 2026 12:00:00 GMT", "Thu, 15 Jan 2026 12:01:30 GMT"
	for name, c := range map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"seconds":                       {headers("Retry-After", "12"), 12 * time.Second},
		"a fraction":                    {headers("Retry-After", "0.5"), 500 * time.Millisecond},
		"milliseconds are finer":        {headers("Retry-After", "1", "Retry-After-Ms", "644"), 644 * time.Millisecond},
		"bad milliseconds give way":     {headers("Retry-After", "1", "Retry-After-Ms", "soon"), time.Second},
		"a date, from the answer's own": {headers("Retry-After", later, "Date", date), 90 * time.Second},
		"a date gone by":                {headers("Retry-After", date, "Date", later), 0},
		"a date without an anchor":      {headers("Retry-After", later), 0},
		"none":                          {headers(), 0},
		"negative":                      {headers("Retry-After", "-5"), 0},
		"negative milliseconds":         {headers("Retry-After-Ms", "-5"), 0},
		"words":                         {headers("Retry-After", "a while"), 0},
		"not a number":                  {headers("Retry-After", "NaN"), 0},
		"endless":                       {headers("Retry-After", "Inf"), provider.LongestWait},
		"beyond all durations":          {headers("Retry-After", "1e300"), provider.LongestWait},
		"a distant date":                {headers("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT", "Date", date), provider.LongestWait},
		"space around":                  {headers("Retry-After", " 7 "), 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for _, typ := range provider.Types() {
				assert.Equal(t, c.want, lookup(t, typ).Read(provider.Response{Status: 429, Header: c.header}).Wait, typ)
			}
		})
	}
}

func TestReserveAndCount(t *testing.T) {
	const most, unknown = math.MaxInt64, provider.Unknown
	demand := provider.Demand{InputTokens: 1000, MaxOutputTokens: 300}
	usage := provider.Usage{Input: 10, CacheWrite: 5, CacheRead: 100, Output: 7}
	for typ, want := range map[string]struct{ reserved, counted, nothing provider.Amounts }{
		"anthropic": {provider.Amounts{1, 1000, 300, 1300, 1}, provider.Amounts{1, 15, 7, 22, 1}, provider.Amounts{1, unknown, unknown, unknown, 1}},
		"openai":    {provider.Amounts{1, 1000, 300, 1000, 1}, provider.Amounts{1, 10, 7, 17, 1}, provider.Amounts{1, unknown, unknown, unknown, 1}},
		"generic":   {provider.Amounts{1, 1000, 300, 1300, 1}, provider.Amounts{1, 10, 7, 17, 1}, provider.Amounts{1, unknown, unknown, unknown, 1}},
	} {
		t.Run(typ, func(t *testing.T) {
			d := lookup(t, typ)
			assert.Equal(t, want.reserved, d.Reserve(demand))
			assert.Equal(t, want.counted, d.Count(usage))
			assert.Equal(t, want.nothing, d.Count(provider.NoUsage))
			for _, a := range []provider.Amounts{
				d.Reserve(provider.Demand{InputTokens: most, MaxOutputTokens: most}),
				d.Count(provider.Usage{Input: most, CacheWrite: most, CacheRead: most, Output: most}),
			} {
				for _, n := range a {
					assert.GreaterOrEqual(t, n, int64(unknown), "no sum wraps")
				}
			}
		})
	}
}

func TestAmounts(t *testing.T) {
	a := provider.Amounts{1, 5, 0}
	assert.True(t, a.Covers(&provider.Amounts{1, 5}))
	assert.False(t, a.Covers(&provider.Amounts{1, 5, 1}))
	a.Raise(&provider.Amounts{0, 9, 2})
	assert.Equal(t, provider.Amounts{1, 9, 2}, a)
	assert.Equal(t, "input tokens", provider.InputTokens.String())
	assert.Equal(t, "unknown", provider.Dimension(200).String())
}

// Whatever a provider, or somebody in its name, answers: nothing panics, no
// wait is negative or endless, and no limit is negative.
func FuzzRead(f *testing.F) {
	f.Add(429, "12", "", "", "20000", "0")
	f.Add(429, "", "644", "", "30,000", "29,900")
	f.Add(503, "Thu, 15 Jan 2026 12:01:30 GMT", "", "Thu, 15 Jan 2026 12:00:00 GMT", "-1", "x")
	f.Add(429, "1e400", "-0", "never", "9223372036854775807", "-9223372036854775808")
	f.Fuzz(func(t *testing.T, status int, after, afterMs, date, limit, remaining string) {
		h := headers("Retry-After", after, "Retry-After-Ms", afterMs, "Date", date)
		for _, d := range []string{"Requests", "Input-Tokens", "Output-Tokens"} {
			h.Set("Anthropic-Ratelimit-"+d+"-Limit", limit)
			h.Set("Anthropic-Ratelimit-"+d+"-Remaining", remaining)
		}
		for _, typ := range provider.Types() {
			s := lookup(t, typ).Read(provider.Response{Status: status, Header: h})
			require.GreaterOrEqual(t, s.Wait, time.Duration(0))
			require.LessOrEqual(t, s.Wait, provider.LongestWait)
			for _, w := range s.Windows {
				require.Positive(t, w.Limit)
				require.GreaterOrEqual(t, w.Remaining, int64(provider.Unknown))
				require.Positive(t, w.Rounding)
				require.Positive(t, w.Length)
			}
		}
	})
}
