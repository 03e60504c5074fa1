package client_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/client"
)

const wide = `
  - name: wide
    type: openai
    base_url: $URL/v1
    keys:
      - {id: one, key: sk-one, rpm_limit: 100000000, tpm_limit: 100000000000}
`

// What a lease costs that is shared out of one held here.
func BenchmarkLocal(b *testing.B) {
	w := begin(b, wide)
	c := w.client()
	b.ReportAllocs()
	for b.Loop() {
		l, err := c.Acquire(b.Context(), client.Request{Pool: "wide", Model: "gpt-4o", InputTokens: 10, MaxOutputTokens: 10})
		require.NoError(b, err)
		_ = l.Release(b.Context(), true)
	}
}
