package certs

// Certificates for development: what is made, what is kept, what is refused.

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func develop(t *testing.T, dir string, hosts, clients []string, now time.Time) []Made {
	made, err := Develop(dir, hosts, clients, now)
	require.NoError(t, err)
	return made
}

func leafOf(t *testing.T, m Made) *x509.Certificate {
	text, err := os.ReadFile(m.Cert)
	require.NoError(t, err)
	list, err := parseCertificates(m.Cert, text)
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// states names what was done, in order.
func states(made []Made) string {
	var all []string
	for _, m := range made {
		all = append(all, strings.TrimSuffix(filepath.Base(m.Cert), ".crt")+" "+string(m.State))
	}
	return strings.Join(all, ", ")
}

func TestDevelopMakesWhatHandshakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "certs")
	hosts := []string{"broker.internal", "127.0.0.1", "::1"}
	made := develop(t, dir, hosts, []string{"spiffe://example.org/ns/prod/invoices", "reports.internal"}, time.Now())
	require.Equal(t, "ca created, server created, invoices created, reports.internal created", states(made))
	ca := made[0].Cert
	s, err := Open(Files{made[1].Cert, made[1].Key, ca})
	require.NoError(t, err)
	for _, m := range made[2:] {
		c, err := Open(Files{m.Cert, m.Key, ca})
		require.NoError(t, err)
		for _, host := range hosts {
			config := c.ClientConfig()
			config.ServerName = host
			l, err := shake(t, s.ServerConfig(tls.RequireAndVerifyClientCert), config)
			require.NoError(t, err, host)
			peer := l.server.ConnectionState().PeerCertificates[0]
			require.NoError(t, s.Verify(chain(peer), time.Now()))
			if m.Identities[0] == "reports.internal" {
				assert.Equal(t, []string{"reports.internal"}, peer.DNSNames)
				assert.Empty(t, peer.URIs)
			} else {
				assert.Equal(t, "spiffe://example.org/ns/prod/invoices", peer.URIs[0].String())
				assert.Empty(t, peer.DNSNames)
			}
		}
		config := c.ClientConfig()
		config.ServerName = "other.internal"
		_, err = shake(t, s.ServerConfig(tls.RequireAndVerifyClientCert), config)
		require.Error(t, err, "it is not for every host")

		asServer, err := Open(Files{m.Cert, m.Key, ca})
		require.NoError(t, err)
		config.ServerName = "reports.internal"
		_, err = shake(t, asServer.ServerConfig(tls.NoClientCert), config)
		require.Error(t, err, "a client cannot act as the broker")
	}
}

func TestDevelopedCertificates(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "certs"), time.Now().UTC().Truncate(time.Second)
	made := develop(t, dir, nil, []string{"spiffe://example.org/invoices"}, now)
	serials := map[string]bool{}
	for i, want := range []Made{
		{KindCA, Created, "ca.crt", "ca.key", []string{"keybroker development CA"}, now.Add(devCA)},
		{KindServer, Created, "server.crt", "server.key", DefaultHosts, now.Add(devLeaf)},
		{KindClient, Created, "invoices.crt", "invoices.key", []string{"spiffe://example.org/invoices"}, now.Add(devLeaf)},
	} {
		want.Cert, want.Key = filepath.Join(dir, want.Cert), filepath.Join(dir, want.Key)
		assert.Equal(t, want, made[i])
		c := leafOf(t, made[i])
		assert.Equal(t, now.Add(-time.Minute), c.NotBefore)
		assert.Equal(t, x509.ECDSAWithSHA256, c.SignatureAlgorithm)
		assert.Greater(t, c.SerialNumber.BitLen(), 64)
		assert.LessOrEqual(t, c.SerialNumber.BitLen(), 128)
		serials[c.SerialNumber.String()] = true
		assert.Equal(t, i == 0, c.IsCA)
		if i == 0 {
			assert.Equal(t, x509.KeyUsageCertSign, c.KeyUsage)
			assert.True(t, c.MaxPathLenZero)
			assert.Zero(t, c.MaxPathLen)
		} else {
			assert.Equal(t, x509.KeyUsageDigitalSignature, c.KeyUsage)
			assert.Equal(t, []x509.ExtKeyUsage{map[int]x509.ExtKeyUsage{1: x509.ExtKeyUsageServerAuth, 2: x509.ExtKeyUsageClientAuth}[i]}, c.ExtKeyUsage)
			assert.Empty(t, c.Subject.CommonName)
		}
		for path, mode := range map[string]os.FileMode{made[i].Cert: 0o644, made[i].Key: 0o600, dir: 0o700 | os.ModeDir} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, mode, info.Mode(), path)
		}
	}
	assert.Len(t, serials, 3)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, files, 6, "nothing else is left")
}

