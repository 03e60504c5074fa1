package client

// What a base and a broker may do to a request, on virtual time.

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/failover"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func post(ctx context.Context) *http.Request {
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/v1/chat/completions", strings.NewReader(`{"model": "m"}`))
	return r
}

func response(status int, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: body}
}

func limited() *http.Response {
	return response(429, io.NopCloser(strings.NewReader(`{"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}`)))
}

// slowBody says nothing for a time, unless its request is given up.
type slowBody struct {
	ctx  context.Context
	wait time.Duration
	text string
}

func (b *slowBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(b.wait):
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	n := copy(p, b.text)
	b.text = b.text[n:]
	if b.text == "" {
		return n, io.EOF
	}
	return n, nil
}

func (*slowBody) Close() error { return nil }

// A reader may wait for as long as the provider takes. An answer without a reader
// does not hold its lease for ever, and can be read all the same.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		pause, silence time.Duration
		known          bool
	}{
		"provider is silent": {0, 25 * time.Minute, true},
		"nobody reads":       {25 * time.Minute, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				tr := s.Transport("p")
				tr.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
					return response(200, &slowBody{r.Context(), c.silence, `{"usage": {"prompt_tokens": 7, "completion_tokens": 5}}`}), nil
				})
				resp, err := tr.RoundTrip(post(t.Context()))
				require.NoError(t, err)
				time.Sleep(c.pause)
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				assert.Contains(t, string(b), "usage")
				require.NoError(t, resp.Body.Close())
				time.Sleep(time.Second)
				all := s.reported()
				last := all[len(all)-1]
				assert.True(t, last.GetFinal())
				assert.Equal(t, c.known, last.GetUsage().OutputTokens != nil)
			})
		})
	}
}

// Nothing is sent later than the lease allows, whatever the base waits for.
func TestNothingIsSentLate(t *testing.T) {
	for name, wait := range map[string]func(tc *httptrace.ClientTrace){
		"before it looks for a connection": func(tc *httptrace.ClientTrace) {
			time.Sleep(5 * time.Second)
			tc.GetConn("x")
		},
		"for a second connection": func(tc *httptrace.ClientTrace) {
			tc.GetConn("x")
			tc.GotConn(httptrace.GotConnInfo{Reused: true})
			time.Sleep(time.Second)
			tc.GetConn("x")
			time.Sleep(5 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				tr := s.Transport("p")
				tr.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
					wait(httptrace.ContextClientTrace(r.Context()))
					return nil, context.Cause(r.Context())
				})
				ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
				defer cancel()
				_, err := tr.RoundTrip(post(ctx))
				require.Error(t, err)
			})
		})
	}
}

// Who waits for a connection longer than a lease lasts gets another one, for as
// long as the caller likes to wait.
func TestWaitForAConnection(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		start := time.Now()
		tr := s.Transport("p")
		tr.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
			tc := httptrace.ContextClientTrace(r.Context())
			tc.GetConn("x")
			select {
			case <-time.After(time.Until(start.Add(time.Minute))):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			tc.GotConn(httptrace.GotConnInfo{})
			return response(200, http.NoBody), nil
		})
		resp, err := tr.RoundTrip(post(t.Context()))
		require.NoError(t, err)
		assert.Equal(t, 200, resp.StatusCode)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

// A lease that comes too late to be used is given back, and another one is asked for. Each
// takes one of the attempts, so that a broker that is always late does not hold a request
// for ever.
func TestLeaseThatComesTooLate(t *testing.T) {
	for name, c := range map[string]struct{ attempts, late, asks int }{
		"once":              {0, 1, 2},
		"the last attempt":  {2, 1, 2},
		"always":            {0, 99, 3},
		"no second attempt": {1, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				s.acquires(func(context.Context, *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
					l := lease(1)
					if len(s.asked()) <= c.late {
						time.Sleep(l.GetStartWithin().AsDuration())
					}
					return l, nil
				})
				sent := 0
				tr := s.Transport("p")
				tr.Attempts = c.attempts
				tr.Base = roundTrip(func(*http.Request) (*http.Response, error) {
					sent++
					return response(200, http.NoBody), nil
				})
				_, err := tr.RoundTrip(post(t.Context()))
				late := c.asks
				if c.late < c.asks {
					late = c.late
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, ErrLate)
				}
				time.Sleep(time.Second)
				assert.Len(t, s.asked(), c.asks)
				assert.Len(t, s.released(), late, "what was not used comes back")
				assert.Equal(t, c.asks-late, sent)
			})
		})
	}
}

// A second attempt that may have been carried out is not hidden behind the
// refusal of the first.
func TestSecondAttemptFails(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		sent := 0
		tr := s.Transport("p")
		tr.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
			if sent++; sent == 1 {
				return limited(), nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := tr.RoundTrip(post(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 2, sent)
	})
}

// A refusal is not held back by a broker that does not answer.
func TestBrokerHangsAfterARefusal(t *testing.T) {
	for name, sdk := range map[string]bool{"failover": false, "SDK retries": true} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				tr := s.Transport("p")
				tr.SDKRetries = sdk
				tr.Base = roundTrip(func(*http.Request) (*http.Response, error) {
					s.acquires(func(ctx context.Context, _ *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					})
					return limited(), nil
				})
				start := time.Now()
				resp, err := tr.RoundTrip(post(t.Context()))
				require.NoError(t, err)
				assert.Equal(t, 429, resp.StatusCode)
				assert.LessOrEqual(t, time.Since(start), failover.Time)
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

// An error whose body stalls is passed on with what there is, and the rest comes
// later.
func TestStalledErrorBody(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		tr := s.Transport("p")
		tr.Attempts = 1
		tr.Base = roundTrip(func(r *http.Request) (*http.Response, error) {
			return response(429, &slowBody{r.Context(), 30 * time.Second, "the rest"}), nil
		})
		start := time.Now()
		resp, err := tr.RoundTrip(post(t.Context()))
		require.NoError(t, err)
		assert.LessOrEqual(t, time.Since(start), errorTime)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "the rest", string(b))
		require.NoError(t, resp.Body.Close())
	})
}

// Reports that the broker does not answer say that it does not, and Close that it
// is closed: the caller's context has nothing to do with either.
func TestReportWithoutAnAnswer(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		stuck := make(chan struct{})
		s.hears(func(*keybrokerv1.ReportUsageRequest) error { <-stuck; return nil })
		l := s.lease(Request{Pool: "p", TTL: time.Minute})
		require.ErrorIs(t, l.Report(context.Background(), Report{Status: 200, Final: true}), ErrUnavailable)
		l = s.lease(Request{Pool: "p", TTL: time.Minute})
		time.AfterFunc(time.Second, func() { _ = s.Close() })
		require.ErrorIs(t, l.Report(context.Background(), Report{Status: 200, Final: true}), ErrClosed)
		close(stuck)
		synctest.Wait()
	})
}

// A base that panics leaves no lease behind, and no size is too large to read.
func TestStrangeUses(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		tr := s.Transport("p")
		tr.PeekBytes = math.MaxInt64
		tr.Base = roundTrip(func(*http.Request) (*http.Response, error) { panic("no") })
		assert.Panics(t, func() { _, _ = tr.RoundTrip(post(t.Context())) })
		time.Sleep(time.Hour)
		require.Len(t, s.reported(), 1)
		assert.True(t, s.reported()[0].GetFinal())
		_, err := tr.RoundTrip(&http.Request{})
		require.ErrorContains(t, err, "URL")
	})
}
