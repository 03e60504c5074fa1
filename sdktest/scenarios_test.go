package sdktest

// What every SDK has to stand. The files beside this one say how each is called.

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/client"
	"github.com/keybroker/keybroker/internal/sandbox"
)

// sdk is one way to call a provider.
type sdk struct {
	name     string
	provider string // its type
	prefix   string // of the paths, in the pool's base_url
	model    string
	outside  []string // variables of the environment that have credentials

	plain func(ctx context.Context, w *world) (text string, err error)
	// stream calls each with every delta, until it has enough.
	stream func(ctx context.Context, w *world, each func(delta string) (more bool)) error
	// failure reads the SDK's own error; nil if err is none.
	failure func(w *world, err error) *failure

	busy      int    // the status of an overload
	limited   string // the type of a 429 in the provider's words
	refusals  string // how its own 429 begins
	obeys     bool   // it retries as the headers of a refusal say
	staysHome bool   // it follows to no other host by itself
	inputOnly bool   // its limit on tokens is one of the input
	output    string // the limit that output counts against; empty if it is not limited
}

// failure is an SDK's typed error.
type failure struct {
	status        int
	kind, message string
	wait          string // in seconds, as the provider states it
}

func prove(t *testing.T, s *sdk) {
	for name, test := range map[string]func(*testing.T, *sdk){
		"plain call":                   plainCall,
		"streaming call":               streamingCall,
		"environment":                  environment,
		"many at once":                 manyAtOnce,
		"another key":                  anotherKey,
		"another group":                anotherGroup,
		"no key has room":              noKeyHasRoom,
		"every key is refused":         everyKeyIsRefused,
		"overload":                     overload,
		"left in mid-stream":           leftInMidStream,
		"cancelled before the answer":  cancelledBeforeTheAnswer,
		"cancelled in the broker line": cancelledInLine,
		"redirect":                     redirect,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func plainCall(t *testing.T, s *sdk) {
	w := begin(t, s, setup{})
	text, err := s.plain(t.Context(), w)
	require.NoError(t, err)
	assert.Len(t, strings.Fields(text), answered)
	w.settled(1)
	w.booksAgree()
	assert.EqualValues(t, 1, w.classes()["first"].Admitted)
}

func streamingCall(t *testing.T, s *sdk) {
	w := begin(t, s, setup{})
	var text strings.Builder
	deltas := 0
	require.NoError(t, s.stream(t.Context(), w, func(delta string) bool {
		if text.WriteString(delta); delta != "" {
			deltas++
		}
		return true
	}))
	assert.Len(t, strings.Fields(text.String()), answered)
	assert.Greater(t, deltas, 10)
	w.settled(1)
	w.booksAgree()
	final := w.last()
	require.Len(t, final, 1)
	assert.NotNil(t, final[0].GetUsage().OutputTokens, "the output is known")
}

// environment: what the SDK finds there is not sent; serve looks.
func environment(t *testing.T, s *sdk) {
	for _, name := range s.outside {
		t.Setenv(name, fromOutside)
	}
	w := begin(t, s, setup{fromEnv: true})
	_, err := s.plain(t.Context(), w)
	require.NoError(t, err)
	w.settled(1)
}

// manyAtOnce: requests share leases, and the books agree all the same.
func manyAtOnce(t *testing.T, s *sdk) {
	w := begin(t, s, setup{rpm: 600, tpm: 1_200_000})
	const callers, calls = 8, 5
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range calls {
				_, err := s.plain(t.Context(), w)
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	w.quiet()
	w.booksAgree()
	var admitted int64
	for _, c := range w.classes() {
		admitted += c.Admitted
		assert.Zero(t, c.Limited)
	}
	assert.EqualValues(t, callers*calls, admitted)
}

// anotherKey: the first key is refused, and the caller hears nothing of it.
func anotherKey(t *testing.T, s *sdk) {
	for name, trouble := range map[string]func(w *world){
		"rate limited":  func(w *world) { w.provider.Use("pool-first", s.model, sandbox.Limits{RPM: 1000}) },
		"out of quota":  func(w *world) { w.provider.Exhaust("pool-first", true) },
		"revoked":       func(w *world) { w.provider.Revoke(firstKey) },
		"not permitted": func(w *world) { w.provider.Forbid(firstKey, s.model, true) },
	} {
		test := func(t *testing.T, with setup) {
			w := begin(t, s, with)
			trouble(w)
			text, err := s.plain(t.Context(), w)
			require.NoError(t, err)
			assert.Len(t, strings.Fields(text), answered)
			if with.retries == 0 { // else another key is asked for, and given back
				w.settled(2)
			}
			assert.EqualValues(t, 2, w.requests.Load())
			assert.EqualValues(t, 1, w.classes()["second"].Admitted)

			err = s.stream(t.Context(), w, func(string) bool { return true })
			require.NoError(t, err)
			assert.EqualValues(t, 3, w.requests.Load(), "the broker has been told")
			w.quiet()
		}
		t.Run(name, func(t *testing.T) { test(t, setup{}) })
		if s.obeys {
			t.Run(name+", retried by the SDK", func(t *testing.T) { test(t, setup{retries: 2}) })
		}
	}
}

// anotherGroup: the keys of one organisation are limited together, and there are
// more of them than attempts. Reports are slow here: the next key is not asked for
// before the broker knows.
func anotherGroup(t *testing.T, s *sdk) {
	w := begin(t, s, setup{slow: 30 * time.Millisecond, keys: `
      - {id: a, key: sk-cnry7f3a-leased-a, priority: 2, group: crowd}
      - {id: b, key: sk-cnry7f3a-leased-b, priority: 2, group: crowd}
      - {id: c, key: sk-cnry7f3a-leased-c, priority: 2, group: crowd}
      - {id: d, key: sk-cnry7f3a-leased-d, priority: 2, group: crowd}
    groups:
      - {name: crowd, rpm_limit: 600, tpm_limit: 1200000}
`})
	w.provider.Revoke(firstKey)
	_, _ = s.plain(t.Context(), w) // so that the crowd is asked
	w.provider.Use("pool-crowd", s.model, sandbox.Limits{RPM: 1000})
	_, err := s.plain(t.Context(), w)
	require.NoError(t, err)
	assert.EqualValues(t, 1, w.classes()["second"].Admitted)
	assert.EqualValues(t, 1, w.classes()["crowd"].Limited, "one refusal speaks for the group")
}

// noKeyHasRoom: the broker answers in the provider's stead, and in its words.
func noKeyHasRoom(t *testing.T, s *sdk) {
	w := begin(t, s, setup{rpm: 1, maxWait: client.NoWait})
	for range 2 {
		_, err := s.plain(t.Context(), w)
		require.NoError(t, err)
	}
	for name, call := range map[string]func() error{
		"plain":  func() error { _, err := s.plain(t.Context(), w); return err },
		"stream": func() error { return s.stream(t.Context(), w, func(string) bool { return true }) },
	} {
		err := call()
		require.Error(t, err, name)
		w.show(err)
		f := s.failure(w, err)
		require.NotNil(t, f, "%s: not the SDK's own error: %v", name, err)
		assert.Equal(t, http.StatusTooManyRequests, f.status)
		assert.Equal(t, s.limited, f.kind)
		assert.Contains(t, f.message, "pool")
		wait, err := strconv.ParseFloat(f.wait, 64)
		require.NoError(t, err, "a wait in seconds")
		assert.Greater(t, wait, 1.0)
		assert.LessOrEqual(t, wait, 75.0) // a minute, and what keeps callers from coming back together
	}
	assert.EqualValues(t, 2, w.requests.Load(), "the provider was spared")
	w.settled(2)
}

// everyKeyIsRefused: the provider's own refusal is what the caller gets.
func everyKeyIsRefused(t *testing.T, s *sdk) {
	w := begin(t, s, setup{})
	w.provider.Use("pool-first", s.model, sandbox.Limits{RPM: 1000})
	w.provider.Use("pool-second", s.model, sandbox.Limits{RPM: 1000})
	_, err := s.plain(t.Context(), w)
	require.Error(t, err)
	w.show(err)
	f := s.failure(w, err)
	require.NotNil(t, f, "not the SDK's own error: %v", err)
	assert.Equal(t, http.StatusTooManyRequests, f.status)
	assert.Contains(t, f.message, s.refusals)
	assert.NotEmpty(t, f.wait)
	assert.EqualValues(t, 1, w.classes()["first"].Limited)
	assert.EqualValues(t, 1, w.classes()["second"].Limited)
	w.settled(2)
}

// overload: another key would meet the same.
func overload(t *testing.T, s *sdk) {
	w := begin(t, s, setup{})
	w.provider.Overload("pool-first", true)
	w.provider.Overload("pool-second", true)
	_, err := s.plain(t.Context(), w)
	require.Error(t, err)
	w.show(err)
	f := s.failure(w, err)
	require.NotNil(t, f, "not the SDK's own error: %v", err)
	assert.Equal(t, s.busy, f.status)
	assert.EqualValues(t, 1, w.requests.Load())
	w.settled(1)
	assert.Zero(t, w.pool().GetSummary().GetCounters().GetRefused(), "nor was another one asked for")
}

// leftInMidStream: by either way the lease ends and nothing stays behind. What
// was not read may have been used.
func leftInMidStream(t *testing.T, s *sdk) {
	for name, leave := range map[string]func(cancel func()) (more bool){
		"context": func(cancel func()) bool { cancel(); return true },
		"close":   func(func()) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, s, setup{options: sandbox.Options{TokensPerSecond: 40}})
			w.output.Store(8)
			_, err := s.plain(t.Context(), w) // everything that lasts is there now
			require.NoError(t, err)
			w.settled(1)
			before := w.goroutines()

			w.output.Store(maxTokens)
			const times = 3
			for i := range times {
				ctx, cancel := context.WithCancel(t.Context())
				held := 0
				err := s.stream(ctx, w, func(delta string) bool {
					if delta == "" {
						return true
					}
					held = len(w.leases())
					return leave(cancel)
				})
				cancel()
				if w.show(err); name == "context" {
					require.ErrorIs(t, err, context.Canceled)
				} else {
					require.NoError(t, err)
				}
				assert.Equal(t, 1, held, "leases out while the answer came")
				if i == 0 { // later the provider's headers tell better
					w.settled(2)
					w.chargedInFull(8)
				}
			}
			w.settled(1 + times)
			final := w.last()[1:]
			require.Len(t, final, times)
			for _, r := range final {
				assert.EqualValues(t, http.StatusOK, r.GetStatusCode())
				assert.Nil(t, r.GetUsage().OutputTokens, "nobody knows the output")
			}
			assert.Less(t, w.classes()["first"].OutputTokens, int64(times*maxTokens), "the provider was told")
			w.soon("goroutines end", func() bool { return w.goroutines() <= before })
		})
	}
}

