package client

// Grants and batchers before a broker that does as it is told, on virtual time.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

// scene is a client of a fake broker.
type scene struct {
	*testing.T
	*Client
	broker atomic.Pointer[fake] // what it does now

	down atomic.Bool // the broker answers UNAVAILABLE

	mu       sync.Mutex
	asks     []*keybrokerv1.AcquireKeyRequest
	reports  []*keybrokerv1.ReportUsageRequest
	releases []*keybrokerv1.ReleaseKeyRequest
}

func (s *scene) gone() error {
	if s.down.Load() {
		return status.Error(codes.Unavailable, "down")
	}
	return nil
}

// play acts a scene; the broker grants what is asked for, unless the scene says
// otherwise.
func play(t *testing.T, f func(*testing.T, *scene), opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t}
		s.acquires(func(_ context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			return lease(r.GetRequests()), nil
		})
		l := bufconn.Listen(1 << 16)
		srv := grpc.NewServer(grpc.WaitForHandlers(true),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
		keybrokerv1.RegisterKeyBrokerServiceServer(srv, &recorder{scene: s})
		go func() { _ = srv.Serve(l) }()
		c, err := New("passthrough:///broker", append(opts, WithPlaintext(), WithDialOptions(
			grpc.WithDisableHealthCheck(),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) })))...)
		require.NoError(t, err)
		s.Client = c
		f(t, s)
		require.NoError(t, c.Close())
		assert.Empty(t, c.held())
		srv.Stop()
	})
}

// recorder is the fake broker, which remembers.
type recorder struct {
	keybrokerv1.UnimplementedKeyBrokerServiceServer
	*scene
}

func (s *recorder) AcquireKey(ctx context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.asks = append(s.asks, r)
	s.mu.Unlock()
	return s.broker.Load().AcquireKey(ctx, r)
}

func (s *recorder) ReportUsage(ctx context.Context, r *keybrokerv1.ReportUsageRequest) (*keybrokerv1.ReportUsageResponse, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.reports = append(s.reports, r)
	s.mu.Unlock()
	return s.broker.Load().ReportUsage(ctx, r)
}

func (s *recorder) ReleaseKey(ctx context.Context, r *keybrokerv1.ReleaseKeyRequest) (*keybrokerv1.ReleaseKeyResponse, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.releases = append(s.releases, r)
	s.mu.Unlock()
	return s.broker.Load().ReleaseKey(ctx, r)
}

// acquires and hears say what the broker does from now on.
func (s *scene) acquires(f func(context.Context, *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error)) {
	s.broker.Store(&fake{acquire: f})
}

func (s *scene) hears(f func(*keybrokerv1.ReportUsageRequest) error) {
	s.broker.Store(&fake{acquire: s.broker.Load().acquire, report: f})
}

func (s *scene) lease(r Request) *Lease {
	s.Helper()
	l, err := s.Acquire(s.Context(), r)
	require.NoError(s, err)
	return l
}

// warm makes a batcher share, and gives back what it holds.
func (s *scene) warm(r Request) {
	s.Helper()
	for range 20 {
		require.NoError(s, s.lease(r).Report(s.Context(), Report{Status: 200, Final: true}))
	}
	require.True(s, s.shared(r) != nil, "it shares")
}

// shared is what a batcher shares out.
func (s *scene) shared(r Request) *grant {
	b := s.batcher(&r)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (s *scene) asked() []*keybrokerv1.AcquireKeyRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks)
}

func (s *scene) reported() []*keybrokerv1.ReportUsageRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reports)
}

func (s *scene) released() []*keybrokerv1.ReleaseKeyRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.releases)
}

// counted is what was reported in the end, over all leases of one scene: they
// have the same name, so each ends with its own final report.
func (s *scene) counted() (requests, input int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		if r.GetFinal() {
			requests += max(r.GetUsage().GetRequests(), 1)
			input += r.GetUsage().GetInputTokens()
		}
	}
	return requests, input
}

var small = Request{Pool: "p", Model: "m", InputTokens: 10, MaxOutputTokens: 10}

// What was fades as e to the power of its age, and is forgotten in the end.
func TestFade(t *testing.T) {
	for d := time.Duration(-1); d < 10*memory; d += memory / 16 {
		assert.InDelta(t, min(1, math.Exp(-d.Seconds()/memory.Seconds())), fade(d), 0.08, d)
	}
	assert.Zero(t, fade(4*memory))
}

