package client_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/client"
)

const wide = `
  - name: wide
    type: openai
    base_url: $URL/v1
    keys:
      - {id: one, key: sk-cnry7f3a-client-one, rpm_limit: 100000000, tpm_limit: 100000000000}
`

// What a lease costs that is shared out of one held here.
func BenchmarkLocal(b *testing.B) {
	w := begin(b, wide)
	c := w.client()
	b.ReportAllocs()
	for b.Loop() {
		l, err := c.Acquire(b.Context(), client.Request{Pool: "wide", Model: "gpt-4o", InputTokens: 10, MaxOutputTokens: 10})
		if err != nil { // require costs as much as what is measured
			b.Fatal(err)
		}
		_ = l.Release(b.Context(), true)
	}
}

// pair is the same client of a provider, bare and with leases.
func pair(b *testing.B, w *world) (bare, leased *http.Client) {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = 100
	b.Cleanup(base.CloseIdleConnections)
	tr := w.client().Transport("wide")
	tr.Base = base
	return &http.Client{Transport: base}, &http.Client{Transport: tr}
}

// alternate measures two things in turn, so that both see the same machine.
func alternate(b *testing.B, bare, leased func() time.Duration) (medians [2]time.Duration) {
	for range 200 { // until connections are open and requests share leases
		bare()
		leased()
	}
	b.ResetTimer()
	var took [2][]time.Duration
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			took[0], took[1] = append(took[0], bare()), append(took[1], leased())
		} else {
			took[1], took[0] = append(took[1], leased()), append(took[0], bare())
		}
	}
	for i := range took {
		slices.Sort(took[i])
		medians[i] = took[i][len(took[i])/2]
	}
	return medians
}

// What the transport adds to a request that a provider on this machine answers at
// once: the medians' difference.
func BenchmarkTransport(b *testing.B) {
	w := begin(b, wide)
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	bare, leased := pair(b, w)
	call := func(h *http.Client) func() time.Duration {
		return func() time.Duration {
			start := time.Now()
			resp, err := h.Post(w.url+chat, "application/json", strings.NewReader(ask))
			require.NoError(b, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return time.Since(start)
		}
	}
	m := alternate(b, call(bare), call(leased))
	b.ReportMetric(float64(m[0].Nanoseconds())/1e3, "µs-bare")
	b.ReportMetric(float64((m[1]-m[0]).Nanoseconds())/1e3, "µs-added")
}

// How much later the first byte of a stream comes, of a provider that takes 20 ms
// for it.
func BenchmarkFirstByte(b *testing.B) {
	w := begin(b, wide)
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		rw.Header().Set("Content-Type", "text/event-stream")
		time.Sleep(20 * time.Millisecond)
		for range 5 {
			_, _ = io.WriteString(rw, "data: {\"choices\": []}\n\n")
			_ = http.NewResponseController(rw).Flush()
		}
	})
	bare, leased := pair(b, w)
	call := func(h *http.Client) func() time.Duration {
		return func() time.Duration {
			start := time.Now()
			resp, err := h.Post(w.url+chat, "application/json", strings.NewReader(ask))
			require.NoError(b, err)
			_, err = resp.Body.Read(make([]byte, 1))
			took := time.Since(start)
			require.NoError(b, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return took
		}
	}
	m := alternate(b, call(bare), call(leased))
	b.ReportMetric(float64(m[0].Microseconds())/1e3, "ms-bare")
	b.ReportMetric(100*float64(m[1]-m[0])/float64(m[0]), "%-later")
}

// How often the broker is called for a thousand requests a second.
func BenchmarkCalls(b *testing.B) {
	w := begin(b, wide)
	w.answers(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, answer) })
	_, leased := pair(b, w)
	var all sync.WaitGroup
	one := func() {
		all.Go(func() {
			resp, err := leased.Post(w.url+chat, "application/json", strings.NewReader(ask))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		})
	}
	calls := func() int64 { return w.called("AcquireKey") + w.called("ReportUsage") + w.called("ReleaseKey") }
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		<-tick.C
		one()
	}
	before, start := calls(), time.Now()
	b.ResetTimer()
	sent := 0
	for b.Loop() {
		<-tick.C
		one()
		sent++
	}
	took := time.Since(start).Seconds()
	all.Wait()
	b.ReportMetric(float64(sent)/took, "requests/s")
	b.ReportMetric(float64(calls()-before)/took, "calls/s")
	b.ReportMetric(0, "ns/op")
}
