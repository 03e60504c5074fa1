package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"
)

// ServerConfig is for a server that takes certificate and client CAs anew with each connection: open ones go on as they are.
// TLS 1.3 only, HTTP/2 only, and no sessions: a resumed one would not be verified against the CAs of the moment.
//
// Without Files.CA no client certificate is asked for; an auth that requires one then refuses everybody, because crypto/tls would
// believe every public CA.
func (s *Source) ServerConfig(auth tls.ClientAuthType) *tls.Config {
	c := s.state.Load().server[auth].Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return s.state.Load().server[auth], nil
	}
	return c
}

// serverConfig is shared by connections, so nobody may change it. A tls.Config without certificates fails each handshake.
func (s *state) serverConfig(auth tls.ClientAuthType) *tls.Config {
	c := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		SessionTicketsDisabled: true,
		ClientAuth:             auth,
		ClientCAs:              s.pool,
	}
	if s.cert != nil {
		c.Certificates = []tls.Certificate{*s.cert}
	}
	if s.pool == nil {
		c.ClientCAs = x509.NewCertPool() // nil would be the system's
		switch auth {
		case tls.RequireAnyClientCert, tls.RequireAndVerifyClientCert:
			c.ClientAuth = tls.RequireAndVerifyClientCert
		default:
			c.ClientAuth = tls.NoClientCert
		}
	}
	return c
}

// ClientConfig is for one connection, made with what the files say now: TLS 1.3 only, HTTP/2 only. Who uses it sets ServerName
// (gRPC does).
func (s *Source) ClientConfig() *tls.Config {
	now := s.state.Load()
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		RootCAs:    now.pool, // nil is the system's
	}
	if now.cert != nil {
		c.Certificates = []tls.Certificate{*now.cert}
	}
	return c
}

// Verify reports why a client's chain (leaf first, as in tls.ConnectionState.PeerCertificates) is not valid at now, by the CAs of
// the last reload. A handshake checks the same, but once: a connection may outlive its certificate, and the trust in its CA.
func (s *Source) Verify(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return ErrNoChain
	}
	pool := s.state.Load().pool
	if pool == nil {
		return ErrNoCA
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         pool,
		Intermediates: between,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}
