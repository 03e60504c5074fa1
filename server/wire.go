package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/certs"
)

// wire is how connections are made: by TLS, or in plaintext without certificates.
// It notes what a connection proves, once, and not for each call.
type wire struct {
	credentials.TransportCredentials
	certificates *certs.Source
	policy       func() *access.Policy
	failures     *handshakes
}

// handshakes counts those that fail, and logs one a second of them.
type handshakes struct {
	logger *slog.Logger
	failed atomic.Int64
	quiet  atomic.Int64 // nothing is logged before, in Unix nanoseconds
}

func (h *handshakes) note(peer net.Addr, err error) {
	n, now, quiet := h.failed.Add(1), time.Now(), h.quiet.Load()
	if now.UnixNano() >= quiet && h.quiet.CompareAndSwap(quiet, now.Add(time.Second).UnixNano()) {
		h.logger.Warn("TLS handshake failed", "peer", peer.String(), "error", err, "so_far", n)
	}
}

// newWire wants a client's certificate as long as nothing else can prove who it is.
func newWire(certificates *certs.Source, policy func() *access.Policy, failures *handshakes) *wire {
	if certificates == nil {
		return &wire{TransportCredentials: insecure.NewCredentials(), policy: policy, failures: failures}
	}
	required, optional := certificates.ServerConfig(tls.RequireAndVerifyClientCert), certificates.ServerConfig(tls.VerifyClientCertIfGiven)
	config := required.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if policy().HasTokens() {
			return optional.GetConfigForClient(hello)
		}
		return required.GetConfigForClient(hello)
	}
	return &wire{credentials.NewTLS(config), certificates, policy, failures}
}

// ServerHandshake is that of the transport, and leaves a proof.
func (w *wire) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := &proof{peer: raw.RemoteAddr().String(), certificates: w.certificates}
	p.conn, _ = raw.(*guarded)
	if w.certificates != nil { // before it begins: CAs that change meanwhile have verified nothing
		p.generation = w.certificates.Generation()
	}
	conn, info, err := w.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		w.failures.note(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	p.AuthInfo = info
	if tlsInfo, ok := info.(credentials.TLSInfo); ok {
		p.certified(tlsInfo.State.PeerCertificates)
	} else {
		p.identity = access.Local
	}
	if p.refused == nil && w.policy().Rights(p.identity).Has(anyVerb) {
		p.conn.proven(p.identity)
	}
	return conn, p, nil
}

// Clone is required of credentials.
func (w *wire) Clone() credentials.TransportCredentials {
	return &wire{w.TransportCredentials.Clone(), w.certificates, w.policy, w.failures}
}

// proof is what a connection proves about who is at its other end.
type proof struct {
	credentials.AuthInfo
	conn         *guarded
	peer         string
	identity     string
	refused      error // why it proves nothing
	certificates *certs.Source
	chain        []*x509.Certificate

	mu         sync.Mutex
	generation uint64 // of the CAs that have last verified the chain; 0: none has
	revoked    error  // by what they said
}

// certified takes in the chain that a handshake has verified, if there was one.
func (p *proof) certified(chain []*x509.Certificate) {
	if len(chain) == 0 {
		p.refused = errNoCredentials
		return
	}
	p.chain = chain
	p.identity, p.refused = access.FromCertificate(chain[0])
}

// proofOf gives the proof of a call's connection. One that was not made by a wire
// proves nothing.
func proofOf(p *peer.Peer) *proof {
	if found, ok := p.AuthInfo.(*proof); ok {
		return found
	}
	return &proof{peer: p.Addr.String(), refused: errNoCredentials}
}

// errStale is about a certificate that was good when its client connected. It may have
// another by now, and is to connect with that.
var errStale = errors.New("the certificate with which this connection was made is no longer good; connect again")

// who gives the identity, as long as the certificate is good: a CA that is taken
// away takes its clients with it, though they may have connected before.
func (p *proof) who(now time.Time) (string, error) {
	if p.refused != nil || p.chain == nil {
		return p.identity, p.refused
	}
	if now.After(p.chain[0].NotAfter) {
		p.conn.hangUp()
		return "", fmt.Errorf("%w: it has expired", errStale)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.certificates.Generation(); g != p.generation {
		p.generation, p.revoked = g, p.certificates.Verify(p.chain, now)
	}
	if p.revoked != nil {
		p.conn.hangUp()
		return "", fmt.Errorf("%w: %w", errStale, p.revoked)
	}
	return p.identity, nil
}