// chargedInFull looks whether an answer of unknown length is charged as it was
// asked for, beside an earlier one.
func (w *world) chargedInFull(earlier int64) {
	w.Helper()
	switch w.sdk.output {
	case "otpm":
		w.used("first", "otpm", earlier+maxTokens)
	case "tpm": // where the earlier one counts as it was asked for, too
		w.used("first", "tpm", 2*maxTokens)
	default: // each part of a stream says what the input was
		w.used("first", "itpm", w.classes()["first"].InputTokens)
	}
}

func cancelledBeforeTheAnswer(t *testing.T, s *sdk) {
	w := begin(t, s, setup{options: sandbox.Options{Latency: patience}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.plain(ctx, w)
		done <- err
	}()
	w.soon("the provider is asked", func() bool { return w.classes()["first"].InFlight == 1 })
	cancel()
	err := <-done
	w.show(err)
	require.ErrorIs(t, err, context.Canceled)
	w.settled(1)
	assert.EqualValues(t, 1, w.requests.Load())
	if s.output != "" {
		w.used("first", s.output, maxTokens)
	}
}

func cancelledInLine(t *testing.T, s *sdk) {
	w := begin(t, s, setup{rpm: 1})
	for range 2 {
		_, err := s.plain(t.Context(), w)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.plain(ctx, w)
		done <- err
	}()
	w.soon("it stands in line", func() bool { return w.pool().GetSummary().GetWaiters() == 1 })
	cancel()
	err := <-done
	w.show(err)
	require.ErrorIs(t, err, context.Canceled)
	w.soon("it leaves the line", func() bool { return w.pool().GetSummary().GetWaiters() == 0 })
	w.settled(2)
	assert.EqualValues(t, 2, w.requests.Load())
}

// redirect: a key does not follow to another host, nor does the request.
func redirect(t *testing.T, s *sdk) {
	var hits atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		body, _ := io.ReadAll(r.Body)
		t.Errorf("%s %s went elsewhere with %v and %d bytes", r.Method, r.URL, r.Header, len(body))
	}))
	defer other.Close()
	w := begin(t, s, setup{})
	w.elsewhere.Store(other.URL)
	_, err := s.plain(t.Context(), w)
	require.Error(t, err)
	w.show(err, errors.Unwrap(err))
	assert.Zero(t, hits.Load())
	if s.staysHome {
		w.settled(1)
		return
	}
	assert.ErrorContains(t, err, "must not go to")
	w.settled(2) // the second lease was for the other host, and came back
}
