// Package access tells who calls, and what they may do.
package access

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// The kinds of identities, by how they begin. An identity is one text, which is
// also the holder's name: a SPIFFE ID as it is, "dns:" and a DNS name, "token:" and
// the token's name, or Local.
const (
	spiffePrefix = "spiffe://"
	dnsPrefix    = "dns:"
	tokenPrefix  = "token:"
)

// Local is whoever calls over a wire that proves nothing: plaintext on this machine.
const Local = "local"

var (
	// ErrNoName is returned for a certificate that names nobody in a way that counts.
	ErrNoName = errors.New("the certificate names nobody: it has neither a SPIFFE ID nor a DNS name")

	// ErrBadName is returned for a certificate whose name is not a valid one.
	ErrBadName = errors.New("the certificate's name is not valid")
)

// FromCertificate gives the identity that a verified certificate proves: its SPIFFE
// ID, or else its first DNS name. The common name proves nothing: CAs do not check
// it as they do the others. The errors are ErrNoName and ErrBadName.
func FromCertificate(leaf *x509.Certificate) (string, error) {
	if leaf.IsCA {
		return "", fmt.Errorf("%w: it is a CA's", ErrBadName)
	}
	switch n := len(leaf.URIs); {
	case n == 1:
		return fromURI(leaf.URIs[0])
	case n > 1: // as SPIFFE has it: X509-SVID, section 2
		return "", fmt.Errorf("%w: it has %d URIs, and may have one", ErrBadName, n)
	case len(leaf.DNSNames) == 0:
		return "", ErrNoName
	}
	name := strings.ToLower(strings.TrimSuffix(leaf.DNSNames[0], "."))
	if !IsDNSName(name) {
		return "", fmt.Errorf("%w: its first DNS name is that of no single host", ErrBadName)
	}
	return dnsPrefix + name, nil
}

// The shapes of names: SPIFFE-ID, sections 2.1 and 2.2, and host names.
var (
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	segment     = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	dnsName     = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
	tokenName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// maxID is the longest SPIFFE ID that must be supported, and the longest that is.
const maxID = 2048

func fromURI(u *url.URL) (string, error) {
	text := u.String()
	if u.Scheme != "spiffe" {
		return "", fmt.Errorf("%w: its URI is no SPIFFE ID", ErrBadName)
	}
	if !IsSPIFFE(text) {
		return "", fmt.Errorf("%w: its SPIFFE ID is malformed", ErrBadName)
	}
	return text, nil
}

// IsSPIFFE reports whether a text is a SPIFFE ID of a workload.
func IsSPIFFE(text string) bool {
	rest, ok := strings.CutPrefix(text, spiffePrefix)
	domain, path, _ := strings.Cut(rest, "/")
	if !ok || len(text) > maxID || !trustDomain.MatchString(domain) {
		return false
	}
	for s := range strings.SplitSeq(path, "/") {
		if !segment.MatchString(s) || s == "." || s == ".." {
			return false
		}
	}
	return true
}

// IsDNSName reports whether a text is the name of a single host, in lower case.
func IsDNSName(text string) bool { return len(text) <= 253 && dnsName.MatchString(text) }
