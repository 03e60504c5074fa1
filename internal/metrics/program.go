package metrics

import (
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	connections   = prometheus.NewDesc("keybroker_connections", "Open connections.", nil, nil)
	unproven      = prometheus.NewDesc("keybroker_connections_unproven", "Open connections that have not proved who they are.", nil, nil)
	refused       = prometheus.NewDesc("keybroker_connections_refused_total", "Connections that were refused because there were too many.", nil, nil)
	handshakes    = prometheus.NewDesc("keybroker_tls_handshakes_failed_total", "TLS handshakes that failed.", nil, nil)
	expiry        = prometheus.NewDesc("keybroker_certificate_expiry_timestamp_seconds", "When a file's certificate expires, in Unix time.", []string{"file"}, nil)
	failures      = prometheus.NewDesc("keybroker_reload_failures_total", "How often something could not be read again.", []string{"what"}, nil)
	failing       = prometheus.NewDesc("keybroker_reload_failing", "Whether it failed the last time: 0 or 1.", []string{"what"}, nil)
	auditFailures = prometheus.NewDesc("keybroker_audit_failures_total", "Entries that could not be written to the audit log.", nil, nil)
	buildInfo     = prometheus.NewDesc("keybroker_build_info", "Always 1; the label says what runs.", []string{"version"}, nil)
)

// programCollector tells what belongs to no pool.
type programCollector Sources

// Describe says nothing, since sources that are nil have no series.
func (*programCollector) Describe(chan<- *prometheus.Desc) {}

// Collect asks the sources.
func (s *programCollector) Collect(out chan<- prometheus.Metric) {
	out <- gauge(buildInfo, 1, version())
	if s.Connections != nil {
		open, waiting, no := s.Connections()
		out <- gauge(connections, float64(open))
		out <- gauge(unproven, float64(waiting))
		out <- counter(refused, float64(no))
	}
	if s.Handshakes != nil {
		out <- counter(handshakes, float64(s.Handshakes()))
	}
	if s.Certificates != nil {
		ends := map[string]time.Time{} // one file may be two things
		for _, x := range s.Certificates() {
			if end, ok := ends[x.File]; !ok || x.NotAfter.Before(end) {
				ends[x.File] = x.NotAfter
			}
		}
		for file, end := range ends {
			out <- gauge(expiry, float64(end.Unix()), label(file))
		}
	}
	for what, outcome := range s.Reloads {
		n, now := outcome()
		out <- counter(failures, float64(n), what)
		out <- gauge(failing, flag(now), what)
	}
	if s.AuditFailures != nil {
		out <- counter(auditFailures, float64(s.AuditFailures()))
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// version is that of the module, as the go command stamped it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func gauge(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
