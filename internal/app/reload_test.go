package app_test

// What can change while the broker runs: keys' values, who may do what, certificates,
// and the file that it is written down in. All else waits for a restart.

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// site is a folder with a broker's files, and the broker that runs on them.
type site struct {
	*testing.T
	dir    string
	app    *app.App
	logs   *journal
	tokens map[string][]string // by name
	file   siteFile
}

// siteFile is what its configuration says.
type siteFile struct {
	server string
	tokens []string // "name hash hash"
	rules  []string
	limit  int
	key    string // its id; k if empty
	extra  string // of the key: ", " and a limit
	off    string // of the pool
	more   string // of the providers
}

// journal keeps what is logged.
type journal struct{ lines }

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// establish runs a broker with one pool, p, of one key, k, for an operator and a service with
// two tokens each.
func establish(t *testing.T, changes ...func(*site)) *site {
	s := &site{T: t, dir: canary.Dir(t, "key*.txt", "keybroker.yaml", "*.key", ".new-*"), logs: &journal{}, tokens: map[string][]string{}}
	s.file = siteFile{server: "plaintext: true", limit: 1, rules: []string{"token:operator p acquire,inspect,admin", "token:service p acquire"}}
	for _, name := range []string{"operator", "service"} {
		line := name
		for range 2 {
			text, hash := access.NewToken()
			canary.Also(text)
			s.tokens[name] = append(s.tokens[name], text)
			line += " " + hash.String()
		}
		s.file.tokens = append(s.file.tokens, line)
	}
	s.write("key.txt", canary.Key("reload-one"))
	for _, change := range changes {
		change(s)
	}
	a, err := app.New(t.Context(), s.load(), app.Options{Logger: slog.New(twice{slog.NewTextHandler(s.logs, nil), canary.Logger("the broker's log").Handler()})})
	require.NoError(t, err)
	s.app = a
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-done)
		assert.NotContains(t, s.logs.String(), canary.Mark, "a key is in the log")
	})
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.Helper()
	require.NoError(s, os.WriteFile(s.path(name), []byte(text), 0o600))
}

func (s *site) read(name string) string {
	s.Helper()
	text, err := os.ReadFile(s.path(name))
	require.NoError(s, err)
	return string(text)
}

// load writes the configuration, and reads it as the program does.
func (s *site) load() *config.Config {
	s.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "server: {%s}\nstore: {type: memory}\naudit: {path: audit.jsonl}\naccess:\n  tokens:\n", s.file.server)
	for _, t := range s.file.tokens {
		words := strings.Fields(t)
		fmt.Fprintf(&b, "  - {name: %s, sha256: [%s]}\n", words[0], strings.Join(words[1:], ", "))
	}
	b.WriteString("  rules:\n")
	for _, r := range s.file.rules {
		words := strings.Fields(r)
		fmt.Fprintf(&b, "  - {identities: [%q], pools: [%q], verbs: [%s]}\n", words[0], words[1], words[2])
	}
	fmt.Fprintf(&b, "providers:\n- name: p\n  type: anthropic\n  flat_limits: true\n  lease: {max_wait: 10m}\n  %s\n  keys:\n  - {id: %s, key_file: key.txt, max_concurrency: %d%s}\n%s",
		s.file.off, cmp.Or(s.file.key, "k"), s.file.limit, s.file.extra, s.file.more)
	s.write("keybroker.yaml", b.String())
	cfg, err := config.Load(s.path("keybroker.yaml"), plaintext())
	require.NoError(s, err)
	cfg.Server.Listen = "127.0.0.1:0"
	return cfg
}

// reading is load for those who are ready for errors.
func (s *site) reading() (*config.Config, error) { return s.load(), nil }

// reload changes something and puts it in force.
func (s *site) reload(change func()) {
	s.Helper()
	change()
	require.NoError(s, s.app.Reload(s.reading))
}

// guest is somebody with a connection of their own.
type guest struct {
	*site
	keybrokerv1.KeyBrokerServiceClient
	operator keybrokerv1.AdminServiceClient
	token    string
	dials    *atomic.Int32
}

// as connects somebody who has one of the tokens.
func (s *site) as(name string, nth int) *guest {
	s.Helper()
	return s.over(insecure.NewCredentials(), s.tokens[name][nth])
}

