package storetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

// Durable is a store that can be closed and opened again with its content.
type Durable interface {
	broker.Store
	Close() error
}

// RunDurable tests what a store promises beyond the life of a process. open opens the store
// in a directory, and makes it if there is none.
func RunDurable(t *testing.T, open func(t *testing.T, dir string) Durable) {
	t.Run("what was acknowledged is there", func(t *testing.T) { acknowledged(t, open) })
	t.Run("epochs go on rising", func(t *testing.T) { epochsGoOn(t, open) })
	t.Run("closed twice", func(t *testing.T) {
		s := open(t, t.TempDir())
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
		_, err := s.Claim(t.Context(), "name")
		require.Error(t, err)
		_, err = s.Load(t.Context(), "name")
		require.Error(t, err)
	})
}

func acknowledged(t *testing.T, open func(t *testing.T, dir string) Durable) {
	dir := t.TempDir()
	s := open(t, dir)
	records := map[string][]byte{"empty": {}, "large": make([]byte, 3<<20)}
	for i := range 20 {
		records[fmt.Sprintf("name %d", i)] = stamp(uint64(i), 1)
	}
	epochs := map[string]uint64{"claimed": claim(t, s, "claimed")}
	for name, record := range records {
		epochs[name] = claim(t, s, name)
		require.NoError(t, Put(t.Context(), s, name, epochs[name], record))
	}
	for range 3 {
		require.NoError(t, s.Close())
		s = open(t, dir)
		for name, epoch := range epochs {
			require.NoError(t, s.Renew(t.Context(), name, epoch))
			require.Equal(t, records[name], get(t, s, name))
		}
		records["name 3"] = append(records["name 3"], '+')
		require.NoError(t, Put(t.Context(), s, "name 3", epochs["name 3"], records["name 3"]))
	}
	require.NoError(t, s.Close())
}

func epochsGoOn(t *testing.T, open func(t *testing.T, dir string) Durable) {
	dir := t.TempDir()
	var last uint64
	for range 4 {
		s := open(t, dir)
		if last > 0 {
			require.NoError(t, s.Renew(t.Context(), "name", last))
		}
		epoch := claim(t, s, "name")
		require.Greater(t, epoch, last)
		require.ErrorIs(t, Put(t.Context(), s, "name", last, nil), broker.ErrFenced)
		last = epoch
		require.NoError(t, s.Close())
	}
}
