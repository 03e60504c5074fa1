package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What an error of this package is, for errors.Is. Those of the caller's context
// are context.DeadlineExceeded and context.Canceled.
var (
	// ErrExhausted says that no key had room in time. The error is an
	// *ExhaustedError.
	ErrExhausted = errors.New("keys exhausted")

	// ErrTooLarge says that the ask is above every limit that is configured: it will
	// never fit. The error is a *TooLargeError.
	ErrTooLarge = errors.New("ask too large")

	// ErrDenied says that the broker does not know the caller, the pool, or the
	// pool for this caller.
	ErrDenied = errors.New("denied by the broker")

	// ErrUnavailable says that no broker could be reached.
	ErrUnavailable = errors.New("broker unavailable")

	// ErrInvalid says that the broker could not make sense of the request.
	ErrInvalid = errors.New("invalid request")

	// ErrClosed says that the client has been closed.
	ErrClosed = errors.New("client closed")

	// ErrHost says that a request is not for the provider whose key is leased.
	ErrHost = errors.New("not the provider's host")

	// ErrLate says that the time in which a lease's request may be sent is over.
	ErrLate = errors.New("too late to use the lease")
)

// ExhaustedError is an ErrExhausted with what the broker says of it.
type ExhaustedError struct {
	Pool      string
	Dimension string        // that binds: "requests", "input tokens", "output tokens", "tokens", "concurrency" or "rest"
	Retry     time.Duration // when to ask again; 0 if that is no matter of time
	NoKey     bool          // no key of the pool works at all
	Capped    bool          // it is this caller that has all it may have at one time
	cause     error
}

func (e *ExhaustedError) Error() string { return "keybroker: " + message(e.cause) }

// Is makes it an ErrExhausted.
func (e *ExhaustedError) Is(target error) bool { return target == ErrExhausted }

// Unwrap gives the gRPC status.
func (e *ExhaustedError) Unwrap() error { return e.cause }

// TooLargeError is an ErrTooLarge with the limit that it is above.
type TooLargeError struct {
	Pool      string
	Dimension string
	Limit     int64
	cause     error
}

func (e *TooLargeError) Error() string { return "keybroker: " + message(e.cause) }

// Is makes it an ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// Unwrap gives the gRPC status.
func (e *TooLargeError) Unwrap() error { return e.cause }

// fromStatus turns what gRPC gives into this package's errors. ctx is the
// caller's: if it has ended, that is the reason.
func fromStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("keybroker: %w", ctx.Err())
	}
	s := status.Convert(err)
	info, retry := details(s)
	about := info.GetMetadata()
	switch {
	case s.Code() == codes.ResourceExhausted:
		return &ExhaustedError{
			Pool: about["pool"], Dimension: about["dimension"], Retry: retry, NoKey: info.GetReason() == "NO_USABLE_KEY", Capped: info.GetReason() == "HOLDER_LIMIT",
			cause: err,
		}
	case info.GetReason() == "ASK_TOO_LARGE":
		limit, _ := strconv.ParseInt(about["limit"], 10, 64)
		return &TooLargeError{Pool: about["pool"], Dimension: about["dimension"], Limit: limit, cause: err}
	}
	if kind := kinds[s.Code()]; kind != nil {
		return fmt.Errorf("keybroker: %w: %s", kind, message(err))
	}
	return fmt.Errorf("keybroker: %w", err)
}

// message is what a status says, without what gRPC says of its own tries.
func message(err error) string {
	text := status.Convert(err).Message()
	if _, last, ok := strings.Cut(text, " attempts: "); ok {
		text = last
		if _, last, ok = strings.Cut(last, " desc = "); ok {
			text = last
		}
	}
	if strings.Contains(text, "first record does not look like a TLS handshake") {
		text += " (does the broker speak TLS? If not: WithPlaintext)"
	}
	return text
}

var kinds = map[codes.Code]error{
	codes.PermissionDenied: ErrDenied, codes.Unauthenticated: ErrDenied, codes.NotFound: ErrDenied,
	codes.Unavailable: ErrUnavailable, codes.InvalidArgument: ErrInvalid,
	codes.DeadlineExceeded: context.DeadlineExceeded,
	codes.Canceled:         ErrUnavailable, // not by the caller: the connection went away
}

func details(s *status.Status) (info *errdetails.ErrorInfo, retry time.Duration) {
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration()
		}
	}
	return info, retry
}
