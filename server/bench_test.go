package server_test

// How much the broker adds to gRPC itself: AcquireKey beside a unary call of
// bare grpc-go with messages of the same sizes, in turns, in one run. These
// machines are noisy; the ratio is what counts.

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/server"
)

// echo answers AcquireKey with one fixed message.
type echo struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	answer *keybrokerv1.AcquireKeyResponse
}

func (e *echo) AcquireKey(context.Context, *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	return e.answer, nil
}

var benchAsk = &keybrokerv1.AcquireKeyRequest{
	Pool: "anthropic", Model: "claude-sonnet-4-5", InputTokens: 1200, MaxOutputTokens: 800,
}

func BenchmarkAcquireKeyBesideEcho(b *testing.B) {
	brokerClient := dial(b, startBroker(b, server.Options{}), insecure.NewCredentials())
	answer, err := brokerClient.AcquireKey(b.Context(), benchAsk)
	require.NoError(b, err)
	bare := grpc.NewServer(grpc.NumStreamWorkers(uint32(8 * runtime.GOMAXPROCS(0)))) // as ours has
	keybrokerv1.RegisterKeyBrokerServiceServer(bare, &echo{answer: proto.CloneOf(answer)})
	echoClient := dial(b, listen(b, bare.Serve), insecure.NewCredentials())
	b.Cleanup(bare.Stop)
	sideBySide(b, "echo", echoClient, "acquire", brokerClient)
}

// What security costs, on connections that are there: by mTLS, with rules to go by
// and a line in the audit log for each lease.
func BenchmarkAcquireKeyWithSecurity(b *testing.B) {
	dir := b.TempDir()
	_, err := certs.Develop(dir, nil, []string{"spiffe://example.org/ns/prod/sa/invoices"}, time.Now())
	require.NoError(b, err)
	ca := filepath.Join(dir, "ca.crt")
	own, err := certs.Open(certs.Files{Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key"), CA: ca})
	require.NoError(b, err)
	theirs, err := certs.Open(certs.Files{Cert: filepath.Join(dir, "invoices.crt"), Key: filepath.Join(dir, "invoices.key"), CA: ca})
	require.NoError(b, err)
	policy, err := access.New(nil, []access.Rule{
		{Identities: []string{"dns:oncall.example.org"}, Pools: []string{"*"}, Verbs: access.Inspect | access.Admin},
		{Identities: []string{"spiffe://example.org/ns/prod/**"}, Pools: []string{"anthropic"}, Verbs: access.Acquire, Caps: access.Caps{Leases: 1e6, Waiters: 1000}},
	})
	require.NoError(b, err)
	log, err := audit.Open(filepath.Join(dir, "audit.jsonl"))
	require.NoError(b, err)
	b.Cleanup(func() { log.Close() })
	config := theirs.ClientConfig()
	config.ServerName = "localhost"
	secure := dial(b, startBroker(b, server.Options{
		Certificates: own, Policy: func() *access.Policy { return policy }, Audit: server.Audit{Log: log},
	}), credentials.NewTLS(config))
	plain := dial(b, startBroker(b, server.Options{}), insecure.NewCredentials())
	sideBySide(b, "plain", plain, "secure", secure)
}

// sideBySide measures two in turns, and gives the ratio of the second to the first.
func sideBySide(b *testing.B, oneName string, one keybrokerv1.KeyBrokerServiceClient, otherName string, other keybrokerv1.KeyBrokerServiceClient) {
	const rounds, callers, span = 12, 16, 500 * time.Millisecond
	var xs, ys, ratios []float64
	for b.Loop() {
		for round := range rounds {
			first, second := one, other
			if round%2 == 1 { // neither is always first
				first, second = second, first
			}
			x, y := rate(b, first, callers, span), rate(b, second, callers, span)
			if round%2 == 1 {
				x, y = y, x
			}
			xs, ys, ratios = append(xs, x), append(ys, y), append(ratios, y/x)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(xs), oneName+"/s")
	b.ReportMetric(median(ys), otherName+"/s")
	b.ReportMetric(median(ratios), otherName+"/"+oneName)
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// rate counts calls a second.
func rate(b *testing.B, client keybrokerv1.KeyBrokerServiceClient, callers int, span time.Duration) float64 {
	var calls atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			for time.Since(start) < span {
				if _, err := client.AcquireKey(b.Context(), benchAsk); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(calls.Load()) / time.Since(start).Seconds()
}

// startBroker serves a pool of ten keys with limits that never bind; its leases
// end by themselves after a second.
func startBroker(b *testing.B, o server.Options) string {
	dialect, _ := provider.Lookup("anthropic")
	cfg := broker.DomainConfig{
		Config: pool.Config{Name: "anthropic", Dialect: dialect},
		Pools: []broker.PoolConfig{{
			Rules:      pool.Rules{Name: "anthropic", StartWithin: 100 * time.Millisecond},
			DefaultTTL: time.Second, MaxTTL: time.Minute,
		}},
	}
	for i := range 10 {
		cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprintf("key-%d", i), Limits: []pool.Limit{
			{Dimension: provider.Requests, Window: time.Minute, Amount: 1e12, Kind: dialect.Kind},
			{Dimension: provider.InputTokens, Window: time.Minute, Amount: 1e15, Kind: dialect.Kind},
			{Dimension: provider.OutputTokens, Window: time.Minute, Amount: 1e15, Kind: dialect.Kind},
		}})
	}
	br, err := broker.New(b.Context(), &broker.Memory{}, []broker.DomainConfig{cfg})
	require.NoError(b, err)
	o.Broker, o.Logger = br, slog.New(slog.DiscardHandler)
	o.Keys = func(string, string) secret.Value {
		return secret.New(canary.Key("bench-0123456789012345678901234567890123456789"))
	}
	s := server.New(o)
	b.Cleanup(func() { s.Stop(context.Background()) })
	return listen(b, s.Serve)
}

func listen(b *testing.B, serve func(net.Listener) error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	go serve(l)
	return l.Addr().String()
}

func dial(b *testing.B, target string, wire credentials.TransportCredentials) keybrokerv1.KeyBrokerServiceClient {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(wire))
	require.NoError(b, err)
	b.Cleanup(func() { conn.Close() })
	return keybrokerv1.NewKeyBrokerServiceClient(conn)
}
