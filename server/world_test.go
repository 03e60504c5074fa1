package server_test

// The words in which this package's tests tell their stories: a whole broker
// behind an in-memory connection, those who call it, and what operators see.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/metrics"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
	"github.com/keybroker/keybroker/pool"
	"github.com/keybroker/keybroker/server"
)

const plenty = 1_000_000_000 // a limit that never binds

// limits are those that Anthropic has, by the minute.
func limits(requests, input, output int64) []pool.Limit {
	var ls []pool.Limit
	for d, n := range []int64{requests, input, output} {
		ls = append(ls, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	return ls
}

// slots limit calls at one time, and nothing else.
func slots(n int64) []pool.Limit {
	return append(limits(plenty, plenty, plenty), pool.Limit{Dimension: provider.Concurrency, Amount: n})
}

func key(id string, limits []pool.Limit) pool.Key { return pool.Key{ID: id, Limits: limits} }

// onePool is a pool of Anthropic keys whose limits hold for all models.
func onePool(name string, keys ...pool.Key) broker.DomainConfig {
	dialect, _ := provider.Lookup("anthropic")
	return broker.DomainConfig{
		Config: pool.Config{Name: name, Dialect: dialect, Flat: true, Keys: keys},
		Pools: []broker.PoolConfig{{
			Rules:   pool.Rules{Name: name, StartWithin: 2 * time.Second},
			BaseURL: dialect.BaseURL, DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: 30 * time.Second,
		}},
	}
}

// keyValue is the credential of a pool's key; its beginning marks it.
func keyValue(pool, key string) string { return canary.Key("server-" + pool + "-" + key) }

const marker = "sk-" + canary.Mark

// world is a whole broker and what it tells the outside.
type world struct {
	*testing.T
	broker      *broker.Broker
	server      *server.Server
	main, admin *bufconn.Listener
	logs        *record
	calls       *callLog
}

// begin serves some pools on one listener.
func begin(t *testing.T, pools ...broker.DomainConfig) *world {
	return beginWith(t, server.Options{}, pools...)
}

func beginWith(t *testing.T, o server.Options, pools ...broker.DomainConfig) *world {
	t.Helper()
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	w := &world{T: t, broker: b, logs: &record{}, calls: &callLog{}, main: bufconn.Listen(1 << 16)}
	counts := metrics.New(metrics.Sources{Pools: b.List, Quotas: b.Page})
	o.Broker, o.Observe = b, func(method string, code codes.Code, took time.Duration) {
		w.calls.note(method, code, took)
		counts.Observe(method, code, took)
	}
	o.Logger = canary.Logger("the server's log", w.logs)
	if o.Audit.Log == nil {
		o.Audit.Log, err = audit.Open(filepath.Join(canary.Dir(t), "audit.jsonl"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = o.Audit.Log.Close() })
	}
	if o.Keys == nil {
		o.Keys = func(pool, key string) secret.Value { return secret.New(keyValue(pool, key)) }
	}
	w.server = server.New(o)
	var serving sync.WaitGroup
	serving.Go(func() { _ = w.server.Serve(w.main) })
	w.admin = w.main
	if o.SplitAdmin {
		w.admin = bufconn.Listen(1 << 16)
		serving.Go(func() { _ = w.server.ServeAdmin(w.admin) })
	}
	t.Cleanup(func() {
		scrape := httptest.NewRecorder()
		counts.Write(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil), func(string) bool { return true })
		canary.Text("metrics", scrape.Body.String())
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		w.server.Stop(ctx)
		serving.Wait()
	})
	return w
}

// caller is somebody with a connection.
type caller struct {
	*world
	keybrokerv1.KeyBrokerServiceClient
	operator keybrokerv1.AdminServiceClient
	conn     *grpc.ClientConn
	name     string
	dials    *atomic.Int32 // connections made so far
}

// as connects a holder; each has a connection of its own, which hangs up before
// the server stops.
func (w *world) as(name string, options ...grpc.DialOption) *caller {
	w.Helper()
	return w.dialTo(w.main, name, options...)
}

func (w *world) dialTo(l *bufconn.Listener, name string, options ...grpc.DialOption) *caller {
	w.Helper()
	return w.dial(l, insecure.NewCredentials(), name, options...)
}

func (w *world) dial(l *bufconn.Listener, creds credentials.TransportCredentials, name string, options ...grpc.DialOption) *caller {
	w.Helper()
	dials := &atomic.Int32{}
	conn, err := grpc.NewClient("passthrough:///broker", append(append(wiretap.Options(), options...),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dials.Add(1)
			return l.DialContext(ctx)
		}),
	)...)
	require.NoError(w, err)
	w.Cleanup(func() { conn.Close() })
	return &caller{w, keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn), conn, name, dials}
}

