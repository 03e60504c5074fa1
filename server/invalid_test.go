package server_test

// Bad input: every mistake is answered by a clear error, changes nothing, and
// leaves a broker that still grants.

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// unharmed runs a call that must fail, and requires that the pool is as it was
// and still grants all its slots.
func unharmed(t *testing.T, call func(alice *caller) error, check func(t *testing.T, err error)) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", key("k", slots(2)))
		cfg.Flat, cfg.Pools[0].Models = false, []string{"m1", "m2"}
		alice := begin(t, cfg).as("alice")
		alice.release(alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "m1"}).GetLeaseId(), true)
		before := alice.look("a")

		check(t, call(alice))

		assert.True(t, proto.Equal(before, alice.look("a")), "something has changed:\n%v\n%v", before, alice.look("a"))
		for range 2 {
			alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "m1"})
		}
	})
}

func TestMalformedAcquireNamesTheField(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, field string
		change      func(*keybrokerv1.AcquireKeyRequest)
	}{
		{"neither pool nor model", "pool", func(r *keybrokerv1.AcquireKeyRequest) { r.Pool, r.Model = "", "" }},
		{"no model where limits are per model", "model", func(r *keybrokerv1.AcquireKeyRequest) { r.Model = "" }},
		{"a model that the pool does not serve", "model", func(r *keybrokerv1.AcquireKeyRequest) { r.Model = "m3" }},
		{"long pool", "pool", func(r *keybrokerv1.AcquireKeyRequest) { r.Pool = long }},
		{"long model", "model", func(r *keybrokerv1.AcquireKeyRequest) { r.Model = long }},
		{"long request id", "request_id", func(r *keybrokerv1.AcquireKeyRequest) { r.RequestId = strings.Repeat("x", 129) }},
		{"negative input", "input_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.InputTokens = -1 }},
		{"negative output", "max_output_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.MaxOutputTokens = -1 }},
		{"least input", "input_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.InputTokens = math.MinInt64 }},
		{"absurd input", "input_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.InputTokens = math.MaxInt64 }},
		{"absurd output", "max_output_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.MaxOutputTokens = math.MaxInt64 }},
		{"one token above the most", "input_tokens", func(r *keybrokerv1.AcquireKeyRequest) { r.InputTokens = 1e15 + 1 }},
		{"ttl zero", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = durationpb.New(0) }},
		{"ttl negative", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = durationpb.New(-time.Second) }},
		{"ttl of a year", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = durationpb.New(365 * 24 * time.Hour) }},
		{"ttl just too long", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = durationpb.New(10*time.Minute + 1) }},
		{"ttl no duration", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = &durationpb.Duration{Seconds: 1, Nanos: -1} }},
		{"ttl beyond all", "ttl", func(r *keybrokerv1.AcquireKeyRequest) { r.Ttl = &durationpb.Duration{Seconds: math.MaxInt64} }},
		{"max_wait negative", "max_wait", func(r *keybrokerv1.AcquireKeyRequest) { r.MaxWait = durationpb.New(-1) }},
		{"max_wait no duration", "max_wait", func(r *keybrokerv1.AcquireKeyRequest) { r.MaxWait = &durationpb.Duration{Nanos: 2e9} }},
		{"65 excluded keys", "exclude_key_ids", func(r *keybrokerv1.AcquireKeyRequest) { r.ExcludeKeyIds = make([]string, 65) }},
		{"long excluded key", "exclude_key_ids[1]", func(r *keybrokerv1.AcquireKeyRequest) { r.ExcludeKeyIds = []string{"k", long} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			unharmed(t, func(alice *caller) error {
				r := &keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "m1"}
				c.change(r)
				_, err := alice.AcquireKey(alice.ctx(), r)
				return err
			}, invalid(c.field))
		})
	}
}

// invalid requires a status that blames one field.
func invalid(field string) func(t *testing.T, err error) {
	return func(t *testing.T, err error) {
		t.Helper()
		requireFailure(t, err, codes.InvalidArgument, "INVALID_REQUEST")
		bad := detail[*errdetails.BadRequest](err)
		require.NotNil(t, bad)
		require.Len(t, bad.GetFieldViolations(), 1)
		assert.Equal(t, field, bad.GetFieldViolations()[0].GetField())
		assert.NotEmpty(t, bad.GetFieldViolations()[0].GetDescription())
		assert.Less(t, len(status.Convert(err).Message()), 200, "a clear error is short")
	}
}

func TestLimitsOfInputAreInclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", key("k", nil))
		alice := begin(t, cfg).as("alice")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{
			Pool: "a", Model: strings.Repeat("m", 256), RequestId: strings.Repeat("r", 128),
			InputTokens: 1e15, MaxOutputTokens: 1e15, ExcludeKeyIds: make([]string, 64),
			Ttl: durationpb.New(10 * time.Minute), MaxWait: &durationpb.Duration{Seconds: 315_576_000_000},
		})
		assert.Equal(t, 10*time.Minute, l.GetTtl().AsDuration())
	})
}

