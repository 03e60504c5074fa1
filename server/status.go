package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/pool"
)

// domain is that of every ErrorInfo.
const domain = "keybroker"

// The reasons that an ErrorInfo can give. They are part of the contract.
const (
	reasonExhausted    = "KEYS_EXHAUSTED"
	reasonNoUsableKey  = "NO_USABLE_KEY"
	reasonTooLarge     = "ASK_TOO_LARGE"
	reasonUnknownPool  = "POOL_UNKNOWN_OR_FORBIDDEN"
	reasonUnknownLease = "LEASE_UNKNOWN"
	reasonUnknownKey   = "KEY_UNKNOWN"
	reasonHolderLimit  = "HOLDER_LIMIT"
	reasonQueueFull    = "QUEUE_FULL"
	reasonSuperseded   = "SUPERSEDED"
	reasonDraining     = "DRAINING"
	reasonStore        = "STORE_UNAVAILABLE"
	reasonNotOwner     = "NOT_OWNER"
	reasonAudit        = "AUDIT_UNAVAILABLE"
	reasonReconnect    = "RECONNECT"
	reasonNobody       = "UNAUTHENTICATED"
	reasonForbidden    = "FORBIDDEN"
	reasonDeadline     = "DEADLINE_EXCEEDED"
	reasonCanceled     = "CANCELED"
	reasonInvalid      = "INVALID_REQUEST"
	reasonInternal     = "INTERNAL"
)

// unavailableRetry is when a client tries again that met a broker which cannot
// grant.
const unavailableRetry = time.Second

// invalid is a malformed field of a request.
type invalid struct{ field, description string }

func (e *invalid) Error() string { return e.field + ": " + e.description }

func invalidf(field, format string, args ...any) error {
	return &invalid{field, fmt.Sprintf(format, args...)}
}

// toStatus is the one place where errors become gRPC statuses. What it does not
// know is Internal, and its text does not leave the process.
func toStatus(ctx context.Context, err error) error {
	var (
		exhausted *broker.ExhaustedError
		large     *broker.TooLargeError
		field     *invalid
		nobody    *unauthenticated
		denied    *forbidden
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exhausted):
		return exhaustedStatus(exhausted)
	case errors.As(err, &large):
		return failure(codes.FailedPrecondition, fmt.Sprintf("pool %q: %v", large.Pool, err), reasonTooLarge,
			map[string]string{"pool": large.Pool, "dimension": large.Dimension.String(), "limit": strconv.FormatInt(large.Limit, 10)})
	case errors.As(err, &field):
		return invalidStatus(field)
	case errors.Is(err, errStale):
		return failure(codes.Unavailable, err.Error(), reasonReconnect, nil, retryIn(answerTime))
	case errors.As(err, &nobody):
		return failure(codes.Unauthenticated, err.Error(), reasonNobody, nil)
	case errors.As(err, &denied):
		return failure(codes.PermissionDenied, err.Error(), reasonForbidden, nil)
	case errors.Is(err, pool.ErrModelRequired), errors.Is(err, pool.ErrModelNotServed):
		return invalidStatus(&invalid{"model", err.Error()})
	case errors.Is(err, pool.ErrCursor):
		return invalidStatus(&invalid{"page_token", err.Error() + "; begin again"})
	case errors.Is(err, broker.ErrTTL):
		return invalidStatus(&invalid{"ttl", err.Error()})
	}
	return sentinelStatus(ctx, err)
}

