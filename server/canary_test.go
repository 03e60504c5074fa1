package server_test

// The canary: every kind of call is made, everything that leaves the process is
// searched, and a key is found in no other place than the answer of AcquireKey. All
// worlds of this package are listened to in the same way; here it is all at once, with
// what must not be missed.

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/server"
)

func TestKeysLeaveOnlyInAcquireKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, _ := access.NewToken()
		canary.Also(token)
		rules := policy(t, map[string][]string{"ops": {token}},
			allow(access.Acquire|access.Inspect|access.Admin, []string{"a", "b"}, "spiffe://example.org/svc"),
			allow(access.Acquire|access.Inspect|access.Admin, []string{"*"}, "token:ops"))
		path := filepath.Join(canary.Dir(t), "audit.jsonl")
		log, err := audit.Open(path)
		require.NoError(t, err)
		a := newAuthority(t)
		source := newFiles(t, a.server(), a).open()
		var panics []any // in turn
		options := server.Options{
			Policy: always(rules), Certificates: source, Audit: server.Audit{Log: log},
			Keys: func(pool, key string) secret.Value {
				if len(panics) > 0 {
					p := panics[0]
					panics = panics[1:]
					panic(p)
				}
				return secret.New(keyValue(pool, key))
			},
		}
		pools := []broker.DomainConfig{onePool("a", key("one", slots(2)), key("two", slots(1))), onePool("b", key("k", limits(2, 100, 100)))}
		for i := range pools { // as internal/app does
			pools[i].OnEvent = events()
		}
		w := beginWith(t, options, pools...)
		svc := a.over(w, a.client("spiffe://example.org/svc"))
		ops, opsCtx := a.over(w), bearer(t.Context(), "Bearer "+token)

		keys := map[string]bool{}
		acquireAs := func(c *caller, ctx context.Context, r *keybrokerv1.AcquireKeyRequest) (string, error) {
			l, err := c.AcquireKey(ctx, r)
			if err == nil {
				keys[l.GetApiKey()] = true
			}
			return l.GetLeaseId(), err
		}
		acquire := func(r *keybrokerv1.AcquireKeyRequest) string {
			id, _ := acquireAs(svc, t.Context(), r)
			return id
		}
		report := func(id string, code int32, headers map[string]string) {
			_, _ = svc.ReportUsage(t.Context(), &keybrokerv1.ReportUsageRequest{
				LeaseId: id, StatusCode: code, Headers: headers, Final: true,
				ErrorBody: fmt.Appendf(nil, `{"error":{"message":"Incorrect API key provided: %s"}}`, keyValue("a", "one")), // as some do
			})
		}
		release := func(id string) {
			_, _ = svc.ReleaseKey(t.Context(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id})
		}
		operators := func() {
			_, err := ops.operator.ListPools(opsCtx, &keybrokerv1.ListPoolsRequest{})
			require.NoError(t, err)
			for _, p := range []string{"a", "b", "none", keyValue("a", "one")} {
				_, _ = ops.operator.GetPool(opsCtx, &keybrokerv1.GetPoolRequest{Pool: p})
				_, _ = ops.operator.ListLeases(opsCtx, &keybrokerv1.ListLeasesRequest{Pool: p})
				_, _ = ops.operator.RestoreKey(opsCtx, &keybrokerv1.RestoreKeyRequest{Pool: p, KeyId: "one"})
			}
		}

		watch, err := ops.operator.WatchPool(opsCtx, &keybrokerv1.WatchPoolRequest{Pool: "a"})
		require.NoError(t, err)
		_, err = watch.Recv()
		require.NoError(t, err)
		ids := []string{}
		for range 4 { // the last finds no room
			ids = append(ids, acquire(waitFor("a", time.Second)))
		}
		ids = append(ids, acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b", InputTokens: 50, RequestId: "r"}))
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b", RequestId: "r"})
		operators()

		// Errors of every kind.
		for want, r := range map[codes.Code]*keybrokerv1.AcquireKeyRequest{
			codes.FailedPrecondition: {Pool: "b", InputTokens: 1e9}, codes.InvalidArgument: {Pool: "a", InputTokens: -1},
			codes.PermissionDenied: {Pool: keyValue("a", "one")}, codes.ResourceExhausted: {Pool: "a"},
		} {
			_, err := acquireAs(svc, t.Context(), r)
			assert.Equal(t, want, status.Code(err))
		}
		_, err = acquireAs(ops, bearer(t.Context(), "Bearer "+token+"x"), waitFor("a", 0))
		assert.Equal(t, codes.Unauthenticated, status.Code(err))
		_, err = acquireAs(ops, bearer(t.Context(), "Basic "+keyValue("a", "one")), waitFor("a", 0))
		assert.Equal(t, codes.Unauthenticated, status.Code(err))
		_, err = acquireAs(svc, t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "a", Model: strings.Repeat("m", 2<<20)})
		assert.Error(t, err)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = acquireAs(svc, short, waitFor("a", 20*time.Second))
		assert.Error(t, err)
		cancel()
		_, err = acquireAs(svc, short, waitFor("a", 20*time.Second))
		assert.Error(t, err)
		require.Error(t, svc.conn.Invoke(t.Context(), "/keybroker.v1.KeyBrokerService/Steal", &keybrokerv1.AcquireKeyRequest{Pool: keyValue("a", "one")}, &keybrokerv1.AcquireKeyResponse{}))
		_, err = ops.ReleaseKey(opsCtx, &keybrokerv1.ReleaseKeyRequest{LeaseId: ids[0]})
		assert.Equal(t, codes.NotFound, status.Code(err), "another's")

		echo := map[string]string{"Retry-After": "5", "X-Api-Key": keyValue("a", "one"), "Authorization": "Bearer " + keyValue("a", "one")}
		report(ids[0], 401, echo)
		report(ids[1], 429, echo)
		report(ids[2], 529, echo)
		report(ids[2], 999999, nil)
		report("garbage", 200, nil)
		release(ids[4])
		release("garbage")
		release(keyValue("a", "one"))
		operators()
		_, _ = svc.services()
		_, err = watch.Recv()
		require.NoError(t, err)
		time.Sleep(time.Minute)

		panics = []any{keyValue("b", "k"), errors.New(keyValue("b", "k")), struct{ Key string }{keyValue("b", "k")}}
		for range 3 {
			_, err = acquireAs(svc, t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "b"})
			assert.Equal(t, codes.Internal, status.Code(err))
			time.Sleep(time.Minute)
		}
		require.NoError(t, log.Close())
		_, err = acquireAs(svc, t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "b"})
		assert.Equal(t, codes.Unavailable, status.Code(err), "nothing is given that cannot be written down")
		dumpChannelz(t)

		view, err := w.broker.Inspect("a", pool.Query{})
		require.NoError(t, err)
		waiting := make(chan error, 1)
		go func() {
			_, err := svc.AcquireKey(t.Context(), waitFor("b", 30*time.Second))
			waiting <- err
		}()
		synctest.Wait()
		w.stop(time.Second)
		<-waiting
		synctest.Wait()
		for name, x := range map[string]any{
			"the broker": w.broker, "the server": w.server, "its options": options, "a pool's configuration": pools[0], "a pool's view": view,
			"the policy": rules, "a key": secret.New(keyValue("a", "one")), "the certificates": source, "the audit log": log,
		} {
			dump(name, x)
		}

		assert.Len(t, keys, 3, "the keys did leave where they should")
		require.Greater(t, len(w.calls.list()), 30)
		assert.Contains(t, w.logs.String(), `"level":"DEBUG"`, "all is logged")
		written, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Greater(t, strings.Count(string(written), "\n"), 10, "and written down")
		assert.False(t, grpc.EnableTracing, "golang.org/x/net/trace would keep messages, and serve them")
	})
}