func TestDevelopAgain(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	first := develop(t, dir, []string{"broker.internal"}, []string{"a.internal"}, now)
	was := leafOf(t, first[1])
	require.NoError(t, os.Chmod(first[2].Key, 0o644))
	for _, step := range []struct {
		name           string
		at             time.Duration
		hosts, clients []string
		want           string
		server         []string
	}{
		{"a client more", 0, nil, []string{"b.internal"}, "ca kept, server kept, b.internal created", []string{"broker.internal"}},
		{"a client again", 0, nil, []string{"a.internal"}, "ca kept, server kept, a.internal replaced", []string{"broker.internal"}},
		{"another name of the same files", 0, nil, []string{"spiffe://example.org/a.internal"}, "ca kept, server kept, a.internal replaced", []string{"broker.internal"}},
		{"the server again", time.Hour, []string{"::1"}, nil, "ca kept, server replaced", []string{"::1"}},
		{"the server has expired", devLeaf + 2*time.Hour, nil, nil, "ca kept, server replaced", DefaultHosts},
		{"the CA ends soon", devCA - time.Hour, nil, nil, "ca kept, server replaced", DefaultHosts},
	} {
		made := develop(t, dir, step.hosts, step.clients, now.Add(step.at))
		assert.Equal(t, step.want, states(made), step.name)
		assert.Equal(t, step.server, made[1].Identities, step.name)
		assert.Equal(t, first[0].NotAfter, made[0].NotAfter, step.name)
		for _, m := range made[1:] {
			assert.False(t, m.NotAfter.After(made[0].NotAfter), "%s: longer than its CA", step.name)
		}
	}
	assert.NotEqual(t, was.SerialNumber, leafOf(t, first[1]).SerialNumber)
	info, err := os.Stat(first[2].Key)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode(), "a key that is replaced has its mode again")

	require.NoError(t, os.Remove(first[1].Key))
	made := develop(t, dir, nil, nil, now)
	assert.Equal(t, "ca kept, server replaced", states(made), "its key was lost")
}

func TestDevelopLeavesWhatItDidNotMake(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		at      time.Time
		names   string // what the error must say
	}{
		{"a server's certificate of others", func(t *testing.T, dir string) {
			develop(t, dir, nil, nil, now)
			put(t, dir, "server.crt", inPEM(newFolder(t).server(now).cert))
		}, now, "server.crt"},
		{"a client's certificate of others", func(t *testing.T, dir string) {
			put(t, dir, "a.internal.crt", inPEM(newFolder(t).client("a.internal").cert))
		}, now, "a.internal.crt"},
		{"no certificate at all", func(t *testing.T, dir string) { put(t, dir, "server.crt", marker) }, now, "server.crt"},
		{"a key alone", func(t *testing.T, dir string) { put(t, dir, "server.key", marker) }, now, "server.key"},
		{"a CA without its key", func(t *testing.T, dir string) {
			develop(t, dir, nil, nil, now)
			require.NoError(t, os.Remove(filepath.Join(dir, "ca.key")))
		}, now, "ca.key"},
		{"a CA's key without its certificate", func(t *testing.T, dir string) { put(t, dir, "ca.key", marker) }, now, "ca.key"},
		{"a CA with another's key", func(t *testing.T, dir string) {
			develop(t, dir, nil, nil, now)
			put(t, dir, "ca.key", keyPEM(t, newFolder(t).ca))
		}, now, "ca.key"},
		{"a CA that is none", func(t *testing.T, dir string) {
			leaf := newFolder(t).server(now)
			put(t, dir, "ca.crt", inPEM(leaf.cert))
			put(t, dir, "ca.key", keyPEM(t, leaf))
		}, now, "ca.crt"},
		{"an expired CA", func(t *testing.T, dir string) { develop(t, dir, nil, nil, now) }, now.Add(devCA + time.Second), "ca.crt"},
		{"a broken CA", func(t *testing.T, dir string) {
			put(t, dir, "ca.crt", marker)
			put(t, dir, "ca.key", marker)
		}, now, "ca.crt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.prepare(t, dir)
			before := contents(t, dir)
			_, err := Develop(dir, []string{"localhost"}, []string{"a.internal"}, c.at)
			require.ErrorIs(t, err, ErrForeign)
			assert.Contains(t, err.Error(), filepath.Join(dir, c.names))
			assert.NotContains(t, err.Error(), marker)
			assert.Equal(t, before, contents(t, dir), "nothing was written")
		})
	}
}