func TestMalformedReportNamesTheField(t *testing.T) {
	many := map[string]string{}
	for i := range 10_000 {
		many[fmt.Sprintf("h%d", i)] = "v"
	}
	for _, c := range []struct {
		name, field string
		change      func(*keybrokerv1.ReportUsageRequest)
	}{
		{"10,000 headers", "headers", func(r *keybrokerv1.ReportUsageRequest) { r.Headers = many }},
		{"a megabyte of a value", "headers", func(r *keybrokerv1.ReportUsageRequest) {
			r.Headers = map[string]string{"x": strings.Repeat("v", 1_000_000)}
		}},
		{"status 99", "status_code", func(r *keybrokerv1.ReportUsageRequest) { r.StatusCode = 99 }},
		{"status -1", "status_code", func(r *keybrokerv1.ReportUsageRequest) { r.StatusCode = -1 }},
		{"status 1000", "status_code", func(r *keybrokerv1.ReportUsageRequest) { r.StatusCode = 1000 }},
		{"negative input", "usage.input_tokens", func(r *keybrokerv1.ReportUsageRequest) { r.Usage.InputTokens = new(int64(-1)) }},
		{"absurd output", "usage.output_tokens", func(r *keybrokerv1.ReportUsageRequest) { r.Usage.OutputTokens = new(int64(math.MaxInt64)) }},
		{"absurd cache read", "usage.cache_read_input_tokens", func(r *keybrokerv1.ReportUsageRequest) {
			r.Usage.CacheReadInputTokens = new(int64(math.MaxInt64))
		}},
		{"negative cache write", "usage.cache_creation_input_tokens", func(r *keybrokerv1.ReportUsageRequest) {
			r.Usage.CacheCreationInputTokens = new(int64(math.MinInt64))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
				l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
				before := alice.look("a")
				r := &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), Usage: &keybrokerv1.Usage{}, Final: true}
				c.change(r)
				_, err := alice.ReportUsage(alice.ctx(), r)
				invalid(c.field)(t, err)
				assert.True(t, proto.Equal(before, alice.look("a")), "the lease goes on")
				alice.release(l.GetLeaseId(), true)
				alice.idle("a")
			})
		})
	}
}

func TestLeaseIDThatIsNotOursIsUnknown(t *testing.T) {
	for name, id := range map[string]func(own string) string{
		"empty":          func(string) string { return "" },
		"garbage":        func(string) string { return "garbage" },
		"long":           func(own string) string { return own + own },
		"a megabyte":     func(string) string { return strings.Repeat("A", 1_000_000) },
		"only new lines": func(own string) string { return strings.Repeat("\n", len(own)) },
		"mostly new lines": func(own string) string {
			return own[:4] + strings.Repeat("\n", len(own)-4)
		},
		"padded":         func(own string) string { return own + "=" },
		"another number": func(own string) string { return "B" + own[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
				own := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"}).GetLeaseId()
				before := alice.look("a")
				_, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: id(own), StatusCode: 401, Final: true})
				requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
				_, err = alice.ReleaseKey(alice.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id(own), Unused: true})
				requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
				assert.True(t, proto.Equal(before, alice.look("a")), "something has changed")
				alice.release(own, true)
				alice.idle("a")
			})
		})
	}
}

func TestLeaseOfAnotherHolderIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice, mallory := w.as("alice"), w.as("mallory")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		_, err := mallory.ReleaseKey(mallory.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
		requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
		_, err = mallory.ReportUsage(mallory.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 401, Final: true})
		requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
		alice.release(l.GetLeaseId(), false)
	})
}

// raw sends bytes as they are, as a client does that does not check them.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

var _ encoding.CodecV2 = raw{}

func TestMessageThatCannotBeReadIsRefused(t *testing.T) {
	const acquire = "/keybroker.v1.KeyBrokerService/AcquireKey"
	for _, c := range []struct {
		name    string
		message []byte
		code    codes.Code
	}{
		{"invalid UTF-8", []byte("\x0a\x02\xff\xfe"), codes.Internal}, // grpc-go's own code for it
		{"no message at all", []byte("\xff\xff\xff"), codes.Internal},
		{"over a megabyte", make([]byte, 1<<20+1), codes.ResourceExhausted},
	} {
		t.Run(c.name, func(t *testing.T) {
			unharmed(t, func(alice *caller) error {
				return alice.conn.Invoke(alice.ctx(), acquire, c.message, new(any), grpc.ForceCodecV2(raw{}))
			}, func(t *testing.T, err error) { require.Equal(t, c.code, status.Code(err), "%v", err) })
		})
	}
}

// Whoever may inspect learns that there is no such pool; see access_test.go for
// those who may not.
func TestUnknownPool(t *testing.T) {
	unharmed(t, func(alice *caller) error {
		_, byModel := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Model: "nobody's"})
		requireFailure(t, byModel, codes.PermissionDenied, "POOL_UNKNOWN_OR_FORBIDDEN")
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "other", Model: "m1"})
		return err
	}, func(t *testing.T, err error) {
		requireFailure(t, err, codes.NotFound, "POOL_UNKNOWN_OR_FORBIDDEN")
	})
}

func TestAskAboveEveryLimitNamesTheLimit(t *testing.T) {
	unharmed(t, func(alice *caller) error {
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{
			Pool: "a", Model: "m1", InputTokens: 1e15, MaxWait: durationpb.New(time.Hour),
		})
		return err
	}, func(t *testing.T, err error) {
		requireFailure(t, err, codes.FailedPrecondition, "ASK_TOO_LARGE")
		assert.Equal(t, map[string]string{"pool": "a", "dimension": "input tokens", "limit": fmt.Sprint(plenty)},
			detail[*errdetails.ErrorInfo](err).GetMetadata())
		assert.Nil(t, detail[*errdetails.RetryInfo](err), "no client retries it")
	})
}
