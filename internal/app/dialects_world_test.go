package app_test

// The words in which the stories of dialects_test.go are told: a whole broker, a
// simulated provider, and services that use both, on virtual time.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
	"github.com/keybroker/keybroker/server"
)

const (
	services = 4 // holders
	workers  = 3 // calls at one time, of each
)

// scene is a broker with two quota groups, a and b, of two keys and one, before
// a simulated provider that has an account for each.
type scene struct {
	*testing.T
	dialect
	provider *sandbox.Server
	operator keybrokerv1.AdminServiceClient
	keys     keybrokerv1.KeyBrokerServiceClient
	began    time.Time

	mu   sync.Mutex
	sent []request
	out  int // leases that were refused
}

// request is one that a service has sent.
type request struct {
	service, group, key, model string
	granted, ended             time.Time
	status                     int
	header                     http.Header
	body                       string
}

func (r *request) ok() bool { return r.status == http.StatusOK }

// play runs a story in a bubble: with the limits in the configuration, or to be
// learned.
func play(t *testing.T, name string, d dialect, limits string, story func(*scene)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, d, limits)
			story(s)
		})
	})
}

func open(t *testing.T, d dialect, limits string) *scene {
	s := &scene{T: t, dialect: d, began: time.Now()}
	cfg := parse(t, fmt.Sprintf(`
providers:
- name: p
  type: %s
  base_url: http://provider.test%s
  models: [m, n]
  flat_limits: %v
  lease: {start_within: %v, max_wait: 20s}
  groups: [{name: a%s}, {name: b%s}]
  keys:
  - {id: a1, key: sk-cnry7f3a-dialects-a1, group: a}
  - {id: a2, key: sk-cnry7f3a-dialects-a2, group: a}
  - {id: b1, key: sk-cnry7f3a-dialects-b1, group: b}
`, d.typ, d.base, d.flat, d.within(), limits, limits))
	s.provider = sandbox.New([]sandbox.Account{
		{Type: d.typ, Name: "org-a", Keys: []string{"sk-cnry7f3a-dialects-a1", "sk-cnry7f3a-dialects-a2"}, Default: d.limits},
		{Type: d.typ, Name: "org-b", Keys: []string{"sk-cnry7f3a-dialects-b1"}, Default: d.limits},
	}, sandbox.Options{Latency: d.answers(), Seed: 1, Now: time.Now})

	pools, keys := app.Domains(cfg), app.Keys(cfg)
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	log, err := audit.Open(filepath.Join(canary.Dir(t), "audit.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	srv, listener := server.New(server.Options{
		Broker: b, Logger: canary.Logger("the server's log"), Audit: server.Audit{Log: log},
		Keys: func(pool, key string) secret.Value { return keys[app.KeyName{Pool: pool, ID: key}] },
	}), bufconn.Listen(1<<16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(listener) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		srv.Stop(ctx)
		serving.Wait()
	})
	conn, err := grpc.NewClient("passthrough:///broker", append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	s.keys, s.operator = keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn)
	return s
}

// class is what the provider calls the class of the model m.
func (s *scene) class() string {
	if s.flat {
		return "core"
	}
	return "m"
}

// traffic lets all services call for some time, each worker with a pause after
// each call; without one, as fast as they get keys.
func (s *scene) traffic(d, pause time.Duration) { s.calls("m", d, pause) }

func (s *scene) calls(model string, d, pause time.Duration) {
	end := time.Now().Add(d)
	var running sync.WaitGroup
	for i := range services * workers {
		running.Go(func() {
			lot := rand.New(rand.NewPCG(uint64(i), uint64(end.UnixNano())))
			if pause > 0 {
				time.Sleep(time.Duration(lot.Int64N(int64(pause))))
			}
			for time.Now().Before(end) {
				if s.call(fmt.Sprint("service-", i%services), model, end, lot) {
					time.Sleep(pause)
				}
			}
		})
	}
	running.Wait()
}

// call is what every client does: acquire, send, report. It reports whether it
// got a key.
func (s *scene) call(service, model string, end time.Time, lot *rand.Rand) bool {
	ctx := metadata.AppendToOutgoingContext(s.Context(), server.HolderHeader, service)
	lease, err := s.keys.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{
		Pool: "p", Model: model, InputTokens: inputTokens, MaxOutputTokens: maxTokens,
		MaxWait: durationpb.New(min(20*time.Second, max(0, time.Until(end)))),
	})
	if err != nil {
		s.mu.Lock()
		s.out++
		s.mu.Unlock()
		time.Sleep(min(3*time.Second, max(time.Until(end), time.Millisecond)))
		return false
	}
	r := request{service: service, key: lease.GetKeyId(), group: lease.GetKeyId()[:1], model: model, granted: time.Now()}
	report := s.send(lease, &r, lot)
	_, err = s.keys.ReportUsage(ctx, report)
	r.ended = time.Now()
	s.mu.Lock()
	s.sent = append(s.sent, r)
	s.mu.Unlock()
	if err != nil {
		s.Errorf("report: %v", err)
	}
	return true
}

const inputTokens, outputTokens, maxTokens = 30, 20, 40