// events logs them, as internal/app does.
func events() func(pool.Event) {
	log := canary.Logger("events")
	return func(e pool.Event) { log.Warn(e.Text, "event", e) }
}

// dumpChannelz reads all that gRPC tells of itself where somebody serves that.
func dumpChannelz(t *testing.T) {
	s, l := grpc.NewServer(), bufconn.Listen(1<<16)
	channelz.RegisterChannelzServiceToServer(s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///channelz", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	defer func() {
		_ = conn.Close()
		s.Stop()
		serving.Wait()
	}()
	c := channelzpb.NewChannelzClient(conn)
	sockets, subchannels := 0, 0
	look := func(m proto.Message, err error) bool {
		if err == nil { // else it has gone
			canary.Text("channelz", prototext.Format(m))
		}
		return err == nil
	}
	socket := func(refs []*channelzpb.SocketRef) {
		for _, r := range refs {
			sockets++
			look(c.GetSocket(t.Context(), &channelzpb.GetSocketRequest{SocketId: r.GetSocketId()}))
		}
	}
	var channels func(refs []*channelzpb.ChannelRef, subs []*channelzpb.SubchannelRef)
	channels = func(refs []*channelzpb.ChannelRef, subs []*channelzpb.SubchannelRef) {
		for _, r := range refs {
			got, err := c.GetChannel(t.Context(), &channelzpb.GetChannelRequest{ChannelId: r.GetChannelId()})
			if look(got, err) {
				channels(got.GetChannel().GetChannelRef(), got.GetChannel().GetSubchannelRef())
			}
		}
		for _, r := range subs {
			subchannels++
			got, err := c.GetSubchannel(t.Context(), &channelzpb.GetSubchannelRequest{SubchannelId: r.GetSubchannelId()})
			if look(got, err) {
				socket(got.GetSubchannel().GetSocketRef())
			}
		}
	}
	for end, from := false, int64(0); !end; {
		top, err := c.GetTopChannels(t.Context(), &channelzpb.GetTopChannelsRequest{StartChannelId: from})
		require.True(t, look(top, err))
		end = top.GetEnd() || len(top.GetChannel()) == 0
		for _, ch := range top.GetChannel() {
			from = ch.GetRef().GetChannelId() + 1
			channels([]*channelzpb.ChannelRef{ch.GetRef()}, nil)
		}
	}
	for end, from := false, int64(0); !end; {
		all, err := c.GetServers(t.Context(), &channelzpb.GetServersRequest{StartServerId: from})
		require.True(t, look(all, err))
		end = all.GetEnd() || len(all.GetServer()) == 0
		for _, srv := range all.GetServer() {
			from = srv.GetRef().GetServerId() + 1
			socket(srv.GetListenSocket())
			got, err := c.GetServerSockets(t.Context(), &channelzpb.GetServerSocketsRequest{ServerId: srv.GetRef().GetServerId()})
			if look(got, err) {
				socket(got.GetSocketRef())
			}
		}
	}
	assert.GreaterOrEqual(t, sockets, 4, "of both connections, both ends")
	assert.GreaterOrEqual(t, subchannels, 2)
}

