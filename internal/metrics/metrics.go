// Package metrics tells Prometheus what a broker counts.
//
// Nothing here is counted twice: what the engine, the server and the files know is
// asked when somebody scrapes. Only calls are counted here, as they end. No value of
// a key can appear, since nobody who is asked knows one.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/pool"
)

// Sources are who is asked at each scrape, from several goroutines at once. What is
// nil has no series.
type Sources struct {
	// Pools gives all pools at a glance: broker.List.
	Pools func() []broker.View
	// Quotas gives a page of a pool's quotas, for its limits: broker.Page.
	Quotas func(name string, q pool.Query) (pool.Page, error)
	// Connections gives those that are open, those of them that have not proved who
	// they are, and how many were refused so far.
	Connections func() (open, unproven int, refused int64)
	// Handshakes gives how many of TLS have failed.
	Handshakes func() int64
	// Certificates gives when files stop being of use.
	Certificates func() []certs.Expiry
	// Reloads gives, by what is read again, how often that failed and whether it did
	// the last time.
	Reloads map[string]func() (failures uint64, failing bool)
	// AuditFailures gives how many entries could not be written down.
	AuditFailures func() uint64
}

// Metrics are those of one broker.
type Metrics struct {
	sources  Sources
	registry *prometheus.Registry // all but what depends on who looks
	calls    *calls
	limits   *limitCache
}

// New makes metrics that count no calls yet.
func New(s Sources) *Metrics {
	m := &Metrics{
		sources: s, registry: prometheus.NewRegistry(),
		calls: newCalls(), limits: newLimitCache(s.Quotas),
	}
	m.registry.MustRegister(
		m.calls.total, m.calls.seconds, (*programCollector)(&m.sources),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Write answers a scrape, in the format and encoding that it asks for, with the
// series of those pools that may be seen and with all that belong to no pool. A
// series that cannot be told costs only itself, and is counted.
func (m *Metrics) Write(w http.ResponseWriter, r *http.Request, may func(pool string) bool) {
	visible := prometheus.NewRegistry()
	visible.MustRegister(&poolCollector{pools: m.sources.Pools, limits: m.limits, may: may})
	promhttp.HandlerFor(prometheus.Gatherers{m.registry, visible}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, Registry: m.registry,
	}).ServeHTTP(w, r)
}
