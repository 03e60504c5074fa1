package provider_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

// A key goes to its provider and to nobody whose name looks like it.
func TestAllows(t *testing.T) {
	for _, c := range []struct {
		typ, base, to string
		want          bool
	}{
		{"openai", "", "https://api.openai.com/v1/responses", true},
		{"openai", "", "https://API.OpenAI.com:443/v1", true},
		{"openai", "", "HTTPS://api.openai.com", true},
		{"openai", "", "http://api.openai.com/v1", false},
		{"openai", "", "https://api.openai.com:8443/v1", false},
		{"openai", "", "https://api.openai.com:/v1", false},
		{"openai", "", "https://api.openai.com./v1", false},
		{"openai", "", "https://evilapi.openai.com", false},
		{"openai", "", "https://evil.api.openai.com", false},
		{"openai", "", "https://api.openai.com.evil.com", false},
		{"openai", "", "https://api.openai.com@evil.com", false},
		{"openai", "", "https://evil.com/api.openai.com", false},
		{"openai", "", "https://openai.com", false},
		{"openai", "", "https:api.openai.com", false},
		{"openai", "", "/v1/responses", false},
		{"openai", "", "https://аpi.openai.com", false}, // Cyrillic
		{"openai", "http://127.0.0.1:8080/openai/v1", "http://127.0.0.1:8080/openai/v1/chat", true},
		{"openai", "http://127.0.0.1:8080/v1", "http://127.0.0.1:8081/v1", false},
		{"openai", "http://127.0.0.1:8080/v1", "https://127.0.0.1:8080/v1", false},
		{"openai", "http://127.0.0.1:8080/v1", "https://api.openai.com/v1", false},
		{"openai", "http://[::1]:80/v1", "http://[::1]/v1", true},
		{"generic", "", "https://anything.com", false},
		{"generic", "https://api.example.com", "https://api.example.com/x", true},
		{"generic", "://", "https://api.example.com/x", false},
		{"azure", "", "https://my-resource.openai.azure.com/openai/deployments", true},
		{"azure", "", "https://x.services.ai.azure.com", true},
		{"azure", "", "https://openai.azure.com", false},
		{"azure", "", "https://.openai.azure.com", false},
		{"azure", "", "https://a.b.openai.azure.com", false},
		{"azure", "", "https://evil.com.openai.azure.com.evil.com", false},
		{"azure", "", "https://a%2e.openai.azure.com", false},
		{"azure", "", "http://x.openai.azure.com", false},
		{"azure", "", "https://x.openai.azure.com:8443", false},
		{"azure", "https://proxy.corp", "https://proxy.corp/openai", true},
		{"vertex", "", "https://aiplatform.googleapis.com/v1", true},
		{"vertex", "", "https://us-central1-aiplatform.googleapis.com/v1", true},
		{"vertex", "", "https://-aiplatform.googleapis.com/v1", false},
		{"vertex", "", "https://storage.googleapis.com", false},
		{"vertex", "", "https://aiplatform.us.rep.googleapis.com", true},
		{"bedrock", "", "https://bedrock-runtime.us-east-1.amazonaws.com/model", true},
		{"bedrock", "", "https://bedrock-runtime.amazonaws.com", false},
		{"bedrock", "", "https://bedrock-runtime..amazonaws.com", false},
		{"bedrock", "", "https://bedrock-runtime.evil.s3.amazonaws.com", false},
		{"bedrock", "", "https://bedrock-runtime.us-east-1.amazonaws.com.cn", false},
		{"bedrock", "", "https://bedrock-mantle.us-east-1.api.aws/v1", true},
	} {
		u, err := url.Parse(c.to)
		if err != nil {
			assert.False(t, c.want, "%s: %v", c.to, err)
			continue
		}
		assert.Equal(t, c.want, lookup(t, c.typ).Allows(u, c.base), "%s with %q to %s", c.typ, c.base, c.to)
	}
}

func FuzzAllows(f *testing.F) {
	for _, to := range []string{"https://x.openai.azure.com", "https://a.b", "https://x.openai.azure.com:443/", "//x", "https://x.openai.azure.com@y"} {
		f.Add(to)
	}
	f.Fuzz(func(t *testing.T, to string) {
		u, err := url.Parse(to)
		if err != nil {
			return
		}
		for _, typ := range provider.Types() {
			if d := lookup(t, typ); d.Allows(u, "") {
				require.Equal(t, "https", u.Scheme)
				require.Contains(t, []string{"", "443"}, u.Port())
				require.Regexp(t, `^[a-zA-Z0-9.-]+\.(com|ai|xyz|aws)$`, u.Hostname())
			}
		}
	})
}

func TestForward(t *testing.T) {
	for name, want := range map[string]bool{
		"anthropic-ratelimit-requests-limit": true, "X-RateLimit-Reset": true, "RateLimit-Policy": true, "x-rate-limit-reset-tokens": true,
		"X-Tokenlimit-Limit": true, "Retry-After": true, "retry-after-ms": true, "x-should-retry": true, "Date": true, "Age": true,
		"anthropic-fast-input-tokens-limit": true, "anthropic-priority-output-tokens-reset": true, "anthropic-organization-id": true,
		"anthropic-workspace-id": true, "openai-organization": true, "request-id": true, "x-request-id": true, "x-amzn-RequestId": true,
		"X-GitHub-Request-Id": true, "x-amzn-ErrorType": true, "policy-id": true, "ratelimitbysize-reset": true,
		"Set-Cookie": false, "Authorization": false, "X-Api-Key": false, "ratelimit-cookie": false, "x-ratelimit-authorization": false,
		"x-auth-ratelimit":   false,
		"Proxy-Authenticate": false, "x-api-key-request-id": false, "Content-Type": false, "": false, "Server": false, "dates": false,
	} {
		assert.Equal(t, want, provider.Forward(name), name)
	}
	for _, name := range provider.CredentialHeaders {
		assert.False(t, provider.Forward(name) && name != "Openai-Organization", name)
		assert.Equal(t, http.CanonicalHeaderKey(name), name)
	}
	for _, name := range provider.HeaderNames() {
		assert.True(t, provider.Forward(name), "%s is read here", name)
		assert.Equal(t, http.CanonicalHeaderKey(name), name)
	}
	for _, typ := range provider.Types() {
		assert.Contains(t, provider.CredentialHeaders, http.CanonicalHeaderKey(lookup(t, typ).AuthHeader))
	}
}
