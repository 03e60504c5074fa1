package provider_test

import (
	"bufio"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

// Whatever a provider, or somebody in its name, answers: nothing panics, no wait
// is negative or endless, and no limit is less than nothing.
func FuzzRead(f *testing.F) {
	for _, v := range vectors(f) {
		var text strings.Builder
		for name, values := range v.Headers {
			for _, value := range values {
				text.WriteString(name + ": " + value + "\r\n")
			}
		}
		f.Add(v.Status, text.String(), []byte(v.Body))
	}
	f.Add(429, "Retry-After: 1e400\r\nRetry-After: -0\r\nDate: never\r\n", []byte("null"))
	f.Fuzz(func(t *testing.T, status int, text string, body []byte) {
		h, _ := textproto.NewReader(bufio.NewReader(strings.NewReader(text + "\r\n"))).ReadMIMEHeader()
		for _, typ := range provider.Types() {
			r := provider.Response{Status: status, Header: map[string][]string(h), Body: body, At: time.Unix(1768478400, 0)}
			check(t, lookup(t, typ).Read(r))
		}
	})
}

// The values of every header that is read are nonsense at once.
func FuzzValues(f *testing.F) {
	for _, v := range []string{"12", "30,000", "6m0s", "2026-01-15T12:01:00Z", "1768478460000", "Thu, 15 Jan 2026 12:01:30 GMT", "-1",
		"9223372036854775807", "100, 100;window=60", `"a";q=5;w=60;r=3;t=1`, "limit=10, remaining=9, reset=50", "rejected", "1e999"} {
		f.Add(v, "0")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		h := map[string][]string{}
		for i, name := range provider.HeaderNames() {
			h[name] = []string{[]string{a, b}[i%2]}
		}
		for _, typ := range provider.Types() {
			check(t, lookup(t, typ).Read(provider.Response{Status: 429, Header: h, At: time.Unix(1768478400, 0)}))
		}
	})
}

func check(t *testing.T, s provider.Signal) {
	bounded := func(d time.Duration) bool { return d >= 0 && d <= provider.LongestWait }
	require.LessOrEqual(t, s.Class, provider.NoAnswer)
	require.LessOrEqual(t, s.Scope, provider.ProviderScope)
	require.LessOrEqual(t, s.Source, provider.ByDefault)
	require.True(t, bounded(s.Wait), s.Wait)
	if s.Source == provider.NotStated {
		require.Zero(t, s.Wait)
	}
	switch s.Class {
	case provider.OK, provider.NoAnswer, provider.RequestTooLarge, provider.InvalidRequest:
		require.Equal(t, provider.NoScope, s.Scope)
		require.Zero(t, s.Wait)
	case provider.AuthInvalid, provider.Forbidden:
		require.Zero(t, s.Wait)
	}
	for _, w := range s.Windows {
		require.LessOrEqual(t, w.Dimension, provider.NumDimensions)
		require.True(t, w.Dimension < provider.NumDimensions || w.Aside, "what nobody counts is set aside")
		require.GreaterOrEqual(t, w.Limit, int64(provider.Unknown))
		require.GreaterOrEqual(t, w.Remaining, int64(provider.Unknown))
		if w.Limit >= 0 {
			require.LessOrEqual(t, w.Remaining, w.Limit)
		}
		require.True(t, bounded(w.Length), w.Length)
		require.True(t, w.Reset == provider.Unknown || bounded(w.Reset), w.Reset)
		require.GreaterOrEqual(t, w.Rounding, int64(1))
		require.LessOrEqual(t, w.Kind, provider.Fixed)
		require.False(t, s.Cached)
	}
	if r := s.Refused; r != nil {
		require.Contains(t, []provider.Class{provider.RateLimited, provider.QuotaExhausted, provider.RequestTooLarge}, s.Class)
		require.LessOrEqual(t, r.Dimension, provider.NumDimensions)
		require.True(t, bounded(r.Length))
		require.GreaterOrEqual(t, slices.Min([]int64{r.Limit, r.Used, r.Requested}), int64(provider.Unknown))
	}
}
