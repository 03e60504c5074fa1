package broker

// Lease ids: nobody can guess one, use another's, or break what reads them.

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/pool"
)

func names(t *rapid.T) leaseName {
	return leaseName{
		pool: rapid.Uint16().Draw(t, "pool"), epoch: rapid.Uint64().Draw(t, "epoch"),
		lease: pool.LeaseID(rapid.Uint64().Draw(t, "lease")),
	}
}

func TestLeaseIDNamesItsLeaseToItsHolderOnly(t *testing.T) {
	s, stranger := newSigner(), newSigner()
	rapid.Check(t, func(t *rapid.T) {
		n, holder := names(t), rapid.String().Draw(t, "holder")
		id := s.id(n, holder)
		got, ok := s.parse(id, holder)
		require.True(t, ok)
		require.Equal(t, n, got)
		require.Equal(t, id, s.id(n, holder), "derived, not drawn")

		other := rapid.String().Filter(func(o string) bool { return o != holder }).Draw(t, "other")
		_, ok = s.parse(id, other)
		require.False(t, ok, "another holder")
		_, ok = stranger.parse(id, holder)
		require.False(t, ok, "another broker")
	})
}

func TestLeaseIDWithAnyBitFlippedIsUnknown(t *testing.T) {
	s := newSigner()
	rapid.Check(t, func(t *rapid.T) {
		holder := rapid.String().Draw(t, "holder")
		id := s.id(names(t), holder)
		text := []byte(id)
		at := rapid.IntRange(0, 8*len(text)-1).Draw(t, "bit of the text")
		text[at/8] ^= 1 << (at % 8)
		_, ok := s.parse(string(text), holder)
		require.False(t, ok, "%q for %q", text, id)

		bytes, err := base64.RawURLEncoding.DecodeString(id)
		require.NoError(t, err)
		at = rapid.IntRange(0, 8*len(bytes)-1).Draw(t, "bit of the bytes")
		bytes[at/8] ^= 1 << (at % 8)
		_, ok = s.parse(base64.RawURLEncoding.EncodeToString(bytes), holder)
		require.False(t, ok)
	})
}

// The last character has two bits to spare, and still only one will do.
func TestLeaseIDHasOneSpelling(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	s := newSigner()
	id := s.id(leaseName{1, 2, 3}, "alice")
	taken := 0
	for _, c := range alphabet {
		if _, ok := s.parse(id[:len(id)-1]+string(c), "alice"); ok {
			taken++
		}
	}
	assert.Equal(t, 1, taken)
}

// The boundary between name and holder must not be movable.
func TestLeaseIDsOfSimilarHoldersDiffer(t *testing.T) {
	s, n := newSigner(), leaseName{1, 2, 3}
	seen := map[string]string{}
	for _, holder := range []string{"", "a", "aa", "a\x00", "A", "a ", strings.Repeat("a", 1000)} {
		id := s.id(n, holder)
		assert.Empty(t, seen[id])
		seen[id] = holder
		assert.Len(t, id, 47)
	}
	assert.Len(t, seen, 7)
}

func FuzzLeaseID(f *testing.F) {
	s := newSigner()
	f.Add("", "")
	f.Add("garbage", "alice")
	f.Add(s.id(leaseName{1, 2, 3}, "alice"), "bob")
	f.Add(strings.Repeat("\n", 47), "alice")
	f.Add("AQAA"+strings.Repeat("\r", 43), "alice")
	f.Add(strings.Repeat("A", 47), "")
	f.Add(strings.Repeat("_", 47), "")
	f.Fuzz(func(t *testing.T, id, holder string) {
		n, ok := s.parse(id, holder)
		if ok {
			require.Equal(t, id, s.id(n, holder), "only what was made here is taken")
		}
		own := s.id(leaseName{1, 2, 3}, holder)
		_, ok = s.parse(own, holder)
		require.True(t, ok)
	})
}
