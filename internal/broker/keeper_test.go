package broker

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowStore is a Memory whose saves, while it is slow, fail and have their effect later.
type slowStore struct {
	Memory
	slow bool
	land []func() // the saves that are on their way
}

var errSlow = errors.New("no answer in time")

func (s *slowStore) Save(ctx context.Context, name string, epoch, version uint64, change Change) (uint64, error) {
	if !s.slow {
		return s.Memory.Save(ctx, name, epoch, version, change)
	}
	s.land = append(s.land, func() { _, _ = s.Memory.Save(ctx, name, epoch, version, change) })
	return 0, errSlow
}

// Load reads the record. Once the store is not slow any more, it then lets the saves land that are
// on their way, so that they come between a load and the save after it.
func (s *slowStore) Load(ctx context.Context, name string) (Record, error) {
	r, err := s.Memory.Load(ctx, name)
	if !s.slow {
		for _, land := range s.land {
			land()
		}
		s.land = nil
	}
	return r, err
}

func put(data string) Change { return Change{Put: map[string][]byte{SoleChunk: []byte(data)}} }

// A save whose outcome is unknown may have its effect before the next one, between the load
// and that, or after it. The record is that of the next one in each case.
func TestALateSaveOverwritesNothing(t *testing.T) {
	for _, lands := range []string{"before", "between", "after", "never"} {
		t.Run(lands, func(t *testing.T) {
			s := &slowStore{}
			epoch, err := s.Claim(t.Context(), "a")
			require.NoError(t, err)
			k := &keeper{store: s, name: "a", epoch: epoch}
			require.NoError(t, k.save(t.Context(), put("1")))
			s.slow = true
			require.ErrorIs(t, k.save(t.Context(), put("2")), errSlow)
			late := s.land[0]
			s.land, s.slow = nil, false
			switch lands {
			case "before":
				late()
			case "between":
				s.land = []func(){late}
			}
			require.NoError(t, k.save(t.Context(), put("3")))
			if lands == "after" {
				late()
			}
			require.NoError(t, k.save(t.Context(), Change{Put: map[string][]byte{"other": nil}}), "it knows the version")
			r, err := s.Load(t.Context(), "a")
			require.NoError(t, err)
			assert.Equal(t, "3", string(r.Chunks[SoleChunk]))
		})
	}
}

// A successor fences the owner, whatever the owner knows.
func TestAKeeperIsFenced(t *testing.T) {
	s := &slowStore{}
	epoch, err := s.Claim(t.Context(), "a")
	require.NoError(t, err)
	k := &keeper{store: s, name: "a", epoch: epoch}
	require.NoError(t, k.save(t.Context(), put("1")))
	_, err = s.Claim(t.Context(), "a")
	require.NoError(t, err)
	for range 2 {
		require.ErrorIs(t, k.save(t.Context(), put("2")), ErrFenced)
	}
}
