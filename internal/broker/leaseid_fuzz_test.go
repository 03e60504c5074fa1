package broker

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"
)

// An id is accepted only if this program made it, and a good tag only with the one encoding
// of its name.
func FuzzLeaseID(f *testing.F) {
	k := keysFrom(1)
	s := newSigner(k)
	f.Add("", "")
	f.Add(s.id(typical, "alice"), "alice")
	f.Add(s.id(leaseName{}, ""), "")
	f.Fuzz(func(t *testing.T, id, holder string) {
		n, ok := s.parse(id, holder)
		if ok {
			require.Equal(t, id, s.id(n, holder))
		}
		own := s.id(typical, holder)
		n, ok = s.parse(own, holder)
		require.True(t, ok)
		require.Equal(t, typical, n)

		b, err := base64.RawURLEncoding.DecodeString(id)
		if err != nil || len(b) < tagSize || len(b) > mostBytes {
			return
		}
		again := signed(k, b[:len(b)-tagSize], holder)
		if n, ok := s.parse(again, holder); ok {
			require.Equal(t, again, s.id(n, holder))
		}
	})
}