// ctx says who calls.
func (c *caller) ctx() context.Context { return c.in(c.Context()) }

func (c *caller) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, server.HolderHeader, c.name)
}

// lease acquires a key, which must succeed.
func (c *caller) lease(r *keybrokerv1.AcquireKeyRequest) *keybrokerv1.AcquireKeyResponse {
	c.Helper()
	l, err := c.AcquireKey(c.ctx(), r)
	require.NoError(c, err)
	return l
}

func (c *caller) release(id string, unused bool) {
	c.Helper()
	r, err := c.ReleaseKey(c.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: id, Unused: unused})
	require.NoError(c, err)
	require.False(c, r.GetAlreadySettled())
}

// look is what an operator sees of a pool.
func (c *caller) look(name string) *keybrokerv1.Pool {
	c.Helper()
	r, err := c.operator.GetPool(c.Context(), &keybrokerv1.GetPoolRequest{Pool: name})
	require.NoError(c, err)
	return r.GetPool()
}

// idle requires that nobody holds or waits for anything in the pool.
func (c *caller) idle(name string) {
	c.Helper()
	p := c.look(name)
	require.Zero(c, p.GetSummary().GetOpenLeases(), "open leases")
	require.Zero(c, p.GetSummary().GetWaiters(), "waiters")
	for _, q := range p.GetQuotas() {
		for _, l := range q.GetLimits() {
			require.Zero(c, l.GetHeld(), "held %v", l.GetDimension())
		}
	}
}

// state is what a pool is like, seen by those whom no rule binds.
func (w *world) state(name string) pool.Snapshot {
	w.Helper()
	v, err := w.broker.Inspect(name, pool.Query{})
	require.NoError(w, err)
	return v.Snapshot
}

// result is what a call got, and when.
type result struct {
	lease   *keybrokerv1.AcquireKeyResponse
	err     error
	trailer metadata.MD
	after   time.Duration
}

// ask acquires a key in the background.
func (c *caller) ask(ctx context.Context, r *keybrokerv1.AcquireKeyRequest) <-chan result {
	done, start := make(chan result, 1), time.Now()
	go func() {
		var got result
		got.lease, got.err = c.AcquireKey(c.in(ctx), r, grpc.Trailer(&got.trailer))
		got.after = time.Since(start)
		done <- got
	}()
	return done
}

// waitFor asks for a key of a pool and is ready to wait.
func waitFor(pool string, wait time.Duration) *keybrokerv1.AcquireKeyRequest {
	return &keybrokerv1.AcquireKeyRequest{Pool: pool, MaxWait: durationpb.New(wait)}
}

// detail finds one kind of detail in a status, nil if there is none.
func detail[T any](err error) (found T) {
	for _, d := range status.Convert(err).Details() {
		if v, ok := d.(T); ok {
			return v
		}
	}
	return found
}

// requireFailure checks code, reason and domain.
func requireFailure(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	require.Equal(t, code, status.Code(err), "%v", err)
	info := detail[*errdetails.ErrorInfo](err)
	require.NotNil(t, info, "no ErrorInfo: %v", err)
	require.Equal(t, reason, info.GetReason())
	require.Equal(t, "keybroker", info.GetDomain())
}

// record keeps what is logged.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

var _ io.Writer = (*record)(nil)

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// finished is a call that the Observe hook heard of.
type finished struct {
	method string
	code   codes.Code
	took   time.Duration
}

type callLog struct {
	mu  sync.Mutex
	all []finished
}

func (c *callLog) note(method string, code codes.Code, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, finished{method, code, took})
}

