package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// interceptors gives those that every call goes through, outermost first.
// Streams end with running.
// Messages are never logged: one of them carries a key.
func (o *Options) interceptors(running context.Context) []grpc.ServerOption {
	reporter := o.reporter()
	rescue := recovery.WithRecoveryHandlerContext(o.panicked)
	return []grpc.ServerOption{
		grpc.InTapHandle(o.arrive),
		grpc.ChainUnaryInterceptor(
			interceptors.UnaryServerInterceptor(reporter),
			recovery.UnaryServerInterceptor(rescue),
			auth.UnaryServerInterceptor(o.authorise),
		),
		grpc.ChainStreamInterceptor(
			interceptors.StreamServerInterceptor(reporter),
			recovery.StreamServerInterceptor(rescue),
			auth.StreamServerInterceptor(o.authorise),
			endWith(running),
		),
	}
}

// panicked answers for a panic. Its value may hold anything, so only its type is told.
func (o *Options) panicked(ctx context.Context, p any) error {
	o.Logger.ErrorContext(ctx, "handler panicked", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return failure(codes.Internal, "internal error", reasonInternal, nil)
}

// endWith ends streams when ctx does. Those that have no end of their own, such
// as a watch of the health, would keep a server from stopping.
func endWith(done context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(done, cancel)()
		wrapped := middleware.WrapServerStream(stream)
		wrapped.WrappedContext = ctx
		return handler(srv, wrapped)
	}
}

// Observe hears of every finished call: "/keybroker.v1.KeyBrokerService/AcquireKey",
// its code and how long it took. It is called by many goroutines and must not
// block.
type Observe func(method string, code codes.Code, took time.Duration)

// reporter logs and observes the end of each call.
func (o *Options) reporter() interceptors.CommonReportableFunc {
	return func(ctx context.Context, c interceptors.CallMeta) (interceptors.Reporter, context.Context) {
		return &report{ctx: ctx, method: c.FullMethod(), options: o}, ctx
	}
}

type report struct {
	interceptors.NoopReporter
	ctx     context.Context
	method  string
	options *Options
}

// PostCall is the end of a call.
func (r *report) PostCall(err error, took time.Duration) {
	r.options.finished(r.ctx, r.method, err, took)
}

// finished logs what is the caller's own affair at debug level, and what is ours
// as an error.
func (o *Options) finished(ctx context.Context, method string, err error, took time.Duration) {
	code := status.Code(err)
	if o.Observe != nil {
		o.Observe(method, code, took)
	}
	level := slog.LevelDebug
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	}
	if !o.Logger.Enabled(ctx, level) {
		return
	}
	c := callerOf(ctx)
	attrs := []slog.Attr{
		slog.String("method", method), slog.String("code", code.String()),
		slog.Duration("took", took), slog.String("holder", c.holder), slog.String("peer", c.peer),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	o.Logger.LogAttrs(ctx, level, "call finished", attrs...)
}
