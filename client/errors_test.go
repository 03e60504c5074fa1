package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

func failure(code codes.Code, reason string, about map[string]string, more ...protoadapt.MessageV1) error {
	s, err := status.New(code, "text").WithDetails(append(more, &errdetails.ErrorInfo{Reason: reason, Domain: "keybroker", Metadata: about})...)
	if err != nil {
		return err
	}
	return s.Err()
}

// Every error is one thing and no other.
func TestErrorsAreValues(t *testing.T) {
	all := []error{
		ErrExhausted, ErrTooLarge, ErrDenied, ErrUnavailable, ErrInvalid, ErrClosed, ErrLate,
		context.DeadlineExceeded, context.Canceled,
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{failure(codes.ResourceExhausted, "KEYS_EXHAUSTED", nil), ErrExhausted},
		{failure(codes.ResourceExhausted, "QUEUE_FULL", nil), ErrExhausted},
		{failure(codes.FailedPrecondition, "ASK_TOO_LARGE", nil), ErrTooLarge},
		{failure(codes.PermissionDenied, "POOL_UNKNOWN_OR_FORBIDDEN", nil), ErrDenied},
		{failure(codes.NotFound, "LEASE_UNKNOWN", nil), ErrDenied},
		{status.Error(codes.Unauthenticated, "who"), ErrDenied},
		{status.Error(codes.Unavailable, "gone"), ErrUnavailable},
		{status.Error(codes.Canceled, "by the server"), ErrUnavailable},
		{failure(codes.InvalidArgument, "INVALID_REQUEST", nil), ErrInvalid},
		{status.Error(codes.DeadlineExceeded, "late"), context.DeadlineExceeded},
		{status.Error(codes.Internal, "bug"), nil},
		{errors.New("no status"), nil},
	} {
		err := fromStatus(t.Context(), c.err)
		for _, e := range all {
			assert.Equal(t, e == c.want, errors.Is(err, e), "%v is %v", err, e)
		}
		assert.Regexp(t, "^keybroker: ", err.Error())
	}
	require.NoError(t, fromStatus(t.Context(), nil))
}

// The caller's context is the reason, if it has ended.
func TestErrorsOfTheContext(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, code := range []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted} {
		require.ErrorIs(t, fromStatus(canceled, status.Error(code, "x")), context.Canceled)
		require.ErrorIs(t, fromStatus(late, status.Error(code, "x")), context.DeadlineExceeded)
	}
}

func TestErrorDetails(t *testing.T) {
	wrapped := fmt.Errorf("wrapped: %w", fromStatus(t.Context(), failure(codes.ResourceExhausted, "KEYS_EXHAUSTED",
		map[string]string{"pool": "p", "dimension": "input tokens"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})))
	var exhausted *ExhaustedError
	require.ErrorAs(t, wrapped, &exhausted)
	assert.Equal(t, "p", exhausted.Pool)
	assert.Equal(t, "input tokens", exhausted.Dimension)
	assert.Equal(t, 3*time.Second, exhausted.Retry)
	assert.False(t, exhausted.NoKey)
	assert.Equal(t, codes.ResourceExhausted, status.Code(exhausted.Unwrap()))

	require.ErrorAs(t, fromStatus(t.Context(), failure(codes.ResourceExhausted, "NO_USABLE_KEY", map[string]string{"pool": "p"})), &exhausted)
	assert.True(t, exhausted.NoKey)
	assert.Zero(t, exhausted.Retry)

	require.ErrorAs(t, fromStatus(t.Context(), failure(codes.ResourceExhausted, "HOLDER_LIMIT", nil)), &exhausted)
	assert.True(t, exhausted.Capped)
	assert.False(t, exhausted.NoKey)

	var large *TooLargeError
	require.ErrorAs(t, fromStatus(t.Context(), failure(codes.FailedPrecondition, "ASK_TOO_LARGE",
		map[string]string{"pool": "p", "dimension": "tokens", "limit": "1000"})), &large)
	assert.Equal(t, TooLargeError{"p", "tokens", 1000, large.cause}, *large)
}