func (c *callLog) list() []finished {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// policy gives tokens, each valid by the texts given, and rules.
func policy(t *testing.T, tokens map[string][]string, rules ...access.Rule) *access.Policy {
	var list []access.Token
	for name, valid := range tokens {
		token := access.Token{Name: name}
		for _, text := range valid {
			if access.LooksLikeToken(text) {
				canary.Also(text)
			}
			token.Hashes = append(token.Hashes, access.HashToken(text))
		}
		list = append(list, token)
	}
	p, err := access.New(list, rules)
	require.NoError(t, err)
	return p
}

// always is a policy that never changes.
func always(p *access.Policy) func() *access.Policy { return func() *access.Policy { return p } }

// allow is a rule for some pools.
func allow(verbs access.Verb, pools []string, identities ...string) access.Rule {
	return access.Rule{Identities: identities, Pools: pools, Verbs: verbs}
}

// bearer gives authorizations, as they are.
func bearer(ctx context.Context, authorizations ...string) context.Context {
	for _, a := range authorizations {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a)
	}
	return ctx
}

// authority is a certificate authority of the test's own.
type authority struct {
	*testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{T: t}
	c := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "an authority"}, NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// sign makes a certificate; without a key of its own, one that signs itself.
func (a *authority) sign(template *x509.Certificate) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a, err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(a, err)
	parent, by := a.cert, a.key
	if by == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	require.NoError(a, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(a, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// issue makes a leaf for an hour, changed in the ways given.
func (a *authority) issue(usage x509.ExtKeyUsage, changes ...func(*x509.Certificate)) tls.Certificate {
	a.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true,
	}
	for _, change := range changes {
		change(template)
	}
	return a.sign(template)
}

// named puts a SPIFFE ID or a DNS name into a certificate.
func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		if strings.HasPrefix(name, "spiffe://") {
			u, _ := url.Parse(name)
			c.URIs = append(c.URIs, u)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
}

func (a *authority) client(name string) tls.Certificate {
	return a.issue(x509.ExtKeyUsageClientAuth, named(name))
}

// server is the broker's certificate; the second name is one that it also has.
func (a *authority) server() tls.Certificate {
	return a.issue(x509.ExtKeyUsageServerAuth, named("broker.internal"), named("chief.internal"))
}

// dialer is a client that trusts the authority and shows a certificate, if one is
// given, whether it is asked for that one or not.
func (a *authority) dialer(shows ...tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "broker.internal"}
	c.RootCAs.AddCert(a.cert)
	if len(shows) > 0 {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shows[0], nil }
	}
	return c
}

// over connects a client of the authority that shows a certificate, if one is given.
func (a *authority) over(w *world, shows ...tls.Certificate) *caller {
	return w.dial(w.main, credentials.NewTLS(a.dialer(shows...)), "")
}

// files are those of a server that serves TLS.
type files struct {
	*testing.T
	certs.Files
}

// newFiles writes the server's certificate and whom it trusts.
func newFiles(t *testing.T, server tls.Certificate, trusted ...*authority) *files {
	dir := t.TempDir()
	f := &files{t, certs.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}}
	if len(trusted) > 0 {
		f.CA = filepath.Join(dir, "ca.crt")
		f.trust(trusted...)
	}
	f.install(server)
	return f
}

func (f *files) install(c tls.Certificate) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	require.NoError(f, err)
	f.write(f.Cert, "CERTIFICATE", c.Leaf.Raw)
	canary.Also(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	f.write(f.Key, "PRIVATE KEY", der)
}

func (f *files) trust(list ...*authority) {
	var all [][]byte
	for _, a := range list {
		all = append(all, a.cert.Raw)
	}
	f.write(f.CA, "CERTIFICATE", all...)
}

func (f *files) write(path, kind string, blocks ...[]byte) {
	f.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	require.NoError(f, os.WriteFile(path, text, 0o600))
}

func (f *files) open() *certs.Source {
	f.Helper()
	s, err := certs.Open(f.Files)
	require.NoError(f, err)
	return s
}

// reload requires that a source finds something new.
func reload(t *testing.T, s *certs.Source) {
	t.Helper()
	changed, err := s.Reload()
	require.NoError(t, err)
	require.True(t, changed)
}