// What requests of a shared lease have used is added up, in few reports.
func TestSharedReports(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		in := int64(7)
		for range 500 {
			l := s.lease(small)
			require.NoError(t, l.Report(t.Context(), Report{Status: 200}))
			require.NoError(t, l.Report(t.Context(), Report{Status: 200, Usage: Usage{InputTokens: &in}, Final: true}))
			require.NoError(t, l.Report(t.Context(), Report{Status: 200, Usage: Usage{InputTokens: &in}, Final: true})) // has ended
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, s.Close())
		requests, input := s.counted()
		assert.EqualValues(t, 500, requests)
		assert.EqualValues(t, 500*7, input)
		assert.Less(t, len(s.asked()), 20)
		assert.Less(t, len(s.reported()), 40)
	})
}

// Slow answers do not make reports follow one another.
func TestReportsAreInBatches(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.hears(func(*keybrokerv1.ReportUsageRequest) error { time.Sleep(20 * time.Millisecond); return nil })
		s.warm(small)
		before, start := len(s.reported()), time.Now()
		for time.Since(start) < 4*time.Second {
			require.NoError(t, s.lease(small).Report(t.Context(), Report{Status: 200, Final: true}))
			time.Sleep(2 * time.Millisecond)
		}
		assert.Less(t, len(s.reported())-before, 60)
	})
}

// A long wait in line is no reason to throw away what it brought.
func TestWaitInLine(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		time.Sleep(100 * time.Millisecond)
		s.shared(small).close()
		s.acquires(func(_ context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			time.Sleep(20 * time.Second)
			l := lease(r.GetRequests())
			l.Waited, l.StartWithin = durationpb.New(20*time.Second), durationpb.New(22*time.Second)
			return l, nil
		})
		asks := len(s.asked())
		for range 3 {
			l := s.lease(small)
			assert.Greater(t, l.StartLeft(), time.Second)
			require.NoError(t, l.Release(t.Context(), true))
		}
		assert.Len(t, s.asked(), asks+1)
		assert.LessOrEqual(t, s.asked()[asks].GetRequests(), int32(100), "for two seconds, not for 22")
	})
}

// Who joined a fetch that failed, and came after it began, asks again.
func TestFetchFails(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		s.shared(small).close()
		refused := status.Error(codes.ResourceExhausted, "no")
		first := true
		s.acquires(func(_ context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			if first {
				first = false
				time.Sleep(time.Second)
				return nil, refused
			}
			return lease(r.GetRequests()), nil
		})
		var all sync.WaitGroup
		all.Go(func() {
			_, err := s.Acquire(t.Context(), small)
			assert.ErrorIs(t, err, ErrExhausted, "it has waited all the time")
		})
		synctest.Wait()
		for range 20 {
			all.Go(func() {
				l, err := s.Acquire(t.Context(), small)
				if assert.NoError(t, err) {
					assert.NoError(t, l.Release(t.Context(), true))
				}
			})
		}
		all.Wait()
	})
}

// A request that waits for others waits no longer than it wants to.
func TestPatience(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		s.shared(small).close()
		s.acquires(func(ctx context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			wait := r.GetMaxWait().AsDuration()
			if deadline, ok := ctx.Deadline(); ok {
				wait = min(wait, time.Until(deadline)-50*time.Millisecond)
			}
			time.Sleep(min(wait, 30*time.Second))
			return nil, status.Error(codes.ResourceExhausted, "no")
		})
		go func() { _, _ = s.Acquire(t.Context(), small) }()
		synctest.Wait()
		deadline, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		canceled, cancel2 := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel2)
		for name, c := range map[string]struct {
			ctx   context.Context
			wait  time.Duration
			err   error
			after time.Duration
		}{
			"NoWait":   {t.Context(), NoWait, ErrExhausted, 0},
			"MaxWait":  {t.Context(), time.Second, ErrExhausted, time.Second},
			"deadline": {deadline, 0, ErrExhausted, 2 * time.Second},
			"cancel":   {canceled, 0, context.Canceled, time.Second},
		} {
			go func() {
				r := small
				r.MaxWait = c.wait
				start := time.Now()
				_, err := s.Acquire(c.ctx, r)
				assert.ErrorIs(t, err, c.err, name)
				assert.InDelta(t, c.after.Seconds(), time.Since(start).Seconds(), 0.1, name)
			}()
		}
		time.Sleep(time.Minute)
	})
}

