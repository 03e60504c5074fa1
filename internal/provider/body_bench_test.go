package provider

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// streams are answers of 500 pieces of text, event by event.
var streams = map[string][]string{
	"openai": func() []string {
		var s []string
		for i := range 500 {
			s = append(s, sse(fmt.Sprintf(`{"id":"chatcmpl-BxYz0123456789abcdefghijklmn","object":"chat.completion.chunk","created":1768478400,"model":"gpt-5-mini-2025-08-07","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}],"usage":null}`, i)))
		}
		return append(s, sse(`{"id":"chatcmpl-BxYz0123456789abcdefghijklmn","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":13,"completion_tokens":500,"total_tokens":513}}`, "[DONE]"))
	}(),
	"anthropic": func() []string {
		s := []string{sse(`message_start|{"type":"message_start","message":{"id":"msg_1","content":[],"usage":{"input_tokens":13,"output_tokens":1}}}`)}
		for i := range 500 {
			s = append(s, sse(fmt.Sprintf(`content_block_delta|{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" word%d and some more"}}`, i)))
		}
		return append(s, sse(`message_delta|{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":500}}`, `message_stop|{"type":"message_stop"}`))
	}(),
	"gemini": func() []string { // usage in every event: all of them are read
		var s []string
		for i := range 500 {
			s = append(s, sse(fmt.Sprintf(`{"candidates":[{"content":{"parts":[{"text":" word%d and some more"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":13,"candidatesTokenCount":%d,"totalTokenCount":%d,"promptTokensDetails":[{"modality":"TEXT","tokenCount":13}]},"modelVersion":"gemini-3-flash","responseId":"abcdefghijkl"}`, i, i, i+13)))
		}
		return s
	}(),
}

// What reading costs a stream that comes over a connection: the time with a Body
// beside the time without, in turn. One by one, as models answer, the client has
// read an event when the next is sent; in a row, nobody waits for anybody.
func BenchmarkStream(b *testing.B) {
	for name, events := range streams {
		b.Run(name+"/one_by_one", func(b *testing.B) { benchmarkStream(b, events, true) })
		b.Run(name+"/in_a_row", func(b *testing.B) { benchmarkStream(b, events, false) })
	}
}

func benchmarkStream(b *testing.B, events []string, wait bool) {
	seen := make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			w.(http.Flusher).Flush()
			if wait {
				<-seen
			}
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	fetch := func(body *Body) time.Duration {
		start := time.Now()
		r, err := server.Client().Get(server.URL)
		require.NoError(b, err)
		defer r.Body.Close()
		from := io.Reader(r.Body)
		if body != nil {
			from = io.TeeReader(from, body)
		}
		_, err = io.Copy(reader{wait, seen}, from)
		require.NoError(b, err)
		return time.Since(start)
	}
	var with, without []time.Duration
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			without = append(without, fetch(nil))
		}
		var body Body
		with = append(with, fetch(&body))
		if i%2 == 1 {
			without = append(without, fetch(nil))
		}
		require.Positive(b, body.Usage().Output)
	}
	read, plain := median(with), median(without)
	b.ReportMetric(plain/float64(len(events)), "plain-ns/event")
	b.ReportMetric(read/float64(len(events)), "read-ns/event")
	b.ReportMetric(100*(read/plain-1), "%added")
}

// reader takes the pieces of an answer and says that it has.
type reader struct {
	wait bool
	seen chan struct{}
}

func (r reader) Write(p []byte) (int, error) {
	if r.wait {
		select {
		case r.seen <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

func median(ds []time.Duration) float64 {
	slices.Sort(ds)
	return float64(ds[len(ds)/2])
}

// What reading costs by itself: one event at a time, and as one long piece.
func BenchmarkBody(b *testing.B) {
	long := []string{`{"id":"x","output":[{"content":[{"text":"` + strings.Repeat(`All work and no play.\n`, 50_000) + `"}]}],"usage":{"input_tokens":1,"output_tokens":2}}`}
	all := map[string][]string{"document": long, "response.completed": {"event: response.completed\ndata: " + long[0] + "\n\n"}}
	for name, s := range streams {
		all[name] = s
	}
	for name, events := range all {
		size := len(strings.Join(events, ""))
		b.Run(name+"/read", func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var pieces [][]byte
			for _, e := range events {
				for p := []byte(e); len(p) > 0; {
					n := min(len(p), 32<<10)
					pieces = append(pieces, p[:n])
					p = p[n:]
				}
			}
			for b.Loop() {
				var body Body
				for _, p := range pieces {
					_, _ = body.Write(p)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
		})
		b.Run(name+"/copy", func(b *testing.B) {
			b.SetBytes(int64(size))
			to := bytes.NewBuffer(make([]byte, 0, 2*size))
			for b.Loop() {
				to.Reset()
				for _, e := range events {
					to.WriteString(e)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
		})
	}
}
