package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// The standard library's own readers are not used for two reasons. They pass over a block that is cut short, and a bundle that has
// lost its last CA locks clients out. And their errors quote what they found, which may be a secret in the wrong file.

// blocks gives the PEM blocks of a file. Text around them is allowed, a beginning without an end is not.
func blocks(path string, text []byte) (list []*pem.Block, err error) {
	begun := 0
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("-----BEGIN")) {
			begun++
		}
	}
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		list = append(list, b)
	}
	if len(list) != begun {
		return nil, fmt.Errorf("%s: %w: not every BEGIN line has a whole PEM block after it; write the file anew", path, ErrDamaged)
	}
	return list, nil
}

// parseCertificates gives the certificates of a file, in its order: one at least. Blocks of other kinds are passed over, as a
// chain and its key may share a file.
func parseCertificates(path string, text []byte) (list []*x509.Certificate, err error) {
	all, err := blocks(path, text)
	if err != nil {
		return nil, err
	}
	for i, b := range all {
		if !strings.HasSuffix(b.Type, "CERTIFICATE") {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: PEM block %d does not parse as an X.509 certificate; write the file anew",
				path, ErrDamaged, i+1)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w: put certificates there, each as a BEGIN CERTIFICATE block", path, ErrNoPEM)
	}
	return list, nil
}

// parseKey gives the first private key of a file. Blocks of other kinds are passed over: openssl puts EC PARAMETERS before a key.
func parseKey(path string, text []byte) (crypto.Signer, error) {
	all, err := blocks(path, text)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if !strings.HasSuffix(b.Type, "PRIVATE KEY") {
			continue
		}
		if b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "" {
			return nil, fmt.Errorf("%s: %w: it is encrypted; write it without a passphrase, with mode 0600", path, ErrKey)
		}
		var key any
		switch b.Type {
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(b.Bytes)
		default:
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w: the private key does not parse as PKCS #8, PKCS #1 or SEC 1; write the file anew",
				path, ErrDamaged)
		}
		switch key := key.(type) {
		case *rsa.PrivateKey:
			return key, nil
		case *ecdsa.PrivateKey:
			return key, nil
		case ed25519.PrivateKey:
			return key, nil
		}
		return nil, fmt.Errorf("%s: %w: use an RSA, ECDSA or Ed25519 key", path, ErrKey)
	}
	return nil, fmt.Errorf("%s: %w: put the private key there, as a BEGIN PRIVATE KEY block", path, ErrNoPEM)
}

// pair joins a chain and the key of its leaf.
func (f Files) pair(chain []*x509.Certificate, key crypto.Signer) (*tls.Certificate, error) {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("%s and %s: %w: the first certificate must be the leaf, and the key its own", f.Cert, f.Key, ErrMismatch)
	}
	pair := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair, nil
}

// current reports an error unless one of the certificates, or the only one, is valid at now.
func current(path string, now time.Time, list ...*x509.Certificate) error {
	var err error
	for _, c := range list {
		switch {
		case now.After(c.NotAfter):
			err = fmt.Errorf("%s: %w on %s: renew it", path, ErrExpired, c.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(c.NotBefore):
			err = fmt.Errorf("%s: %w: only from %s on; or is this machine's clock wrong?",
				path, ErrNotYetValid, c.NotBefore.UTC().Format(time.RFC3339))
		default:
			return nil
		}
	}
	return err
}
