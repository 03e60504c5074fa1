package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// Hooks hear of every lease, attempt and end, in order, and never of a key.
func TestHooks(t *testing.T) {
	type mark struct{}
	var mu sync.Mutex
	var heard []string
	hear := func(ctx context.Context, l client.Labels, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, true, ctx.Value(mark{}), "the request's own context")
		assert.NoError(t, ctx.Err())
		assert.Equal(t, "gpt-4o", l.Model)
		heard = append(heard, fmt.Sprintf(format, args...)+fmt.Sprintf(" of %s %s", l.Provider, l.Pool))
		canary.Text("what hooks are told", fmt.Sprintf(format+"%+v", append(args, l)...))
	}
	number := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprint(*n)
	}
	hooks := client.WithHooks(client.Hooks{
		Acquired: func(ctx context.Context, e client.Acquired) {
			hear(ctx, e.Labels, "acquired %v", e.Err)
			assert.Positive(t, e.Took)
			assert.Equal(t, e.Err == nil, e.KeyID != "")
		},
		Answered: func(ctx context.Context, e client.Answered) {
			hear(ctx, e.Labels, "answered %d: %d %s %v", e.Attempt, e.Status, e.Outcome, e.Err)
			assert.Positive(t, e.Took)
		},
		Finished: func(ctx context.Context, e client.Finished) {
			hear(ctx, e.Labels, "finished %d %v in %s out %s", e.Status, e.Complete, number(e.Usage.InputTokens), number(e.Usage.OutputTokens))
			assert.Positive(t, e.Took)
		},
	})
	slow := client.WithDialOptions(grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		time.Sleep(time.Millisecond) // in a bubble nothing else takes time
		return next(ctx, method, req, reply, cc, opts...)
	}))
	for name, s := range map[string]struct {
		provider http.HandlerFunc
		broken   bool
		want     []string
	}{
		"answer": {provider: func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) }, want: []string{
			"acquired <nil>", "answered 1: 200 ok <nil>", "finished 200 true in 7 out 5",
		}},
		"revoked": {provider: func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) }, want: []string{
			"acquired <nil>", "answered 1: 401 auth_invalid <nil>", "finished 401 true in ? out ?",
			"acquired <nil>", "answered 2: 401 auth_invalid <nil>", "finished 401 true in ? out ?",
		}},
		"no answer": {broken: true, want: []string{"acquired <nil>", "answered 1: 0 no_answer unexpected EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				heard = nil
				w := bubble(t, many)
				w.answers(func(rw http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Millisecond)
					s.provider(rw, r)
				})
				tr := w.client(hooks, slow).Transport("many")
				tr.Base, tr.Attempts = &w.base, 2
				if s.broken {
					tr.Base = failing{}
				}
				r := request(t, w.url+chat, strings.NewReader(ask))
				if resp, err := tr.RoundTrip(r.WithContext(context.WithValue(r.Context(), mark{}, true))); err == nil {
					bodyOf(t, resp)
				}
				mu.Lock()
				defer mu.Unlock()
				for i := range s.want {
					s.want[i] += " of openai many"
				}
				assert.Equal(t, s.want, heard)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		heard = nil
		_, err := bubble(t, many).client(hooks, slow).Acquire(context.WithValue(t.Context(), mark{}, true), client.Request{Pool: "none", Model: "gpt-4o"})
		require.ErrorIs(t, err, client.ErrDenied)
		assert.Equal(t, []string{fmt.Sprintf("acquired %v of  none", err)}, heard)
	})
}
