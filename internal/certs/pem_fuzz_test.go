package certs

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever is in a file: no panic, one of the named errors, and the error's text depends on the kind of damage and not on the
// content. What is taken for certificates stays what it is when it is written anew.
func FuzzPEM(f *testing.F) {
	ca, err := newCA(time.Now())
	require.NoError(f, err)
	cert, key := inPEM(ca.cert), keyPEM(f, ca)
	for _, text := range []string{"", marker, cert, key, cert + key, half(cert), cert + half(cert), half(key) + cert, "-----BEGIN"} {
		f.Add([]byte(text))
	}
	const digits = "0123456789"
	plain := func(t *testing.T, err error, known map[string]error) {
		text := strings.Map(func(r rune) rune {
			if strings.ContainsRune(digits, r) {
				return -1 // the number of a block
			}
			return r
		}, err.Error())
		for end, named := range known {
			if strings.HasPrefix(text, "file: "+named.Error()) && strings.HasSuffix(text, end) {
				assert.ErrorIs(t, err, named)
				return
			}
		}
		t.Errorf("an unknown text: %s", text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseCertificates("file", text)
		if err != nil {
			plain(t, err, map[string]error{
				": not every BEGIN line has a whole PEM block after it; write the file anew": ErrDamaged,
				": PEM block  does not parse as an X. certificate; write the file anew":      ErrDamaged,
				": put certificates there, each as a BEGIN CERTIFICATE block":                ErrNoPEM,
			})
		} else {
			again, err := parseCertificates("file", []byte(inPEM(list...)))
			require.NoError(t, err)
			require.Len(t, again, len(list))
			for i := range list {
				assert.True(t, list[i].Equal(again[i]))
			}
		}
		signer, err := parseKey("file", text)
		if err != nil {
			plain(t, err, map[string]error{
				": not every BEGIN line has a whole PEM block after it; write the file anew":      ErrDamaged,
				": the private key does not parse as PKCS #, PKCS # or SEC ; write the file anew": ErrDamaged,
				": it is encrypted; write it without a passphrase, with mode ":                    ErrKey,
				": use an RSA, ECDSA or Ed key":                                                   ErrKey,
				": put the private key there, as a BEGIN PRIVATE KEY block":                       ErrNoPEM,
			})
			return
		}
		assert.NotNil(t, signer.Public())
	})
}
