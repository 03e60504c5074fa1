package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// developmentCA gives the CA of a directory, or a new one, not written yet.
func developmentCA(dir string, now time.Time) (ca issued, state State, err error) {
	cert, key := paths(dir, "ca")
	hasCert, err := exists(cert)
	if err != nil {
		return issued{}, "", err
	}
	hasKey, err := exists(key)
	if err != nil {
		return issued{}, "", err
	}
	switch {
	case hasCert && hasKey:
		ca, err = oldCA(Files{Cert: cert, Key: key}, now)
		if err != nil {
			err = fmt.Errorf("%w (the CA is %w; use another directory, or remove all files of this one and make every certificate anew)",
				err, ErrForeign)
		}
		return ca, Kept, err
	case hasCert:
		return issued{}, "", fmt.Errorf("%s is there without its key %s: it is %w; put the key there or use another directory", cert, key, ErrForeign)
	case hasKey:
		return issued{}, "", fmt.Errorf("%s is there without its certificate %s: it is %w; put that there or use another directory", key, cert, ErrForeign)
	}
	ca, err = newCA(now)
	return ca, Created, err
}

func oldCA(f Files, now time.Time) (issued, error) {
	c, err := f.read()
	if err != nil {
		return issued{}, err
	}
	s, err := f.parse(c, &state{}, now)
	if err != nil {
		return issued{}, err
	}
	ca := issued{s.cert.Leaf, s.cert.PrivateKey.(crypto.Signer)} // as parseKey made it
	if !ca.cert.IsCA || ca.cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return issued{}, fmt.Errorf("%s: not a certificate that may sign others", f.Cert)
	}
	return ca, nil
}

func newCA(now time.Time) (issued, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "keybroker development CA"},
		NotAfter:              now.Add(devCA),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return sign(template, issued{}, now)
}

// issue makes a leaf. It has no subject: who it is for stands in its alternative names alone.
func (ca issued) issue(o *order, now time.Time) (issued, error) {
	template := &x509.Certificate{
		NotAfter:              now.Add(devLeaf),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              o.dns,
		IPAddresses:           o.ips,
	}
	if o.kind == KindServer {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if o.uri != nil {
		template.URIs = []*url.URL{o.uri}
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	leaf, err := sign(template, ca, now)
	if err != nil {
		return issued{}, fmt.Errorf("%s.crt: %w", o.name, err)
	}
	return leaf, nil
}

// sign makes a key and its certificate, by ca; by itself if that is the zero value.
func sign(template *x509.Certificate, ca issued, now time.Time) (issued, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return issued{}, err
	}
	if ca.cert == nil {
		ca = issued{template, key}
	}
	template.NotBefore = now.Add(-time.Minute) // for a clock that is a little behind
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128)); err != nil {
		return issued{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return issued{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return issued{cert, key}, err
}

// madeBefore gives the certificate of a name if this CA made it, and nil if there is none. It refuses to have anything else replaced.
func (ca issued) madeBefore(dir, name string) (*x509.Certificate, error) {
	certPath, keyPath := paths(dir, name)
	text, err := readFile(certPath)
	if errors.Is(err, fs.ErrNotExist) {
		// The certificate is written before its key, so that no crash of ours leaves a key alone.
		if has, err := exists(keyPath); err != nil || !has {
			return nil, err
		}
		return nil, fmt.Errorf("%s is there without its certificate: it is %w; remove it or use another directory", keyPath, ErrForeign)
	}
	if err != nil {
		return nil, err
	}
	chain, err := parseCertificates(certPath, text)
	if err != nil || chain[0].CheckSignatureFrom(ca.cert) != nil {
		return nil, fmt.Errorf("%s was not made with the CA in %s: it is %w; remove it or use another directory", certPath, dir, ErrForeign)
	}
	return chain[0], nil
}

// usable reports whether a certificate is valid now and has its key.
func usable(dir, name string, c *x509.Certificate, now time.Time) bool {
	certPath, keyPath := paths(dir, name)
	text, err := readFile(keyPath)
	if err != nil {
		return false
	}
	key, err := parseKey(keyPath, text)
	if err != nil {
		return false
	}
	_, err = Files{Cert: certPath, Key: keyPath}.pair([]*x509.Certificate{c}, key)
	return err == nil && current(certPath, now, c) == nil
}

func write(dir, name string, x issued) error {
	certPath, keyPath := paths(dir, name)
	key, err := x509.MarshalPKCS8PrivateKey(x.key)
	if err != nil {
		return err
	}
	if err := replace(certPath, 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: x.cert.Raw}); err != nil {
		return err
	}
	return replace(keyPath, 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

// replace writes a file next to its place and puts it there when it is whole.
func replace(path string, mode fs.FileMode, b *pem.Block) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // the first error tells more
		}
	}()
	err = errors.Join(pem.Encode(file, b), file.Chmod(mode), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// exists counts whatever has the name, a symlink to nowhere too.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