// dump shows a thing in every way in which somebody may print it.
func dump(place string, x any) {
	canary.Object(place, x)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		canary.Text(place+" by "+verb, fmt.Sprintf(verb, x))
	}
	for name, encode := range map[string]func() ([]byte, error){
		"JSON": func() ([]byte, error) { return json.Marshal(x) },
		"YAML": func() ([]byte, error) { return yaml.Marshal(x) },
		"gob": func() ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(x)
			return b.Bytes(), err
		},
	} {
		func() {
			defer func() { canary.Text(place+" in "+name+", panic", fmt.Sprint(recover())) }() // some types cannot be encoded
			text, err := encode()
			canary.Text(place+" in "+name, string(text)+fmt.Sprint(err))
		}()
	}
	failed := &failure{}
	assert.Equal(failed, reflect.New(reflect.TypeOf(x)).Elem().Interface(), x)
	assert.Nil(failed, x)
	assert.Contains(failed, []any{}, x)
	canary.Text(place+" in a failed test", failed.text.String())
}

// failure keeps what a test says that fails.
type failure struct{ text strings.Builder }

func (f *failure) Errorf(format string, args ...any) { fmt.Fprintf(&f.text, format, args...) }

// The whole program, from its configuration on. It is over real connections, and in a
// bubble all the same: Wait sees to it that nothing changes what is looked at, and the
// race detector knows.
func TestWhatTheProgramIsMadeOfShowsNoKey(t *testing.T) { synctest.Test(t, testWhatTheProgramIsMadeOf) }

func testWhatTheProgramIsMadeOf(t *testing.T) {
	dir := canary.Dir(t)
	options := app.ConfigOptions()
	options.Plaintext = true
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
server: {listen: "127.0.0.1:0", metrics_listen: "127.0.0.1:0"}
store: {path: %q}
audit: {path: %q}
providers:
- {name: p, type: anthropic, flat_limits: true, keys: [{id: one, key: %s, rpm_limit: 10}]}
`, filepath.Join(dir, "state.db"), filepath.Join(dir, "audit.jsonl"), canary.Key("whole")), options)
	require.NoError(t, err)
	logs := &record{}
	a, err := app.New(t.Context(), cfg, app.Options{Logger: canary.Logger("the program's log", logs)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	target, metrics := a.Addr().String(), a.MetricsAddr()
	conn, err := grpc.NewClient(target, append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	l, err := keybrokerv1.NewKeyBrokerServiceClient(conn).AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(t, err)
	assert.Equal(t, canary.Key("whole"), l.GetApiKey())
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Get("http://" + metrics + "/metrics")
	require.NoError(t, err)
	scraped, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	canary.Text("metrics", string(scraped))
	assert.Contains(t, string(scraped), `keybroker_pool_open_leases{pool="p"} 1`)
	require.NoError(t, a.Reload(func() (*config.Config, error) { return cfg, nil }))
	require.NoError(t, conn.Close())
	stop()
	require.NoError(t, <-done)
	synctest.Wait()
	domains, keys := app.Domains(cfg), app.Keys(cfg)
	for name, x := range map[string]any{
		"the configuration": cfg, "the configuration, by value": *cfg, "what is in force": cfg.Effective(), "a provider": cfg.Providers[0],
		"a key's configuration": cfg.Providers[0].Keys[0], "a domain": domains[0], "the keys": keys, "the program": a,
	} {
		dump(name, x)
	}
	assert.Contains(t, logs.String(), "configuration read again")
}
