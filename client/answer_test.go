package client_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Where the caller's SDK does the failover, a refusal says when to try again.
func TestSDKRetries(t *testing.T) {
	const two = `
  - name: two
    type: openai
    base_url: $URL/v1
    keys:
      - {id: k1, key: sk-cnry7f3a-client-1, rpm_limit: 600, tpm_limit: 100000}
      - {id: k2, key: sk-cnry7f3a-client-2, rpm_limit: 600, tpm_limit: 100000}
`
	refuse := func(status int, retryAfter, code string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			if retryAfter != "" {
				rw.Header().Set("Retry-After", retryAfter)
				rw.Header().Set("X-Should-Retry", "maybe")
			}
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, `{"error": {"message": "no", "type": "x", "code": "`+code+`"}}`)
		}
	}
	type header struct{ should, millis, seconds string }
	for name, c := range map[string]struct {
		refuse http.HandlerFunc
		say    []header // to one refusal after the other
	}{
		"rate limit": {refuse(429, "20", "rate_limit_exceeded"), []header{{"true", "0", "0"}, {"true", "+", "+"}}},
		"long":       {refuse(429, "3000", "rate_limit_exceeded"), []header{{"true", "0", "0"}, {"false", "+", "+"}}},
		"quota":      {refuse(429, "", "insufficient_quota"), []header{{"true", "0", "0"}, {"false", "", ""}}},
		"revoked":    {refuse(401, "", "invalid_api_key"), []header{{"true", "0", "0"}}},
		"busy":       {refuse(503, "7", ""), []header{{"maybe", "", "7"}}},
		"wrong":      {refuse(400, "", ""), []header{{"", "", ""}}},
		"too large":  {refuse(413, "", ""), []header{{"false", "", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := bubble(t, two)
				w.answers(c.refuse)
				b := w.counting()
				tr := w.client().Transport("two")
				tr.Base, tr.SDKRetries = b, true
				for i, want := range c.say {
					resp, err := tr.RoundTrip(request(t, w.url+chat, strings.NewReader(ask)))
					require.NoError(t, err)
					bodyOf(t, resp)
					got := header{resp.Header.Get("X-Should-Retry"), resp.Header.Get("Retry-After-Ms"), resp.Header.Get("Retry-After")}
					if want.seconds == "+" {
						assert.NotContains(t, []string{"", "0"}, got.millis)
						assert.NotContains(t, []string{"", "0"}, got.seconds)
						got.millis, got.seconds = "+", "+"
					}
					assert.Equal(t, want, got, "refusal %d", i+1)
					assert.EqualValues(t, i+1, b.sent.Load(), "each is sent once")
				}
				w.settled()
			})
		})
	}
}

// What advise replaces is kept.
func TestSDKRetriesKeepWhatTheProviderSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := bubble(t, many)
		w.answers(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Retry-After", "121180")
			rw.WriteHeader(429)
		})
		tr := w.client().Transport("many")
		tr.Base, tr.SDKRetries = &w.base, true
		resp, err := tr.RoundTrip(request(t, w.url+chat, strings.NewReader(ask)))
		require.NoError(t, err)
		bodyOf(t, resp)
		assert.Equal(t, "0", resp.Header.Get("Retry-After"))
		assert.Equal(t, "121180", resp.Header.Get("X-Broker-Orig-Retry-After"))
		w.settled()
	})
}
