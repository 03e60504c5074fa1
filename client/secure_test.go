package client_test

// A broker with TLS, rules and an audit log, through the SDK.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/config"
)

// serve runs a whole broker until the test ends.
func serve(t *testing.T, cfg *config.Config) *app.App {
	t.Helper()
	a, err := app.New(t.Context(), cfg, app.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return a
}

func TestClientsProveWhoTheyAre(t *testing.T) {
	const key = "sk-cnry7f3a-secure"
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, key, r.Header.Get("X-Api-Key"))
		_, _ = io.WriteString(w, `{"usage": {"input_tokens": 1, "output_tokens": 1}}`)
	}))
	t.Cleanup(provider.Close)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	_, err := certs.Develop(dir, nil, []string{"spiffe://example.org/invoices", "spiffe://example.org/stranger"}, time.Now())
	require.NoError(t, err)
	token, hash := access.NewToken()
	unknown, _ := access.NewToken()
	cfg, err := config.Parse(at("broker.yaml"), fmt.Appendf(nil, `
server:
  listen: 127.0.0.1:0
  tls: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt}
access:
  tokens: [{name: reports, sha256: [%s]}]
  rules: [{identities: ["spiffe://example.org/invoices", "token:reports"], pools: [p], verbs: [acquire]}]
audit: {path: audit.jsonl}
store: {type: memory}
providers: [{name: p, type: anthropic, base_url: %q, keys: [{id: k, key: %s, rpm_limit: 1000}]}]
`, hash, provider.URL, key), app.ConfigOptions())
	require.NoError(t, err)
	a := serve(t, cfg)

	require.NoError(t, os.WriteFile(at("token"), []byte(token+"\n"), 0o600))
	for _, c := range []struct {
		name string
		opts []client.Option
		want error
	}{
		{"certificate", []client.Option{client.WithTLSFiles(at("ca.crt"), at("invoices.crt"), at("invoices.key"))}, nil},
		{"token", []client.Option{client.WithTLSFiles(at("ca.crt"), "", ""), client.WithToken(token)}, nil},
		{"token in a file", []client.Option{client.WithTLSFiles(at("ca.crt"), "", ""), client.WithTokenFile(at("token"))}, nil},
		{"no such file", []client.Option{client.WithTLSFiles(at("ca.crt"), "", ""), client.WithTokenFile(at("none"))}, client.ErrDenied},
		{"whom no rule names", []client.Option{client.WithTLSFiles(at("ca.crt"), at("stranger.crt"), at("stranger.key"))}, client.ErrDenied},
		{"unknown token, good certificate", []client.Option{
			client.WithTLSFiles(at("ca.crt"), at("invoices.crt"), at("invoices.key")), client.WithToken(unknown)}, client.ErrDenied},
		{"nothing", []client.Option{client.WithTLSFiles(at("ca.crt"), "", "")}, client.ErrDenied},
		{"a name that is only said", []client.Option{client.WithTLSFiles(at("ca.crt"), "", ""), client.WithHolder("token:reports")}, client.ErrDenied},
		{"a broker that it does not trust", []client.Option{client.WithTLSFiles("", "", ""), client.WithToken(token)}, client.ErrUnavailable},
		{"plaintext", []client.Option{client.WithPlaintext(), client.WithToken(token)}, client.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := client.New(a.Addr().String(), c.opts...)
			require.NoError(t, err)
			defer k.Close()
			_, err = k.Acquire(t.Context(), client.Request{Pool: "p", Model: "m"})
			require.ErrorIs(t, err, c.want)
			if c.want != nil {
				return
			}
			resp, err := k.HTTP("p").Post(provider.URL+"/v1/messages", "application/json", http.NoBody)
			require.NoError(t, err)
			defer resp.Body.Close()
			assert.Equal(t, http.StatusOK, resp.StatusCode)
		})
	}
	text, err := os.ReadFile(at("audit.jsonl"))
	require.NoError(t, err)
	for _, want := range []string{"spiffe://example.org/invoices", "token:reports", "spiffe://example.org/stranger", "UNAUTHENTICATED", "FORBIDDEN"} {
		assert.Contains(t, string(text), want)
	}
	for _, never := range []string{key, token, unknown} {
		assert.NotContains(t, string(text), never)
	}
}

// Certificates and CAs are changed under a client that goes on calling, and no call of it
// fails.
func TestCertificatesAreChangedWithoutAGap(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{dir, other} {
		_, err := certs.Develop(d, nil, []string{"spiffe://example.org/invoices"}, time.Now())
		require.NoError(t, err)
	}
	copyTo := func(to string, from ...string) {
		var all []byte
		for _, path := range from {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			all = append(all, text...)
		}
		require.NoError(t, os.WriteFile(at("new"), all, 0o600))
		require.NoError(t, os.Rename(at("new"), at(to)))
	}
	otherCA := filepath.Join(other, "ca.crt")
	copyTo("clients.crt", at("ca.crt"))
	cfg, err := config.Parse(at("broker.yaml"), []byte(`
server:
  listen: 127.0.0.1:0
  tls: {cert_file: server.crt, key_file: server.key, client_ca_file: clients.crt}
access: {rules: [{identities: ["spiffe://example.org/invoices"], pools: [p], verbs: [acquire]}]}
store: {type: memory}
providers: [{name: p, type: anthropic, base_url: "http://127.0.0.1", keys: [{id: k, key: sk-cnry7f3a-gap, rpm_limit: 1000000}]}]
`), app.ConfigOptions())
	require.NoError(t, err)
	a := serve(t, cfg)
	k, err := client.New(a.Addr().String(), client.WithTLSFiles(at("ca.crt"), at("invoices.crt"), at("invoices.key")))
	require.NoError(t, err)
	defer k.Close()
	calls := func() {
		for range 5 {
			l, err := k.Acquire(t.Context(), client.Request{Pool: "p", Model: "m"})
			require.NoError(t, err)
			require.NoError(t, l.Release(t.Context(), true))
		}
	}
	reload := func() { require.NoError(t, a.Reload(func() (*config.Config, error) { return cfg, nil })) }
	calls()
	copyTo("clients.crt", at("ca.crt"), otherCA)
	reload()
	calls()
	copyTo("invoices.crt", filepath.Join(other, "invoices.crt"))
	copyTo("invoices.key", filepath.Join(other, "invoices.key"))
	calls() // on the connection that there is
	copyTo("clients.crt", otherCA)
	reload()
	calls()
}
