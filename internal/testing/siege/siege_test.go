//go:build long

// Package siege attacks a real broker, as a process of its own, while honest clients
// go on working: what counts is that they are served, and what memory it takes.
package siege

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// SIEGE is the number of hostile connections, 10,000 by make siege.
func hostile(t *testing.T) int {
	text := os.Getenv("SIEGE")
	if text == "" {
		return 300
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// attack goes on until the context ends.
type attack struct {
	name string
	run  func(ctx context.Context, c *castle, n int)
	most float64 // MiB that the broker may take, for 10,000 hostile connections
}

var attacks = []attack{
	{"nobody", func(ctx context.Context, _ *castle, _ int) { <-ctx.Done() }, 100},
	{"connections that say nothing", silent, 400},
	{"the same, from one address", alone, 200},
	{"handshakes a byte a second", drip, 400},
	{"TLS without a name, then nothing", anonymous, 700},
	{"messages that strangers do not finish", unfinished, 400},
	{"strangers who watch the health", watching, 400},
	{"idle connections of a good client", idle, 1200},
	{"oversized messages and headers", oversized, 400},
	{"streams reset as soon as begun", rapidReset, 400},
	{"pings and settings without end", chatter, 400},
}

func TestHonestClientsAreServedUnderSiege(t *testing.T) {
	n := hostile(t)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			c := build(t)
			before := c.memory()
			ctx, stop := context.WithTimeout(t.Context(), time.Second+time.Duration(n)*time.Second/1000)
			defer stop()
			var attackers sync.WaitGroup
			attackers.Go(func() { c.attack(ctx, t, a.name, n) })
			h := c.honest(ctx)
			attackers.Wait()
			t.Logf("%-36s %6d calls, p50 %6.2f ms, p99 %7.2f ms, worst %7.2f ms; %3d new connections, worst %7.2f ms; memory %.0f -> %.0f MiB; connections at most %d, refused %d",
				a.name, len(h.calls), ms(h.calls, 50), ms(h.calls, 99), ms(h.calls, 100), len(h.dials), ms(h.dials, 100), before, h.memory, h.connections, h.refused)
			assert.Zero(t, len(h.failures), "honest calls that failed, as: %v", h.first())
			assert.NotEmpty(t, h.dials)
			assert.Less(t, h.memory, a.most)
			assert.LessOrEqual(t, h.connections, 20_000)
		})
	}
}

func ms(all []time.Duration, percent int) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return float64(all[min(len(all)*percent/100, len(all)-1)]) / float64(time.Millisecond)
}

// crowd keeps n connections up from many addresses, and has each served.
func crowd(ctx context.Context, c *castle, n int, serve func(ctx context.Context, conn net.Conn)) {
	from(ctx, c, n, func(i int) net.IP { return net.IPv4(127, 0, 1+byte(i/200), 1+byte(i%200)/50) }, serve)
}