// Requests of other sizes do not make what others can use go back.
func TestSizes(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		g := s.shared(small)
		large := small
		large.InputTokens = 1e6
		require.NoError(t, s.lease(large).Report(t.Context(), Report{Final: true}))
		assert.True(t, g == s.shared(small))
		for i := range 2000 { // they differ by a factor of 3
			r := small
			r.InputTokens = int64(5 + 10*(i%2))
			require.NoError(t, s.lease(r).Report(t.Context(), Report{Final: true}))
			time.Sleep(time.Millisecond)
		}
		assert.Less(t, len(s.asked()), 40)
		absurd := Request{Pool: "q", Model: "m", InputTokens: math.MaxInt64, MaxOutputTokens: math.MaxInt64}
		for range 100 {
			require.NoError(t, s.lease(absurd).Release(t.Context(), true))
		}
	})
}

// A refusal ends a shared lease, if it is about the key, and is told at once.
func TestSharedRefusals(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		g := s.shared(small)
		require.NoError(t, s.lease(small).Report(t.Context(), Report{Status: 400, Final: true}))
		require.True(t, g == s.lease(small).grant, "a wrong request is its own fault")
		require.NoError(t, s.lease(small).Report(t.Context(), Report{
			Status: 401, ErrorBody: []byte(`{"error": {"code": "invalid_api_key"}}`), Final: true,
		}))
		synctest.Wait()
		all := s.reported() // in any order: other leases end at the same time
		told := slices.IndexFunc(all, func(r *keybrokerv1.ReportUsageRequest) bool { return r.GetStatusCode() == 401 })
		require.GreaterOrEqual(t, told, 0, "the refusal")
		assert.True(t, all[told].GetNoMoreRequests())
		assert.True(t, g != s.lease(small).grant)
	})
}

// What could not be told is told when the broker is back, in order.
func TestBrokerIsAway(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		l := s.lease(Request{Pool: "p", TTL: time.Minute})
		s.down.Store(true)
		err := l.Report(t.Context(), Report{Status: 429, Header: http.Header{"Retry-After": {"7"}}})
		require.ErrorIs(t, err, ErrUnavailable)
		out := int64(5)
		err = l.Report(t.Context(), Report{Status: 200, Usage: Usage{OutputTokens: &out}, Final: true})
		require.ErrorIs(t, err, ErrUnavailable)
		require.NoError(t, l.Report(t.Context(), Report{Final: true}), "it has ended")
		time.Sleep(10 * time.Second)
		s.down.Store(false)
		time.Sleep(5 * time.Second)
		require.Len(t, s.reported(), 2)
		assert.EqualValues(t, 429, s.reported()[0].GetStatusCode())
		assert.Equal(t, "7", s.reported()[0].GetHeaders()["Retry-After"])
		assert.False(t, s.reported()[0].GetFinal())
		assert.True(t, s.reported()[1].GetFinal())
		assert.EqualValues(t, 5, s.reported()[1].GetUsage().GetOutputTokens())
	})
}

// It may be back while the client closes, or not; Close ends anyway.
func TestCloseWhileTheBrokerIsAway(t *testing.T) {
	for _, back := range []time.Duration{2 * time.Second, time.Hour} {
		play(t, func(t *testing.T, s *scene) {
			s.warm(small)
			l := s.lease(Request{Pool: "p", TTL: time.Minute})
			s.down.Store(true)
			require.ErrorIs(t, l.Release(t.Context(), true), ErrUnavailable)
			time.AfterFunc(back, func() { s.down.Store(false) })
			start := time.Now()
			require.NoError(t, s.Close())
			assert.LessOrEqual(t, time.Since(start), closeTimeout+2*time.Second)
			if back < closeTimeout {
				assert.Len(t, s.released(), 1)
				assert.NotEmpty(t, s.reported())
			}
			time.Sleep(back)
		})
	}
}

