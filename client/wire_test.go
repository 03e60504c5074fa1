package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/certs"
)

// New files are in use with the next connection, and broken ones are not.
func TestTLSFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	develop := func(client string) {
		_, err := certs.Develop(dir, nil, []string{client}, time.Now())
		require.NoError(t, err)
	}
	develop("spiffe://example.org/one")
	develop("spiffe://example.org/two")
	for _, suffix := range []string{".crt", ".key"} {
		require.NoError(t, os.Link(at("one"+suffix), at("mine"+suffix)))
	}
	source, err := certs.Open(certs.Files{Cert: at("server.crt"), Key: at("server.key"), CA: at("ca.crt")})
	require.NoError(t, err)

	var mu sync.Mutex
	var who string
	f := &fake{acquire: func(ctx context.Context, _ *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
		p, _ := peer.FromContext(ctx)
		mu.Lock()
		defer mu.Unlock()
		who = p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].URIs[0].String()
		return lease(1), nil
	}}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(source.ServerConfig(tls.RequireAndVerifyClientCert))))
	keybrokerv1.RegisterKeyBrokerServiceServer(s, f)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go s.Serve(l)
	t.Cleanup(s.Stop)

	identity := func() string { // that a new connection proves
		c, err := New(l.Addr().String(), WithTLSFiles(at("ca.crt"), at("mine.crt"), at("mine.key")))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Acquire(t.Context(), Request{Pool: "p"})
		require.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		return who
	}
	assert.Equal(t, "spiffe://example.org/one", identity())

	wire, err := newFileWire(certs.Files{CA: at("ca.crt"), Cert: at("mine.crt"), Key: at("mine.key")}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	over := func() string { // that a new connection of the same wire proves
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(wire))
		require.NoError(t, err)
		defer conn.Close()
		_, err = keybrokerv1.NewKeyBrokerServiceClient(conn).AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{})
		require.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		return who
	}
	assert.Equal(t, "spiffe://example.org/one", over())
	for _, suffix := range []string{".crt", ".key"} {
		require.NoError(t, os.Rename(at("two"+suffix), at("mine"+suffix)))
	}
	assert.Equal(t, "spiffe://example.org/two", over())
	require.NoError(t, os.WriteFile(at("mine.crt"), []byte("half a file"), 0o600))
	assert.Equal(t, "spiffe://example.org/two", over(), "those of before")
}
