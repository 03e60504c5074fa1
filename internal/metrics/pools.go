package metrics

import (
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/pool"
)

// Of a pool there is a handful of series, however many keys it has.
var (
	keys        = ofPool("keys", "Keys that the pool has.")
	available   = ofPool("keys_available", "Keys that work, as far as is known, and do not rest.")
	openLeases  = ofPool("open_leases", "Leases that have not ended.")
	waiters     = ofPool("waiters", "Calls that wait for a key.")
	granted     = ofPool("leases_granted_total", "Leases granted.")
	notGranted  = ofPool("leases_refused_total", "Asks for a lease that were refused.")
	released    = ofPool("leases_released_total", "Leases that their holders ended.")
	expired     = ofPool("leases_expired_total", "Leases that ended because nobody renewed them.")
	rateLimited = ofPool("rate_limited_total", "Answers of the provider that a limit was exceeded (429).")
	authFailed  = ofPool("auth_failed_total", "Answers of the provider that a key is not valid.")
	leftOut     = ofPool("limits_left_out", "Limits without series, since there would be too many.")

	amount    = ofLimit("amount", "A limit that is in force.")
	used      = ofLimit("used", "What is used of a limit, without what is held for open leases; more than the limit is debt.")
	remaining = ofLimit("remaining", "What can still be granted of a limit.")
)

func ofPool(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("keybroker_pool_"+name, help, []string{"pool"}, nil)
}

func ofLimit(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("keybroker_limit_"+name, help, []string{"pool", "group", "model_class", "dimension", "window"}, nil)
}

// poolCollector tells of pools what one caller may see of them.
type poolCollector struct {
	pools  func() []broker.View // nil: there are none
	limits *limitCache
	may    func(pool string) bool
}

// Describe says nothing: it is used for one scrape.
func (*poolCollector) Describe(chan<- *prometheus.Desc) {}

// Collect asks the pools.
func (c *poolCollector) Collect(out chan<- prometheus.Metric) {
	if c.pools == nil {
		return
	}
	for _, v := range c.pools() {
		if !c.may(v.Pool.Name) {
			continue
		}
		name := label(v.Pool.Name)
		summarise(out, name, &v.Snapshot.Summary, v.Refused)
		all := c.limits.of(v.Pool.Name)
		if all == nil {
			continue
		}
		for _, l := range all.limits {
			labels := []string{name, l.group, l.class, l.dimension, l.window}
			out <- gauge(amount, float64(l.amount), labels...)
			out <- gauge(used, float64(l.used), labels...)
			out <- gauge(remaining, float64(l.remaining), labels...)
		}
		out <- gauge(leftOut, float64(all.leftOut), name)
	}
}

func summarise(out chan<- prometheus.Metric, name string, s *pool.Summary, refused int64) {
	out <- gauge(keys, float64(s.KeyCount), name)
	out <- gauge(available, float64(s.Available), name)
	out <- gauge(openLeases, float64(s.Open), name)
	out <- gauge(waiters, float64(s.Waiters), name)
	out <- counter(granted, float64(s.Counters.Granted), name)
	out <- counter(notGranted, float64(refused), name)
	out <- counter(released, float64(s.Counters.Released), name)
	out <- counter(expired, float64(s.Counters.Expired), name)
	out <- counter(rateLimited, float64(s.Counters.RateLimited), name)
	out <- counter(authFailed, float64(s.Counters.AuthFailed), name)
}

// maxLabel bounds a label's value, in bytes.
const maxLabel = 256

// label makes a label's value of a name from outside: valid UTF-8, and not too long.
func label(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	if len(name) <= maxLabel {
		return name
	}
	end := maxLabel
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}
