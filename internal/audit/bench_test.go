//go:build unix

package audit

import (
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkWrite is 64 goroutines that write grants.
func BenchmarkWrite(b *testing.B) {
	l, err := Open(filepath.Join(b.TempDir(), "audit.jsonl"))
	require.NoError(b, err)
	defer func() { _ = l.Close() }()
	lease := Fingerprint("a lease")
	b.ReportAllocs()
	b.SetParallelism((64 + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := l.Write(grant(lease)); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	e := grant(Fingerprint("a lease"))
	e.Time = time.Now()
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = e.append(line[:0])
	}
}

func grant(lease string) *Entry {
	return &Entry{
		Decision: Granted, Method: "AcquireKey", Holder: "spiffe://example.org/ns/prod/sa/summarizer",
		Peer: "10.1.2.3:40404", Pool: "anthropic", Key: "research-1", Lease: lease, Requests: 1,
		Expires: time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC),
	}
}
