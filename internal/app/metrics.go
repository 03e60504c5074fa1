package app

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/internal/metrics"
	"github.com/keybroker/keybroker/server"
)

// sources are who knows what metrics tell. They are asked when the server runs.
func (a *App) sources() metrics.Sources {
	s := metrics.Sources{
		Pools: a.broker.List, Quotas: a.broker.Page,
		Connections: func() (open, unproven int, refused int64) {
			n := a.server.Stats()
			return n.Connections, n.Unproven, n.Refused
		},
		Handshakes: func() int64 { return a.server.Stats().Handshakes },
		Reloads:    map[string]func() (uint64, bool){"config": a.reloads.read},
	}
	if a.certificates != nil {
		s.Certificates = a.certificates.Expiries
		s.Reloads["certificates"] = a.certificateReads.read
	}
	if a.audit != nil {
		s.AuditFailures = a.audit.Failures
	}
	return s
}

func (o *outcome) read() (failures uint64, failing bool) { return o.failures.Load(), o.failed.Load() }

// both tells ours and, if there is one, theirs.
func both(ours, theirs server.Observe) server.Observe {
	if theirs == nil {
		return ours
	}
	return func(method string, code codes.Code, took time.Duration) {
		ours(method, code, took)
		theirs(method, code, took)
	}
}
