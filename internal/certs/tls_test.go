package certs

// What connections see, by real handshakes.

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReloadLeavesOpenConnectionsAlone(t *testing.T) {
	f := newFolder(t)
	s := f.open()
	server := s.ServerConfig(tls.RequireAndVerifyClientCert)
	client := f.dialer(f.client("a.internal"))
	open, err := shake(t, server, client)
	require.NoError(t, err)
	assert.Equal(t, "h2", open.server.ConnectionState().NegotiatedProtocol)

	f.install(f.server(time.Now()))
	f.reload(s)
	open.echo(t)
	fresh, err := shake(t, server, client)
	require.NoError(t, err)
	assert.NotEqual(t, open.serial(), fresh.serial())
	assert.Equal(t, s.state.Load().cert.Leaf.SerialNumber.String(), fresh.serial())
	assert.Equal(t, "h2", fresh.server.ConnectionState().NegotiatedProtocol)
	open.echo(t)
}

func TestReloadTakesTrustFromACA(t *testing.T) {
	f, other := newFolder(t), newFolder(t)
	f.write(f.files.CA, inPEM(f.ca.cert, other.ca.cert))
	s := f.open()
	server := s.ServerConfig(tls.RequireAndVerifyClientCert)
	stays, leaves := f.dialer(f.client("stays.internal")), f.dialer(other.client("leaves.internal"))
	open, err := shake(t, server, leaves)
	require.NoError(t, err)
	chain := open.server.ConnectionState().PeerCertificates
	require.NoError(t, s.Verify(chain, time.Now()))
	before := s.Generation()

	f.write(f.files.CA, inPEM(f.ca.cert))
	f.reload(s)
	assert.Equal(t, before+1, s.Generation())
	assert.ErrorAs(t, s.Verify(chain, time.Now()), &x509.UnknownAuthorityError{})
	_, err = shake(t, server, leaves)
	require.Error(t, err)
	_, err = shake(t, server, stays)
	require.NoError(t, err)
}

func TestWhomAServerLetsIn(t *testing.T) {
	f, other := newFolder(t), newFolder(t)
	nobody, known, unknown := []issued(nil), []issued{f.client("a.internal")}, []issued{other.client("a.internal")}
	serverOnly := []issued{f.server(time.Now())} // its certificate may not act as a client
	late := []issued{f.issue("a.internal", KindClient, time.Now().Add(-devLeaf-time.Hour))}
	for _, c := range []struct {
		name  string
		noCA  bool
		auth  tls.ClientAuthType
		shows []issued
		max   uint16
		in    bool
		sees  int // certificates that the server got
	}{
		{"required and known", false, tls.RequireAndVerifyClientCert, known, 0, true, 1},
		{"required and unknown", false, tls.RequireAndVerifyClientCert, unknown, 0, false, 0},
		{"required and missing", false, tls.RequireAndVerifyClientCert, nobody, 0, false, 0},
		{"required, for servers only", false, tls.RequireAndVerifyClientCert, serverOnly, 0, false, 0},
		{"required and expired", false, tls.RequireAndVerifyClientCert, late, 0, false, 0},
		{"if given, known", false, tls.VerifyClientCertIfGiven, known, 0, true, 1},
		{"if given, missing", false, tls.VerifyClientCertIfGiven, nobody, 0, true, 0},
		{"not asked for", false, tls.NoClientCert, known, 0, true, 0},
		{"no CA, not asked for", true, tls.NoClientCert, known, 0, true, 0},
		{"no CA, so not asked for", true, tls.VerifyClientCertIfGiven, known, 0, true, 0},
		{"no CA, nor taken unseen", true, tls.RequestClientCert, known, 0, true, 0},
		{"no CA and required", true, tls.RequireAndVerifyClientCert, known, 0, false, 0},
		{"no CA and any required", true, tls.RequireAnyClientCert, known, 0, false, 0},
		{"TLS 1.2", false, tls.NoClientCert, nobody, tls.VersionTLS12, false, 0},
		{"TLS 1.2 with a certificate", false, tls.RequireAndVerifyClientCert, known, tls.VersionTLS12, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := f.files
			if c.noCA {
				files.CA = ""
			}
			s, err := Open(files)
			require.NoError(t, err)
			client := f.dialer()
			client.MaxVersion = c.max
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.shows) == 0 {
					return &tls.Certificate{}, nil
				}
				return &tls.Certificate{Certificate: [][]byte{c.shows[0].cert.Raw}, PrivateKey: c.shows[0].key}, nil
			}
			l, err := shake(t, s.ServerConfig(c.auth), client)
			if !c.in {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			state := l.server.ConnectionState()
			assert.Len(t, state.PeerCertificates, c.sees)
			assert.Equal(t, uint16(tls.VersionTLS13), state.Version)
		})
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	f := newFolder(t)
	server := f.open().ServerConfig(tls.RequireAndVerifyClientCert)
	client := f.dialer(f.client("a.internal"))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(9)
	for range 3 {
		l, err := shake(t, server, client)
		require.NoError(t, err)
		l.echo(t) // a ticket would be read by now
		assert.False(t, l.client.ConnectionState().DidResume)
		assert.False(t, l.server.ConnectionState().DidResume)
	}

	server = &tls.Config{Certificates: server.Certificates} // that this test would see it
	for i := range 2 {
		l, err := shake(t, server, client)
		require.NoError(t, err)
		assert.Equal(t, i > 0, l.client.ConnectionState().DidResume)
	}
}

