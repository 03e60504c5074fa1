package certs

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"time"
)

// How long what [Develop] makes is valid. No certificate is valid for longer than its CA.
const (
	devCA   = 365 * 24 * time.Hour
	devLeaf = 90 * 24 * time.Hour
)

// DefaultHosts are whom the server's certificate is for if nobody says otherwise.
var DefaultHosts = []string{"localhost", "127.0.0.1", "::1"}

// Kind tells what a certificate is for.
type Kind string

// The kinds.
const (
	KindCA     Kind = "ca"
	KindServer Kind = "server"
	KindClient Kind = "client"
)

// State tells what [Develop] did about a certificate.
type State string

// The states.
const (
	Created  State = "created"
	Kept     State = "kept"     // it was there already and is used as it is
	Replaced State = "replaced" // one of that name was there; it stays valid until it expires
)

// Made is a certificate and its key as files. The field names of its JSON are stable.
type Made struct {
	Kind       Kind      `json:"kind"`
	State      State     `json:"state"`
	Cert       string    `json:"cert_file"`
	Key        string    `json:"key_file"`
	Identities []string  `json:"identities"` // its subject alternative names; a CA has its common name, which only people read
	NotAfter   time.Time `json:"not_after"`
}

// Develop makes what is needed to try TLS, in dir (made with mode 0700 if missing): a CA in ca.crt and ca.key, server.crt and
// server.key for the hosts (names and addresses), and a certificate for each client's identity. That is a SPIFFE id when it
// begins with spiffe://, and a DNS name otherwise; the files are named for its last segment, or for the name. Keys are ECDSA
// P-256, written atomically, mode 0600.
//
// A CA that is there is used again, so that clients can be added later. A server's or client's certificate is replaced when it is
// named again, if this CA made it; the server's is kept while it is valid if hosts is empty, and made for [DefaultHosts] otherwise.
//
// The CA comes first in the list, then the server, then the clients in order. On [ErrName] and [ErrForeign], nothing was written.
func Develop(dir string, hosts, clients []string, now time.Time) ([]Made, error) {
	keep := len(hosts) == 0
	if keep {
		hosts = DefaultHosts
	}
	wanted, err := orders(hosts, clients)
	if err != nil {
		return nil, err
	}
	ca, state, err := developmentCA(dir, now)
	if err != nil {
		return nil, err
	}
	list := []Made{made(dir, "ca", KindCA, state, ca.cert)}
	var writes []func() error // at the end, when all could be made
	if state == Created {
		writes = append(writes, func() error { return write(dir, "ca", ca) })
	}
	for _, o := range wanted {
		old, err := ca.madeBefore(dir, o.name)
		if err != nil {
			return nil, err
		}
		if o.kind == KindServer && keep && old != nil && usable(dir, o.name, old, now) {
			list = append(list, made(dir, o.name, o.kind, Kept, old))
			continue
		}
		leaf, err := ca.issue(o, now)
		if err != nil {
			return nil, err
		}
		state = Created
		if old != nil {
			state = Replaced
		}
		list = append(list, made(dir, o.name, o.kind, state, leaf.cert))
		writes = append(writes, func() error { return write(dir, o.name, leaf) })
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, w := range writes {
		if err := w(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func made(dir, name string, kind Kind, state State, c *x509.Certificate) Made {
	m := Made{Kind: kind, State: state, NotAfter: c.NotAfter.UTC()}
	m.Cert, m.Key = paths(dir, name)
	if kind == KindCA {
		m.Identities = []string{c.Subject.CommonName}
		return m
	}
	m.Identities = append(m.Identities, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		m.Identities = append(m.Identities, ip.String())
	}
	for _, u := range c.URIs {
		m.Identities = append(m.Identities, u.String())
	}
	return m
}

func paths(dir, name string) (cert, key string) {
	return filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
}
