package server_test

// Every way to name a method: those that are served have a verb, and no other spelling
// of them reaches what they do.

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/server"
)

func TestEveryMethodHasAVerb(t *testing.T) {
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("split=%v", split), func(t *testing.T) {
			w := beginWith(t, server.Options{SplitAdmin: split}, onePool("a", key("k", slots(1))))
			onMain, onAdmin := w.server.Methods()
			served := map[string]bool{}
			for _, m := range append(onMain, onAdmin...) {
				served[m] = true
				assert.Contains(t, server.Verbs, m, "served, but nobody has said to whom")
			}
			assert.Equal(t, slices.Sorted(maps.Keys(server.Verbs)), slices.Sorted(maps.Keys(served)), "no verb is for what is not served")
		})
	}
}

// Only probes go without an identity: whatever else is public is so by mistake.
func TestOnlyHealthIsPublic(t *testing.T) {
	for method, verb := range server.Verbs {
		assert.Equal(t, bytes.HasPrefix([]byte(method), []byte("/grpc.health.v1.Health/")), verb == server.Public, method)
	}
}

// speaker is a client that says whatever it likes in HTTP/2.
type speaker struct {
	*testing.T
	conn   net.Conn
	framer *http2.Framer
	stream uint32
}

// speak begins HTTP/2 over a connection.
func speak(t *testing.T, conn net.Conn) *speaker {
	r := &speaker{T: t, conn: conn, framer: http2.NewFramer(conn, conn), stream: 1}
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	require.NoError(t, r.framer.WriteSettings())
	return r
}

// reply is all of an answer: the HTTP status, the fields of gRPC and what messages
// there are. It is cut if the stream or the connection was.
type reply struct {
	fields map[string]string
	body   []byte
	cut    bool
}

// post sends a message to a path, and waits for the end of the answer.
func (r *speaker) post(path string, m proto.Message, fields ...string) (got reply) {
	r.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range slices.Collect(slices.Chunk(append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "broker",
		"content-type", "application/grpc", "te", "trailers",
	}, fields...), 2)) {
		require.NoError(r, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	message, err := proto.Marshal(m)
	require.NoError(r, err)
	message = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	id := r.stream
	r.stream += 2
	require.NoError(r, r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}))
	_ = r.framer.WriteData(id, true, message) // the other end may have hung up
	got.fields = map[string]string{}
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			got.cut = true
			return got
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = r.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = r.framer.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				got.fields[field.Name] = field.Value
			}
		case *http2.DataFrame:
			got.body = append(got.body, f.Data()...)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			got.cut = true
		}
		if h := frame.Header(); got.cut || h.StreamID == id && h.Flags.Has(http2.FlagDataEndStream) &&
			(h.Type == http2.FrameData || h.Type == http2.FrameHeaders) {
			return got
		}
	}
}

// spellings are paths that mean to be a method's and are not.
func spellings(service, method string) []string {
	full := "/" + service + "/" + method
	return []string{
		full[1:], "/" + full, "//" + full, full + "/", full + "//", "/" + service + "//" + method,
		"/" + service + "/./" + method, "/x/.." + full, "." + full, "/." + full, full + "/x/../" + method,
		"/KEYBROKER.V1.KEYBROKERSERVICE/ACQUIREKEY", "/" + service + "/acquirekey", "/" + service + "/acquireKey",
		"/" + service + "/%41cquireKey", "%2f" + full[1:], "/" + service + "%2f" + method, full + "%00", full + "?", full + "?x=1", full + "#x",
		full + ";x", " " + full, full + " ", "\\" + full[1:], "/" + service + "\\" + method, "/" + service + "." + method,
		"/" + service + "/", "/" + service, "/" + service + "/Unheard", "/keybroker.v1.Unheard/" + method, "/" + method, "//" + method,
		"/", "//", "///", "", "*", ".", "http://broker" + full, "https://broker" + full, "broker" + full,
	}
}

func TestNoOtherSpellingReachesAMethod(t *testing.T) {
	for _, wire := range []string{"open", "tokens"} {
		t.Run(wire, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeople(t)
				w := p.serve(t, wire, false)
				connect := func() *speaker {
					conn, err := w.main.DialContext(t.Context())
					require.NoError(t, err)
					if wire == "tokens" {
						config := p.ca.dialer()
						config.NextProtos = []string{"h2"}
						conn = tls.Client(conn, config)
					}
					t.Cleanup(func() { conn.Close() })
					return speak(t, conn)
				}
				ask := &keybrokerv1.AcquireKeyRequest{Pool: "a"}
				restore := &keybrokerv1.RestoreKeyRequest{Pool: "a", KeyId: "k"}
				var chief []string
				if wire == "tokens" {
					chief = []string{"authorization", "Bearer " + p.tokens["chief"][0]}
				}
				r := connect()
				for path, m := range map[string]proto.Message{"KeyBrokerService/AcquireKey": ask, "AdminService/RestoreKey": restore} {
					got := r.post("/keybroker.v1."+path, m, chief...)
					require.Equal(t, "0", got.fields["grpc-status"], "the right spelling works: %v", got.fields)
				}
				calls := len(w.calls.list())
				try := func(path string, m proto.Message, fields ...string) {
					r := connect()
					got := r.post(path, m, fields...)
					assert.NotEqual(t, "0", got.fields["grpc-status"], "%q", path)
					assert.Empty(t, got.body, "%q", path)
					assert.NotContains(t, fmt.Sprint(got.fields), marker, "%q", path)
					assert.True(t, got.cut || got.fields["grpc-status"] != "" || got.fields[":status"] != "200", "%q is answered: %v", path, got.fields)
					r.conn.Close()
				}
				for _, who := range [][]string{nil, chief} {
					for _, path := range spellings("keybroker.v1.KeyBrokerService", "AcquireKey") {
						try(path, ask, who...)
					}
					for _, path := range spellings("keybroker.v1.AdminService", "RestoreKey") {
						try(path, restore, who...)
					}
				}
				// A path that is given twice is no choice between two.
				two := []string{":path", "/grpc.health.v1.Health/Check"}
				try("/keybroker.v1.KeyBrokerService/AcquireKey", ask, two...)
				try("/grpc.health.v1.Health/Check", ask, ":path", "/keybroker.v1.KeyBrokerService/AcquireKey")
				for _, c := range w.calls.list()[calls:] { // strangers are turned away before anybody looks at a path
					assert.Equal(t, finished{"unknown", codes.Unauthenticated, 0}, c, "no handler and no interceptor has heard of it")
				}
				assert.EqualValues(t, 1, w.state("a").Summary.Open, "the one that was asked for by the right name")
			})
		})
	}
}
