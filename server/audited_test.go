package server_test

// What is written down of who was given which key: before the key leaves, in words that
// nobody can use, or else nothing leaves.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/server"
)

// audited is a world that writes down what it gives, for people with tokens.
type audited struct {
	*world
	people *people
	path   string
	log    *audit.Log
}

func beginAudited(t *testing.T, path string, failOpen bool, slot int64) *audited {
	p := newPeople(t)
	log, err := audit.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	w := beginWith(t, server.Options{
		Policy: always(policy(t, p.tokens, classRules(allow(access.Inspect, []string{"*"}, "token:buyer"))...)),
		Audit:  server.Audit{Log: log, FailOpen: failOpen},
	}, onePool("a", key("k", slots(slot))), onePool("b", key("k", slots(slot))))
	return &audited{w, p, path, log}
}

// be gives a connection, and the words by which somebody of a class is known.
func (a *audited) be(class string) (*caller, context.Context) {
	return a.as("a-name-that-does-not-count"), bearer(a.Context(), "Bearer "+a.people.tokens[class][0])
}

// lines are all that is in the log.
func (a *audited) lines() (all []audit.Entry) {
	a.Helper()
	file, err := os.Open(a.path)
	require.NoError(a, err)
	defer file.Close()
	for d := json.NewDecoder(file); d.More(); {
		var e audit.Entry
		require.NoError(a, d.Decode(&e))
		all = append(all, e)
	}
	return all
}

func logFile(t *testing.T) string { return filepath.Join(canary.Dir(t), "audit.jsonl") }

func TestGrantIsWrittenDownBeforeTheKeyLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := beginAudited(t, logFile(t), false, 100)
		buyer, ctx := a.be("buyer")
		for i, r := range []*keybrokerv1.AcquireKeyRequest{{Pool: "a"}, {Pool: "a", Requests: 5}, {Pool: "a", RequestId: "again"}, {Pool: "a", RequestId: "again"}} {
			l, err := buyer.AcquireKey(ctx, r)
			require.NoError(t, err)
			require.Len(t, a.lines(), i+1, "a line for each time that a key leaves")
			now := time.Now().UTC()
			assert.Equal(t, audit.Entry{
				Time: now, Decision: audit.Granted, Method: "AcquireKey", Holder: "token:buyer", Peer: "bufconn", Pool: "a", Key: "k",
				Lease: audit.Fingerprint(l.GetLeaseId()), Requests: max(1, int(r.GetRequests())), Expires: now.Add(l.GetTtl().AsDuration()),
			}, a.lines()[i])
			time.Sleep(time.Second)
		}
		var services sync.WaitGroup
		for range 50 {
			services.Go(func() {
				l, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
				if !assert.NoError(t, err) {
					return
				}
				text, err := os.ReadFile(a.path)
				assert.NoError(t, err)
				assert.Contains(t, string(text), audit.Fingerprint(l.GetLeaseId()), "who has the key is in the log")
			})
		}
		services.Wait()
	})
}

func TestWhatIsWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := beginAudited(t, logFile(t), false, 1)
		buyer, ctx := a.be("buyer")
		chief, orders := a.be("chief")
		var ids []string
		acquire := func(r *keybrokerv1.AcquireKeyRequest) {
			if l, err := buyer.AcquireKey(ctx, r); err == nil {
				ids = append(ids, l.GetLeaseId())
			}
		}
		report := func(final bool) {
			_, err := buyer.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: ids[len(ids)-1], StatusCode: 200, Final: final})
			require.NoError(t, err)
		}
		release := func(id string) {
			_, _ = buyer.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: id})
		}
		unknown, _ := access.NewToken()
		for _, c := range []struct {
			name string
			do   func()
			want string // decision, method, holder, pool, reason
		}{
			{"a grant", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a"}) }, "granted AcquireKey token:buyer a "},
			{"no room", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a"}) }, "refused AcquireKey token:buyer a KEYS_EXHAUSTED"},
			{"too large", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: plenty + 1}) }, "refused AcquireKey token:buyer a ASK_TOO_LARGE"},
			{"malformed", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: -1}) }, "refused AcquireKey token:buyer a INVALID_REQUEST"},
			{"a report", func() { report(false) }, ""},
			{"the last report", func() { report(true) }, "ended ReportUsage token:buyer a "},
			{"that again", func() { report(true) }, ""},
			{"a release after it", func() { release(ids[0]) }, ""},
			{"another grant", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a"}) }, "granted AcquireKey token:buyer a "},
			{"its release", func() { release(ids[1]) }, "ended ReleaseKey token:buyer a "},
			{"that again", func() { release(ids[1]) }, ""},
			{"a forged lease", func() { release("forged") }, "refused ReleaseKey token:buyer  LEASE_UNKNOWN"},
			{"a forbidden pool", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b"}) }, "denied AcquireKey token:buyer b POOL_UNKNOWN_OR_FORBIDDEN"},
			{"an unknown pool", func() { acquire(&keybrokerv1.AcquireKeyRequest{Pool: "ghost"}) }, "refused AcquireKey token:buyer ghost POOL_UNKNOWN_OR_FORBIDDEN"},
			{"a look", func() { require.NoError(t, buyer.do(ctx, "GetPool/a")) }, ""},
			{"an order of who may not", func() { _ = buyer.do(ctx, "RestoreKey/a") }, "denied RestoreKey token:buyer  FORBIDDEN"},
			{"an order", func() { require.NoError(t, chief.do(orders, "RestoreKey/a")) }, "restored RestoreKey token:chief a "},
			{"a bad token", func() { _ = buyer.do(bearer(t.Context(), "Bearer "+unknown), "AcquireKey/a") }, "denied AcquireKey unknown  UNAUTHENTICATED"},
			{"nobody looks on", func() { _ = buyer.do(bearer(t.Context(), "Bearer "+unknown), "WatchPool/a") }, "denied WatchPool unknown  UNAUTHENTICATED"},
			{"somebody without a rule", func() { _ = buyer.do(buyer.ctx(), "AcquireKey/a") }, "denied AcquireKey local/a-name-that-does-not-count  FORBIDDEN"},
			{"a probe", func() { require.NoError(t, buyer.do(t.Context(), "HealthCheck/a")) }, ""},
		} {
			before := len(a.lines())
			c.do()
			got := ""
			for _, e := range a.lines()[before:] {
				got += fmt.Sprintf("%s %s %s %s %s", e.Decision, e.Method, e.Holder, e.Pool, e.Reason)
				assert.Equal(t, "bufconn", e.Peer)
			}
			assert.Equal(t, c.want, got, c.name)
		}
		require.Len(t, ids, 2)
		text, err := os.ReadFile(a.path)
		require.NoError(t, err)
		for place, all := range map[string]string{"the audit log": string(text), "the log": a.logs.String()} {
			assert.NotContains(t, all, marker, place)
			for _, s := range append(ids, a.people.tokens["buyer"][0], a.people.tokens["chief"][0], unknown) {
				assert.NotContains(t, all, s, place)
				assert.NotContains(t, all, s[8:24], "nor a part of it: %s", place)
			}
		}
	})
}

