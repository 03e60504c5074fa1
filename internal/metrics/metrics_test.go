package metrics_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/metrics"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// limits are those that Anthropic has, by the minute.
func limits(requests, input, output int64) []pool.Limit {
	var ls []pool.Limit
	for d, n := range []int64{requests, input, output} {
		ls = append(ls, pool.Limit{Dimension: provider.Dimension(d), Window: time.Minute, Amount: n, Kind: provider.Refilling})
	}
	return ls
}

// onePool is a pool of Anthropic keys whose limits hold for all models.
func onePool(name string, keys ...pool.Key) broker.DomainConfig {
	dialect, _ := provider.Lookup("anthropic")
	return broker.DomainConfig{
		Config: pool.Config{Name: name, Dialect: dialect, Flat: true, Keys: keys},
		Pools: []broker.PoolConfig{{
			Rules:   pool.Rules{Name: name, StartWithin: 2 * time.Second},
			BaseURL: dialect.BaseURL, DefaultTTL: 2 * time.Minute, MaxTTL: 10 * time.Minute, MaxWait: 30 * time.Second,
		}},
	}
}

func start(t testing.TB, pools ...broker.DomainConfig) *broker.Broker {
	b, err := broker.New(t.Context(), &broker.Memory{}, pools)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func ask(t testing.TB, b *broker.Broker, pool, model string) (broker.Lease, error) {
	return b.Acquire(t.Context(), broker.Request{
		Holder: "h", Pool: pool, Model: model, Demand: provider.Demand{InputTokens: 100, MaxOutputTokens: 50},
	})
}

func of(b *broker.Broker) metrics.Sources { return metrics.Sources{Pools: b.List, Quotas: b.Page} }

func all(string) bool { return true }

// scrape gives the answer without what the library tells of the process, and without
// what depends on the build. The format is checked.
func scrape(t testing.TB, m *metrics.Metrics, may func(string) bool) string {
	text := answer(t, m, may)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
	return ours(text)
}

func answer(t testing.TB, m *metrics.Metrics, may func(string) bool) string {
	w := httptest.NewRecorder()
	m.Write(w, httptest.NewRequest(http.MethodGet, "/metrics", nil), may)
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Header().Get("Content-Type"), "text/plain; version=0.0.4")
	assert.NotContains(t, w.Body.String(), `promhttp_metric_handler_errors_total{cause="gathering"} 1`)
	return w.Body.String()
}

func ours(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "keybroker_") && !strings.Contains(line, "keybroker_build_info") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// Nothing refills while the clock of the bubble stands still.
func TestScrape(t *testing.T) { synctest.Test(t, testScrape) }

func testScrape(t *testing.T) {
	b := start(t, onePool("main",
		pool.Key{ID: "a", Limits: append(limits(10, 1000, 500), pool.Limit{Dimension: provider.Concurrency, Amount: 1})},
		pool.Key{ID: "b", Limits: limits(1, 1000, 500)}))
	for range 2 {
		_, err := ask(t, b, "main", "")
		require.NoError(t, err)
	}
	_, err := ask(t, b, "main", "")
	require.Error(t, err, "both are full")

	s := of(b)
	s.Connections = func() (int, int, int64) { return 3, 1, 7 }
	s.Certificates = func() []certs.Expiry {
		return []certs.Expiry{{File: "tls/cert.pem", NotAfter: time.Unix(2_000_000_000, 0)}, {File: "tls/ca.pem", NotAfter: time.Unix(1_900_000_000, 0)}}
	}
	s.Reloads = map[string]func() (uint64, bool){
		"config":       func() (uint64, bool) { return 2, false },
		"certificates": func() (uint64, bool) { return 1, true },
	}
	s.AuditFailures = func() uint64 { return 4 }
	m := metrics.New(s)
	m.Observe("/keybroker.v1.KeyBrokerService/AcquireKey", codes.OK, 300*time.Microsecond)
	m.Observe("AcquireKey", codes.ResourceExhausted, 20*time.Second)
	m.Observe("/no.such.Service/Thing", codes.Code(99), time.Hour)

	want, err := os.ReadFile("testdata/scrape.txt")
	require.NoError(t, err)
	assert.Equal(t, string(want), scrape(t, m, all))
}

