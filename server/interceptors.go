package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// interceptors gives those that every call goes through, outermost first.
// Streams end with running.
// Messages are never logged: one of them carries a key.
func (o *Options) interceptors(running context.Context) []grpc.ServerOption {
	logger, logOptions := callLogger(o.Logger)
	reporter := observer(o.Observe)
	rescue := recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		// A panic's value may hold anything, so only its type is told.
		o.Logger.ErrorContext(ctx, "handler panicked", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
		return failure(codes.Internal, "internal error", reasonInternal, nil)
	})
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(
			interceptors.UnaryServerInterceptor(reporter),
			logging.UnaryServerInterceptor(logger, logOptions...),
			recovery.UnaryServerInterceptor(rescue),
		),
		grpc.ChainStreamInterceptor(
			interceptors.StreamServerInterceptor(reporter),
			logging.StreamServerInterceptor(logger, logOptions...),
			recovery.StreamServerInterceptor(rescue),
			endWith(running),
		),
	}
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

// callLogger logs the end of each call: what is the caller's own affair at
// debug level, what is ours as an error.
func callLogger(l *slog.Logger) (logging.Logger, []logging.Option) {
	log := func(ctx context.Context, level logging.Level, text string, fields ...any) {
		l.Log(ctx, slog.Level(level), text, fields...)
	}
	level := func(code codes.Code) logging.Level {
		switch code {
		case codes.Internal, codes.Unknown, codes.DataLoss:
			return logging.LevelError
		}
		return logging.LevelDebug
	}
	return logging.LoggerFunc(log), []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall), logging.WithLevels(level),
		logging.WithDisableLoggingFields(logging.ComponentFieldKey, logging.MethodTypeFieldKey),
	}
}

// Observe hears of every finished call: "/keybroker.v1.KeyBrokerService/AcquireKey",
// its code and how long it took. It is called by many goroutines and must not
// block.
type Observe func(method string, code codes.Code, took time.Duration)

func observer(f Observe) interceptors.CommonReportableFunc {
	return func(ctx context.Context, c interceptors.CallMeta) (interceptors.Reporter, context.Context) {
		if f == nil {
			return interceptors.NoopReporter{}, ctx
		}
		return report{method: c.FullMethod(), observe: f}, ctx
	}
}

type report struct {
	interceptors.NoopReporter
	method  string
	observe Observe
}

func (r report) PostCall(err error, took time.Duration) {
	r.observe(r.method, status.Code(err), took)
}
