package certs

// Reading files, and what happens when they are not in order.

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFilesThatAreNotInOrder(t *testing.T) {
	const year = 365 * 24 * time.Hour
	block := func(kind string, headers map[string]string, body []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: body}))
	}
	for _, c := range []struct {
		name  string
		spoil func(f folder)
		file  func(f Files) string
		want  error
	}{
		{"no certificate file", func(f folder) { _ = os.Remove(f.files.Cert) }, ofCert, fs.ErrNotExist},
		{"no key file", func(f folder) { _ = os.Remove(f.files.Key) }, ofKey, fs.ErrNotExist},
		{"no CA file", func(f folder) { _ = os.Remove(f.files.CA) }, ofCA, fs.ErrNotExist},
		{"empty certificate", func(f folder) { f.write(f.files.Cert, "") }, ofCert, ErrNoPEM},
		{"empty key", func(f folder) { f.write(f.files.Key, "") }, ofKey, ErrNoPEM},
		{"empty CA", func(f folder) { f.write(f.files.CA, "") }, ofCA, ErrNoPEM},
		{"a secret as certificate", func(f folder) { f.write(f.files.Cert, marker) }, ofCert, ErrNoPEM},
		{"a secret as key", func(f folder) { f.write(f.files.Key, marker) }, ofKey, ErrNoPEM},
		{"a secret as CA", func(f folder) { f.write(f.files.CA, marker) }, ofCA, ErrNoPEM},
		{"a secret as PEM type", func(f folder) { f.write(f.files.Cert, block(marker, nil, nil)) }, ofCert, ErrNoPEM},
		{"a secret as PEM type of a key", func(f folder) { f.write(f.files.Key, block(marker, nil, nil)) }, ofKey, ErrNoPEM},
		{"a secret in PEM", func(f folder) {
			f.write(f.files.Cert, block("CERTIFICATE", map[string]string{"X": marker}, []byte(marker)))
		}, ofCert, ErrDamaged},
		{"a secret in the key's PEM", func(f folder) { f.write(f.files.Key, block("PRIVATE KEY", nil, []byte(marker))) }, ofKey, ErrDamaged},
		{"a secret in the CA's PEM", func(f folder) { f.write(f.files.CA, block("CERTIFICATE", nil, []byte(marker))) }, ofCA, ErrDamaged},
		{"a certificate as key", func(f folder) { f.write(f.files.Key, f.read(f.files.CA)) }, ofKey, ErrNoPEM},
		{"a key as certificate", func(f folder) { f.write(f.files.Cert, f.read(f.files.Key)) }, ofCert, ErrNoPEM},
		{"a key as CA", func(f folder) { f.write(f.files.CA, f.read(f.files.Key)) }, ofCA, ErrNoPEM},
		{"half a certificate", func(f folder) { f.write(f.files.Cert, half(f.read(f.files.Cert))) }, ofCert, ErrDamaged},
		{"half a key", func(f folder) { f.write(f.files.Key, half(f.read(f.files.Key))) }, ofKey, ErrDamaged},
		{"half a chain", func(f folder) { f.write(f.files.Cert, f.read(f.files.Cert)+half(inPEM(f.ca.cert))) }, ofCert, ErrDamaged},
		{"half a bundle", func(f folder) { f.write(f.files.CA, f.read(f.files.CA)+half(inPEM(f.ca.cert))) }, ofCA, ErrDamaged},
		{"a hole in a bundle", func(f folder) { f.write(f.files.CA, half(inPEM(f.ca.cert))+"\n"+inPEM(f.ca.cert)) }, ofCA, ErrDamaged},
		{"openssl's trusted form", func(f folder) {
			f.write(f.files.CA, block("TRUSTED CERTIFICATE", nil, append(f.ca.cert.Raw[:len(f.ca.cert.Raw):len(f.ca.cert.Raw)], 0x30, 0)))
		}, ofCA, ErrDamaged},
		{"an encrypted key", func(f folder) { f.write(f.files.Key, block("ENCRYPTED PRIVATE KEY", nil, []byte(marker))) }, ofKey, ErrKey},
		{"an encrypted key of old", func(f folder) {
			f.write(f.files.Key, block("EC PRIVATE KEY", map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": marker}, []byte(marker)))
		}, ofKey, ErrKey},
		{"a key that cannot sign", func(f folder) {
			key, err := ecdh.X25519().GenerateKey(rand.Reader)
			require.NoError(f, err)
			der, err := x509.MarshalPKCS8PrivateKey(key)
			require.NoError(f, err)
			f.write(f.files.Key, block("PRIVATE KEY", nil, der))
		}, ofKey, ErrKey},
		{"another's key", func(f folder) { f.write(f.files.Key, keyPEM(f, f.server(time.Now()))) }, ofKey, ErrMismatch},
		{"another's certificate", func(f folder) { f.write(f.files.Cert, inPEM(f.server(time.Now()).cert)) }, ofCert, ErrMismatch},
		{"the chain the wrong way round", func(f folder) { f.write(f.files.Cert, inPEM(f.ca.cert)+f.read(f.files.Cert)) }, ofCert, ErrMismatch},
		{"expired", func(f folder) { f.install(f.server(time.Now().Add(-year))) }, ofCert, ErrExpired},
		{"not valid yet", func(f folder) { f.install(f.server(time.Now().Add(time.Hour))) }, ofCert, ErrNotYetValid},
		{"an expired CA", func(f folder) {
			ca, err := newCA(time.Now().Add(-2 * year))
			require.NoError(f, err)
			f.write(f.files.CA, inPEM(ca.cert))
		}, ofCA, ErrExpired},
		{"a huge file", func(f folder) { f.write(f.files.CA, strings.Repeat(marker+"\n", maxFile/len(marker))) }, ofCA, ErrTooLarge},
		{"a directory", func(f folder) { _ = os.Remove(f.files.CA); _ = os.Mkdir(f.files.CA, 0o700) }, ofCA, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFolder(t)
			s := f.open()
			was, good := s.state.Load(), [3]string{f.read(f.files.Cert), f.read(f.files.Key), f.read(f.files.CA)}
			c.spoil(f)

			_, openErr := Open(f.files)
			changed, err := s.Reload()
			for _, err := range []error{openErr, err} {
				require.Error(t, err)
				if c.want != nil {
					require.ErrorIs(t, err, c.want)
				}
				assert.Contains(t, err.Error(), c.file(f.files))
				assert.NotContains(t, err.Error(), marker)
			}
			assert.False(t, changed)
			assert.Same(t, was, s.state.Load(), "all is as before")
			_, err = shake(t, s.ServerConfig(0), f.dialer())
			require.NoError(t, err)

			for i, path := range []string{f.files.Cert, f.files.Key, f.files.CA} {
				_ = os.RemoveAll(path)
				f.write(path, good[i])
			}
			changed, err = s.Reload()
			require.NoError(t, err)
			assert.False(t, changed, "it never was anything else")
		})
	}
}

