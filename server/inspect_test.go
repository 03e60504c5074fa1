package server_test

// GetPool by pages, and WatchPool's changes.

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/pool"
)

// page gets one.
func (c *caller) page(r *keybrokerv1.GetPoolRequest) *keybrokerv1.GetPoolResponse {
	c.Helper()
	p, err := c.operator.GetPool(c.Context(), r)
	require.NoError(c, err)
	assert.LessOrEqual(c, proto.Size(p), 1<<20, "no page is larger")
	return p
}

// parts names the keys and quotas of a pool: by their ids, and as group/class or group/class/key.
func parts(p *keybrokerv1.Pool) (all []string) {
	for _, k := range p.GetKeys() {
		all = append(all, k.GetId())
	}
	for _, q := range p.GetQuotas() {
		all = append(all, strings.TrimSuffix(q.GetGroup()+"/"+q.GetModelClass()+"/"+q.GetKeyId(), "/"))
	}
	return all
}

// modelled is a pool that counts by model.
func modelled(keys []pool.Key, models ...string) broker.DomainConfig {
	cfg := onePool("a", keys...)
	cfg.Flat, cfg.Pools[0].Models = false, models
	return cfg
}

func TestGetPoolPageByPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, modelled([]pool.Key{key("one", slots(1)), key("two", slots(1))}, "m", "n")).as("alice")
		all := []string{"one", "two", "one/m", "one/n", "two/m", "two/n"}
		whole := alice.page(&keybrokerv1.GetPoolRequest{Pool: "a"})
		assert.Equal(t, all, parts(whole.GetPool()), "a small pool is whole")
		assert.Empty(t, whole.GetNextPageToken())
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "n", ExcludeKeyIds: []string{"one"}})
		for _, c := range []struct {
			r    *keybrokerv1.GetPoolRequest
			want string
		}{
			{&keybrokerv1.GetPoolRequest{}, strings.Join(all, " ")},
			{&keybrokerv1.GetPoolRequest{Group: "two"}, "two two/m two/n"},
			{&keybrokerv1.GetPoolRequest{ModelClass: "n"}, "one/n two/n"},
			{&keybrokerv1.GetPoolRequest{Group: "two", ModelClass: "n"}, "two/n"},
			{&keybrokerv1.GetPoolRequest{OnlyLimited: true}, "two two/n"},
			{&keybrokerv1.GetPoolRequest{Group: "ghost"}, ""},
		} {
			r := c.r
			r.Pool = "a"
			for r.PageSize = range int32(4) {
				var got []string
				for r.PageToken = ""; ; {
					p := alice.page(r)
					assert.EqualValues(t, 2, p.GetPool().GetSummary().GetKeys(), "the summary is that of the pool")
					assert.EqualValues(t, 1, p.GetPool().GetSummary().GetOpenLeases())
					assert.Equal(t, "https://api.anthropic.com", p.GetPool().GetBaseUrl())
					got = append(got, parts(p.GetPool())...)
					if r.PageToken = p.GetNextPageToken(); r.PageToken == "" {
						break
					}
				}
				assert.Equal(t, c.want, strings.Join(got, " "), "%v", r)
			}
		}
	})
}

func TestGetPoolRefusesWhatItDidNotGive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, onePool("a", key("k", nil))).as("alice")
		token := func(text string) *keybrokerv1.GetPoolRequest {
			return &keybrokerv1.GetPoolRequest{PageToken: base64.RawURLEncoding.EncodeToString([]byte(text))}
		}
		for _, c := range []struct {
			field string
			r     *keybrokerv1.GetPoolRequest
		}{
			{"page_size", &keybrokerv1.GetPoolRequest{PageSize: -1}},
			{"group", &keybrokerv1.GetPoolRequest{Group: strings.Repeat("g", 257)}},
			{"model_class", &keybrokerv1.GetPoolRequest{ModelClass: strings.Repeat("g", 257)}},
			{"page_token", &keybrokerv1.GetPoolRequest{PageToken: "7"}},
			{"page_token", &keybrokerv1.GetPoolRequest{PageToken: "not base64!"}},
			{"page_token", token("{}")}, {"page_token", token("[]")}, {"page_token", token("\xff")},
			{"page_token", token(`{"Key":"ghost"}`)}, {"page_token", token(`{"Quotas":true,"Group":"k","Class":"ghost"}`)},
			{"page_token", token(`{"Key":7}`)}, {"page_token", token(`{"Place":1e99}`)},
		} {
			c.r.Pool = "a"
			_, err := alice.operator.GetPool(t.Context(), c.r)
			invalid(c.field)(t, err)
		}
		stream, err := alice.operator.WatchPool(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a", Group: strings.Repeat("g", 257)})
		require.NoError(t, err)
		_, err = stream.Recv()
		invalid("group")(t, err)
	})
}