// A broker that was started anew does not know the lease: then it is over.
func TestUnknownLease(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		g := s.shared(small)
		s.hears(func(*keybrokerv1.ReportUsageRequest) error { return status.Error(codes.NotFound, "lease is unknown") })
		l := s.lease(small)
		require.NoError(t, l.Report(t.Context(), Report{Status: 200}))
		time.Sleep(time.Second)
		reports := len(s.reported())
		require.NoError(t, l.Report(t.Context(), Report{Status: 200, Final: true}))
		assert.True(t, g != s.lease(small).grant)
		time.Sleep(time.Second)
		assert.Len(t, s.reported(), reports)

		single := s.lease(Request{Pool: "p", TTL: time.Minute})
		require.ErrorIs(t, single.Report(t.Context(), Report{Status: 200}), ErrDenied)
		require.ErrorIs(t, single.Report(t.Context(), Report{Status: 200, Final: true}), ErrDenied)
	})
}

// Without a broker, what is held is used; then some requests are sent with the last
// key, if that is allowed.
func TestSafeRate(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		s.down.Store(true)
		require.NoError(t, s.lease(small).Report(t.Context(), Report{Final: true}), "what is held is used")
		time.Sleep(5 * time.Second)
		asks := len(s.asked())
		sent, start := 0, time.Now()
		for time.Since(start) < 10*time.Second {
			time.Sleep(10 * time.Millisecond)
			l, err := s.Acquire(t.Context(), small)
			if err != nil {
				require.ErrorIs(t, err, ErrUnavailable)
				continue
			}
			sent++
			assert.Equal(t, canary.Key("client-fake"), l.Key())
			assert.Positive(t, l.StartLeft())
			if sent%2 == 0 {
				require.NoError(t, l.Report(t.Context(), Report{Status: 200, Final: true}))
			} else {
				require.NoError(t, l.Release(t.Context(), true))
			}
		}
		assert.InDelta(t, 20, sent, 3)
		assert.Len(t, s.asked(), asks)
		s.down.Store(false)
		time.Sleep(5 * time.Second)
		assert.NotZero(t, len(s.asked()))
	}, WithSafeRate(2))
}

// No lease is kept in mind that cannot be told of, and no name forever.
func TestNothingPilesUp(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		for i := range 2000 {
			s.lease(Request{Pool: "p", Model: fmt.Sprint(i % 40)}) // and never ended
		}
		time.Sleep(5 * time.Second)
		assert.Empty(t, s.held())
		for i := range maxBatchers + 100 {
			s.batcher(&Request{Model: fmt.Sprint(i)})
		}
		assert.LessOrEqual(t, len(s.batchers), maxBatchers)
	})
}

// Acquire ends with Close, whoever waits.
func TestCloseEndsWaits(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.warm(small)
		s.shared(small).close()
		s.acquires(func(ctx context.Context, _ *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		var all sync.WaitGroup
		for _, r := range []Request{small, small, {Pool: "p", TTL: time.Minute}, {Pool: "q"}} {
			all.Go(func() {
				_, err := s.Acquire(t.Context(), r)
				assert.ErrorIs(t, err, ErrClosed)
				assert.False(t, errors.Is(err, context.Canceled))
			})
		}
		synctest.Wait()
		require.NoError(t, s.Close())
		all.Wait()
	})
}

// Many callers, few requests: each gets its turn.
func TestHammer(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.acquires(func(_ context.Context, r *keybrokerv1.AcquireKeyRequest) (*keybrokerv1.AcquireKeyResponse, error) {
			time.Sleep(5 * time.Millisecond)
			return lease(min(r.GetRequests(), 7)), nil
		})
		var got [30]int
		var all sync.WaitGroup
		for i := range got {
			all.Go(func() {
				for range 100 {
					l, err := s.Acquire(t.Context(), small)
					if !assert.NoError(t, err) {
						return
					}
					got[i]++
					time.Sleep(time.Millisecond)
					switch i % 3 {
					case 0:
						_ = l.Report(t.Context(), Report{Status: 200, Final: true})
					case 1:
						_ = l.Release(t.Context(), true)
					case 2:
						_ = l.Release(t.Context(), false)
					}
				}
			})
		}
		all.Wait()
		assert.Equal(t, 100, slices.Min(got[:]))
	})
}