func ofCert(f Files) string { return f.Cert }
func ofKey(f Files) string  { return f.Key }
func ofCA(f Files) string   { return f.CA }

func half(text string) string { return text[:len(text)/2] }

func TestFilesThatMayBeLeftOut(t *testing.T) {
	f := newFolder(t)
	for _, c := range []struct {
		name  string
		files Files
		want  error
		ends  int // how many expiries
	}{
		{"nothing", Files{}, nil, 0},
		{"a CA", Files{CA: f.files.CA}, nil, 1},
		{"no CA", Files{Cert: f.files.Cert, Key: f.files.Key}, nil, 1},
		{"all", f.files, nil, 2},
		{"no key", Files{Cert: f.files.Cert, CA: f.files.CA}, ErrPair, 0},
		{"a key alone", Files{Key: f.files.Key}, ErrPair, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(c.files)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
				assert.Contains(t, err.Error(), filepath.Dir(f.files.Cert))
				return
			}
			require.NoError(t, err)
			assert.Len(t, s.Expiries(), c.ends)
			assert.Equal(t, uint64(1), s.Generation())
			changed, err := s.Reload()
			require.NoError(t, err)
			assert.False(t, changed)
		})
	}
}

func TestFormsThatAreTaken(t *testing.T) {
	f := newFolder(t)
	cert, key := f.read(f.files.Cert), f.read(f.files.Key)
	b, _ := pem.Decode([]byte(key))
	parsed, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	require.NoError(t, err)
	params := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	sec1, err := x509.MarshalECPrivateKey(parsed.(*ecdsa.PrivateKey))
	require.NoError(t, err)
	for _, c := range []struct{ name, cert, key string }{
		{"as made", cert, key},
		{"SEC 1 after its parameters", cert, params + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))},
		{"text around", "Certificate of the broker\n" + cert + "the end\n", "# secret\n" + key},
		{"lines of Windows", strings.ReplaceAll(cert, "\n", "\r\n"), strings.ReplaceAll(key, "\n", "\r\n")},
		{"both in each", key + cert, cert + key},
		{"a chain", cert + inPEM(f.ca.cert), key},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.write(f.files.Cert, c.cert)
			f.write(f.files.Key, c.key)
			_, err := shake(t, f.open().ServerConfig(0), f.dialer())
			require.NoError(t, err)
		})
	}
}

