package certs

// What the tests of this package share: a CA with leaves, files of them, and real handshakes.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// marker is planted in broken files: no error may show it.
const marker = "sk-cnry7f3a-certs"

// folder holds the files of a server, made by a CA of its own.
type folder struct {
	*testing.T
	ca    issued
	files Files
}

// newFolder writes files that are in order.
func newFolder(t *testing.T) folder {
	ca, err := newCA(time.Now())
	require.NoError(t, err)
	dir := t.TempDir()
	f := folder{t, ca, Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}}
	f.install(f.server(time.Now()))
	f.write(f.files.CA, inPEM(ca.cert))
	return f
}

func (f folder) server(now time.Time) issued { return f.issue("localhost", KindServer, now) }

func (f folder) client(name string) issued { return f.issue(name, KindClient, time.Now()) }

func (f folder) issue(name string, kind Kind, now time.Time) issued {
	leaf, err := f.ca.issue(&order{kind: kind, name: name, dns: []string{name}}, now)
	require.NoError(f, err)
	return leaf
}

func (f folder) install(leaf issued) {
	f.write(f.files.Cert, inPEM(leaf.cert))
	f.write(f.files.Key, keyPEM(f, leaf))
}

func (f folder) write(path, text string) { require.NoError(f, os.WriteFile(path, []byte(text), 0o600)) }

func (f folder) read(path string) string {
	text, err := os.ReadFile(path)
	require.NoError(f, err)
	return string(text)
}

func (f folder) open() *Source {
	s, err := Open(f.files)
	require.NoError(f, err)
	return s
}

// reload expects a change.
func (f folder) reload(s *Source) {
	changed, err := s.Reload()
	require.NoError(f, err)
	require.True(f, changed)
}

func inPEM(list ...*x509.Certificate) (text string) {
	for _, c := range list {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text
}

func keyPEM(t require.TestingT, x issued) string {
	der, err := x509.MarshalPKCS8PrivateKey(x.key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// dialer is a client of localhost that trusts the folder's CA and shows the certificates given.
func (f folder) dialer(shows ...issued) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", NextProtos: []string{"h2"}}
	c.RootCAs.AddCert(f.ca.cert)
	for _, x := range shows {
		c.Certificates = append(c.Certificates, tls.Certificate{Certificate: [][]byte{x.cert.Raw}, PrivateKey: x.key})
	}
	return c
}

// link is both ends of a connection.
type link struct{ server, client *tls.Conn }

// shake does a whole handshake: with TLS 1.3 a client learns that it is refused when it reads, so one byte goes over. It goes over
// loopback, as both ends of a net.Pipe wait for each other when one sends an alert before it has read all.
func shake(t *testing.T, server, client *tls.Config) (link, error) {
	a, b := loopback(t)
	l := link{tls.Server(a, server), tls.Client(b, client)}
	done := make(chan error, 1)
	go func() {
		err := l.server.Handshake()
		if err == nil {
			_, err = l.server.Write([]byte{1})
		}
		done <- err
	}()
	_, err := l.client.Read(make([]byte, 1))
	if err != nil {
		_ = b.Close() // one that fails before its hello sends no alert
	}
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return l, err
}

func loopback(t *testing.T) (a, b net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	b, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	a, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	for _, end := range []net.Conn{a, b} { // a test that hangs says where
		require.NoError(t, end.SetDeadline(time.Now().Add(time.Minute)))
	}
	return a, b
}

// echo sends a byte each way over a connection that is open.
func (l link) echo(t *testing.T) {
	for _, way := range [][2]*tls.Conn{{l.server, l.client}, {l.client, l.server}} {
		sent := make(chan error, 1)
		go func() { _, err := way[0].Write([]byte{7}); sent <- err }()
		got := make([]byte, 1)
		_, err := way[1].Read(got)
		require.NoError(t, err)
		require.NoError(t, <-sent)
		assert.Equal(t, []byte{7}, got)
	}
}

// serial is the certificate that the server showed.
func (l link) serial() string {
	return l.client.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