func (s *site) over(creds credentials.TransportCredentials, token string) *guest {
	s.Helper()
	g := &guest{site: s, token: token, dials: &atomic.Int32{}}
	conn, err := grpc.NewClient("passthrough:///"+s.app.Addr().String(), append(wiretap.Options(), grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			g.dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}))...)
	require.NoError(s, err)
	s.Cleanup(func() { conn.Close() })
	g.KeyBrokerServiceClient, g.operator = keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn)
	return g
}

func (g *guest) ctx() context.Context {
	return metadata.AppendToOutgoingContext(g.Context(), "authorization", "Bearer "+g.token)
}

// take leases the key, which must succeed.
func (g *guest) take() *keybrokerv1.AcquireKeyResponse {
	g.Helper()
	l, err := g.AcquireKey(g.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(g, err)
	return l
}

func (g *guest) give(l *keybrokerv1.AcquireKeyResponse) {
	g.Helper()
	r, err := g.ReleaseKey(g.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
	require.NoError(g, err)
	require.False(g, r.GetAlreadySettled())
}

// try leases the key and gives it back, and tells how that went: a code and a reason.
func (g *guest) try() string {
	g.Helper()
	l, err := g.AcquireKey(g.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	if err == nil {
		g.give(l)
	}
	return outcome(err)
}

func outcome(err error) string {
	text := status.Code(err).String()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			text += " " + info.GetReason()
		}
	}
	return text
}

const (
	fine      = "OK"
	forbidden = "PermissionDenied FORBIDDEN"
	hidden    = "PermissionDenied POOL_UNKNOWN_OR_FORBIDDEN"
	nobody    = "Unauthenticated UNAUTHENTICATED"
	exhausted = "ResourceExhausted KEYS_EXHAUSTED"
	noneUsed  = "ResourceExhausted NO_USABLE_KEY"
)

// look is the pool as an operator sees it.
func (g *guest) look() *keybrokerv1.Pool {
	g.Helper()
	r, err := g.operator.GetPool(g.ctx(), &keybrokerv1.GetPoolRequest{Pool: "p"})
	require.NoError(g, err)
	return r.GetPool()
}

func TestNewValueOfAKeyIsUsedAtOnce(t *testing.T) {
	s := establish(t, func(s *site) { s.file.limit = 2 })
	service, operator := s.as("service", 0), s.as("operator", 0)
	for _, l := range []struct {
		*guest
		*keybrokerv1.AcquireKeyResponse
	}{{service, service.take()}, {operator, operator.take()}} {
		require.Equal(t, canary.Key("reload-one"), l.GetApiKey())
		_, err := l.ReportUsage(l.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 401, Final: true})
		require.NoError(t, err)
	}
	require.Equal(t, noneUsed, service.try(), "the provider refuses the key, and two say so")

	s.reload(func() {})
	require.Equal(t, noneUsed, service.try(), "nothing is new")
	assert.Equal(t, keybrokerv1.Health_HEALTH_QUARANTINED, operator.look().GetKeys()[0].GetHealth())

	s.reload(func() { s.write("key.txt", canary.Key("reload-two")) })
	l := service.take()
	assert.Equal(t, canary.Key("reload-two"), l.GetApiKey())
	assert.Equal(t, keybrokerv1.Health_HEALTH_HEALTHY, operator.look().GetKeys()[0].GetHealth(), "back in use")
	service.give(l)
	assert.Contains(t, s.logs.String(), `msg="key has a new value" pool=p key=k`)
}

// A key of a provider with several pools is renewed once.
func TestANewValueIsToldOnce(t *testing.T) {
	s := establish(t, func(s *site) { s.file.more = "  pools: [{name: batch}, {name: slow}]\n" })
	s.reload(func() { s.write("key.txt", canary.Key("reload-two")) })
	logs := s.logs.String()
	assert.Equal(t, 1, strings.Count(logs, `msg="key has a new value"`))
	assert.Contains(t, logs, `msg="key has a new value" pool=p key=k`)
	assert.Contains(t, logs, "keys_changed=1")
}