// send sends a request and gives what is to be reported.
func (s *scene) send(lease *keybrokerv1.AcquireKeyResponse, r *request, lot *rand.Rand) *keybrokerv1.ReportUsageRequest {
	method := http.MethodPost
	if s.body == "" {
		method = http.MethodGet
	}
	model := strings.NewReplacer("{model}", r.model, "{max}", fmt.Sprint(maxTokens))
	req, err := http.NewRequest(method, lease.GetBaseUrl()+model.Replace(s.path), strings.NewReader(model.Replace(s.body)))
	if err != nil {
		s.Error(err)
	}
	req.Header.Set(lease.GetAuthHeader(), lease.GetAuthPrefix()+lease.GetApiKey())
	req.Header.Set("x-sandbox-input-tokens", fmt.Sprint(inputTokens))
	req.Header.Set("x-sandbox-output-tokens", fmt.Sprint(outputTokens))
	client := http.Client{Transport: &wire{s.provider, lot}}
	resp, err := client.Do(req)
	if err != nil {
		s.Error(err)
	}
	defer resp.Body.Close()

	var reader provider.Body
	var text bytes.Buffer
	_, _ = io.Copy(io.MultiWriter(&reader, &text), resp.Body)
	r.status, r.header, r.body = resp.StatusCode, resp.Header, text.String()
	report := &keybrokerv1.ReportUsageRequest{
		LeaseId: lease.GetLeaseId(), StatusCode: int32(resp.StatusCode), Headers: map[string]string{}, Final: true,
	}
	for name := range resp.Header {
		if provider.Forward(name) {
			report.Headers[name] = resp.Header.Get(name)
		}
	}
	if resp.StatusCode >= 400 {
		report.ErrorBody = text.Bytes()[:min(text.Len(), 4096)]
	}
	if u := reader.Usage(); u.Input >= 0 {
		report.Usage = &keybrokerv1.Usage{InputTokens: new(u.Input), OutputTokens: new(max(u.Output, 0))}
	}
	return report
}

// wire carries requests to a handler and back, which takes a moment.
type wire struct {
	to  http.Handler
	lot *rand.Rand
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	moment := func() { time.Sleep(5*time.Millisecond + time.Duration(w.lot.Int64N(int64(15*time.Millisecond)))) }
	moment()
	rec := httptest.NewRecorder()
	w.to.ServeHTTP(rec, r)
	moment()
	return rec.Result(), nil
}

// since lists the requests of leases granted at or after a moment, to a group; or
// with "" to all.
func (s *scene) since(t time.Time, group string) (rs []request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.sent {
		if !r.granted.Before(t) && (group == "" || r.group == group) {
			rs = append(rs, r)
		}
	}
	return rs
}

func count(rs []request, such func(*request) bool) (n int) {
	for i := range rs {
		if such(&rs[i]) {
			n++
		}
	}
	return n
}

func first(rs []request, such func(*request) bool) *request {
	var found *request
	for i := range rs {
		if such(&rs[i]) && (found == nil || rs[i].granted.Before(found.granted)) {
			found = &rs[i]
		}
	}
	return found
}

func failed(r *request) bool { return !r.ok() }

// look is what an operator sees.
func (s *scene) look() *keybrokerv1.Pool {
	s.Helper()
	r, err := s.operator.GetPool(s.Context(), &keybrokerv1.GetPoolRequest{Pool: "p"})
	require.NoError(s, err)
	return r.GetPool()
}

func (s *scene) key(id string) *keybrokerv1.Key {
	s.Helper()
	for _, k := range s.look().GetKeys() {
		if k.GetId() == id {
			return k
		}
	}
	s.Fatalf("no key %s", id)
	return nil
}

func (s *scene) quota(group, model string) *keybrokerv1.Quota {
	s.Helper()
	for _, q := range s.look().GetQuotas() {
		if q.GetGroup() == group && (q.GetModelClass() == model || s.flat) {
			return q
		}
	}
	s.Fatalf("no quota %s %s", group, model)
	return nil
}

// rests reports whether a quota group is kept from a model.
func (s *scene) rests(group, model string) bool {
	s.Helper()
	q := s.quota(group, model)
	return q.GetCooldownUntil() != nil && q.GetCooldownUntil().AsTime().After(time.Now())
}

// closed reports whether a quota group has no room for a model, for whatever
// reason.
func (s *scene) closed(group, model string) bool {
	s.Helper()
	for _, l := range s.quota(group, model).GetLimits() {
		if l.GetRemaining() == 0 {
			return true
		}
	}
	return s.rests(group, model)
}

// refused is how many requests the provider has turned down for want of room.
func (s *scene) refused() (n int64) {
	for _, a := range s.provider.Stats().Accounts {
		for _, c := range a.Classes {
			n += c.Limited
		}
	}
	return n
}

// used is how much was used of the limit that was used most, in minutes of the
// limits of both accounts.
func (s *scene) used() float64 {
	byName, calls := map[string]float64{}, 0.0
	for _, a := range s.provider.Stats().Accounts {
		for _, c := range a.Classes {
			calls += float64(c.Admitted)
			for _, l := range c.Limits {
				if l.Window < day {
					byName[l.Name] += float64(l.Charged) / float64(l.Limit) * l.Window.Minutes() / 2
				}
			}
		}
	}
	most := calls * s.answers().Minutes() / max(1, float64(2*s.limits.Concurrency)) // slots are used for that long
	if s.limits.Concurrency == 0 {
		most = 0
	}
	for _, n := range byName {
		most = max(most, n)
	}
	return most
}
