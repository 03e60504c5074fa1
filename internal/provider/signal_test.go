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

func TestTypes(t *testing.T) {
	assert.Equal(t, []string{
		"anthropic", "azure", "bedrock", "cerebras", "cohere", "deepseek", "fireworks", "gemini", "generic", "github",
		"groq", "mistral", "openai", "openrouter", "together", "vertex", "xai",
	}, provider.Types())
	for _, typ := range provider.Types() {
		assert.Equal(t, typ, lookup(t, typ).Type)
	}
	_, ok := provider.Lookup("none")
	assert.False(t, ok)
}

// A value that cannot be read is as good as missing; the others stay.
func TestNonsenseIsIgnored(t *testing.T) {
	input := provider.Window{Dimension: provider.InputTokens, Length: time.Minute, Kind: provider.Refilling, Limit: 2000, Remaining: 1000,
		Rounding: 1000, Reset: provider.Unknown}
	requests := input
	requests.Dimension, requests.Rounding = provider.Requests, 1
	for _, v := range []string{
		"", " ", "-1", "-9223372036854775808", "1.5", "1e3", "0x10", "ten", "50 50", "9223372036854775808", "NaN", "+-3",
		"1,2", "1,2345", ",100", "1000,000", "1,000,", "1, 000", "1,+00",
	} {
		t.Run(v, func(t *testing.T) {
			s := lookup(t, "anthropic").Read(provider.Response{Status: 200, Header: headers(
				"anthropic-ratelimit-requests-limit", v, "anthropic-ratelimit-requests-remaining", "1",
				"anthropic-ratelimit-input-tokens-limit", "2000", "anthropic-ratelimit-input-tokens-remaining", "1000",
			)})
			requests.Limit, requests.Remaining = provider.Unknown, 1
			assert.Equal(t, []provider.Window{requests, input}, s.Windows)
		})
	}
	for remaining, want := range map[string]int64{"-3": 0, "x": provider.Unknown, " 7 ": 7, "60": 50} {
		s := lookup(t, "anthropic").Read(provider.Response{Status: 200, Header: headers(
			"anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", remaining)})
		requests.Limit, requests.Remaining = 50, want
		assert.Equal(t, []provider.Window{requests}, s.Windows)
	}
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
		"a date, and no known moment":   {headers("Retry-After", later, "Date", "yesterday"), 0},
		"none":                          {headers(), 0},
		"negative":                      {headers("Retry-After", "-5"), 0},
		"negative milliseconds":         {headers("Retry-After-Ms", "-5"), 0},
		"words":                         {headers("Retry-After", "a while"), 0},
		"not a number":                  {headers("Retry-After", "NaN"), 0},
		"endless":                       {headers("Retry-After", "Inf"), 0},
		"hexadecimal":                   {headers("Retry-After", "0x10"), 0},
		"beyond all numbers":            {headers("Retry-After", "1e999", "Date", date), provider.LongestWait},
		"a duration":                    {headers("Retry-After", "7s"), 7 * time.Second},
		"a moment in seconds":           {headers("Retry-After", "1768478460", "Date", date), time.Minute},
		"sent twice":                    {headers("Retry-After", "5", "Retry-After", "x", "Retry-After", "10", "Retry-After", "7"), 10 * time.Second},
		"sent twice and joined":         {headers("Retry-After", "5, x, 10, 7"), 10 * time.Second},
		"milliseconds sent twice":       {headers("Retry-After-Ms", "5", "Retry-After-Ms", "10"), 10 * time.Millisecond},
		"no milliseconds at all":        {headers("Retry-After", "9", "Retry-After-Ms", "0"), 0},
		"beyond all durations":          {headers("Retry-After", "1e300", "Date", date), provider.LongestWait},
		"a distant date":                {headers("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT", "Date", date), provider.LongestWait},
		"space around":                  {headers("Retry-After", " 7 "), 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for _, typ := range provider.Types() {
				if typ != "github" { // it has a wait of its own
					assert.Equal(t, c.want, lookup(t, typ).Read(provider.Response{Status: 429, Header: c.header}).Wait, typ)
				}
			}
		})
	}
}

func TestReserveAndCount(t *testing.T) {
	const most, unknown = math.MaxInt64, provider.Unknown
	demand := provider.Demand{InputTokens: 1000, MaxOutputTokens: 300}
	usage := provider.Usage{Input: 10, CacheWrite: 5, CacheRead: 4, Output: 7}
	type amounts [3]provider.Amounts
	every := amounts{{1, 1000, 300, 1300, 1}, {1, 10, 7, 17, 1}, {1, unknown, unknown, unknown, 1}}
	input := amounts{{1, 1000, 300, 1000, 1}, {1, 10, 7, 10, 1}, {1, unknown, unknown, unknown, 1}}
	for typ, want := range map[string]amounts{ // reserved, counted, and counted where nothing is known
		"anthropic":  {{1, 1000, 300, 1300, 1}, {1, 15, 7, 22, 1}, {1, unknown, unknown, unknown, 1}},
		"openai":     {{1, 1000, 300, 1000, 1}, {1, 10, 7, 17, 1}, {1, unknown, unknown, unknown, 1}},
		"bedrock":    {{1, 1000, 300, 2500, 1}, {1, 15, 7, 50, 1}, {1, unknown, unknown, unknown, 1}},
		"groq":       {{1, 1000, 300, 1300, 1}, {1, 6, 7, 13, 1}, {1, unknown, unknown, unknown, 1}},
		"azure":      every,
		"cerebras":   every,
		"cohere":     every,
		"deepseek":   every,
		"fireworks":  every,
		"gemini":     input,
		"generic":    every,
		"github":     every,
		"mistral":    every,
		"openrouter": every,
		"together":   every,
		"vertex":     input,
		"xai":        every,
	} {
		t.Run(typ, func(t *testing.T) {
			d := lookup(t, typ)
			assert.Equal(t, want[0], d.Reserve(demand))
			assert.Equal(t, want[1], d.Count(usage))
			assert.Equal(t, want[2], d.Count(provider.NoUsage))
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