func TestExpiriesNameTheEarliestCA(t *testing.T) {
	f := newFolder(t)
	older, err := newCA(time.Now().Add(-24 * time.Hour))
	require.NoError(t, err)
	f.write(f.files.CA, inPEM(f.ca.cert, older.cert, f.ca.cert))
	s := f.open()
	assert.Equal(t, []Expiry{
		{f.files.Cert, s.state.Load().cert.Leaf.NotAfter},
		{f.files.CA, older.cert.NotAfter},
	}, s.Expiries())
}

// Kubernetes puts a new version of a secret into a folder of its own and switches the symlink ..data.
func TestReloadThroughSymlinks(t *testing.T) {
	f := newFolder(t)
	mount := t.TempDir()
	through := Files{filepath.Join(mount, "tls.crt"), filepath.Join(mount, "tls.key"), filepath.Join(mount, "ca.crt")}
	for _, path := range []string{through.Cert, through.Key, through.CA} {
		require.NoError(t, os.Symlink(filepath.Join("..data", filepath.Base(path)), path))
	}
	require.NoError(t, os.Symlink(filepath.Dir(f.files.Cert), filepath.Join(mount, "..data")))
	s, err := Open(through)
	require.NoError(t, err)

	g := newFolder(t)
	require.NoError(t, os.Symlink(filepath.Dir(g.files.Cert), filepath.Join(mount, "..tmp")))
	require.NoError(t, os.Rename(filepath.Join(mount, "..tmp"), filepath.Join(mount, "..data")))
	g.reload(s)
	assert.Equal(t, uint64(2), s.Generation())
	_, err = shake(t, s.ServerConfig(0), g.dialer())
	require.NoError(t, err)
}

// A leaf that expires while it is in force must not be the reason that a CA cannot be withdrawn.
func TestReloadAsksOnlyWhatIsNewForItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		s := f.open()
		time.Sleep(devLeaf + time.Second)
		other, err := newCA(time.Now())
		require.NoError(t, err)
		f.write(f.files.CA, inPEM(other.cert))
		f.reload(s)
		require.Error(t, s.Verify([]*x509.Certificate{f.client("a.internal").cert}, time.Now()))
		_, err = Open(f.files)
		require.ErrorIs(t, err, ErrExpired)
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(t)
		s := f.open()
		good := f.read(f.files.Key)
		type note struct {
			at      time.Duration
			changed bool
			err     error
		}
		notes := make(chan note, 9)
		start := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Watch(ctx, time.Minute, func(changed bool, err error) { notes <- note{time.Since(start), changed, err} })
		}()
		for _, step := range []struct {
			name string
			do   func()
			want *note // at the next minute; nil: silence
		}{
			{"nothing is new", func() {}, nil},
			{"a new pair", func() { f.install(f.server(time.Now())); good = f.read(f.files.Key) }, &note{changed: true}},
			{"nothing is new again", func() {}, nil},
			{"the key is damaged", func() { f.write(f.files.Key, half(good)) }, &note{err: ErrDamaged}},
			{"it still is", func() {}, nil},
			{"damaged in another way, same error", func() { f.write(f.files.Key, half(half(good))) }, nil},
			{"now it is gone", func() { _ = os.Remove(f.files.Key) }, &note{err: fs.ErrNotExist}},
			{"it still is gone", func() {}, nil},
			{"the old one is back", func() { f.write(f.files.Key, good) }, &note{}},
			{"all is well", func() {}, nil},
			{"the CA is empty", func() { f.write(f.files.CA, "") }, &note{err: ErrNoPEM}},
			{"a new CA ends the error", func() { f.write(f.files.CA, inPEM(f.ca.cert, f.ca.cert)) }, &note{changed: true}},
			{"all is well again", func() {}, nil},
		} {
			step.do()
			time.Sleep(time.Minute - time.Nanosecond) // one nanosecond early
			synctest.Wait()
			require.Empty(t, notes, step.name)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if step.want == nil {
				require.Empty(t, notes, step.name)
				continue
			}
			require.Len(t, notes, 1, step.name)
			got := <-notes
			require.Equal(t, time.Since(start), got.at, step.name)
			require.Equal(t, step.want.changed, got.changed, step.name)
			require.True(t, errors.Is(got.err, step.want.err), "%s: %v", step.name, got.err)
		}
		stop()
		<-ended
		f.write(f.files.CA, "")
		time.Sleep(time.Hour)
		assert.Empty(t, notes, "nobody watches")
	})
}
