package server

// Every error of the domain and the status that it becomes: also when it is
// wrapped, and none that the table does not know.

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// exhausted is what the broker says of a pool without room.
func exhausted(d provider.Dimension, retry time.Duration, unusable bool) error {
	return &broker.ExhaustedError{
		ExhaustedError: &pool.ExhaustedError{RetryAt: pool.Never, Dimension: d, NoUsableKey: unusable}, Pool: "a", Retry: retry,
	}
}

var statusTests = []struct {
	covers string // the sentinel that the row stands for
	err    error
	code   codes.Code
	reason string
	field  string        // in BadRequest
	retry  time.Duration // in RetryInfo, at least; 0: none
	quota  string        // in QuotaFailure
	about  map[string]string
}{
	{covers: "ErrAllKeysExhausted", err: exhausted(provider.InputTokens, 3*time.Second, false), code: codes.ResourceExhausted,
		reason: "KEYS_EXHAUSTED", retry: 3 * time.Second, quota: "input tokens", about: map[string]string{"pool": "a", "dimension": "input tokens"}},
	{err: exhausted(provider.NumDimensions, time.Second, false), code: codes.ResourceExhausted,
		reason: "KEYS_EXHAUSTED", retry: time.Second, quota: "rest", about: map[string]string{"pool": "a", "dimension": "rest"}},
	{err: exhausted(provider.Requests, 0, false), code: codes.ResourceExhausted,
		reason: "KEYS_EXHAUSTED", quota: "requests", about: map[string]string{"pool": "a", "dimension": "requests"}},
	{err: exhausted(provider.NumDimensions, 0, true), code: codes.ResourceExhausted,
		reason: "NO_USABLE_KEY", about: map[string]string{"pool": "a"}},
	{covers: "ErrTooLarge", err: &broker.TooLargeError{TooLargeError: &pool.TooLargeError{Dimension: provider.Requests, Limit: 7}, Pool: "a"},
		code: codes.FailedPrecondition, reason: "ASK_TOO_LARGE", about: map[string]string{"pool": "a", "dimension": "requests", "limit": "7"}},
	{err: invalidf("field.name", "is wrong"), code: codes.InvalidArgument, reason: "INVALID_REQUEST", field: "field.name"},
	{covers: "ErrModelRequired", err: pool.ErrModelRequired, code: codes.InvalidArgument, reason: "INVALID_REQUEST", field: "model"},
	{covers: "ErrModelNotServed", err: pool.ErrModelNotServed, code: codes.InvalidArgument, reason: "INVALID_REQUEST", field: "model"},
	{covers: "ErrCursor", err: pool.ErrCursor, code: codes.InvalidArgument, reason: "INVALID_REQUEST", field: "page_token"},
	{covers: "ErrTTL", err: broker.ErrTTL, code: codes.InvalidArgument, reason: "INVALID_REQUEST", field: "ttl"},
	{covers: "ErrUnknownPool", err: broker.ErrUnknownPool, code: codes.PermissionDenied, reason: "POOL_UNKNOWN_OR_FORBIDDEN"},
	{covers: "ErrNoPool", err: pool.ErrNoPool, code: codes.PermissionDenied, reason: "POOL_UNKNOWN_OR_FORBIDDEN"},
	{covers: "ErrUnknownLease", err: broker.ErrUnknownLease, code: codes.NotFound, reason: "LEASE_UNKNOWN"},
	{covers: "ErrNoKey", err: pool.ErrNoKey, code: codes.NotFound, reason: "KEY_UNKNOWN"},
	{covers: "ErrUnknownKey", err: broker.ErrUnknownKey, code: codes.NotFound, reason: "KEY_UNKNOWN"},
	{covers: "ErrQueueFull", err: pool.ErrQueueFull, code: codes.ResourceExhausted, reason: "QUEUE_FULL", retry: time.Second},
	{covers: "ErrHolderLimit", err: &pool.HolderLimitError{What: "leases", Limit: 7}, code: codes.ResourceExhausted, reason: "HOLDER_LIMIT"},
	{err: &unauthenticated{access.ErrUnknownToken}, code: codes.Unauthenticated, reason: "UNAUTHENTICATED"},
	{err: &unauthenticated{errStale}, code: codes.Unavailable, reason: "RECONNECT", retry: answerTime},
	{err: &forbidden{"dns:a", access.Admin}, code: codes.PermissionDenied, reason: "FORBIDDEN"},
	{err: errAudit, code: codes.Unavailable, reason: "AUDIT_UNAVAILABLE", retry: time.Second},
	{covers: "ErrSuperseded", err: broker.ErrSuperseded, code: codes.Aborted, reason: "SUPERSEDED"},
	{covers: "ErrStore", err: broker.ErrStore, code: codes.Unavailable, reason: "STORE_UNAVAILABLE", retry: time.Second},
	{covers: "ErrNotOwner", err: broker.ErrNotOwner, code: codes.Unavailable, reason: "NOT_OWNER", retry: time.Second},
	{covers: "ErrStale", err: broker.ErrStale, code: codes.Internal, reason: "INTERNAL"},   // a store's, and the owner's to understand
	{covers: "ErrFenced", err: broker.ErrFenced, code: codes.Internal, reason: "INTERNAL"}, // a store's, and the owner's to understand
	{covers: "ErrDraining", err: broker.ErrDraining, code: codes.Unavailable, reason: "DRAINING", retry: time.Second},
	{err: context.DeadlineExceeded, code: codes.DeadlineExceeded, reason: "DEADLINE_EXCEEDED"},
	{err: context.Canceled, code: codes.Canceled, reason: "CANCELED"},
	{err: errors.New("disk of 10.0.0.7 is full"), code: codes.Internal, reason: "INTERNAL"},
	// The broker tells these as "already settled"; should one leak, it is ours.
	{covers: "ErrLeaseEnded", err: pool.ErrLeaseEnded, code: codes.Internal, reason: "INTERNAL"},
	{covers: "ErrNotHolder", err: pool.ErrNotHolder, code: codes.Internal, reason: "INTERNAL"},
}