func TestRulesAreInForceAtTheNextCall(t *testing.T) {
	s := establish(t)
	service := s.as("service", 0)
	operators := s.file.rules[0]
	for _, c := range []struct {
		rule       string
		take, look string
	}{
		{"token:service p acquire", fine, forbidden},
		{"token:service p inspect", forbidden, fine},
		{"token:service p acquire,inspect", fine, fine},
		{"token:service other-* acquire,inspect", hidden, hidden},
		{"token:other-* p acquire", forbidden, forbidden},
		{"token:service * acquire", fine, forbidden},
	} {
		s.reload(func() { s.file.rules = []string{operators, c.rule} })
		assert.Equal(t, c.take, service.try(), c.rule)
		_, err := service.operator.GetPool(service.ctx(), &keybrokerv1.GetPoolRequest{Pool: "p"})
		assert.Equal(t, c.look, outcome(err), c.rule)
	}
	assert.EqualValues(t, 1, service.dials.Load(), "all on one connection")
}

func TestWaiterWhoLosesItsRightGetsNothing(t *testing.T) {
	s := establish(t)
	service, operator := s.as("service", 0), s.as("operator", 0)
	held := operator.take()
	ctx, cancel := context.WithCancel(operator.ctx())
	defer cancel()
	watch, err := operator.operator.WatchPool(ctx, &keybrokerv1.WatchPoolRequest{Pool: "p", MinInterval: durationpb.New(100 * time.Millisecond)})
	require.NoError(t, err)
	waiting := make(chan error, 1)
	until := func(waiters int32) {
		for {
			r, err := watch.Recv()
			require.NoError(t, err)
			if r.GetPool().GetSummary().GetWaiters() == waiters {
				return
			}
		}
	}
	until(0)
	go func() {
		_, err := service.AcquireKey(service.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "p", MaxWait: durationpb.New(10 * time.Minute)})
		waiting <- err
	}()
	until(1)
	s.reload(func() { s.file.rules = s.file.rules[:1] })
	operator.give(held)
	assert.Equal(t, hidden, outcome(<-waiting))
	assert.Zero(t, operator.look().GetSummary().GetOpenLeases(), "nothing stays held")
	assert.Equal(t, fine, operator.try(), "its place is free")
	assert.NotContains(t, s.read("audit.jsonl"), `"granted","method":"AcquireKey","holder":"token:service"`)
}

func TestTokenThatIsRemovedStopsAtOnce(t *testing.T) {
	s := establish(t)
	old, young, operator := s.as("service", 0), s.as("service", 1), s.as("operator", 0)
	held := old.take()
	words := strings.Fields(s.file.tokens[1])
	s.reload(func() { s.file.tokens[1] = words[0] + " " + words[2] })
	assert.Equal(t, nobody, old.try())
	_, err := old.ReleaseKey(old.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: held.GetLeaseId()})
	assert.Equal(t, nobody, outcome(err))
	young.give(held) // they are one and the same
	assert.Equal(t, fine, young.try())

	fresh, hash := access.NewToken()
	s.reload(func() { s.file.tokens[1] = words[0] + " " + hash.String() })
	assert.Equal(t, nobody, young.try())
	assert.Equal(t, fine, s.over(insecure.NewCredentials(), fresh).try(), "a new one is good at once")
	assert.Equal(t, fine, operator.try(), "somebody else notices nothing")
	assert.EqualValues(t, 1, old.dials.Load()+young.dials.Load()-operator.dials.Load())
}

func TestWhatTakesARestartIsOnlySaid(t *testing.T) {
	const warning = "that takes effect with a restart"
	for _, c := range []struct {
		name   string
		change func(s *site)
		warned bool
	}{
		{"nothing", func(*site) {}, false},
		{"a key's value", func(s *site) { s.write("key.txt", canary.Key("reload-two")) }, false},
		{"rules", func(s *site) { s.file.rules = append(s.file.rules, "token:service p inspect") }, false},
		{"tokens", func(s *site) { s.file.tokens[1] = strings.Join(strings.Fields(s.file.tokens[1])[:2], " ") }, false},
		{"a limit", func(s *site) { s.file.limit = 7 }, true},
		{"where it listens", func(s *site) { s.file.server = `plaintext: true, admin_listen: "127.0.0.1:1"` }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := establish(t)
			service, operator := s.as("service", 0), s.as("operator", 0)
			before := operator.look()
			s.reload(func() { c.change(s) })
			assert.Equal(t, c.warned, strings.Contains(s.logs.String(), warning))
			after := operator.look()
			assert.Len(t, after.GetKeys(), len(before.GetKeys()))
			held := service.take()
			assert.Equal(t, exhausted, service.try(), "the limit is what it was")
			service.give(held)
			_, err := service.AcquireKey(service.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "q"})
			assert.Equal(t, hidden, outcome(err), "there is no such pool yet")
		})
	}
}