func from(ctx context.Context, c *castle, n int, address func(i int) net.IP, serve func(ctx context.Context, conn net.Conn)) {
	var all sync.WaitGroup
	room := make(chan struct{}, 64) // that are being made
	for i := range n {
		from := &net.TCPAddr{IP: address(i)}
		all.Go(func() {
			for ctx.Err() == nil {
				room <- struct{}{}
				conn, err := (&net.Dialer{LocalAddr: from, Timeout: time.Second}).DialContext(ctx, "tcp", c.address)
				<-room
				if err == nil {
					stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
					serve(ctx, conn)
					stop()
					_ = conn.Close()
				}
				pause(ctx, time.Second)
			}
		})
	}
	all.Wait()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until reads what comes until the connection is closed.
func until(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

func silent(ctx context.Context, c *castle, n int) {
	crowd(ctx, c, n, func(_ context.Context, conn net.Conn) { until(conn) })
}

func alone(ctx context.Context, c *castle, n int) {
	from(ctx, c, n, func(int) net.IP { return net.IPv4(127, 0, 100, 1) }, func(_ context.Context, conn net.Conn) { until(conn) })
}

// hello is the beginning of a TLS record that is never finished.
var hello = append([]byte{22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3}, make([]byte, 200)...)

func drip(ctx context.Context, c *castle, n int) {
	crowd(ctx, c, n, func(ctx context.Context, conn net.Conn) {
		for _, b := range hello {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			pause(ctx, time.Second)
		}
	})
}

func anonymous(ctx context.Context, c *castle, n int) { quiet(ctx, c, n, c.stranger) }
func idle(ctx context.Context, c *castle, n int)      { quiet(ctx, c, n, c.service) }

// quiet opens connections, as HTTP/2 has it, and leaves them alone.
func quiet(ctx context.Context, c *castle, n int, config *tls.Config) {
	shakes := make(chan struct{}, 8)
	crowd(ctx, c, n, func(ctx context.Context, conn net.Conn) {
		shakes <- struct{}{}
		framer, err := open(ctx, conn, config)
		<-shakes
		if err == nil {
			drain(framer)
		}
	})
}

// open shakes hands and sends the preface.
func open(ctx context.Context, conn net.Conn, config *tls.Config) (*http2.Framer, error) {
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(secure, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(secure, secure)
	return framer, framer.WriteSettings()
}

func drain(framer *http2.Framer) {
	for {
		if _, err := framer.ReadFrame(); err != nil {
			return
		}
	}
}

// raw keeps a few connections of a good client busy with frames.
func raw(ctx context.Context, c *castle, busy func(framer *http2.Framer) error) {
	crowd(ctx, c, 4, func(ctx context.Context, conn net.Conn) {
		framer, err := open(ctx, conn, c.service)
		if err != nil {
			return
		}
		go drain(framer)
		for ctx.Err() == nil && busy(framer) == nil {
		}
	})
}

// streams has strangers begin as many streams as they may on each of a few connections.
func streams(ctx context.Context, c *castle, n int, path string, body []byte) {
	headers := callHeaders(path)
	crowd(ctx, c, min(n/100, 50), func(ctx context.Context, conn net.Conn) {
		framer, err := open(ctx, conn, c.stranger)
		if err != nil {
			return
		}
		go func() {
			for id := uint32(1); id < 2000 && ctx.Err() == nil; id += 2 {
				if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true}) != nil ||
					framer.WriteData(id, false, body) != nil {
					return
				}
			}
		}()
		drain(framer)
	})
}

// unfinished sends the beginning of a message of a mebibyte in each stream, as much as
// may be sent without being asked for more.
func unfinished(ctx context.Context, c *castle, n int) {
	streams(ctx, c, n, keybrokerv1.KeyBrokerService_AcquireKey_FullMethodName, append([]byte{0, 0, 15, 0, 0}, make([]byte, 16<<10-5)...))
}

func watching(ctx context.Context, c *castle, n int) {
	streams(ctx, c, n, healthpb.Health_Watch_FullMethodName, []byte{0, 0, 0, 0, 0})
}

func rapidReset(ctx context.Context, c *castle, _ int) {
	headers := callHeaders(keybrokerv1.KeyBrokerService_AcquireKey_FullMethodName)
	var stream atomic.Uint32
	raw(ctx, c, func(framer *http2.Framer) error {
		id := stream.Add(1)*2 - 1
		return errors.Join(
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true}),
			framer.WriteRSTStream(id, http2.ErrCodeCancel),
		)
	})
}

func chatter(ctx context.Context, c *castle, _ int) {
	raw(ctx, c, func(framer *http2.Framer) error {
		return errors.Join(framer.WritePing(false, [8]byte{}), framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}))
	})
}

func oversized(ctx context.Context, c *castle, _ int) {
	big := &keybrokerv1.AcquireKeyRequest{Pool: string(make([]byte, 8<<20))}
	many := metadata.MD{}
	for i := range 2000 {
		many.Append(fmt.Sprintf("x-%d", i), "a header that nobody has asked for")
	}
	long := metadata.Pairs("x-long", string(slices.Repeat([]byte("x"), 1<<20)))
	exclude := &keybrokerv1.AcquireKeyRequest{Pool: "p", ExcludeKeyIds: slices.Repeat([]string{"k"}, 200_000)}
	headers := &keybrokerv1.ReportUsageRequest{LeaseId: "x", Headers: map[string]string{}}
	for i := range 20_000 {
		headers.Headers[strconv.Itoa(i)] = "value"
	}
	for range 2 {
		go raw(ctx, c, func(framer *http2.Framer) error { // headers that never end
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 1024)})
			for ctx.Err() == nil {
				if err := framer.WriteContinuation(1, false, make([]byte, 16<<10)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	client := keybrokerv1.NewKeyBrokerServiceClient(c.dial(nil))
	for ctx.Err() == nil {
		for _, m := range []proto.Message{big, exclude, headers} {
			var err error
			switch m := m.(type) {
			case *keybrokerv1.AcquireKeyRequest:
				_, err = client.AcquireKey(ctx, m)
			case *keybrokerv1.ReportUsageRequest:
				_, err = client.ReportUsage(ctx, m)
			}
			if err == nil {
				panic("it was served")
			}
		}
		for _, md := range []metadata.MD{many, long} {
			if _, err := client.AcquireKey(metadata.NewOutgoingContext(ctx, md), &keybrokerv1.AcquireKeyRequest{Pool: "p"}); err == nil {
				panic("it was served")
			}
		}
	}
}
