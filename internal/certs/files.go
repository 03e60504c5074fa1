// Package certs keeps TLS certificates that are read from files up to date, and makes some for development.
//
// A [Source] holds what the files said when they were last found to be in order. Certificate, key and CAs change together or not
// at all, so that a file that is missing, half-written or expired never takes a running server down: it goes on with what it had.
package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxFile is the most that is read of a file. The bundle of all public CAs is a quarter of it.
const maxFile = 1 << 20

// Files are paths of PEM files. They are read by path each time, so they may be symlinks that are switched, as Kubernetes does.
type Files struct {
	// Cert is a certificate chain, the leaf first; Key is the leaf's private key. Both or neither.
	Cert, Key string
	// CA is a bundle of CAs. For a server, those of its clients; "" and no client certificates are asked for. For a client,
	// those of the server; "" for the system's.
	CA string
}

// Source is what the files contain, as of the last successful [Source.Reload]. It is safe for concurrent use.
type Source struct {
	files     Files
	reloading sync.Mutex
	state     atomic.Pointer[state]
}

// state is one consistent reading of the files. It is immutable.
type state struct {
	generation uint64
	sums       sums
	cert       *tls.Certificate    // nil: none
	cas        []*x509.Certificate // nil: none
	pool       *x509.CertPool      // of cas; nil: none
	server     [tls.RequireAndVerifyClientCert + 1]*tls.Config
}

// Open reads the files. The error names the file and what to do about it; see [ErrPair] and those below it. A leaf that is not
// valid now is an error, and so is a bundle of which no CA is.
func Open(f Files) (*Source, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, fmt.Errorf("%s: %w", f.Cert+f.Key, ErrPair)
	}
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	first, err := f.parse(c, &state{}, time.Now())
	if err != nil {
		return nil, err
	}
	s := &Source{files: f}
	s.state.Store(first)
	return s, nil
}

// Reload reads all files again and tells whether any content was new. If anything is wrong, everything stays as it was, and the
// error says why; the same files give the same text again. A certificate that is in force already is not refused for its age.
func (s *Source) Reload() (changed bool, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	c, err := s.files.read()
	if err != nil {
		return false, err
	}
	old := s.state.Load()
	if c.sums() == old.sums {
		return false, nil
	}
	next, err := s.files.parse(c, old, time.Now())
	if err != nil {
		return false, err
	}
	s.state.Store(next)
	return true, nil
}

// Watch calls Reload at each interval, which must be positive, until ctx ends. It calls note when something has changed; when
// there is an error, once for each text; and when the error is gone, with a nil one and changed false if all is as before it.
func (s *Source) Watch(ctx context.Context, every time.Duration, note func(changed bool, err error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return // both were ready
		}
		changed, err := s.Reload()
		text := ""
		if err != nil {
			text = err.Error()
		}
		if changed || text != said {
			said = text
			note(changed, err)
		}
	}
}

// Generation is 1 after [Open] and goes up with each change: what [Source.Verify] accepted needs to be verified again only then,
// or because time has passed.
func (s *Source) Generation() uint64 { return s.state.Load().generation }

// Expiry is when a file stops being of use.
type Expiry struct {
	File     string
	NotAfter time.Time
}

// Expiries gives the time of the leaf in Files.Cert, and the earliest in Files.CA; nothing for a file that is not configured.
func (s *Source) Expiries() (list []Expiry) {
	now := s.state.Load()
	if now.cert != nil {
		list = append(list, Expiry{s.files.Cert, now.cert.Leaf.NotAfter})
	}
	if now.pool != nil {
		first := now.cas[0].NotAfter
		for _, c := range now.cas {
			if c.NotAfter.Before(first) {
				first = c.NotAfter
			}
		}
		list = append(list, Expiry{s.files.CA, first})
	}
	return list
}

// content is what the files hold; nil for one that is not configured.
type content struct{ cert, key, ca []byte }

// sums stand for content, so that no second copy of a private key stays in memory.
type sums struct{ cert, key, ca [sha256.Size]byte }

func (c content) sums() sums {
	return sums{sha256.Sum256(c.cert), sha256.Sum256(c.key), sha256.Sum256(c.ca)}
}

func (f Files) read() (c content, err error) {
	for _, x := range []struct {
		path string
		into *[]byte
	}{{f.Cert, &c.cert}, {f.Key, &c.key}, {f.CA, &c.ca}} {
		if x.path == "" {
			continue
		}
		if *x.into, err = readFile(x.path); err != nil {
			return content{}, err
		}
	}
	return c, nil
}

// readFile gives errors that name the file, as those of package os do.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: %w", path, ErrTooLarge)
	}
	return text, err
}

// parse makes the state that follows old. What is old already is not asked for its age.
func (f Files) parse(c content, old *state, now time.Time) (*state, error) {
	next := &state{generation: old.generation + 1, sums: c.sums()}
	if f.Cert != "" {
		chain, err := parseCertificates(f.Cert, c.cert)
		if err != nil {
			return nil, err
		}
		key, err := parseKey(f.Key, c.key)
		if err != nil {
			return nil, err
		}
		if next.cert, err = f.pair(chain, key); err != nil {
			return nil, err
		}
		if next.sums.cert != old.sums.cert {
			if err := current(f.Cert, now, chain[0]); err != nil {
				return nil, err
			}
		}
	}
	if f.CA != "" {
		var err error
		if next.cas, err = parseCertificates(f.CA, c.ca); err != nil {
			return nil, err
		}
		if next.sums.ca != old.sums.ca {
			if err := current(f.CA, now, next.cas...); err != nil {
				return nil, err
			}
		}
		next.pool = x509.NewCertPool()
		for _, ca := range next.cas {
			next.pool.AddCert(ca)
		}
	}
	for auth := range next.server {
		next.server[auth] = next.serverConfig(tls.ClientAuthType(auth))
	}
	return next, nil
}
