package sdktest

// What gateways do today, beside AcquireKey: a token bucket in Redis, in Lua, of a
// key that the caller picks by itself. In turns, in one run; these machines are
// noisy, the ratio is what counts.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/app"
	"github.com/keybroker/keybroker/internal/config"
)

// The pool on both sides: ten keys with limits that never bind.
const (
	benchKeys     = 10
	benchRequests = 1_000_000_000_000 // a minute, as below
	benchTokens   = 1_000_000_000_000_000
	benchTTL      = 100 * time.Millisecond // of a lease, which nobody ends
)

var benchAsk = &keybrokerv1.AcquireKeyRequest{
	Pool: "anthropic", Model: "claude-sonnet-4-5", InputTokens: 1200, MaxOutputTokens: 800,
}

// bucket charges one key's three limits or none of them, by Redis's clock, and
// returns 0, or the milliseconds until there is room. It is one script and one
// hash a key, so that a decision takes one round trip and never sees half of
// another. What is left of a limit that nobody has used yet is all of it, and a
// key that is idle for a minute is full again and need not be kept.
var bucket = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local was = redis.call('HMGET', KEYS[1], 'at', 'requests', 'input', 'output')
local passed = math.max(0, now - (was[1] or now))
local left, wait = {}, 0
for i = 1, 3 do
  local limit, cost = tonumber(ARGV[i]), tonumber(ARGV[i + 3])
  left[i] = math.min(limit, (was[i + 1] or limit) + passed * limit / 60000) - cost
  if left[i] < 0 then
    wait = math.max(wait, math.ceil(-left[i] * 60000 / limit))
  end
end
if wait == 0 then
  redis.call('HSET', KEYS[1], 'at', now, 'requests', left[1], 'input', left[2], 'output', left[3])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
return wait
`)

func BenchmarkAcquireKeyBesideRedis(b *testing.B) {
	db := startRedis(b)
	// gRPC says as little as it does in production. TestMain has it say all there is.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	bucketHolds(b, db)
	var keys [benchKeys]string
	for i := range keys {
		keys[i] = fmt.Sprint("bucket:key-", i)
	}
	broker := startBroker(b)
	sideBySide(b, func(ctx context.Context) error {
		wait, err := bucket.EvalSha(ctx, db, []string{keys[rand.IntN(benchKeys)]},
			benchRequests, benchTokens, benchTokens, 1, benchAsk.InputTokens, benchAsk.MaxOutputTokens).Int64()
		if err == nil && wait != 0 {
			err = fmt.Errorf("a limit binds for %d ms", wait)
		}
		return err
	}, func(ctx context.Context) error {
		_, err := broker.AcquireKey(ctx, benchAsk)
		return err
	})
}

// startRedis runs a redis-server that keeps nothing, on a port of this machine.
func startRedis(b *testing.B) *redis.Client {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		b.Skip("no redis-server in PATH; try apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	host, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(b, err)
	require.NoError(b, l.Close())
	server := exec.CommandContext(b.Context(), path, // which ends it with the benchmark
		"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", b.TempDir())
	require.NoError(b, server.Start())
	b.Cleanup(func() { _ = server.Wait() })

	db := redis.NewClient(&redis.Options{Addr: net.JoinHostPort(host, port)})
	b.Cleanup(func() { assert.NoError(b, db.Close()) })
	for end := time.Now().Add(patience); db.Ping(b.Context()).Err() != nil; time.Sleep(time.Millisecond) {
		require.True(b, time.Now().Before(end), "redis-server answers within %v", patience)
	}
	info, err := db.InfoMap(b.Context(), "server").Result()
	require.NoError(b, err)
	// Had another taken the port, we would be measuring that.
	require.Equal(b, fmt.Sprint(server.Process.Pid), info["Server"]["process_id"], "a stranger's redis-server")
	require.NoError(b, bucket.Load(b.Context(), db).Err())
	b.Logf("redis-server %s", info["Server"]["redis_version"])
	return db
}

// bucketHolds makes sure that what is measured is a limiter: three requests a
// minute, then none, each of the three limits by itself.
func bucketHolds(b *testing.B, db *redis.Client) {
	ask := func(key string, args ...any) int64 {
		wait, err := bucket.EvalSha(b.Context(), db, []string{key}, args...).Int64()
		require.NoError(b, err)
		return wait
	}
	for i, name := range []string{"requests", "input", "output"} {
		args := []any{1000, 1000, 1000, 1, 1, 1}
		args[i] = 3
		for range 3 {
			require.Zero(b, ask("check:"+name, args...), name)
		}
		wait := ask("check:"+name, args...)
		require.Positive(b, wait, name)
		require.LessOrEqual(b, wait, int64(20_000), name) // a third of a minute
	}
	wait := ask("check:refill", 60_000, 1000, 1000, 60_000, 1, 1)
	require.Zero(b, wait)
	wait = ask("check:refill", 60_000, 1000, 1000, 50, 1, 1)
	require.LessOrEqual(b, wait, int64(50)) // one every millisecond
	time.Sleep(time.Duration(wait) * time.Millisecond)
	require.Zero(b, ask("check:refill", 60_000, 1000, 1000, 50, 1, 1))
}

// startBroker is a whole broker, as a configuration makes it.
func startBroker(b *testing.B) keybrokerv1.KeyBrokerServiceClient {
	var text strings.Builder
	fmt.Fprintf(&text, `