// broken is a path at which nothing can be written, until it is mended.
func broken(t *testing.T) (path string, mend func()) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip("there is no " + full + " here")
	}
	path = logFile(t)
	require.NoError(t, os.Symlink(full, path))
	return path, func() { require.NoError(t, os.Remove(path)) }
}

func TestNothingLeavesThatCannotBeWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, mend := broken(t)
		a := beginAudited(t, path, false, 1)
		buyer, ctx := a.be("buyer")
		chief, orders := a.be("chief")
		for _, r := range []*keybrokerv1.AcquireKeyRequest{{Pool: "a"}, {Pool: "a", InputTokens: 100}, waitFor("a", time.Minute)} {
			l, err := buyer.AcquireKey(ctx, r)
			requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
			assert.Nil(t, l)
			assert.NotContains(t, err.Error(), path, "where the log is, is nobody's business")
			buyer.idleFor(ctx, "a")
		}
		_, err := chief.operator.RestoreKey(orders, &keybrokerv1.RestoreKeyRequest{Pool: "a", KeyId: "k"})
		requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
		assert.EqualValues(t, 3+3+1, a.log.Failures(), "the grants, the refusals that came of them, and the order")
		assert.NotContains(t, a.logs.String(), marker)

		mend()
		l, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err, "the one slot is free")
		assert.Equal(t, audit.Fingerprint(l.GetLeaseId()), a.lines()[0].Lease)
	})
}

// idleFor is idle for somebody who needs to say who they are.
func (c *caller) idleFor(ctx context.Context, name string) {
	c.Helper()
	r, err := c.operator.GetPool(ctx, &keybrokerv1.GetPoolRequest{Pool: name})
	require.NoError(c, err)
	require.Zero(c, r.GetPool().GetSummary().GetOpenLeases())
	for _, q := range r.GetPool().GetQuotas() {
		for _, l := range q.GetLimits() {
			require.Zero(c, l.GetHeld(), "held %v", l.GetDimension())
			require.Zero(c, l.GetUsed(), "used %v", l.GetDimension())
		}
	}
}

// A key that is out of use stays so if it cannot be written down who brought it back.
func TestNoKeyIsRestoredUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := logFile(t)
		a := beginAudited(t, path, false, 1)
		buyer, ctx := a.be("buyer")
		chief, orders := a.be("chief")
		l, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		_, err = buyer.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 401, Final: true})
		require.NoError(t, err)
		before := a.state("a").Keys[0].Health
		require.NotEqual(t, pool.Healthy, before)
		require.NoError(t, a.log.Close())
		restore := &keybrokerv1.RestoreKeyRequest{Pool: "a", KeyId: "k"}
		_, err = chief.operator.RestoreKey(orders, restore)
		requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
		assert.Equal(t, before, a.state("a").Keys[0].Health)
	})
}

