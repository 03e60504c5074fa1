package server_test

// What those who need keys get: a lease, its times, and the end of it.

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
)

func TestAcquireReportReleaseHappyPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", limits(100, 10_000, 5_000)))).as("alice")

		one := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: 1000, MaxOutputTokens: 500})
		assert.Equal(t, keyValue("a", "k"), one.GetApiKey())
		assert.Equal(t, "k", one.GetKeyId())
		assert.Equal(t, "a", one.GetPool())
		assert.Equal(t, 2*time.Second, one.GetStartWithin().AsDuration())
		assert.Equal(t, 2*time.Minute, one.GetTtl().AsDuration())
		assert.Zero(t, one.GetWaited().AsDuration())

		report := func(id string, final bool, usage *keybrokerv1.Usage) *keybrokerv1.ReportUsageResponse {
			r, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
				LeaseId: id, StatusCode: 200, Usage: usage, Final: final,
			})
			require.NoError(t, err)
			return r
		}
		time.Sleep(time.Minute)
		r := report(one.GetLeaseId(), false, &keybrokerv1.Usage{OutputTokens: new(int64(100))})
		assert.False(t, r.GetAlreadySettled())
		assert.Equal(t, 2*time.Minute, r.GetTtl().AsDuration(), "a report renews the lease")
		r = report(one.GetLeaseId(), true, &keybrokerv1.Usage{InputTokens: new(int64(900)), OutputTokens: new(int64(200))})
		assert.False(t, r.GetAlreadySettled())
		assert.Nil(t, r.GetTtl(), "it has ended")

		two := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		assert.NotEqual(t, one.GetLeaseId(), two.GetLeaseId())
		alice.release(two.GetLeaseId(), false)
		three := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		alice.release(three.GetLeaseId(), true)
		alice.idle("a")
		assert.EqualValues(t, 3, alice.look("a").GetSummary().GetCounters().GetReleased())
	})
}

func TestLeaseTellsHowToSendTheKey(t *testing.T) {
	for _, c := range []struct{ typ, baseURL, header, prefix string }{
		{"anthropic", "https://api.anthropic.com", "x-api-key", ""},
		{"openai", "https://api.openai.com/v1", "authorization", "Bearer "},
		{"generic", "", "authorization", "Bearer "},
	} {
		t.Run(c.typ, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onePool("p", key("k", slots(5)))
				cfg.Dialect, _ = provider.Lookup(c.typ)
				cfg.Pools[0].BaseURL = cfg.Dialect.BaseURL
				l := begin(t, cfg).as("alice").lease(&keybrokerv1.AcquireKeyRequest{Pool: "p"})
				assert.Equal(t, c.typ, l.GetProviderType())
				assert.Equal(t, c.baseURL, l.GetBaseUrl())
				assert.Equal(t, c.header, l.GetAuthHeader())
				assert.Equal(t, c.prefix, l.GetAuthPrefix())
			})
		})
	}
}

func TestTimesCountFromTheCallWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		alice, bob := w.as("alice"), w.as("bob")
		held := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		r := waitFor("a", 20*time.Second)
		r.Ttl = durationpb.New(time.Minute)
		waiting := bob.ask(t.Context(), r)
		time.Sleep(7*time.Second + 3*time.Nanosecond)
		alice.release(held.GetLeaseId(), false)

		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, 7*time.Second+3*time.Nanosecond, got.after, "served the moment there is room")
		waited := 7 * time.Second // told in milliseconds, rounded down
		assert.Equal(t, waited, got.lease.GetWaited().AsDuration())
		assert.Equal(t, waited+2*time.Second, got.lease.GetStartWithin().AsDuration())
		assert.Equal(t, waited+time.Minute, got.lease.GetTtl().AsDuration())
	})
}

func TestLeaseEndsByItselfAfterItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Ttl: durationpb.New(10 * time.Second)})
		time.Sleep(10*time.Second - time.Millisecond)
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.Error(t, err, "one millisecond early")
		time.Sleep(time.Millisecond)
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})

		// What it used is still taken in for as long again.
		late := &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 200}
		r, err := alice.ReportUsage(alice.ctx(), late)
		require.NoError(t, err)
		assert.False(t, r.GetAlreadySettled())
		assert.Nil(t, r.GetTtl(), "but it does not live on")
		time.Sleep(10 * time.Second)
		r, err = alice.ReportUsage(alice.ctx(), late)
		require.NoError(t, err)
		assert.True(t, r.GetAlreadySettled(), "an ended lease is not an unknown one")
	})
}

func TestSecondEndOfALeaseIsHarmless(t *testing.T) {
	final := func(c *caller, id string) (bool, error) {
		r, err := c.ReportUsage(c.ctx(), &keybrokerv1.ReportUsageRequest{
			LeaseId: id, StatusCode: 429, Headers: map[string]string{"retry-after": "3600"}, Final: true,
		})
		return r.GetAlreadySettled(), err
	}
	release := func(c *caller, id string) (bool, error) {
		r, err := c.ReleaseKey(c.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id, Unused: true})
		return r.GetAlreadySettled(), err
	}
	for name, again := range map[string]func(*caller, string) (bool, error){
		"released twice": release, "reported after the release": final,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := begin(t, onePool("a", key("k", slots(1)))).as("alice")
				l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: 100})
				alice.release(l.GetLeaseId(), false)
				before := alice.look("a")
				settled, err := again(alice, l.GetLeaseId())
				require.NoError(t, err)
				assert.True(t, settled)
				assert.True(t, proto.Equal(before, alice.look("a")), "it must change nothing")
			})
		})
	}
}

func TestRepeatedRequestGetsTheSameLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(2))))
		alice, bob := w.as("alice"), w.as("bob")
		r := &keybrokerv1.AcquireKeyRequest{Pool: "a", RequestId: "r1"}
		one := alice.lease(r)
		time.Sleep(time.Second)
		again := alice.lease(r)
		assert.Equal(t, one.GetLeaseId(), again.GetLeaseId())
		assert.Equal(t, time.Second, again.GetStartWithin().AsDuration(), "what is left of the first lease's time")
		assert.Equal(t, 119*time.Second, again.GetTtl().AsDuration())
		assert.NotEqual(t, one.GetLeaseId(), bob.lease(r).GetLeaseId(), "ids of another holder are others")
		assert.EqualValues(t, 2, alice.look("a").GetSummary().GetOpenLeases())
	})
}

func TestExcludedKeysAreNotLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("one", slots(5)), key("two", slots(5)))).as("alice")
		for range 4 {
			l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", ExcludeKeyIds: []string{"one", "unheard-of"}})
			assert.Equal(t, "two", l.GetKeyId())
			assert.Equal(t, keyValue("a", "two"), l.GetApiKey())
		}
	})
}

func TestHolderWithoutAUsableNameIsItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(9))))
		for _, name := range []string{"alice", "", strings.Repeat("x", 257)} {
			w.as(name).lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
		}
		leases, err := w.as("x").operator.ListLeases(t.Context(), &keybrokerv1.ListLeasesRequest{Pool: "a"})
		require.NoError(t, err)
		var holders []string
		for _, l := range leases.GetLeases() {
			holders = append(holders, l.GetHolder())
		}
		assert.Equal(t, []string{"local/alice", "local/bufconn", "local/bufconn"}, holders)
	})
}