func TestEveryErrorHasItsStatus(t *testing.T) {
	for _, c := range statusTests {
		for wrapping, err := range map[string]error{
			"bare": c.err, "wrapped": fmt.Errorf("pool %q: %w", "x", c.err),
			"joined": errors.Join(errors.New("first"), fmt.Errorf("second: %w", c.err)),
		} {
			t.Run(fmt.Sprintf("%v/%s", c.err, wrapping), func(t *testing.T) {
				s := status.Convert(toStatus(t.Context(), err))
				require.Equal(t, c.code, s.Code(), s.Message())
				var info *errdetails.ErrorInfo
				var retry time.Duration
				var field, quota string
				for _, d := range s.Details() {
					switch d := d.(type) {
					case *errdetails.ErrorInfo:
						info = d
					case *errdetails.RetryInfo:
						retry = d.GetRetryDelay().AsDuration()
					case *errdetails.BadRequest:
						field = d.GetFieldViolations()[0].GetField()
					case *errdetails.QuotaFailure:
						quota = d.GetViolations()[0].GetDescription()
						assert.Equal(t, "pool:a", d.GetViolations()[0].GetSubject())
					}
				}
				require.NotNil(t, info)
				assert.Equal(t, c.reason, info.GetReason())
				assert.Equal(t, "keybroker", info.GetDomain())
				assert.Equal(t, c.about, info.GetMetadata())
				assert.Equal(t, c.field, field)
				assert.Equal(t, c.quota, quota)
				if c.retry == 0 {
					assert.Zero(t, retry)
				} else {
					assert.GreaterOrEqual(t, retry, c.retry, "a wait is never shortened")
					assert.Less(t, retry, c.retry+c.retry/4+20*time.Millisecond)
				}
				if c.code == codes.Internal {
					assert.Equal(t, "internal error", s.Message(), "constant, whatever the error says")
				}
			})
		}
	}
	assert.NoError(t, toStatus(t.Context(), nil))
}

func TestOperatorsAreToldThatAPoolDoesNotExist(t *testing.T) {
	s := status.Convert(poolStatus(t.Context(), "b", fmt.Errorf("look: %w", broker.ErrUnknownPool)))
	assert.Equal(t, codes.NotFound, s.Code())
	require.Len(t, s.Details(), 1)
	assert.Equal(t, "POOL_UNKNOWN_OR_FORBIDDEN", s.Details()[0].(*errdetails.ErrorInfo).GetReason())
	assert.Equal(t, codes.Unavailable, status.Code(poolStatus(t.Context(), "b", broker.ErrDraining)))
}

func TestStatusTableKnowsEverySentinel(t *testing.T) {
	covered := map[string]bool{}
	for _, c := range statusTests {
		covered[c.covers] = true
	}
	found := sentinels(t, "../internal/broker", "../pool")
	require.Contains(t, found, "ErrUnknownPool", "the search finds what is there")
	require.Contains(t, found, "ErrAllKeysExhausted")
	for _, name := range found {
		assert.True(t, covered[name], "%s is not in the table", name)
	}
}

// sentinels lists the variables of some packages whose names say error.
func sentinels(t *testing.T, dirs ...string) (names []string) {
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
					names = append(names, v.Names[0].Name)
				}
				return true
			})
		}
	}
	return names
}

func TestJitterOnlyLengthens(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := jitter(time.Second)
		require.GreaterOrEqual(t, d, time.Second)
		require.Less(t, d, 1270*time.Millisecond)
		seen[d] = true
	}
	assert.Greater(t, len(seen), 900, "a fleet must not come back in step")
}
