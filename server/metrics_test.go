package server_test

// Metrics away from this machine: by TLS, for those who may inspect.

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/server"
)

func TestMetricsAreForInspectors(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	_, err := certs.Develop(dir, nil, []string{"dns.example.org", "other.example.org"}, time.Now())
	require.NoError(t, err)
	own, err := certs.Open(certs.Files{Cert: at("server.crt"), Key: at("server.key"), CA: at("ca.crt")})
	require.NoError(t, err)
	token, hash := access.NewToken()
	policy, err := access.New([]access.Token{{Name: "prometheus", Hashes: []access.Hash{hash}}}, []access.Rule{
		{Identities: []string{"token:prometheus"}, Pools: []string{"a"}, Verbs: access.Inspect},
		{Identities: []string{"dns:dns.example.org"}, Pools: []string{"*"}, Verbs: access.Inspect},
		{Identities: []string{"dns:other.example.org"}, Pools: []string{"*"}, Verbs: access.Acquire},
	})
	require.NoError(t, err)
	w := beginWith(t, server.Options{Certificates: own, Policy: func() *access.Policy { return policy }}, onePool("a", key("k", slots(1))))
	l := bufconn.Listen(1 << 16) // not on loopback, as far as anybody can tell
	ended := make(chan error, 1)
	go func() {
		ended <- w.server.ServeMetrics(l, func(rw http.ResponseWriter, _ *http.Request, may func(string) bool) {
			for _, pool := range []string{"a", "b"} {
				if may(pool) {
					_, _ = io.WriteString(rw, pool)
				}
			}
		})
	}()
	scrape := func(cert, token, path string) (int, string) {
		files := certs.Files{CA: at("ca.crt")}
		if cert != "" {
			files.Cert, files.Key = at(cert+".crt"), at(cert+".key")
		}
		source, err := certs.Open(files)
		require.NoError(t, err)
		config := source.ClientConfig()
		config.NextProtos = nil
		web := &http.Client{Transport: &http.Transport{
			TLSClientConfig: config, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) },
		}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost"+path, nil)
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := web.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.EqualValues(t, tls.VersionTLS13, resp.TLS.Version)
		return resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		name, cert, token, path string
		code                    int
		body                    string
	}{
		{"all pools", "dns.example.org", "", "/metrics", 200, "ab"},
		{"its pools", "", token, "/metrics", 200, "a"},
		{"another verb", "other.example.org", "", "/metrics", 403, ""},
		{"nobody", "", "", "/metrics", 401, ""},
		{"a bad token goes before a good certificate", "dns.example.org", "x", "/metrics", 401, ""},
		{"elsewhere", "dns.example.org", "", "/debug/pprof/", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := scrape(c.cert, c.token, c.path)
			assert.Equal(t, c.code, code)
			if c.body != "" {
				assert.Equal(t, c.body, body)
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.server.Stop(ctx)
	assert.NoError(t, <-ended)
}