// Nothing is taken of a configuration with other keys: what its author has taken out
// would go on being leased, and a credential could have two names.
func TestOtherKeysAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *site)
		says   string
	}{
		{"one more", func(s *site) {
			s.write("key2.txt", canary.Key("reload-second"))
			s.file.more = "  - {id: another, key_file: key2.txt, max_concurrency: 9}\n"
		}, "(p/another added)"},
		{"a provider", func(s *site) {
			s.file.more = "- name: q\n  type: openai\n  keys: [{key: " + canary.Key("reload-q") + "}]\n"
			s.file.rules = append(s.file.rules, "token:service q acquire")
		}, "(pool q added)"},
		{"a further pool", func(s *site) { s.file.more = "  pools: [{name: batch}, {name: slow}]\n" }, "(pool batch added, pool slow added)"},
		{"another name", func(s *site) { s.file.key = "renamed" }, "(p/k removed, p/renamed added)"},
		{"switched off", func(s *site) { s.file.off = "enabled: false" }, "(pool p removed)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := establish(t)
			service := s.as("service", 0)
			s.write("key.txt", canary.Key("reload-two"))
			c.change(s)
			require.ErrorContains(t, s.app.Reload(s.reading), c.says)
			l := service.take()
			assert.Equal(t, canary.Key("reload-one"), l.GetApiKey(), "nothing is in force")
			service.give(l)
		})
	}
}

// A pool that is another provider's now would have its old keys and their new values.
func TestAPoolOfAnotherProviderIsRefused(t *testing.T) {
	q := "- name: q\n  type: openai\n  keys: [{key: " + canary.Key("reload-q") + "}]\n"
	s := establish(t, func(s *site) { s.file.more = "  pools: [{name: batch}]\n" + q })
	s.file.more = q + "  pools: [{name: batch}]\n"
	require.ErrorContains(t, s.app.Reload(s.reading), "(pool batch added, pool batch removed)")
}

// A new value is a new credential of the same account: what the account has used, and
// how long it is to rest, stay as they are.
func TestNewValueHasTheOldLimits(t *testing.T) {
	s := establish(t, func(s *site) { s.file.limit, s.file.extra = 9, ", rpd_limit: 5" })
	service := s.as("service", 0)
	granted := 0
	for i := range 12 {
		if service.try() == fine {
			granted++
		}
		s.reload(func() { s.write("key.txt", canary.Key(fmt.Sprint("reload-", i))) })
	}
	assert.Equal(t, 4, granted, "five a day, but for what may be on its way")
}

// Those who still have the old value hear that it is not valid any more. That says
// nothing about the new one.
func TestLateRefusalsAreAboutTheOldValue(t *testing.T) {
	s := establish(t, func(s *site) { s.file.limit = 9 })
	service := s.as("service", 0)
	old := []*keybrokerv1.AcquireKeyResponse{service.take(), service.take()}
	s.reload(func() { s.write("key.txt", canary.Key("reload-two")) })
	for _, l := range old {
		_, err := service.ReportUsage(service.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 401, Final: true})
		require.NoError(t, err)
	}
	assert.Equal(t, fine, service.try())
	l := service.take()
	_, err := service.ReportUsage(service.ctx(), &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 401, Final: true})
	require.NoError(t, err)
	assert.Equal(t, exhausted, service.try(), "and of the new one it does")
}

func TestConfigurationThatIsWrongChangesNothing(t *testing.T) {
	s := establish(t)
	service := s.as("service", 0)
	require.ErrorContains(t, s.app.Reload(func() (*config.Config, error) { return nil, errors.New("not even YAML") }), "not even YAML")
	assert.Equal(t, fine, service.try())

	s.file.rules = s.file.rules[:1]
	s.write("key.txt", canary.Key("reload-two"))
	cfg := s.load()
	cfg.Access.Tokens[0].SHA256 = []string{"no hash"}
	require.ErrorContains(t, s.app.Reload(func() (*config.Config, error) { return cfg, nil }), `token "operator"`)
	cfg = s.load()
	cfg.Access.Rules[0].Identities = []string{"everybody"}
	require.ErrorContains(t, s.app.Reload(func() (*config.Config, error) { return cfg, nil }), `identity "everybody"`)
	l := service.take()
	assert.Equal(t, canary.Key("reload-one"), l.GetApiKey())
	service.give(l)
}

