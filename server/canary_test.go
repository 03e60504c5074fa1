package server_test

// The canary: every kind of call is made, everything that leaves the process is
// kept, and a key is found in no other place than the answer of AcquireKey.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/server"
)

// wiretap keeps every answer that a client gets, as text.
type wiretap struct{ text strings.Builder }

func (w *wiretap) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			var header, trailer metadata.MD
			err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header), grpc.Trailer(&trailer))...)
			fmt.Fprintln(&w.text, method, header, trailer, err, status.Convert(err).Proto())
			if m, ok := reply.(*keybrokerv1.AcquireKeyResponse); ok { // the one place
				open := proto.CloneOf(m)
				open.ApiKey = ""
				reply = open
			}
			fmt.Fprintln(&w.text, prototext.Format(reply.(proto.Message)))
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := open(ctx, desc, cc, method, opts...)
			return &tapped{s, w}, err
		}),
	}
}

type tapped struct {
	grpc.ClientStream
	tap *wiretap
}

func (s *tapped) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	fmt.Fprintln(&s.tap.text, err, prototext.Format(m.(proto.Message)))
	return err
}

func TestKeysLeaveOnlyInAcquireKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := &wiretap{}
		panicky := false
		w := beginWith(t, server.Options{Keys: func(pool string, key int) secret.Value {
			if panicky {
				panic(keyValue(pool, key))
			}
			return secret.New(keyValue(pool, key))
		}}, onePool("a", key("one", slots(2)), key("two", slots(1))), onePool("b", key("k", limits(2, 100, 100))))
		alice := w.as("alice", tap.options()...)
		keys := map[string]bool{}
		acquire := func(r *keybrokerv1.AcquireKeyRequest) string {
			l, err := alice.AcquireKey(alice.ctx(), r)
			if err == nil {
				keys[l.GetApiKey()] = true
			}
			return l.GetLeaseId()
		}
		report := func(id string, code int32, headers map[string]string) {
			_, _ = alice.ReportUsage(alice.ctx(), &keybrokerv1.ReportUsageRequest{
				LeaseId: id, StatusCode: code, Headers: headers, Final: true,
				ErrorBody: fmt.Appendf(nil, `{"error":{"message":"Incorrect API key provided: %s"}}`, keyValue("a", 0)), // as some do
			})
		}
		release := func(id string) {
			_, _ = alice.ReleaseKey(alice.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id})
		}
		operators := func() {
			_, err := alice.operator.ListPools(t.Context(), &keybrokerv1.ListPoolsRequest{})
			require.NoError(t, err)
			for _, p := range []string{"a", "b", "none"} {
				_, _ = alice.operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: p})
				_, _ = alice.operator.ListLeases(t.Context(), &keybrokerv1.ListLeasesRequest{Pool: p})
				_, _ = alice.operator.RestoreKey(t.Context(), &keybrokerv1.RestoreKeyRequest{Pool: p, KeyId: "one"})
			}
		}
		ids := []string{}
		for range 4 { // the last finds no room
			ids = append(ids, acquire(waitFor("a", time.Second)))
		}
		ids = append(ids, acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b", InputTokens: 50, RequestId: "r"}))
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b", RequestId: "r"})
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b", InputTokens: 1e9})
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "none"})
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "a", InputTokens: -1})
		operators()
		report(ids[0], 401, nil)
		report(ids[1], 429, map[string]string{"Retry-After": "5"})
		report(ids[2], 529, nil)
		report(ids[2], 999999, nil)
		report("garbage", 200, nil)
		release(ids[4])
		release("garbage")
		operators()
		_, _ = alice.services()
		watch, err := alice.operator.WatchPool(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a"})
		require.NoError(t, err)
		_, err = watch.Recv()
		require.NoError(t, err)
		time.Sleep(time.Minute)
		panicky = true
		acquire(&keybrokerv1.AcquireKeyRequest{Pool: "b"})
		panicky = false
		waiting := alice.ask(t.Context(), waitFor("b", 30*time.Second))
		synctest.Wait()
		w.stop(time.Second)
		<-waiting

		assert.Len(t, keys, 3, "the keys did leave where they should")
		calls := w.calls.list()
		require.Greater(t, len(calls), 20)
		for place, text := range map[string]string{
			"the logs": w.logs.String(), "answers, errors and trailers": tap.text.String(), "the hook": fmt.Sprint(calls),
		} {
			assert.Greater(t, len(text), 1000, place)
			assert.Equal(t, -1, strings.Index(text, marker), "a key is in %s", place)
		}
		assert.Contains(t, w.logs.String(), `"level":"DEBUG"`, "the test heard everything")
	})
}
