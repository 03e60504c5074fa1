package broker_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

// BenchmarkAcquire grants a lease without waiting, and releases it.
func BenchmarkAcquire(b *testing.B) {
	br, err := broker.New(b.Context(), &broker.Memory{}, []broker.DomainConfig{onePool("a", plenty*1000, plenty)})
	require.NoError(b, err)
	b.Cleanup(br.Close)
	b.ReportAllocs()
	for b.Loop() {
		l, err := br.Acquire(b.Context(), ask("h"))
		require.NoError(b, err)
		_, err = br.Release(b.Context(), "h", l.ID, false)
		require.NoError(b, err)
	}
}