// The longest names, and as many limits as an account can have: a page is cut before it has a
// thousand.
func TestAPageIsNeverLargerThanAMebibyte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []pool.Limit
		for i := range 32 {
			all = append(all, pool.Limit{Name: strings.Repeat("n", 90), Window: time.Duration(i+1) * time.Hour, Amount: 1 << 60})
		}
		var keys []pool.Key
		for i := range 600 {
			keys = append(keys, key(fmt.Sprintf("%0250d", i), all))
		}
		alice := begin(t, modelled(keys, strings.Repeat("m", 250), strings.Repeat("n", 250))).as("alice")
		seen, pages := map[string]bool{}, 0
		for r := (&keybrokerv1.GetPoolRequest{Pool: "a"}); ; pages++ {
			p := alice.page(r)
			for _, name := range parts(p.GetPool()) {
				assert.False(t, seen[name], "twice")
				seen[name] = true
			}
			if r.PageToken = p.GetNextPageToken(); r.PageToken == "" {
				break
			}
		}
		assert.Len(t, seen, 600+1200)
		assert.Greater(t, pages, 5)
	})
}

// watcher applies what a stream tells to what it knows.
type watcher struct {
	*caller
	stream keybrokerv1.AdminService_WatchPoolClient
}

func (c *caller) watcher(ctx context.Context, r *keybrokerv1.WatchPoolRequest) *watcher {
	r.Pool, r.MinInterval = "a", durationpb.New(100*time.Millisecond)
	stream, err := c.operator.WatchPool(ctx, r)
	require.NoError(c, err)
	return &watcher{c, stream}
}

// next is the next message, and what it names: what has changed, and what has gone with a minus.
func (w *watcher) next() (*keybrokerv1.WatchPoolResponse, []string) {
	w.Helper()
	m, err := w.stream.Recv()
	require.NoError(w, err)
	assert.LessOrEqual(w, proto.Size(m), 1<<20)
	all := parts(m.GetPool())
	for _, q := range m.GetPool().GetQueues() {
		all = append(all, "queue "+q.GetModelClass())
	}
	for _, id := range m.GetRemovedKeys() {
		all = append(all, "-"+id)
	}
	for _, q := range m.GetRemovedQuotas() {
		all = append(all, strings.TrimSuffix("-"+q.GetGroup()+"/"+q.GetModelClass()+"/"+q.GetKeyId(), "/"))
	}
	for _, class := range m.GetRemovedQueues() {
		all = append(all, "-queue "+class)
	}
	return m, all
}

// tells requires that the next message names this, and nothing else.
func (w *watcher) tells(want ...string) *keybrokerv1.WatchPoolResponse {
	w.Helper()
	m, got := w.next()
	require.Equal(w, want, got)
	return m
}

func TestWatchPoolSendsWhatHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, modelled([]pool.Key{key("one", slots(1)), key("two", slots(1))}, "m", "n")).as("alice")
		w := alice.watcher(t.Context(), &keybrokerv1.WatchPoolRequest{})
		m := w.tells("one", "two", "one/m", "one/n", "two/m", "two/n")
		assert.True(t, m.GetStartsOver())
		assert.True(t, m.GetComplete())
		assert.Equal(t, "https://api.anthropic.com", m.GetPool().GetBaseUrl())

		time.Sleep(time.Second)
		ask := &keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "n", ExcludeKeyIds: []string{"one"}}
		l := alice.lease(ask)
		m = w.tells("two", "two/n")
		assert.False(t, m.GetStartsOver())
		assert.True(t, m.GetComplete())
		assert.Empty(t, m.GetPool().GetBaseUrl(), "it has not changed")
		assert.EqualValues(t, 2, m.GetPool().GetSummary().GetKeys())
		assert.EqualValues(t, 1, m.GetPool().GetSummary().GetOpenLeases())
		assert.EqualValues(t, 1, m.GetPool().GetKeys()[0].GetOpenLeases())

		time.Sleep(time.Second)
		ask.MaxWait = durationpb.New(20 * time.Second)
		waiting := alice.ask(alice.Context(), ask)
		w.tells("queue n")
		time.Sleep(time.Second)
		alice.release(l.GetLeaseId(), true)
		w.tells("two", "two/n", "-queue n")
		require.NoError(t, (<-waiting).err)
	})
}

func TestWatchPoolByFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, modelled([]pool.Key{key("one", slots(1)), key("two", slots(1))}, "m", "n")).as("alice")
		group := alice.watcher(t.Context(), &keybrokerv1.WatchPoolRequest{Group: "one"})
		group.tells("one", "one/m", "one/n")
		limited := alice.watcher(t.Context(), &keybrokerv1.WatchPoolRequest{OnlyLimited: true})
		limited.tells()
		classLimited := alice.watcher(t.Context(), &keybrokerv1.WatchPoolRequest{ModelClass: "n", OnlyLimited: true})
		classLimited.tells()

		time.Sleep(time.Second)
		l := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", Model: "n", ExcludeKeyIds: []string{"one"}})
		m := group.tells()
		assert.EqualValues(t, 1, m.GetPool().GetSummary().GetOpenLeases(), "the summary is that of the pool")
		limited.tells("two", "two/n")
		classLimited.tells("two/n")

		time.Sleep(time.Second)
		_, err := alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
			LeaseId: l.GetLeaseId(), StatusCode: 429, Headers: map[string]string{"retry-after": "20"}, Final: true,
		})
		require.NoError(t, err)
		group.tells()
		limited.tells("two/n", "-two") // the key is of use for the other model
		classLimited.tells("two/n")
		began := time.Now()
		limited.tells("-two/n")
		assert.Less(t, time.Since(began), 21*time.Second, "time alone has ended it")
		classLimited.tells("-two/n")
	})
}

// Of a large pool the first message has a page, and the next ones have the rest, each an interval
// later. What changes meanwhile is told as well.
func TestWatchPoolOfALargePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []pool.Key
		for i := range 1500 {
			keys = append(keys, key(fmt.Sprint("key-", i), slots(1)))
		}
		alice := begin(t, onePool("a", keys...)).as("alice")
		w := alice.watcher(t.Context(), &keybrokerv1.WatchPoolRequest{})
		seen, began, messages := map[string]int64{}, time.Now(), 0
		note := func() *keybrokerv1.WatchPoolResponse {
			m, _ := w.next()
			assert.Equal(t, messages == 0, m.GetStartsOver())
			for _, q := range m.GetPool().GetQuotas() {
				seen[q.GetGroup()] = q.GetOpenLeases()
			}
			messages++
			assert.EqualValues(t, 1500, m.GetPool().GetSummary().GetAvailableKeys())
			return m
		}
		for !note().GetComplete() {
			if messages == 2 { // in the midst of it
				alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a", ExcludeKeyIds: []string{"key-1"}})
			}
		}
		assert.Len(t, seen, 1500)
		assert.GreaterOrEqual(t, messages, 3)
		assert.Equal(t, time.Duration(messages-1)*100*time.Millisecond, time.Since(began))
		open := func() (n int64) {
			for _, leases := range seen {
				n += leases
			}
			return n
		}
		for open() == 0 { // if its group was told of before it had the lease
			note()
		}
		assert.EqualValues(t, 1, open())
	})
}

func TestPageTokenOfAnotherPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onePool("b", key("three", nil), key("four", nil))
		alice := begin(t, onePool("a", key("one", nil), key("two", nil)), b).as("alice")
		token := alice.page(&keybrokerv1.GetPoolRequest{Pool: "a", PageSize: 1}).GetNextPageToken()
		require.NotEmpty(t, token)
		_, err := alice.operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: "b", PageToken: token})
		invalid("page_token")(t, err)
		requireFailure(t, err, codes.InvalidArgument, "INVALID_REQUEST")
	})
}
