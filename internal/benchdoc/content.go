package main

// What the document is about: what is looked at first, and what a reader must know
// of how each package was measured. A benchmark that is renamed is renamed here.

// figure is one value of one benchmark.
type figure struct{ Package, Benchmark, Unit string }

// ratio is one that people should look at. It is missing only if its benchmark was
// skipped, for a reason that is then told.
type ratio struct {
	Name string
	// Of is the ratio as the benchmark reports it, a median of many turns; empty: it is
	// One by Other.
	Of         figure
	One, Other figure // what is shown beside it; either may be empty
	How        string
}

const (
	server, redis = "server", "sdktest"
	besideEcho    = "AcquireKeyBesideEcho"
	withSecurity  = "AcquireKeyWithSecurity"
	besideRedis   = "AcquireKeyBesideRedis"
	leastLoaded   = "AcquireRelease/least_loaded/"
)

var ratios = []ratio{
	{
		Name: "acquire / echo", Of: figure{server, besideEcho, "acquire/echo"},
		One: figure{server, besideEcho, "acquire/s"}, Other: figure{server, besideEcho, "echo/s"},
		How: "Calls a second of `AcquireKey`, by those of bare grpc-go that answers with a fixed message of the same size: 1.00 would be a broker that costs nothing.",
	},
	{
		Name: "secure / plain", Of: figure{server, withSecurity, "secure/plain"},
		One: figure{server, withSecurity, "secure/s"}, Other: figure{server, withSecurity, "plain/s"},
		How: "`AcquireKey` by mTLS, with access rules and a line in the audit log for each lease, by the same in plaintext with neither.",
	},
	{
		Name: "acquire / redis", Of: figure{redis, besideRedis, "acquire/redis"},
		One: figure{redis, besideRedis, "acquire/s"}, Other: figure{redis, besideRedis, "redis/s"},
		How: "`AcquireKey` by one `EVALSHA` that checks and charges the same three limits of a key picked at random. Redis neither compares keys, nor remembers the lease, nor hands out the key.",
	},
	{
		Name: "file / memory", Of: figure{"internal/app", "FileBesideMemory", "of-memory"},
		How: "Leases a second of a broker that remembers what is used of daily limits in a file, by one that forgets, without gRPC.",
	},
	{
		Name: "10 keys / 10,000 keys", One: figure{"pool", leastLoaded + "10keys", "ns/op"}, Other: figure{"pool", leastLoaded + "10000keys", "ns/op"},
		How: "Time to decide and settle a lease in the engine, `least_loaded`, with few keys by that with many.",
	},
	{
		Name: "calls / requests", One: figure{"client", "Calls", "calls/s"}, Other: figure{"client", "Calls", "requests/s"},
		How: "Calls of the broker by requests to the provider, through the Go SDK, which shares a lease out among requests.",
	},
}

// packages say how each was measured. Each of them must be there, in this order;
// one that is not listed comes last, without a word.
var packages = []struct{ Name, How string }{
	{"pool", "The engine alone, on one goroutine: no lock, no gRPC, no I/O. One operation is an acquire and the release of an older lease, unless the name says otherwise; " +
		"`Exhausted` is a refusal, with asks that are the same, ever larger or ever smaller; `Queue` is one waiter served and another come, of a thousand."},
	{"server", "A broker and its clients in one process, over loopback TCP: 16 callers on one connection, ten keys with limits that never bind. " +
		"The two sides take turns of half a second, twelve each, and neither is always first; the medians are shown, and the median of the twelve ratios."},
	{"sdktest", "As in `server`, with a whole broker made from a configuration, against a `redis-server` of its own on loopback TCP that keeps nothing. " +
		"Both have 16 callers in this process: 16 connections by go-redis, one by gRPC. No caller batches by itself."},
	{"internal/provider", "What a response costs to read, and what that adds to a stream: `plain` is the stream copied, `read` the same with its events read for usage."},
	{"client", "The Go SDK with a broker and a provider on loopback that answers at once; `FirstByte` has one that takes 20 ms. Bare requests and those with leases take turns."},
	{"internal/store/bolt", "The store on a file in the temporary folder: what a disk costs depends on the disk."},
	{"internal/app", "The broker without gRPC, on a file. `Writes` is saves a second, by asks a second; `Start` is one with 10,000 used keys; `Day` is as many saves as a day has seconds."},
}
