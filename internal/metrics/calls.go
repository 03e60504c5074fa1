package metrics

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// methods are those that have series of their own; the rest share one, so that
// nobody can make series by calling what does not exist.
var methods = []string{
	"AcquireKey", "ReportUsage", "ReleaseKey",
	"ListPools", "GetPool", "ListLeases", "WatchPool", "RestoreKey",
	"Check", "List", "Watch", // of the health
	"ServerReflectionInfo",
}

const otherMethod = "other"

// numCodes is how many codes gRPC has.
const numCodes = int(codes.Unauthenticated) + 1

// seconds go from a lease that is there at once to a wait of a minute.
var seconds = []float64{
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
}

// calls counts those that ended. Finding a series by its labels costs more than
// counting, so those found are kept, by method and code. They are made when they
// are first needed: most pairs never occur.
type calls struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	known   map[string]*[numCodes]atomic.Pointer[counted] // read only
}

// counted are the series of one method and code; the histogram is the method's.
type counted struct {
	total   prometheus.Counter
	seconds prometheus.Observer
}

func newCalls() *calls {
	c := &calls{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keybroker_grpc_requests_total", Help: "Calls that ended, by their status.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keybroker_grpc_request_seconds", Help: "How long calls took, waiting for a key included.", Buckets: seconds,
		}, []string{"method"}),
		known: map[string]*[numCodes]atomic.Pointer[counted]{otherMethod: {}},
	}
	for _, m := range methods {
		c.known[m] = &[numCodes]atomic.Pointer[counted]{}
	}
	return c
}

// Observe counts a call that ended. The method is "AcquireKey", with or without its
// service before it, as in "/keybroker.v1.KeyBrokerService/AcquireKey". It never
// blocks, and allocates nothing once a method has ended with a code.
func (m *Metrics) Observe(method string, code codes.Code, took time.Duration) {
	s := m.calls.find(method[strings.LastIndexByte(method, '/')+1:], code)
	s.total.Inc()
	s.seconds.Observe(took.Seconds())
}

func (c *calls) find(method string, code codes.Code) *counted {
	byCode := c.known[method]
	if byCode == nil {
		method, byCode = otherMethod, c.known[otherMethod]
	}
	if int(code) >= numCodes {
		code = codes.Unknown
	}
	if s := byCode[code].Load(); s != nil {
		return s
	}
	// Several may do this at once: they find the same series.
	s := &counted{c.total.WithLabelValues(method, code.String()), c.seconds.WithLabelValues(method)}
	byCode[code].Store(s)
	return s
}