func TestScrapeTellsThoseWhoMaySee(t *testing.T) {
	b := start(t, onePool("mine", pool.Key{ID: "a", Limits: limits(1, 1, 1)}), onePool("theirs", pool.Key{ID: "b", Limits: limits(1, 1, 1)}))
	s := of(b)
	looked := map[string]int{}
	s.Quotas = func(name string, q pool.Query) (pool.Page, error) { looked[name]++; return b.Page(name, q) }
	s.AuditFailures = func() uint64 { return 0 }
	m := metrics.New(s)
	got := scrape(t, m, func(name string) bool { return name == "mine" })
	assert.Contains(t, got, `pool="mine"`)
	assert.NotContains(t, got, "theirs")
	assert.Contains(t, got, "keybroker_audit_failures_total 0")
	assert.Equal(t, map[string]int{"mine": 1}, looked)
	got = scrape(t, m, func(string) bool { return false })
	assert.NotContains(t, got, "pool=")
	assert.Contains(t, got, "keybroker_audit_failures_total 0")
	assert.Contains(t, scrape(t, m, all), `pool="theirs"`, "what one may not see is not kept from the next")
}

func TestSourcesThatAreNotThere(t *testing.T) {
	assert.Empty(t, scrape(t, metrics.New(metrics.Sources{}), all))
	b := start(t, onePool("p", pool.Key{ID: "a", Limits: limits(1, 1, 1)}))
	s := of(b)
	s.Quotas = func(string, pool.Query) (pool.Page, error) { return pool.Page{}, errors.New("gone") }
	got := scrape(t, metrics.New(s), all)
	assert.Contains(t, got, `keybroker_pool_keys{pool="p"} 1`)
	assert.NotContains(t, got, "keybroker_limit_")
}

func TestScrapeIsCompressedIfAskedFor(t *testing.T) {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	metrics.New(metrics.Sources{}).Write(w, r, all)
	text, err := gzip.NewReader(w.Body)
	require.NoError(t, err)
	body, err := io.ReadAll(text)
	require.NoError(t, err)
	assert.Contains(t, string(body), "go_goroutines")
	assert.Contains(t, string(body), "process_cpu_seconds_total")
	assert.Contains(t, string(body), `keybroker_build_info{version="`)
}

// Labels are names from outside: any bytes, any length, and perhaps the same twice.
func TestNamesFromOutside(t *testing.T) {
	long := strings.Repeat("é", 200)
	b := start(t, onePool("p\xff\"\n", pool.Key{ID: long + "1", Limits: limits(1, 1, 1)}, pool.Key{ID: long + "2", Limits: limits(1, 1, 1)}))
	s := of(b)
	s.Certificates = func() []certs.Expiry {
		return []certs.Expiry{{File: "both\xff", NotAfter: time.Unix(2, 0)}, {File: "both\xff", NotAfter: time.Unix(1, 0)}}
	}
	got := scrape(t, metrics.New(s), all)
	assert.Contains(t, got, `keybroker_certificate_expiry_timestamp_seconds{file="both`+"\uFFFD"+`"} 1`)
	assert.Contains(t, got, `keybroker_pool_keys{pool="p`+"\uFFFD"+`\"\n"} 2`)
	assert.Equal(t, 3, strings.Count(got, "keybroker_limit_amount{"), "two groups whose labels are cut to the same")
	assert.NotContains(t, got, strings.Repeat("é", 129))
}

func TestSeriesOfAPoolAreBounded(t *testing.T) {
	var keys []pool.Key
	for i := range 1500 { // two pages
		keys = append(keys, pool.Key{ID: fmt.Sprintf("key-%04d", i), Limits: limits(1, 1, 1)})
	}
	m := metrics.New(of(start(t, onePool("big", keys...), onePool("small", keys[:10]...))))
	got := ours(answer(t, m, all)) // what checks the format takes seconds for so much
	assert.Equal(t, 666+30, strings.Count(got, "keybroker_limit_amount{"))
	assert.Contains(t, got, `keybroker_pool_limits_left_out{pool="big"} 3834`)
	assert.Contains(t, got, `keybroker_pool_limits_left_out{pool="small"} 0`)
	assert.Less(t, strings.Count(got, `pool="big"`), 2020)
}

func TestCallsAndScrapesAtOnce(t *testing.T) {
	b := start(t, onePool("p", pool.Key{ID: "a", Limits: limits(1000, 1e6, 1e6)}))
	m := metrics.New(of(b))
	const callers, each = 8, 2000
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range each {
				m.Observe("AcquireKey", codes.Code(i%2), time.Millisecond)
				if i%500 == 0 {
					_, _ = ask(t, b, "p", "")
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				w := httptest.NewRecorder()
				m.Write(w, httptest.NewRequest(http.MethodGet, "/metrics", nil), all)
				assert.Equal(t, http.StatusOK, w.Code)
			}
		})
	}
	wg.Wait()
	got := scrape(t, m, all)
	assert.Contains(t, got, fmt.Sprintf(`keybroker_grpc_requests_total{code="OK",method="AcquireKey"} %d`, callers*each/2))
	assert.Contains(t, got, fmt.Sprintf(`keybroker_grpc_request_seconds_count{method="AcquireKey"} %d`, callers*each))
}
