// Package server speaks gRPC for the broker: it checks requests, turns messages
// into the domain's terms and back, errors into statuses, and joins the key to
// the answer as the last thing it does.
package server

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/secret"
)

// What one connection may ask of us. A message holds names, a few numbers and
// at most some headers; a waiting call is a stream, so there may be many.
const (
	maxMessage     = 1 << 20
	maxHeaderList  = 16 << 10
	maxStreams     = 1000
	bufferSize     = 16 << 10
	connectTimeout = 10 * time.Second // for the handshakes of TLS and HTTP/2
)

// Connections are kept open, since one that is warm answers sooner, but not for long:
// what a client has proved is proved anew with the next, and clients spread over new
// brokers. A peer that has vanished is noticed within a minute, and its waiting calls
// end.
var (
	keepAlive = keepalive.ServerParameters{
		MaxConnectionIdle:     10 * time.Minute,
		MaxConnectionAge:      15 * time.Minute,
		MaxConnectionAgeGrace: 2 * time.Minute,
		Time:                  40 * time.Second,
		Timeout:               20 * time.Second,
	}
	keepAlivePolicy = keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}
)

// Keys finds the secret value of a key by the name of its pool and the key's id.
type Keys func(pool, keyID string) secret.Value

// Options are what a server needs.
type Options struct {
	Broker *broker.Broker
	Keys   Keys
	Logger *slog.Logger
	// Policy gives what is in force: who may do what. Nil: access.Open, which over TLS
	// is nothing.
	Policy func() *access.Policy
	// Certificates, if set, serve TLS, and clients by theirs; else plaintext.
	Certificates *certs.Source
	Audit        Audit
	// MaxConnections bounds those open at one time, and MaxUnproven, for each host,
	// those that have not proved who they are. 0 is no bound.
	MaxConnections, MaxUnproven int

	auditFails *atomic.Bool
	handshakes *handshakes
	// Observe, if set, hears of every finished call.
	Observe Observe
	// SplitAdmin serves operators (AdminService and reflection) only on the
	// listener that is theirs; else both are served on both.
	SplitAdmin bool
}

// Server serves a broker.
type Server struct {
	options Options
	guard   *guard
	admins  *guard // of the operators' listener: nobody else fills it up
	main    *grpc.Server
	admin   *grpc.Server
	health  *health.Server
	running context.Context // ends streams
	quit    context.CancelFunc
}

// New makes a server that does not listen yet.
func New(o Options) *Server {
	if o.Policy == nil {
		open := access.Open()
		o.Policy = func() *access.Policy { return open }
	}
	o.auditFails, o.handshakes = &atomic.Bool{}, &handshakes{logger: o.Logger}
	s := &Server{
		options: o, health: health.NewServer(),
		guard: newGuard(o.MaxConnections, o.MaxUnproven), admins: newGuard(o.MaxConnections, o.MaxUnproven),
	}
	s.running, s.quit = context.WithCancel(context.Background())
	s.main = s.newGRPC()
	keybrokerv1.RegisterKeyBrokerServiceServer(s.main, &keyService{Options: &s.options})
	s.admin = s.main
	if o.SplitAdmin {
		s.admin = s.newGRPC()
	}
	keybrokerv1.RegisterAdminServiceServer(s.admin, &adminService{Options: &s.options})
	reflection.Register(s.admin) // v1, and v1alpha for older tools, ghz among them
	s.setHealth(healthpb.HealthCheckResponse_SERVING)
	return s
}

func (s *Server) newGRPC() *grpc.Server {
	o := &s.options
	g := grpc.NewServer(append(o.interceptors(s.running),
		grpc.Creds(newWire(o.Certificates, o.Policy, o.handshakes)),
		grpc.KeepaliveParams(keepAlive), grpc.KeepaliveEnforcementPolicy(keepAlivePolicy),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(connectTimeout),
		grpc.ReadBufferSize(bufferSize),                        // each connection has one
		grpc.NumStreamWorkers(uint32(8*runtime.GOMAXPROCS(0))), // whose stacks are grown already
		grpc.WaitForHandlers(true),
	)...)
	healthpb.RegisterHealthServer(g, s.health)
	return g
}

// Serve serves those who need keys until Stop, and then gives nil.
func (s *Server) Serve(l net.Listener) error { return s.main.Serve(s.guard.listen(l)) }

// ServeAdmin serves operators until Stop, and then gives nil.
func (s *Server) ServeAdmin(l net.Listener) error { return s.admin.Serve(s.admins.listen(l)) }

// Stop lets nobody in any more, sends away those who wait, and ends when the
// calls under way have ended, or are cut off when the context does.
func (s *Server) Stop(ctx context.Context) {
	s.setHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	s.options.Broker.Close()
	s.quit()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.main.GracefulStop()
		s.admin.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		s.main.Stop()
		s.admin.Stop()
		<-stopped
	}
}

func (s *Server) setHealth(status healthpb.HealthCheckResponse_ServingStatus) {
	for _, service := range []string{
		"", keybrokerv1.KeyBrokerService_ServiceDesc.ServiceName, keybrokerv1.AdminService_ServiceDesc.ServiceName,
	} {
		s.health.SetServingStatus(service, status)
	}
}

// Stats are what a server counts of its connections.
type Stats struct {
	Connections, Unproven int
	Refused               int64 // so far, for want of room
	Handshakes            int64 // that failed so far
}

// Stats gives the counts of now.
func (s *Server) Stats() (all Stats) {
	for _, g := range []*guard{s.guard, s.admins} {
		open, unproven, refused := g.counts()
		all.Connections, all.Unproven, all.Refused = all.Connections+open, all.Unproven+unproven, all.Refused+refused
	}
	all.Handshakes = s.options.handshakes.failed.Load()
	return all
}
