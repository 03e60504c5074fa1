package server_test

// What operators see: numbers that are right after a known sequence, leases page
// by page, and a pool as it changes.

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
)

func TestListPoolsIsInTheOrderOfTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		openai := onePool("z", key("k", nil))
		openai.Dialect, _ = provider.Lookup("openai")
		alice := begin(t, openai, onePool("a", key("k1", slots(1)), key("k2", slots(1)))).as("alice")
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		r, err := alice.operator.ListPools(t.Context(), &keybrokerv1.ListPoolsRequest{})
		require.NoError(t, err)
		require.Len(t, r.GetPools(), 2)
		z, a := r.GetPools()[0], r.GetPools()[1]
		assert.Equal(t, []string{"z", "openai", "a", "anthropic"}, []string{z.GetName(), z.GetProviderType(), a.GetName(), a.GetProviderType()})
		assert.EqualValues(t, 2, a.GetKeys())
		assert.EqualValues(t, 1, a.GetOpenLeases())
		assert.Zero(t, z.GetOpenLeases())
	})
}

// find gives a pool's limit on a dimension in its first quota.
func find(p *keybrokerv1.Pool, d keybrokerv1.Dimension) *keybrokerv1.Limit {
	for _, l := range p.GetQuotas()[0].GetLimits() {
		if l.GetDimension() == d {
			return l
		}
	}
	return nil
}

const (
	requests    = keybrokerv1.Dimension_DIMENSION_REQUESTS
	inputTokens = keybrokerv1.Dimension_DIMENSION_INPUT_TOKENS
	output      = keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS
	concurrency = keybrokerv1.Dimension_DIMENSION_CONCURRENCY
)

func TestGetPoolCountsRightThroughALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", key("k", append(limits(60, 6000, 600), slots(3)[3])))
		cfg.Pools[0].Fallback, cfg.Pools[0].Strategy = nil, "round_robin"
		alice := begin(t, cfg).as("alice")
		check := func(when string, d keybrokerv1.Dimension, used, held, remaining int64) {
			t.Helper()
			l := find(alice.look("a"), d)
			assert.Equal(t, []int64{used, held, remaining}, []int64{l.GetUsed(), l.GetHeld(), l.GetRemaining()},
				"%s: used, held, remaining of %v", when, d)
		}
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: 1000, MaxOutputTokens: 200})
		check("granted", requests, 1, 0, 59)
		check("granted", inputTokens, 1000, 0, 5000)
		check("granted", output, 0, 200, 400)
		check("granted", concurrency, 0, 1, 2)
		p := alice.look("a")
		in := find(p, inputTokens)
		assert.Equal(t, keybrokerv1.WindowKind_WINDOW_KIND_REFILLING, in.GetKind())
		assert.Equal(t, time.Minute, in.GetWindow().AsDuration())
		assert.EqualValues(t, 6000, in.GetLimit())
		assert.EqualValues(t, 6000, in.GetConfigured())
		assert.Equal(t, time.Now().Add(10*time.Second), in.GetResetTime().AsTime().Local(), "1000 of 6000 a minute")
		slots := find(p, concurrency)
		assert.Equal(t, keybrokerv1.WindowKind_WINDOW_KIND_CONCURRENT, slots.GetKind())
		assert.Nil(t, slots.GetWindow())
		assert.Nil(t, slots.GetResetTime())
		assert.Equal(t, "https://api.anthropic.com", p.GetBaseUrl())
		assert.Equal(t, "round_robin", p.GetStrategy())
		assert.Equal(t, 2*time.Second, p.GetStartWithin().AsDuration())

		time.Sleep(5 * time.Second)
		check("5 s later", inputTokens, 500, 0, 5500)
		_, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
			LeaseId: l.GetLeaseId(), StatusCode: 200, Final: true,
			Usage: &keybrokerv1.Usage{InputTokens: new(int64(1300)), OutputTokens: new(int64(50))},
		})
		require.NoError(t, err)
		check("reported", inputTokens, 800, 0, 5200) // 300 more than reserved
		check("reported", output, 50, 0, 550)
		check("reported", concurrency, 0, 0, 3)
	})
}

func TestGetPoolShowsRestAndHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)), key("two", slots(5)))).as("alice")
		answer := func(keyID string, status int32, headers map[string]string) {
			other := map[string]string{"one": "two", "two": "one"}[keyID]
			l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", ExcludeKeyIds: []string{other}})
			_, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
				LeaseId: l.GetLeaseId(), StatusCode: status, Headers: headers, Final: true,
			})
			require.NoError(t, err)
		}
		one := func() *keybrokerv1.Key { return alice.look("a").GetKeys()[0] }
		assert.Equal(t, keybrokerv1.Health_HEALTH_HEALTHY, one().GetHealth())
		assert.Equal(t, 1.0, one().GetCapacityScore())
		assert.True(t, one().GetAvailable())
		assert.Nil(t, one().GetCooldownUntil())
		assert.Nil(t, one().GetLastErrorTime())

		answer("one", 429, map[string]string{"retry-after": "20"})
		now := time.Now()
		assert.Equal(t, now.Add(20*time.Second).UTC(), one().GetCooldownUntil().AsTime())
		assert.Equal(t, now.Add(20*time.Second).UTC(), alice.look("a").GetQuotas()[0].GetCooldownUntil().AsTime())
		assert.False(t, one().GetAvailable())
		assert.Zero(t, one().GetCapacityScore())
		assert.Equal(t, keybrokerv1.Health_HEALTH_HEALTHY, one().GetHealth(), "a rate limit says nothing of the credential")
		time.Sleep(20 * time.Second)
		assert.Nil(t, one().GetCooldownUntil(), "a rest that is over is not shown")
		assert.True(t, one().GetAvailable())

		answer("one", 401, nil)
		now = time.Now()
		assert.Equal(t, keybrokerv1.Health_HEALTH_SUSPECT, one().GetHealth())
		assert.NotEmpty(t, one().GetLastError())
		assert.Equal(t, now.UTC(), one().GetLastErrorTime().AsTime())
		summary := alice.look("a").GetSummary()
		assert.EqualValues(t, 1, summary.GetCounters().GetRateLimited())
		assert.EqualValues(t, 1, summary.GetCounters().GetAuthFailed())
		assert.EqualValues(t, 1, summary.GetAvailableKeys())
		time.Sleep(time.Minute)
		answer("one", 401, nil)
		assert.Equal(t, keybrokerv1.Health_HEALTH_QUARANTINED, one().GetHealth())
	})
}

func TestListLeasesPageByPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", slots(1200)))).as("alice")
		list := func(size int32, token string) *keybrokerv1.ListLeasesResponse {
			r, err := alice.operator.ListLeases(t.Context(), &keybrokerv1.ListLeasesRequest{Pool: "a", PageSize: size, PageToken: token})
			require.NoError(t, err)
			return r
		}
		assert.Empty(t, list(0, "").GetLeases())
		granted := time.Now()
		var ids []string
		for i := range 1101 {
			ids = append(ids, alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: int64(i), MaxOutputTokens: 7}).GetLeaseId())
		}
		first := list(0, "")
		require.Len(t, first.GetLeases(), 100)
		l := first.GetLeases()[42]
		assert.EqualValues(t, 43, l.GetNumber())
		assert.Equal(t, []string{"local/alice", "k", "k"}, []string{l.GetHolder(), l.GetKeyId(), l.GetGroup()})
		assert.Equal(t, granted.UTC(), l.GetGrantedTime().AsTime())
		assert.Equal(t, granted.Add(2*time.Minute).UTC(), l.GetExpireTime().AsTime())
		assert.EqualValues(t, 42, l.GetReserved().GetInputTokens())
		assert.EqualValues(t, 7, l.GetReserved().GetOutputTokens())
		assert.EqualValues(t, 1, l.GetReserved().GetRequests())
		assert.Len(t, list(5000, "").GetLeases(), 1000, "a page is never larger")

		// Leases that end between the pages, the token's own among them, must not
		// hide others or show any twice.
		var numbers []uint64
		for token, page := "", 0; page == 0 || token != ""; page++ {
			r := list(500, token)
			for _, l := range r.GetLeases() {
				numbers = append(numbers, l.GetNumber())
			}
			if token = r.GetNextPageToken(); page == 0 {
				alice.release(ids[499], true)
				alice.release(ids[500], true)
			}
		}
		require.Len(t, numbers, 1100)
		assert.IsIncreasing(t, numbers)
		assert.EqualValues(t, 1101, numbers[1099])
	})
}

func TestOperatorsMistakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
		op, ctx := alice.operator, t.Context()
		watch := func(r *keybrokerv1.WatchPoolRequest) error {
			stream, err := op.WatchPool(ctx, r)
			require.NoError(t, err)
			_, err = stream.Recv()
			return err
		}
		_, get := op.GetPool(ctx, &keybrokerv1.GetPoolRequest{Pool: "b"})
		_, leases := op.ListLeases(ctx, &keybrokerv1.ListLeasesRequest{Pool: "b"})
		for _, err := range []error{get, leases, watch(&keybrokerv1.WatchPoolRequest{Pool: "b"})} {
			requireFailure(t, err, codes.NotFound, "POOL_UNKNOWN_OR_FORBIDDEN")
		}
		_, get0 := op.GetPool(ctx, &keybrokerv1.GetPoolRequest{})
		_, leases0 := op.ListLeases(ctx, &keybrokerv1.ListLeasesRequest{})
		for _, err := range []error{get0, leases0, watch(&keybrokerv1.WatchPoolRequest{})} {
			requireFailure(t, err, codes.InvalidArgument, "INVALID_REQUEST")
		}
		assert.Equal(t, map[string]string{"pool": "b"}, detail[*errdetails.ErrorInfo](get).GetMetadata())
		for field, r := range map[string]*keybrokerv1.ListLeasesRequest{
			"page_size": {Pool: "a", PageSize: -1}, "page_token": {Pool: "a", PageToken: "-7"},
		} {
			_, err := op.ListLeases(ctx, r)
			invalid(field)(t, err)
		}
		invalid("min_interval")(t, watch(&keybrokerv1.WatchPoolRequest{Pool: "a", MinInterval: durationpb.New(-1)}))
	})
}
