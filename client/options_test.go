package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestIsLoopback(t *testing.T) {
	for target, want := range map[string]bool{
		"127.0.0.1:7070": true, "localhost:7070": true, "[::1]:7070": true, "127.0.0.1": true, "localhost": true,
		"dns:///localhost:7070": true, "dns:127.0.0.1:7070": true, "passthrough:///127.0.0.1:1": true, "unix:///run/kb": true, "unix:kb": true,
		"dns://8.8.8.8/localhost:7070": false, "keybroker.internal:7070": false, "10.0.0.1:7070": false,
		"localhost.evil.com:1": false, "xds:///localhost": false, "": false,
	} {
		assert.Equal(t, want, isLoopback(target), target)
	}
}

func TestNewRefuses(t *testing.T) {
	for target, opts := range map[string][]Option{
		"a:1,":           nil,
		"a:1,dns:///b":   nil,
		"":               nil,
		"http://a:7070":  nil,
		"https://a:7070": nil,
		"127.0.0.1:1":    {WithPlaintext(), WithTLS(&tls.Config{})},
		"127.0.0.1:2":    {WithTLS(nil)},
		"127.0.0.1:3":    {WithTLSFiles("no such file", "", "")},
		"127.0.0.1:4":    {WithTLSFiles("", "", ""), WithPlaintext()},
		"127.0.0.1:5":    {WithTLSFiles("", "", ""), WithTLS(&tls.Config{})},
		"127.0.0.1:6":    {WithToken("t"), WithTokenFile("f")},
		"far:1":          {WithPlaintext(), WithToken("t")},
		"localhost:1":    {WithToken("from a file\n")},
		"localhost:2":    {WithHolder("Büro")},
	} {
		_, err := New(target, opts...)
		assert.Error(t, err, target)
	}
}

func TestDefaultPort(t *testing.T) {
	for host, want := range map[string]string{
		"localhost": "localhost:7070", "10.0.0.1": "10.0.0.1:7070", "::1": "[::1]:7070", "[::1]": "[::1]:7070", "[::1]:1": "[::1]:1",
		"a:1": "a:1", "dns:///a": "dns:///a", "unix:/run/kb": "unix:/run/kb", "dns:a": "dns:a",
	} {
		assert.Equal(t, want, withPort(host))
	}
}

// fake is a broker that gives what it is told to.
type fake struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	acquire func(context.Context, *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error)
	report  func(*keybrokerv1.ReportUsageRequest) error
	health  *health.Server
}

func (f *fake) serving(yes bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_SERVING
	}
	f.health.SetServingStatus(keybrokerv1.KeyBrokerService_ServiceDesc.ServiceName, status)
}

func (f *fake) AcquireKey(ctx context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	return f.acquire(ctx, r)
}

func (f *fake) ReportUsage(_ context.Context, r *keybrokerv1.ReportUsageRequest) (*keybrokerv1.ReportUsageResponse, error) {
	if f.report != nil {
		if err := f.report(r); err != nil {
			return nil, err
		}
	}
	return &keybrokerv1.ReportUsageResponse{Ttl: durationpb.New(time.Minute)}, nil
}

func (f *fake) ReleaseKey(context.Context, *keybrokerv1.ReleaseKeyRequest) (*keybrokerv1.ReleaseKeyResponse, error) {
	return &keybrokerv1.ReleaseKeyResponse{}, nil
}

// lease is good for two seconds and some requests.
func lease(requests int32) *keybrokerv1.AcquireKeyResponse {
	return &keybrokerv1.AcquireKeyResponse{
		LeaseId: "l", ApiKey: canary.Key("client-fake"), KeyId: "k", Pool: "p", ProviderType: "openai", BaseUrl: "http://127.0.0.1",
		AuthHeader: "authorization", AuthPrefix: "Bearer ", Requests: requests,
		StartWithin: durationpb.New(2 * time.Second), Ttl: durationpb.New(time.Minute),
	}
}

func serve(t *testing.T, f *fake, opts ...grpc.ServerOption) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(opts...)
	keybrokerv1.RegisterKeyBrokerServiceServer(s, f)
	f.health = health.NewServer()
	f.serving(true)
	healthpb.RegisterHealthServer(s, f.health)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// Several targets are used in turn, each by TLS in its own name, with the token.
func TestSeveralTargets(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server := grpc.Creds(credentials.NewServerTLSFromCert(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}))

	var calls [2]atomic.Int64
	var fakes [2]*fake
	var targets [2]string
	for i := range targets {
		fakes[i] = &fake{acquire: func(ctx context.Context, _ *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			calls[i].Add(1)
			md, _ := metadata.FromIncomingContext(ctx)
			assert.Equal(t, []string{"Bearer token"}, md.Get("authorization"))
			assert.Equal(t, []string{"me"}, md.Get("keybroker-holder"))
			return lease(1), nil
		}}
		targets[i] = serve(t, fakes[i], server)
	}
	c, err := New(targets[0]+", "+targets[1], WithTLS(&tls.Config{RootCAs: roots}), WithToken("token"), WithHolder("me"))
	require.NoError(t, err)
	call := func() {
		_, err := c.Acquire(t.Context(), Request{Pool: "p", TTL: time.Minute})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { call(); return calls[0].Load() > 3 && calls[1].Load() > 3 }, time.Minute, time.Millisecond)
	fakes[0].serving(false) // one that drains is left alone
	require.Eventually(t, func() bool {
		before := calls[0].Load()
		for range 6 {
			call()
		}
		return calls[0].Load() == before
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, c.Close())
}

// UNAVAILABLE is tried again, and nothing else.
func TestRetries(t *testing.T) {
	for code, want := range map[codes.Code]int{codes.Unavailable: 3, codes.ResourceExhausted: 1, codes.Internal: 1, codes.PermissionDenied: 1} {
		calls, ids := 0, map[string]bool{}
		c, err := New(serve(t, &fake{acquire: func(_ context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			ids[r.GetRequestId()] = true
			if calls++; calls < 3 {
				return nil, status.Error(code, "x")
			}
			return lease(1), nil
		}}))
		require.NoError(t, err)
		_, err = c.Acquire(t.Context(), Request{Pool: "p"})
		assert.Equal(t, want == 3, err == nil, "%v", err)
		assert.Equal(t, want, calls, code)
		assert.Len(t, ids, 1, "the broker knows that it is the same ask")
		require.NoError(t, c.Close())
	}
}