func put(t *testing.T, dir, name, text string) {
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func contents(t *testing.T, dir string) map[string]string {
	all := map[string]string{}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(t, err)
		all[f.Name()] = string(text)
	}
	return all
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		hosts, clients string
		ok             bool
	}{
		{"localhost,a_b.internal,10.0.0.1,fe80::1", "", true},
		{"*.internal", "", false},
		{"broker..internal", "", false},
		{"[::1]", "", false},
		{"fe80::1%eth0", "", false},
		{"broker.internal:7070", "", false},
		{"https://broker.internal", "", false},
		{"-broker", "", false},
		{"bröker", "", false},
		{strings.Repeat("a.", 127) + "aa", "", false},
		{strings.Repeat("a", 64), "", false},
		{"localhost", "a,b.internal,spiffe://example.org/c", true},
		{"localhost", "spiffe://example.org/.hidden,spiffe://example.org/--all", true},
		{"localhost", "a,b,a", false},
		{"localhost", "spiffe://example.org/x/a,spiffe://example.org/y/a", false},
		{"localhost", "a.internal,spiffe://example.org/A.internal", false},
		{"localhost", "spiffe://example.org/.a,a", false},
		{"localhost", "ca", false},
		{"localhost", "spiffe://example.org/Server", false},
		{"localhost", "10.0.0.1", false},
		{"localhost", "../a", false},
		{"localhost", "*.internal", false},
		{"localhost", "spiffe://example.org", false},
		{"localhost", "spiffe://example.org/", false},
		{"localhost", "spiffe://example.org/a/", false},
		{"localhost", "spiffe://example.org//a", false},
		{"localhost", "spiffe://example.org/..", false},
		{"localhost", "spiffe://example.org/a/../b", false},
		{"localhost", "spiffe://example.org/...", false}, // a SPIFFE id, but nothing to name a file by
		{"localhost", "spiffe://Example.org/a", false},
		{"localhost", "spiffe://example.org:80/a", false},
		{"localhost", "spiffe://me@example.org/a", false},
		{"localhost", "spiffe://example.org/a?b", false},
		{"localhost", "spiffe://example.org/a%2fb", false},
		{"localhost", "spiffe:///a", false},
		{"localhost", "SPIFFE://example.org/a", false},
		{"localhost", "spiffe://example.org/" + strings.Repeat("a", 2048), false},
	} {
		t.Run(c.hosts+" "+c.clients, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "certs")
			var clients []string
			if c.clients != "" {
				clients = strings.Split(c.clients, ",")
			}
			made, err := Develop(dir, strings.Split(c.hosts, ","), clients, time.Now())
			if !c.ok {
				require.ErrorIs(t, err, ErrName)
				assert.NoDirExists(t, dir)
				return
			}
			require.NoError(t, err)
			require.Len(t, made, 2+len(clients))
			for i, name := range clients {
				assert.Equal(t, []string{name}, made[2+i].Identities)
				assert.NotContains(t, ".-", filepath.Base(made[2+i].Cert)[:1])
				assert.Equal(t, dir, filepath.Dir(made[2+i].Cert))
			}
		})
	}
}

func TestDevelopWhereNothingCanBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err := Develop(path, nil, nil, time.Now())
	require.Error(t, err)
	assert.Contains(t, err.Error(), path)
}