server: {listen: "127.0.0.1:0", plaintext: true}
store: {type: memory}
providers:
  - name: anthropic
    type: anthropic
    lease: {start_within: %v, default_ttl: %v}
    keys:
`, benchTTL, benchTTL)
	for i := range benchKeys {
		fmt.Fprintf(&text, "      - {id: key-%d, key: %sbench-%d, rpm_limit: %d, itpm_limit: %d, otpm_limit: %d}\n",
			i, mark, i, benchRequests, benchTokens, benchTokens)
	}
	cfg, err := config.Parse("bench.yaml", []byte(text.String()), app.ConfigOptions())
	require.NoError(b, err)
	a, err := app.New(b.Context(), cfg, app.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		assert.NoError(b, <-done)
	})
	conn, err := grpc.NewClient(a.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(b, err)
	b.Cleanup(func() { assert.NoError(b, conn.Close()) })
	return keybrokerv1.NewKeyBrokerServiceClient(conn)
}

// sideBySide measures two ways to get a key in turns, and gives the ratio of the
// broker to Redis.
func sideBySide(b *testing.B, viaRedis, viaBroker func(context.Context) error) {
	const rounds = 12
	var redises, brokers, ratios []float64
	for b.Loop() {
		for round := range rounds {
			var x, y float64
			if round%2 == 0 { // neither is always first
				x, y = callRate(b, viaRedis), callRate(b, viaBroker)
			} else {
				y, x = callRate(b, viaBroker), callRate(b, viaRedis)
			}
			redises, brokers, ratios = append(redises, x), append(brokers, y), append(ratios, y/x)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(redises), "redis/s")
	b.ReportMetric(median(brokers), "acquire/s")
	b.ReportMetric(median(ratios), "acquire/redis")
}

// callRate counts calls a second of 16 callers, after what the other side has left
// behind is cleared away: leases that end, and garbage.
func callRate(b *testing.B, call func(context.Context) error) float64 {
	const callers, span = 16, 500 * time.Millisecond
	time.Sleep(2 * benchTTL)
	runtime.GC()
	var calls atomic.Int64
	var all sync.WaitGroup
	start := time.Now()
	for range callers {
		all.Go(func() {
			for time.Since(start) < span {
				if err := call(b.Context()); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	all.Wait()
	return float64(calls.Load()) / time.Since(start).Seconds()
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}
