package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what the output in testdata comes to")

var somewhere = machine{
	Date: time.Date(2026, 11, 22, 23, 59, 0, 0, time.UTC), Cores: 2, Go: "go1.26.8", OS: "Debian GNU/Linux 12 (bookworm), linux/amd64",
}

// testdata/bench.txt is what `make bench` once printed, with fewer of the engine's
// lines.
func recorded(t *testing.T) string {
	text, err := os.ReadFile(filepath.Join("testdata", "bench.txt"))
	require.NoError(t, err)
	return string(text)
}

func written(input string) (string, error) {
	var out strings.Builder
	err := run(strings.NewReader(input), &out, somewhere)
	return out.String(), err
}

func TestDocument(t *testing.T) {
	got, err := written(recorded(t))
	require.NoError(t, err)
	golden := filepath.Join("testdata", "benchmarks.md")
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// The order of packages is the document's, whatever the run's was.
func TestOrder(t *testing.T) {
	text := recorded(t)
	engine, rest, ok := strings.Cut(text, "56.507s\n")
	require.True(t, ok)
	want, err := written(text)
	require.NoError(t, err)
	got, err := written(rest + engine + "56.507s\n")
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestWithoutRedis(t *testing.T) {
	text := recorded(t)
	from := strings.Index(text, "    redis_test.go:")
	to := strings.Index(text[from:], "PASS") + from
	got, err := written(text[:from] + "    redis_test.go:95: no redis-server in PATH\n--- SKIP: BenchmarkAcquireKeyBesideRedis\n" + text[to:])
	require.NoError(t, err)
	assert.Contains(t, got, "| acquire / redis | – | skipped: no redis-server in PATH |")
	assert.Contains(t, got, "| AcquireKeyBesideRedis | skipped, no redis-server in PATH |")
}

// Nothing is written when something is wrong.
func TestRefuses(t *testing.T) {
	for _, c := range []struct{ name, replace, by, want string }{
		{"a benchmark fails", "BenchmarkLocal-2       \t 6997712\t       172.4 ns/op\t      83 B/op\t       1 allocs/op", "--- FAIL: BenchmarkLocal\n    bench_test.go:26: no", "a benchmark failed: --- FAIL: BenchmarkLocal"},
		{"after its name", "BenchmarkLocal-2       \t 6997712\t       172.4 ns/op", "BenchmarkLocal-2       \t--- FAIL: BenchmarkLocal-2", "a benchmark failed"},
		{"a package fails", "ok  \tgithub.com/keybroker/keybroker/client", "FAIL\tgithub.com/keybroker/keybroker/client", "a benchmark failed: FAIL\tgithub.com/keybroker/keybroker/client"},
		{"it panics", "BenchmarkLocal-2 ", "panic: test timed out after 10m0s\nBenchmarkLocal-2 ", "a benchmark failed: panic: test timed out"},
		{"it prints into its own line", "       172.4 ns/op", "said something\n       172.4 ns/op", "not a benchmark's result"},
		{"the iterations are no number", "6997712", "many", "not a benchmark's result"},
		{"the value is no number", "172.4 ns/op", "172,4 ns/op", "not a benchmark's result"},
		{"a unit is missing", "172.4 ns/op", "172.4", "not a benchmark's result"},
		{"the end is missing", "ok  \tgithub.com/keybroker/keybroker/internal/app", "", "the output of a package ends in its middle, after Day"},
		{"a step is missing", "keybroker/internal/store/bolt\t12.805s", "keybroker/other\t1s", "there are no benchmarks of internal/store/bolt"},
		{"one that matters is missing", "BenchmarkAcquireKeyBesideEcho-2", "BenchmarkOther-2", "acquire / echo: there is no benchmark AcquireKeyBesideEcho in server"},
		{"its unit is", "acquire/echo", "echo/acquire", "acquire / echo: benchmark AcquireKeyBesideEcho in server reports no acquire/echo"},
		{"nothing was measured", "901.6 requests/s", "0 requests/s", "calls / requests: 6.882 by 0 is no ratio"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := recorded(t)
			require.Contains(t, text, c.replace)
			got, err := written(strings.Replace(text, c.replace, c.by, 1))
			assert.ErrorContains(t, err, c.want)
			assert.Empty(t, got)
		})
	}
	for name, text := range map[string]string{
		"nothing was printed": "", "the last package is cut off": recorded(t) + "BenchmarkLast-2 1 2 ns/op\n",
	} {
		_, err := written(text)
		assert.Error(t, err, name)
	}
}

// Notes belong to their benchmark, with -v and without.
func TestNotes(t *testing.T) {
	want := []benchmark{
		{Name: "A", Values: []value{{"ns/op", 1.5}}, Notes: []string{"one", "two"}},
		{Name: "B/x-1", Values: []value{{"x/y", 2}, {"B/op", 0}}, Notes: []string{"three"}},
		{Name: "C", Values: []value{{"ns/op", 4}}},
	}
	for name, text := range map[string]string{
		"plain":   "BenchmarkA-2 10 1.5 ns/op\n--- BENCH: BenchmarkA-2\n    a_test.go:1: one\n    a_test.go:2: two\nBenchmarkB/x-1-2 10 2 x/y 0 B/op\n--- BENCH: BenchmarkB/x-1-2\n    a_test.go:3: three\nBenchmarkC-2 1 4 ns/op\nPASS\nok  \tgithub.com/keybroker/keybroker/p\t1s\n",
		"verbose": "BenchmarkA\n    a_test.go:1: one\n    a_test.go:2: two\nBenchmarkA-2 10 1.5 ns/op\nBenchmarkB\nBenchmarkB/x-1\n    a_test.go:3: three\nBenchmarkB/x-1-2 10 2 x/y 0 B/op\nBenchmarkC\nBenchmarkC-2 1 4 ns/op\nPASS\nok  \tgithub.com/keybroker/keybroker/p\t1s\n",
	} {
		t.Run(name, func(t *testing.T) {
			o, err := parse(strings.NewReader(text))
			require.NoError(t, err)
			assert.Equal(t, []testedPackage{{Name: "p", Benchmarks: want}}, o.Packages)
		})
	}
}

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		n          float64
		unit, want string
	}{
		{0, "asks/s", "0 asks/s"}, {-1.234, "%added", "-1.23 %added"}, {0.007633, "x/y", "0.00763 x/y"},
		{0.9999, "of-memory", "1 of-memory"}, {37906, "acquire/s", "37,900 acquire/s"}, {1234567, "x", "1,230,000 x"}, {-1234, "x", "-1,230 x"},
		{94.14, "ns/op", "94.1 ns"}, {999.4, "ns/op", "999 ns"}, {999.6, "ns/op", "1 µs"}, {1665224, "ns/op", "1.67 ms"}, {20679090471, "ns/op", "20.7 s"}, {5e12, "ns/op", "5,000 s"},
		{368, "B/op", "368 B"}, {531591256, "B/op", "532 MB"}, {2008541, "allocs/op", "2,010,000"},
	} {
		assert.Equal(t, c.want, quantity(c.n, c.unit))
	}
}

func TestHere(t *testing.T) {
	m := here()
	assert.NotZero(t, m.Cores)
	assert.NotEmpty(t, m.OS)
	assert.WithinDuration(t, time.Now(), m.Date, time.Minute)
}
