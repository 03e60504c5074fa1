package demo_test

// A fleet against the real thing: it gets what the provider allows, and is never
// told 429.

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/demo"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestFleetIsNeverToldToSlowDown(t *testing.T) {
	cfg, err := config.Parse("sandbox.yaml", app.SandboxConfig, app.ConfigOptions())
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Server.Listen = "127.0.0.1:0"
	for i := range cfg.Providers {
		p := &cfg.Providers[i]
		p.BaseURL = strings.Replace(p.BaseURL, app.SandboxAddress, l.Addr().String(), 1)
	}
	for _, p := range cfg.Providers {
		for _, k := range p.Keys {
			canary.Also(k.Key.Reveal())
		}
	}
	cfg.Audit.Path = filepath.Join(canary.Dir(t), "audit.jsonl")
	progress := &lines{written: make(chan struct{})}
	fleet := demo.Fleet{
		Sandbox:  sandbox.New(app.SandboxAccounts(cfg), sandbox.Options{Seed: 1, OutputTokens: 64}),
		Services: 6, Workers: 2, Duration: time.Hour, Progress: progress,
	}
	a, err := app.New(t.Context(), cfg, app.Options{Logger: canary.Logger("the broker's log")})
	require.NoError(t, err)
	fleet.Broker = a.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, app.ServeSandbox(ctx, l, fleet.Sandbox)) })
	running.Go(func() { assert.NoError(t, a.Run(ctx)) })
	t.Cleanup(func() { stop(); running.Wait() })

	enough, end := context.WithCancel(t.Context())
	t.Cleanup(end)
	running.Go(func() {
		select {
		case <-progress.written:
		case <-enough.Done():
		}
		for enough.Err() == nil && admitted(fleet.Sandbox) < 300 {
			time.Sleep(time.Millisecond)
		}
		end()
	})
	r, err := fleet.Run(enough)
	require.NoError(t, err)
	require.Len(t, r.Pools, 2)
	for _, p := range r.Pools {
		assert.Positive(t, p.Requests, p.Pool)
		assert.Zero(t, p.Limited, "429s of %s", p.Pool)
		assert.Zero(t, p.Failed, "other errors of %s", p.Pool)
		assert.Greater(t, p.Fairness, 0.5, p.Pool)
	}
	assert.Equal(t, 6, r.Services)
	require.NotEmpty(t, r.Limits)
	for _, limit := range r.Limits {
		assert.Positive(t, limit.Used, limit.Account)
		assert.LessOrEqual(t, limit.Share, 1.0, limit.Account)
	}
	for _, account := range fleet.Sandbox.Stats().Accounts {
		assert.Zero(t, account.Unauthorized, account.Name)
		for _, c := range account.Classes {
			assert.Zero(t, c.Limited, "%s %s", account.Name, c.Name)
		}
	}
	assert.Contains(t, progress.String(), "requests")
	text := &bytes.Buffer{}
	require.NoError(t, r.Print(text))
	for _, want := range []string{"anthropic", "openai", "anthropic-research", "fairness", "binding limit"} {
		assert.Contains(t, text.String(), want)
	}
}

// lateBroker grants leases whose time to start is over, and takes them back.
type lateBroker struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	released chan *keybrokerv1.ReleaseKeyRequest
}

func (*lateBroker) AcquireKey(context.Context, *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	return &keybrokerv1.AcquireKeyResponse{
		LeaseId: "late", ApiKey: canary.Key("demo-late"), BaseUrl: "http://127.0.0.1:0", AuthHeader: "authorization", StartWithin: durationpb.New(0),
	}, nil
}

func (b *lateBroker) ReleaseKey(ctx context.Context, r *keybrokerv1.ReleaseKeyRequest) (*keybrokerv1.ReleaseKeyResponse, error) {
	select {
	case b.released <- r:
	case <-ctx.Done():
	}
	return &keybrokerv1.ReleaseKeyResponse{}, nil
}

func TestServiceGivesBackWhatComesTooLate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	broker := &lateBroker{released: make(chan *keybrokerv1.ReleaseKeyRequest)}
	server := grpc.NewServer()
	keybrokerv1.RegisterKeyBrokerServiceServer(server, broker)
	var serving sync.WaitGroup
	serving.Go(func() { assert.NoError(t, server.Serve(l)) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })

	fleet := demo.Fleet{
		Broker: l.Addr().String(), Sandbox: sandbox.New(nil, sandbox.Options{}),
		Services: 1, Workers: 1, Duration: time.Hour, Progress: &bytes.Buffer{},
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := fleet.Run(ctx) // it fails if a request is sent: nobody listens there
		done <- err
	}()
	select {
	case r := <-broker.released:
		assert.Equal(t, "late", r.GetLeaseId())
		assert.True(t, r.GetUnused())
	case err := <-done:
		done <- err
	}
	end()
	require.NoError(t, <-done)
}

// lines keeps what is written, and tells of the first.
type lines struct {
	bytes.Buffer
	once    sync.Once
	written chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	defer l.once.Do(func() { close(l.written) })
	return l.Buffer.Write(b)
}

// admitted is how many requests the provider has let through, by its own books.
func admitted(s *sandbox.Server) (n int64) {
	for _, account := range s.Stats().Accounts {
		for _, c := range account.Classes {
			n += c.Admitted
		}
	}
	return n
}

func TestFleetEndsByItself(t *testing.T) {
	fleet := demo.Fleet{Sandbox: sandbox.New(nil, sandbox.Options{}), Duration: time.Millisecond}
	_, err := fleet.Run(t.Context())
	require.NoError(t, err)
}

func TestFleetWithoutABrokerFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	fleet := demo.Fleet{
		Broker: l.Addr().String(), Sandbox: sandbox.New(nil, sandbox.Options{}),
		Services: 1, Workers: 1, Duration: time.Hour, Progress: &bytes.Buffer{},
	}
	_, err = fleet.Run(t.Context())
	require.ErrorContains(t, err, "service-01")
}
