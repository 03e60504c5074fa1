package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/internal/access"
)

// maxScrapers bounds the connections for metrics; a scraper needs one.
const maxScrapers = 100

// Metrics answers a scrape, with those pools that somebody may look at.
type Metrics func(w http.ResponseWriter, r *http.Request, may func(pool string) bool)

// ServeMetrics serves metrics over HTTP at /metrics until Stop, and then gives nil. On
// a loopback address it does so in plaintext and for everybody there; elsewhere as
// the rest is served, and for those who may inspect something.
func (s *Server) ServeMetrics(l net.Listener, metrics Metrics) error {
	o := &s.options
	handler := func(w http.ResponseWriter, r *http.Request) {
		metrics(w, r, func(string) bool { return true })
	}
	if addr, ok := l.Addr().(*net.TCPAddr); !ok || !addr.IP.IsLoopback() {
		l = tls.NewListener(newGuard(maxScrapers, maxScrapers/8).listen(l), o.Certificates.ServerConfig(tls.VerifyClientCertIfGiven))
		handler = func(w http.ResponseWriter, r *http.Request) {
			c := o.known(httpProof(o, r), r.Header.Values("Authorization"))
			switch {
			case c.refused != nil:
				http.Error(w, (&unauthenticated{c.refused}).Error(), http.StatusUnauthorized)
			case !c.rights.Has(access.Inspect):
				http.Error(w, (&forbidden{c.identity, access.Inspect}).Error(), http.StatusForbidden)
			default:
				metrics(w, r, func(pool string) bool { return c.rights.May(access.Inspect, pool) })
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", handler)
	web := &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: maxHeaderList,
	}
	web.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	defer context.AfterFunc(s.running, func() { _ = web.Close() })()
	if err := web.Serve(l); s.running.Err() == nil {
		return err
	}
	return nil
}

// connKey finds the connection of a request in its context.
type connKey struct{}

func httpProof(o *Options, r *http.Request) *proof {
	p := &proof{peer: r.RemoteAddr, certificates: o.Certificates}
	if conn, ok := r.Context().Value(connKey{}).(*tls.Conn); ok {
		p.conn, _ = conn.NetConn().(*guarded)
	}
	p.certified(r.TLS.PeerCertificates)
	return p
}