// sentinelStatus is toStatus for errors that carry nothing but what they are.
func sentinelStatus(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, broker.ErrUnknownPool), errors.Is(err, pool.ErrNoPool):
		return failure(codes.PermissionDenied, "pool or model is unknown, or not for this caller", reasonUnknownPool, nil)
	case errors.Is(err, broker.ErrUnknownLease):
		return failure(codes.NotFound, "lease is unknown to this caller", reasonUnknownLease, nil)
	case errors.Is(err, broker.ErrUnknownKey), errors.Is(err, pool.ErrNoKey):
		return failure(codes.NotFound, "the pool has no such key; GetPool lists them", reasonUnknownKey, nil)
	case errors.Is(err, pool.ErrHolderLimit):
		return failure(codes.ResourceExhausted, err.Error(), reasonHolderLimit, nil)
	case errors.Is(err, pool.ErrQueueFull):
		return failure(codes.ResourceExhausted, "too many callers wait already", reasonQueueFull, nil, retryIn(time.Second))
	case errors.Is(err, broker.ErrSuperseded):
		return failure(codes.Aborted, err.Error(), reasonSuperseded, nil)
	case errors.Is(err, broker.ErrDraining):
		return unavailable(ctx, err, reasonDraining)
	case errors.Is(err, broker.ErrStore):
		return unavailable(ctx, err, reasonStore)
	case errors.Is(err, errAudit):
		return unavailable(ctx, errAudit, reasonAudit)
	case errors.Is(err, broker.ErrNotOwner):
		return unavailable(ctx, err, reasonNotOwner)
	case errors.Is(err, context.DeadlineExceeded):
		return failure(codes.DeadlineExceeded, "deadline exceeded while waiting", reasonDeadline, nil)
	case errors.Is(err, context.Canceled):
		return failure(codes.Canceled, "canceled while waiting", reasonCanceled, nil)
	}
	return &unexpected{err}
}

// unavailable says when to try again, in both ways that clients know.
func unavailable(ctx context.Context, err error, reason string) error {
	pushback := strconv.FormatInt(jitter(unavailableRetry).Milliseconds(), 10)
	_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", pushback)) // fails only outside a handler
	return failure(codes.Unavailable, err.Error(), reason, nil, retryIn(unavailableRetry))
}

// unexpected is an error that nobody has thought of. Its text is for the log; the
// caller gets a constant.
type unexpected struct{ cause error }

func (e *unexpected) Error() string { return e.cause.Error() }

// GRPCStatus is what leaves the process.
func (e *unexpected) GRPCStatus() *status.Status {
	return status.Convert(failure(codes.Internal, "internal error", reasonInternal, nil))
}

// poolStatus is toStatus for operators, who may know which pools there are.
func poolStatus(ctx context.Context, name string, err error) error {
	if errors.Is(err, broker.ErrUnknownPool) {
		name = secret.Name(name)
		return failure(codes.NotFound, fmt.Sprintf("there is no pool %q; ListPools lists them", name), reasonUnknownPool, map[string]string{"pool": name})
	}
	return toStatus(ctx, err)
}

func exhaustedStatus(e *broker.ExhaustedError) error {
	about := map[string]string{"pool": e.Pool}
	text := fmt.Sprintf("pool %q: %v", e.Pool, e.ExhaustedError)
	if e.NoUsableKey {
		return failure(codes.ResourceExhausted, text, reasonNoUsableKey, about)
	}
	subject := "rest"
	if e.Dimension < provider.NumDimensions {
		subject = e.Dimension.String()
	}
	about["dimension"] = subject
	details := []protoadapt.MessageV1{&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{
		{Subject: "pool:" + e.Pool, Description: subject},
	}}}
	if e.Retry > 0 {
		retry := retryIn(e.Retry)
		details = append(details, retry)
		text = fmt.Sprintf("%s; retry in %v", text, retry.GetRetryDelay().AsDuration().Round(time.Millisecond))
	}
	return failure(codes.ResourceExhausted, text, reasonExhausted, about, details...)
}

func invalidStatus(e *invalid) error {
	return failure(codes.InvalidArgument, e.Error(), reasonInvalid, nil, &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.field, Description: e.description}},
	})
}

func failure(code codes.Code, text, reason string, about map[string]string, details ...protoadapt.MessageV1) error {
	s := status.New(code, text)
	details = append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: about}}, details...)
	if full, err := s.WithDetails(details...); err == nil {
		s = full
	}
	return s.Err()
}

func retryIn(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(jitter(d))}
}

// jitter makes a wait longer by up to a quarter, 10 s at most, and a little, so
// that those who are told the same do not come back together.
func jitter(d time.Duration) time.Duration {
	return d + rand.N(min(d/4, 10*time.Second)+20*time.Millisecond) // #nosec G404 -- spreads retries; who guesses it gains nothing
}
