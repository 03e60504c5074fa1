package broker

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLeaseIDOutlivesItsProgram(t *testing.T) {
	var store Memory
	first, err := startSigner(t.Context(), &store, false)
	require.NoError(t, err)
	second, err := startSigner(t.Context(), &store, false)
	require.NoError(t, err)
	n, ok := second.parse(first.id(typical, "alice"), "alice")
	require.True(t, ok)
	assert.Equal(t, typical, n)
	assert.Equal(t, first.id(typical, "alice"), second.id(typical, "alice"), "no rotation at each start")

	other, err := startSigner(t.Context(), &Memory{}, false)
	require.NoError(t, err)
	_, ok = other.parse(first.id(typical, "alice"), "alice")
	assert.False(t, ok)

	epoch, err := store.Claim(t.Context(), signingKeysName)
	require.NoError(t, err)
	kept := keeper{store: &store, name: signingKeysName, epoch: epoch}
	require.NoError(t, kept.save(t.Context(), Change{Put: map[string][]byte{SoleChunk: {}}}))
	_, err = startSigner(t.Context(), &store, false)
	require.ErrorIs(t, err, errSigningRecord, "lost keys are not replaced unasked")
}
