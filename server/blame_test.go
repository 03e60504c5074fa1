package server_test

// What answers that are refusals bring about: what rests, what operators see of
// it, and how they end it.

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
)

// hears leases a key of pool "a", one that is not excluded, and reports an answer.
func (c *caller) hears(r *keybrokerv1.ReportUsageRequest, exclude ...string) {
	c.Helper()
	r.LeaseId, r.Final = c.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", ExcludeKeyIds: exclude}).GetLeaseId(), true
	_, err := c.ReportUsage(c.ctx(), r)
	require.NoError(c, err)
}

// failed is the answer of an error.
func failed(status int32, body string, headers ...string) *keybrokerv1.ReportUsageRequest {
	r := &keybrokerv1.ReportUsageRequest{StatusCode: status, ErrorBody: []byte(body), Headers: map[string]string{}}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Headers[headers[i]] = headers[i+1]
	}
	return r
}

// anthropicError is an error as Anthropic writes it.
func anthropicError(kind, message string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q}}`, kind, message)
}

const spendCap = `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your spend limit.","details":{"error_code":"enforced_spend_limit_reached"}}}`

// speaking changes the dialect of a pool.
func speaking(typ string, cfg broker.DomainConfig) broker.DomainConfig {
	cfg.Dialect, _ = provider.Lookup(typ)
	return cfg
}

// The same 429 is about a second or about a month, and the body tells.
func TestErrorBodyTellsAQuotaFromARate(t *testing.T) {
	for name, c := range map[string]struct {
		answer *keybrokerv1.ReportUsageRequest
		cool   time.Duration
		reason string
	}{
		"no body":           {failed(429, "", "retry-after", "7"), 7 * time.Second, "rate_limited"},
		"spend cap":         {failed(429, spendCap, "retry-after", "7"), 10 * time.Minute, "quota_exhausted"},
		"its date":          {failed(400, anthropicError("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2000-01-03 at 00:00 UTC.")), 48 * time.Hour, "quota_exhausted"},
		"event of a stream": {failed(200, "event: error\ndata: "+anthropicError("rate_limit_error", "slow down"), "retry-after", "7"), 7 * time.Second, "rate_limited"},
		"cut off":           {failed(429, spendCap[:len(spendCap)-1], "retry-after", "7"), 10 * time.Minute, "quota_exhausted"},
		"not to be read":    {failed(429, "\xff\x00<html>", "retry-after", "7"), 7 * time.Second, "rate_limited"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01
				alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
				alice.hears(c.answer)
				q := alice.look("a").GetQuotas()[0]
				assert.Equal(t, c.reason, q.GetCooldownReason())
				require.NotNil(t, q.GetCooldownUntil())
				assert.Equal(t, c.cool, time.Until(q.GetCooldownUntil().AsTime()))
				assert.Equal(t, keybrokerv1.Health_HEALTH_HEALTHY, alice.look("a").GetKeys()[0].GetHealth(), "the credential is fine")
			})
		})
	}
}

func TestErrorBodyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		report := func(size int) error {
			_, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
				LeaseId: l.GetLeaseId(), StatusCode: 500, ErrorBody: make([]byte, size), Final: true,
			})
			return err
		}
		invalid("error_body")(t, report(64<<10+1))
		assert.EqualValues(t, 1, alice.look("a").GetSummary().GetOpenLeases(), "nothing has changed")
		require.NoError(t, report(64<<10))
	})
}

// An operator who has paid need not wait until the broker tries again.
func TestRestoreKeyEndsWhatKeepsAKeyOut(t *testing.T) {
	for name, answer := range map[string]*keybrokerv1.ReportUsageRequest{
		"quota": failed(429, spendCap), "forbidden": failed(403, ""), "rate": failed(429, "", "retry-after", "3600"),
		"credential": failed(401, ""),
	} {
		for _, id := range []string{"one", ""} {
			t.Run(name+id, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
					alice.hears(answer)
					_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
					require.Error(t, err)
					_, err = alice.operator.RestoreKey(t.Context(), &keybrokerv1.RestoreKeyRequest{Pool: "a", KeyId: id})
					require.NoError(t, err)
					alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
					k := alice.look("a").GetKeys()[0]
					assert.Equal(t, keybrokerv1.Health_HEALTH_HEALTHY, k.GetHealth())
					assert.True(t, k.GetAvailable())
					assert.Empty(t, k.GetForbiddenClasses())
					assert.Empty(t, alice.look("a").GetQuotas()[0].GetCooldownReason())
				})
			})
		}
	}
}

func TestRestoreKeyServesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		alice.hears(failed(429, "", "retry-after", "3600"))
		waiting := alice.ask(t.Context(), waitFor("a", 20*time.Second))
		time.Sleep(5 * time.Second)
		_, err := alice.operator.RestoreKey(t.Context(), &keybrokerv1.RestoreKeyRequest{Pool: "a", KeyId: "one"})
		require.NoError(t, err)
		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, 5*time.Second, got.after)
	})
}

func TestRestoreKeyOfNoSuchKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		restore := func(pool, id string) error {
			_, err := alice.operator.RestoreKey(t.Context(), &keybrokerv1.RestoreKeyRequest{Pool: pool, KeyId: id})
			return err
		}
		requireFailure(t, restore("b", "one"), codes.NotFound, "POOL_UNKNOWN_OR_FORBIDDEN")
		requireFailure(t, restore("a", "two"), codes.NotFound, "KEY_UNKNOWN")
		invalid("pool")(t, restore("", "one"))
	})
}

func TestGetPoolShowsForbiddenClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := onePool("a", key("one", limits(plenty, plenty, plenty)))
		cfg.Flat = false
		alice := begin(t, speaking("xai", cfg)).as("alice")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "secret-model"})
		answer := failed(403, "")
		answer.LeaseId, answer.Final = l.GetLeaseId(), true
		_, err := alice.ReportUsage(alice.ctx(), answer)
		require.NoError(t, err)
		k := alice.look("a").GetKeys()[0]
		assert.Equal(t, []string{"secret-model"}, k.GetForbiddenClasses())
		assert.True(t, k.GetAvailable(), "for other models")
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "another"})
		_, err = alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "secret-model"})
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
		time.Sleep(10 * time.Minute)
		assert.Empty(t, alice.look("a").GetKeys()[0].GetForbiddenClasses(), "it is tried again")
	})
}

// requestsHeaders are what Anthropic says of requests a minute.
func requestsHeaders(limit, remaining int, more ...string) *keybrokerv1.ReportUsageRequest {
	return failed(200, "", append(more,
		"anthropic-ratelimit-requests-limit", fmt.Sprint(limit), "anthropic-ratelimit-requests-remaining", fmt.Sprint(remaining))...)
}

func TestGetPoolShowsDriftAndForeignUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", limits(600, plenty, plenty)))).as("alice")
		assert.Nil(t, find(alice.look("a"), requests).GetHeaderTime(), "no header yet")
		time.Sleep(time.Second)
		alice.hears(requestsHeaders(600, 599))
		l := find(alice.look("a"), requests)
		assert.Zero(t, l.GetDrift())
		assert.Zero(t, l.GetForeignUse())
		assert.Equal(t, time.Now().UTC(), l.GetHeaderTime().AsTime())

		time.Sleep(time.Minute)
		heard := time.Now()
		alice.hears(requestsHeaders(600, 299)) // 300 by somebody else
		l = find(alice.look("a"), requests)
		assert.EqualValues(t, 300, l.GetDrift())
		assert.InDelta(t, 300, l.GetForeignUse(), 25, "less what was on its way, perhaps")
		time.Sleep(time.Second)
		assert.Equal(t, heard.UTC(), find(alice.look("a"), requests).GetHeaderTime().AsTime())
	})
}

func TestGetPoolShowsHeadroomAndNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, speaking("generic", onePool("a", key("one", limits(plenty, plenty, plenty))))).as("alice")
		alice.hears(failed(200, "", "ratelimit-policy", `"burst";q=80;w=60`, "ratelimit", `"burst";r=79;t=60`))
		alice.hears(failed(429, `{"error":{"message":"requests per minute exceeded"}}`, "retry-after", "1"))
		for _, l := range alice.look("a").GetQuotas()[0].GetLimits() {
			if l.GetName() == "burst" {
				assert.EqualValues(t, 80, l.GetLimit())
				assert.Zero(t, l.GetConfigured())
				assert.EqualValues(t, 10, l.GetHeadroom(), "an eighth, since there seemed to be room")
				return
			}
		}
		assert.Fail(t, "the limit is not there")
	})
}

func TestGetPoolWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", limits(600, plenty, plenty)), key("two", limits(600, plenty, plenty)))).as("alice")
		assert.Empty(t, alice.look("a").GetWarnings())
		first := time.Now().UTC()
		alice.hears(requestsHeaders(600, 599, "anthropic-organization-id", "org-x"), "two")
		alice.hears(requestsHeaders(600, 599, "anthropic-organization-id", "org-x"), "one")
		w := alice.look("a").GetWarnings()
		require.Len(t, w, 1)
		assert.Equal(t, keybrokerv1.WarningKind_WARNING_KIND_SHARED_ORGANIZATION, w[0].GetKind())
		assert.Equal(t, "two", w[0].GetGroup())
		assert.Contains(t, w[0].GetMessage(), "org-x")
		assert.Equal(t, first, w[0].GetFirstTime().AsTime())
		assert.Equal(t, first, w[0].GetLastTime().AsTime())
		assert.EqualValues(t, 1, w[0].GetCount())
		for _, k := range alice.look("a").GetKeys() {
			assert.Equal(t, "org-x", k.GetOrganization())
		}

		time.Sleep(time.Second)
		alice.hears(failed(429, "", "retry-after", "3"), "two")
		alice.hears(failed(429, "", "retry-after", "3"), "one")
		w = alice.look("a").GetWarnings()
		require.Len(t, w, 2)
		assert.Equal(t, keybrokerv1.WarningKind_WARNING_KIND_ALL_RATE_LIMITED, w[0].GetKind(), "the latest first")
		assert.Equal(t, "(all models)", w[0].GetModelClass())
	})
}

// Whatever a report says, operators see the pool.
func TestGetPoolOutlivesAnyReport(t *testing.T) {
	long := strings.Repeat("x", 127) + strings.Repeat("é", 10_000)
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)), key("two", slots(5)))).as("alice")
		alice.hears(failed(200, "", "anthropic-organization-id", long), "two")
		alice.hears(failed(200, "", "anthropic-organization-id", long), "one")
		assert.LessOrEqual(t, len(alice.look("a").GetKeys()[0].GetOrganization()), 128)
		assert.NotEmpty(t, alice.look("a").GetWarnings())
	})
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, speaking("generic", onePool("a", key("one", nil)))).as("alice")
		alice.hears(failed(200, "", "ratelimit-policy", `"`+strings.Repeat("x", 10_000)+`";q=80;w=60`))
		alice.hears(failed(200, "", "ratelimit-policy", strings.Repeat(`"a";q=1;w=1, `, 4_000)+`"z";q=80;w=60`))
		for _, l := range alice.look("a").GetQuotas()[0].GetLimits() {
			assert.LessOrEqual(t, len(l.GetName()), 128)
		}
	})
}

// Headers of one name come joined; the longest wait of them holds.
func TestHeadersJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		alice.hears(failed(429, "", "Retry-After", "3, 8", "retry-after", "5"))
		assert.Equal(t, 8*time.Second, time.Until(alice.look("a").GetQuotas()[0].GetCooldownUntil().AsTime()))
	})
}

// What a stream ends with counts, though its answer began well.
func TestStreamThatEndsInAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		id := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"}).GetLeaseId()
		report := func(r *keybrokerv1.ReportUsageRequest) {
			r.LeaseId = id
			_, err := alice.ReportUsage(alice.ctx(), r)
			require.NoError(t, err)
		}
		report(&keybrokerv1.ReportUsageRequest{StatusCode: 200})
		assert.Empty(t, alice.look("a").GetQuotas()[0].GetCooldownReason())
		end := failed(200, anthropicError("rate_limit_error", "too much"))
		end.Final = true
		report(end)
		assert.Equal(t, "rate_limited", alice.look("a").GetQuotas()[0].GetCooldownReason())
	})
}

// A client may report an error when its headers arrive, and again with the body.
func TestBodyThatComesAfterTheHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)))).as("alice")
		id := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"}).GetLeaseId()
		for _, r := range []*keybrokerv1.ReportUsageRequest{failed(429, ""), failed(429, spendCap)} {
			r.LeaseId, r.Final = id, len(r.GetErrorBody()) > 0
			_, err := alice.ReportUsage(alice.ctx(), r)
			require.NoError(t, err)
		}
		assert.Equal(t, "quota_exhausted", alice.look("a").GetQuotas()[0].GetCooldownReason())
	})
}