func TestServerConfigIsBuiltOncePerReload(t *testing.T) {
	f := newFolder(t)
	s := f.open()
	c := s.ServerConfig(tls.RequireAndVerifyClientCert)
	inner := func() *tls.Config {
		c, err := c.GetConfigForClient(nil)
		require.NoError(t, err)
		return c
	}
	first := inner()
	assert.Same(t, first, inner())
	f.install(f.server(time.Now()))
	f.reload(s)
	assert.NotSame(t, first, inner())
	assert.Same(t, inner(), inner())
}

func TestServerWithoutACertificate(t *testing.T) {
	f := newFolder(t)
	s, err := Open(Files{CA: f.files.CA})
	require.NoError(t, err)
	_, err = shake(t, s.ServerConfig(0), f.dialer())
	require.Error(t, err)
}

func TestClientConfig(t *testing.T) {
	f, other := newFolder(t), newFolder(t)
	server := f.open().ServerConfig(tls.RequireAndVerifyClientCert)
	own := newFolder(t) // the client's files
	own.install(f.client("a.internal"))
	own.write(own.files.CA, inPEM(other.ca.cert))
	s := own.open()
	dial := func(max uint16) error {
		c := s.ClientConfig()
		c.ServerName = "localhost"
		c.MaxVersion = max
		l, err := shake(t, server, c)
		if err == nil {
			assert.Equal(t, []string{"a.internal"}, l.server.ConnectionState().PeerCertificates[0].DNSNames)
			assert.Equal(t, "h2", l.client.ConnectionState().NegotiatedProtocol)
		}
		return err
	}
	require.ErrorAs(t, dial(0), new(*tls.CertificateVerificationError), "another CA's server")
	own.write(own.files.CA, inPEM(f.ca.cert))
	own.reload(s)
	require.NoError(t, dial(0))
	require.Error(t, dial(tls.VersionTLS12))

	bare, err := Open(Files{})
	require.NoError(t, err)
	assert.Nil(t, bare.ClientConfig().RootCAs, "the system's")
	assert.Empty(t, bare.ClientConfig().Certificates)
}

func TestVerify(t *testing.T) {
	f, other := newFolder(t), newFolder(t)
	now := time.Now()
	root, err := sign(&x509.Certificate{NotAfter: now.Add(devCA), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, issued{}, now)
	require.NoError(t, err)
	between, err := sign(&x509.Certificate{NotAfter: now.Add(devCA), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, root, now)
	require.NoError(t, err)
	below, err := between.issue(&order{kind: KindClient, dns: []string{"below.internal"}}, now)
	require.NoError(t, err)
	f.write(f.files.CA, inPEM(f.ca.cert, root.cert))
	s := f.open()
	noCA, err := Open(Files{})
	require.NoError(t, err)
	leaf := f.client("a.internal").cert
	for _, c := range []struct {
		name  string
		s     *Source
		chain []*x509.Certificate
		at    time.Time
		ok    bool
		want  error
	}{
		{"a known CA's", s, chain(leaf), now, true, nil},
		{"at its last moment", s, chain(leaf), leaf.NotAfter, true, nil},
		{"a second later", s, chain(leaf), leaf.NotAfter.Add(time.Second), false, nil},
		{"before its time", s, chain(leaf), leaf.NotBefore.Add(-time.Second), false, nil},
		{"with what is between", s, chain(below.cert, between.cert), now, true, nil},
		{"without what is between", s, chain(below.cert), now, false, nil},
		{"the wrong way round", s, chain(between.cert, below.cert), now, true, nil}, // a CA's own, which crypto/tls would let in as well
		{"another CA's", s, chain(other.client("a.internal").cert), now, false, nil},
		{"another CA's, which it brings along", s, chain(other.client("a.internal").cert, other.ca.cert), now, false, nil},
		{"a server's", s, chain(f.server(now).cert), now, false, nil},
		{"none", s, nil, now, false, ErrNoChain},
		{"no CAs", noCA, chain(leaf), now, false, ErrNoCA},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.s.Verify(c.chain, c.at)
			assert.Equal(t, c.ok, err == nil, "%v", err)
			if c.want != nil {
				assert.ErrorIs(t, err, c.want)
			}
		})
	}
}

func chain(list ...*x509.Certificate) []*x509.Certificate { return list }

func TestConcurrentReloadsAndHandshakes(t *testing.T) {
	f := newFolder(t)
	s := f.open()
	server := s.ServerConfig(tls.RequireAndVerifyClientCert)
	client := f.dialer(f.client("a.internal"))
	leaf := chain(f.client("a.internal").cert)
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for range 20 {
				_, err := shake(t, server, client)
				assert.NoError(t, err)
				assert.NoError(t, s.Verify(leaf, time.Now()))
				assert.Len(t, s.Expiries(), 2)
				_ = s.ClientConfig()
			}
		})
		others.Go(func() {
			for range 20 {
				_, _ = s.Reload() // it may meet a certificate without its key
			}
		})
	}
	for range 20 {
		f.install(f.server(time.Now()))
		_, _ = s.Reload()
	}
	others.Wait()
	_, err := s.Reload()
	require.NoError(t, err)
	l, err := shake(t, server, client)
	require.NoError(t, err)
	assert.Equal(t, s.state.Load().cert.Leaf.SerialNumber.String(), l.serial())
}