func TestAuditLogIsOpenedAnew(t *testing.T) {
	s := establish(t)
	service := s.as("service", 0)
	require.Equal(t, fine, service.try())
	require.NoError(t, os.Rename(s.path("audit.jsonl"), s.path("audit.1")))
	require.Equal(t, fine, service.try())
	moved := s.read("audit.1")
	assert.Equal(t, 2, strings.Count(moved, `"granted"`), "until it is told, it goes on there")
	require.NoError(t, s.app.Reload(s.reading))
	require.Equal(t, fine, service.try())
	assert.Equal(t, moved, s.read("audit.1"))
	assert.Equal(t, 1, strings.Count(s.read("audit.jsonl"), `"granted"`))

	require.NoError(t, os.Rename(s.path("audit.jsonl"), s.path("audit.2")))
	require.NoError(t, os.Mkdir(s.path("audit.jsonl"), 0o700))
	s.file.rules[1] = "token:service p acquire,inspect"
	require.ErrorContains(t, s.app.Reload(s.reading), "audit.path")
	require.Equal(t, fine, service.try(), "the old file stays in use")
	assert.Equal(t, 2, strings.Count(s.read("audit.2"), `"granted"`))
	_, err := service.operator.GetPool(service.ctx(), &keybrokerv1.GetPoolRequest{Pool: "p"})
	assert.Equal(t, fine, outcome(err), "and the rest of what was read is in force")
}

// withTLS has development certificates for the server and two services.
func withTLS(s *site) {
	s.develop("invoices.internal")
	s.file.server = "tls: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt}"
	s.file.rules = append(s.file.rules, "dns:*.internal p acquire")
}

func (s *site) develop(clients ...string) {
	_, err := certs.Develop(s.dir, certs.DefaultHosts, clients, time.Now())
	require.NoError(s, err)
}

// certified connects somebody by a certificate of the folder.
func (s *site) certified(name string) *guest {
	pair, err := tls.LoadX509KeyPair(s.path(name+".crt"), s.path(name+".key"))
	require.NoError(s, err)
	roots := x509.NewCertPool()
	require.True(s, roots.AppendCertsFromPEM([]byte(s.read("ca.crt"))))
	g := s.over(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}}), "")
	g.tokens = nil
	return g
}

// shown is the serial number of the server's certificate on the guest's connection.
func (g *guest) shown() string {
	g.Helper()
	var p peer.Peer
	l, err := g.AcquireKey(g.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"}, grpc.Peer(&p))
	require.NoError(g, err)
	_, err = g.ReleaseKey(g.Context(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
	require.NoError(g, err)
	return p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].SerialNumber.String()
}

func TestBrokenCertificateKeepsTheOldOne(t *testing.T) {
	s := establish(t, withTLS)
	connected := s.certified("invoices.internal")
	first := connected.shown()
	whole := s.read("server.crt")
	s.write("server.crt", whole[:len(whole)/2])
	for range 2 {
		require.NoError(t, s.app.Reload(s.reading), "it is logged, and the rest goes on")
		assert.Equal(t, first, connected.shown())
		assert.Equal(t, first, s.certified("invoices.internal").shown(), "a new connection sees the old one")
	}
	assert.Equal(t, 2, strings.Count(s.logs.String(), "certificates cannot be read again"))
	s.write("server.crt", whole)
	s.develop()
	require.NoError(t, s.app.Reload(s.reading))
	assert.Contains(t, s.logs.String(), "certificates read again")
	assert.Equal(t, first, connected.shown(), "an open connection goes on")
	assert.NotEqual(t, first, s.certified("invoices.internal").shown())
	assert.EqualValues(t, 1, connected.dials.Load())
}

func TestAuthorityThatIsReplacedShutsItsClientsOut(t *testing.T) {
	s := establish(t, withTLS)
	connected := s.certified("invoices.internal")
	connected.shown()
	for _, name := range []string{"ca.crt", "ca.key", "server.crt", "server.key", "invoices.internal.crt", "invoices.internal.key"} {
		require.NoError(t, os.Remove(s.path(name)))
	}
	s.develop("reports.internal")
	require.NoError(t, s.app.Reload(s.reading))
	_, err := connected.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	assert.Equal(t, codes.Unavailable, status.Code(err), "it is hung up")
	s.certified("reports.internal").shown()
}
