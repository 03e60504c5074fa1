package killtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/testing/canary"
)

// The times of a lease. They are short, since after a crash a slot, and output that
// is held, counts as taken for as long as a lease may live.
const (
	startWithin = 200 * time.Millisecond
	maxTTL      = time.Second
)

const day = 24 * time.Hour

// limit is one limit of one key, as its provider counts it.
type limit struct {
	pool, key string
	counts    string // what: requests, input, output, most, sum, calls
	setting   string // its name in the configuration
	amount    int64
	window    time.Duration // 0: calls at one time
	refills   bool          // all the time; else all of it counts for the whole window
}

// The pools, and what they are there for.
const (
	daily  = "daily"  // requests a day, that never come back
	tokens = "tokens" // tokens a day, that are held, and come back if they were not used
	minute = "minute" // requests and tokens a minute, and requests a day, that refill
	claude = "claude" // output that is held
	slots  = "slots"  // calls at one time
)

var types = map[string]string{daily: "generic", tokens: "generic", minute: "openai", claude: "anthropic", slots: "openai"}

var limits = []limit{
	{daily, "d1", "requests", "rpd_limit", 1200, day, false},
	{daily, "d2", "requests", "rpd_limit", 60, day, false},
	{tokens, "t1", "sum", "tpd_limit", 20_000, day, false},
	{minute, "m1", "requests", "rpm_limit", 20, time.Minute, true},
	{minute, "m1", "most", "tpm_limit", 3000, time.Minute, true},
	{minute, "m1", "requests", "rpd_limit", 60, day, true},
	{minute, "m2", "requests", "rpm_limit", 120, time.Minute, true},
	{minute, "m2", "most", "tpm_limit", 1500, time.Minute, true},
	{claude, "c1", "requests", "rpm_limit", 40, time.Minute, true},
	{claude, "c1", "input", "itpm_limit", 2000, time.Minute, true},
	{claude, "c1", "output", "otpm_limit", 2500, time.Minute, true},
	{slots, "s1", "requests", "rpm_limit", 6000, time.Minute, true},
	{slots, "s1", "most", "tpm_limit", 3_000_000, time.Minute, true},
	{slots, "s1", "calls", "max_concurrency", 3, 0, false},
	{slots, "s2", "requests", "rpm_limit", 6000, time.Minute, true},
	{slots, "s2", "most", "tpm_limit", 3_000_000, time.Minute, true},
	{slots, "s2", "calls", "max_concurrency", 2, 0, false},
}

func (l *limit) String() string { return l.pool + "/" + l.key + " " + l.setting }

// configure writes a configuration with these limits, and gives its path and the
// state file's.
func configure(t *testing.T, address string, limits []limit) (config, state string) {
	dir := canary.Dir(t, "broker.yaml")
	var b strings.Builder
	fmt.Fprintf(&b, "server: {plaintext: true, listen: %q, drain_timeout: 1s}\nstore: {path: state/broker.db}\naudit: {path: %q}\nproviders:\n", address, filepath.Join(canary.Dir(t), "audit.jsonl"))
	pool, key := "", ""
	for _, l := range limits {
		if l.pool != pool {
			fmt.Fprintf(&b, "  - name: %s\n    type: %s\n    base_url: https://example.com\n    flat_limits: true\n", l.pool, types[l.pool])
			fmt.Fprintf(&b, "    lease: {start_within: %v, default_ttl: %v, max_ttl: %v, max_wait: 2s}\n    keys:\n", startWithin, maxTTL*7/10, maxTTL)
			pool, key = l.pool, ""
		}
		if l.key != key {
			fmt.Fprintf(&b, "      - key: %s\n        id: %s\n", canary.Key("killtest-"+l.key), l.key)
			key = l.key
		}
		fmt.Fprintf(&b, "        %s: %d\n", l.setting, l.amount)
	}
	config = filepath.Join(dir, "broker.yaml")
	require.NoError(t, os.WriteFile(config, []byte(b.String()), 0o600))
	return config, filepath.Join(dir, "state", "broker.db")
}

// of gives the limits of some pools.
func of(pools ...string) (some []limit) {
	for _, l := range limits {
		for _, p := range pools {
			if l.pool == p {
				some = append(some, l)
			}
		}
	}
	return some
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