// What is given already is reported and given back, whether that can be written down or
// not: to refuse it would keep capacity from those who wait.
func TestLeasesEndWithoutALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := beginAudited(t, logFile(t), false, 2)
		buyer, ctx := a.be("buyer")
		one, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		two, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		require.NoError(t, a.log.Close())
		r, err := buyer.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: one.GetLeaseId(), StatusCode: 200, Final: true})
		require.NoError(t, err)
		assert.False(t, r.GetAlreadySettled())
		_, err = buyer.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: two.GetLeaseId()})
		require.NoError(t, err)
		assert.Zero(t, a.state("a").Summary.Open)
		assert.EqualValues(t, 2, a.log.Failures(), "they are counted")
	})
}

func TestFailOpenGivesKeysUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, mend := broken(t)
		a := beginAudited(t, path, true, 5)
		buyer, ctx := a.be("buyer")
		chief, orders := a.be("chief")
		l, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		assert.Equal(t, keyValue("a", "k"), l.GetApiKey())
		require.NoError(t, chief.do(orders, "RestoreKey/a"))
		assert.EqualValues(t, 2, a.log.Failures())
		mend()
		_, err = buyer.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
		require.NoError(t, err)
		assert.Len(t, a.lines(), 1, "the log heals")
	})
}

// The first call's key may be in use: that the repetition cannot be written down must
// not free the lease for somebody else.
func TestRepetitionThatCannotBeWrittenDownLeavesTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := logFile(t)
		a := beginAudited(t, path, false, 1)
		buyer, ctx := a.be("buyer")
		again := &keybrokerv1.AcquireKeyRequest{Pool: "a", RequestId: "again"}
		l, err := buyer.AcquireKey(ctx, again)
		require.NoError(t, err)
		require.NoError(t, a.log.Close())
		_, err = buyer.AcquireKey(ctx, again)
		requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
		assert.Equal(t, 1, a.state("a").Summary.Open, "the key is out")
		r, err := buyer.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
		require.NoError(t, err)
		assert.False(t, r.GetAlreadySettled())
	})
}

// A call that can be repeated, and that nothing could be written down of, gets a lease
// when it is.
func TestRepetitionGetsWhatCouldNotBeWrittenDownBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, mend := broken(t)
		a := beginAudited(t, path, false, 1)
		buyer, ctx := a.be("buyer")
		again := &keybrokerv1.AcquireKeyRequest{Pool: "a", RequestId: "again"}
		_, err := buyer.AcquireKey(ctx, again)
		requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
		mend()
		l, err := buyer.AcquireKey(ctx, again)
		require.NoError(t, err)
		require.Len(t, a.lines(), 1)
		assert.Equal(t, audit.Fingerprint(l.GetLeaseId()), a.lines()[0].Lease)
		assert.Equal(t, 1, a.state("a").Summary.Open)
	})
}

// A log that fails costs no capacity, whatever clients say to be able to repeat.
func TestFailingLogHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, mend := broken(t)
		a := beginAudited(t, path, false, 5)
		buyer, ctx := a.be("buyer")
		for i := range 7 {
			_, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a", RequestId: fmt.Sprint(i)})
			requireFailure(t, err, codes.Unavailable, "AUDIT_UNAVAILABLE")
		}
		assert.Zero(t, a.state("a").Summary.Open)
		assert.Equal(t, 1, strings.Count(a.logs.String(), "the audit log cannot be written; no key is given out"), "once, and why")
		mend()
		_, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a", RequestId: "0"})
		require.NoError(t, err)
		assert.Equal(t, 1, strings.Count(a.logs.String(), "the audit log can be written again"))
	})
}

// Whoever asks in vain a thousand times a second does not fill the disk, and what is
// left out is counted.
func TestFloodsAreBounded(t *testing.T) {
	unknown, _ := access.NewToken()
	for _, c := range []struct {
		name     string
		do       func(buyer *caller, ctx context.Context)
		decision audit.Decision
	}{
		{"denied", func(buyer *caller, ctx context.Context) {
			_ = buyer.do(bearer(buyer.Context(), "Bearer "+unknown), "AcquireKey/a")
		}, audit.Denied},
		{"denied in a pool", func(buyer *caller, ctx context.Context) { _ = buyer.do(ctx, "AcquireKey/b") }, audit.Denied},
		{"refused", func(buyer *caller, ctx context.Context) {
			_, _ = buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: -1})
		}, audit.Refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := beginAudited(t, logFile(t), false, 9)
				buyer, ctx := a.be("buyer")
				flood := func(want int) {
					before := len(a.lines())
					for range 300 {
						c.do(buyer, ctx)
					}
					assert.Len(t, a.lines(), before+want)
				}
				flood(100)
				require.NoError(t, buyer.get(ctx))
				grant := a.lines()[100]
				assert.Equal(t, audit.Granted, grant.Decision, "a grant is written whatever else happens")
				assert.EqualValues(t, 200, grant.Omitted)
				time.Sleep(time.Second / 2)
				flood(50)
				time.Sleep(time.Hour)
				flood(100)
				var written, omitted uint64
				for _, e := range a.lines() {
					omitted += e.Omitted
					if e.Decision == c.decision {
						written++
					}
				}
				assert.EqualValues(t, 250, written)
				assert.EqualValues(t, 200+250, omitted, "all but those since the last line")
			})
		})
	}
}
