package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// A broker that goes and comes back, several times, and fifty callers. Whatever the
// provider would have answered is answered; an error is the caller's own, or says that
// the broker was away while it was.
func TestChaos(t *testing.T) {
	before := runtime.NumGoroutine()
	var front atomic.Value
	provider := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		front.Load().(*sandbox.Server).ServeHTTP(rw, r)
	}))
	dir := canary.Dir(t)
	state := filepath.Join(dir, "state.db")
	parse := func(listen string) *config.Config {
		cfg, err := config.Parse("chaos.yaml", fmt.Appendf(nil, `
server: {plaintext: true, listen: %q, drain_timeout: 200ms}
store: {path: %q}
audit: {path: %q}
providers:
  - name: many
    type: openai
    base_url: %s/v1
    keys:
      - {id: k1, key: sk-cnry7f3a-client-1, rpm_limit: 1000000, tpm_limit: 1000000000}
      - {id: k2, key: sk-cnry7f3a-client-2, rpm_limit: 1000000, tpm_limit: 1000000000}
`, listen, state, filepath.Join(dir, "audit.jsonl"), provider.URL), app.ConfigOptions())
		require.NoError(t, err)
		return cfg
	}
	front.Store(sandbox.New(app.SandboxAccounts(parse("127.0.0.1:0")), sandbox.Options{OutputTokens: 100, TokensPerSecond: 4000}))

	var granted atomic.Int64 // by the broker
	observe := func(method string, code codes.Code, _ time.Duration) {
		if code == codes.OK && strings.HasSuffix(method, "AcquireKey") {
			granted.Add(1)
		}
	}
	var out syncBuffer
	log := canary.Logger("the broker's and the client's log", &out)
	run := func(listen string) (addr string, stop func()) {
		var a *app.App
		soon(t, "the address is free", func() (ok bool) {
			var err error
			a, err = app.New(t.Context(), parse(listen), app.Options{Logger: log, Observe: observe})
			return err == nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		return a.Addr().String(), func() {
			cancel()
			if err := <-done; err != nil {
				assert.ErrorContains(t, err, "the last state was not saved", "the disk may be slow")
			}
		}
	}
	target, stop := run("127.0.0.1:0")
	c, err := client.New(target, client.WithLogger(log), client.WithHolder("chaos"), client.WithDialOptions(wiretap.Options()...))
	require.NoError(t, err)

	// away has each span from a stop of the broker until it has granted something again.
	var away struct {
		sync.Mutex
		from, to []time.Time
	}
	wasAway := func(from, to time.Time) bool {
		away.Lock()
		defer away.Unlock()
		for i, f := range away.from {
			if to.After(f) && (i >= len(away.to) || from.Before(away.to[i])) {
				return true
			}
		}
		return false
	}
	var answered, unavailable, own, slow atomic.Int64
	over, end := context.WithCancel(t.Context())
	defer end()
	h := c.HTTP("many")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for over.Err() == nil {
				time.Sleep(rand.N(40 * time.Millisecond))
				ctx, cancel := context.WithCancel(t.Context())
				if rand.N(20) == 0 {
					time.AfterFunc(rand.N(30*time.Millisecond), cancel)
				}
				stream := rand.N(2) == 0
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, provider.URL+chat,
					strings.NewReader(fmt.Sprintf(`{"model": "gpt-4o", "max_tokens": 200, "stream": %v, "messages": [{"role": "user", "content": "Hello"}]}`, stream)))
				if !assert.NoError(t, err) {
					cancel()
					return
				}
				start := time.Now()
				resp, err := h.Do(r)
				switch {
				case err == nil && rand.N(10) == 0: // leaves early
					assert.NoError(t, resp.Body.Close())
				case err == nil:
					if assert.Equal(t, 200, resp.StatusCode) {
						answered.Add(1)
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						assert.ErrorIs(t, err, context.Canceled)
					}
					assert.NoError(t, resp.Body.Close())
				case errors.Is(err, context.Canceled):
					own.Add(1)
					assert.Error(t, ctx.Err())
				case errors.Is(err, client.ErrLate), strings.Contains(err.Error(), broker.ErrStore.Error()):
					slow.Add(1) // the machine, or its disk
				default:
					unavailable.Add(1)
					assert.ErrorIs(t, err, client.ErrUnavailable)
					assert.True(t, wasAway(start, time.Now()), "the broker was there: %v", err)
				}
				if err != nil {
					_, _ = fmt.Fprintf(&out, "%v %+v %#v\n", err, err, errors.Unwrap(err))
				}
				cancel()
			}
		})
	}
	more := func(n *atomic.Int64, by int64, what string) {
		t.Helper()
		enough := n.Load() + by
		soon(t, what, func() bool { return n.Load() >= enough })
	}
	for _, down := range []func(){
		func() { time.Sleep(300 * time.Millisecond) },
		func() { more(&unavailable, 1, "what was held has run out") },
		func() {},
		func() { time.Sleep(800 * time.Millisecond) },
	} {
		more(&answered, 200, "requests are answered")
		away.Lock()
		away.from = append(away.from, time.Now())
		away.Unlock()
		stop()
		down()
		_, stop = run(target)
		more(&granted, 1, "the broker is found again")
		away.Lock()
		away.to = append(away.to, time.Now())
		away.Unlock()
	}
	more(&answered, 200, "requests are answered")
	end()
	all.Wait()
	require.NoError(t, c.Close())
	stop()
	provider.Close()
	t.Logf("%d answered, %d met no broker, %d were canceled, %d met a machine that was slow", answered.Load(), unavailable.Load(), own.Load(), slow.Load())
	canary.Text("what is shown", out.String())
	if n := goroutines(before); n > before {
		t.Errorf("%d goroutines, %d before:\n%s", n, before, stacks())
	}
}
