package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

// Put saves one piece of data as the whole record, in as many chunks as it takes, whatever is
// stored before it.
func Put(ctx context.Context, s broker.Store, name string, epoch uint64, data []byte) error {
	r, err := s.Load(ctx, name)
	if err != nil {
		return err
	}
	c := broker.Change{Put: map[string][]byte{}}
	for id := range r.Chunks {
		c.Drop = append(c.Drop, id)
	}
	for id := broker.SoleChunk; len(c.Put) == 0 || len(data) > 0; id = part(len(c.Put)) {
		n := min(len(data), broker.MaxChunk)
		c.Put[id], data = data[:n], data[n:]
	}
	_, err = s.Save(ctx, name, epoch, r.Version, c)
	return err
}

// part is the id of a chunk of Put after the first.
func part(i int) string { return fmt.Sprint("part ", i) }

// Get returns what Put has saved, nil if nothing was.
func Get(ctx context.Context, s broker.Store, name string) ([]byte, error) {
	r, err := s.Load(ctx, name)
	if err != nil || r.Version == 0 {
		return nil, err
	}
	all := append([]byte{}, r.Chunks[broker.SoleChunk]...)
	for i := 1; i < len(r.Chunks); i++ {
		all = append(all, r.Chunks[part(i)]...)
	}
	return all, nil
}

// saves makes one save after the other, and returns the version that the last one made.
func saves(t *testing.T, s broker.Store, name string, epoch, version uint64, changes ...broker.Change) uint64 {
	for _, c := range changes {
		next, err := s.Save(t.Context(), name, epoch, version, c)
		require.NoError(t, err)
		require.Greater(t, next, version)
		version = next
	}
	return version
}

func roundTrip(t *testing.T, s broker.Store) {
	name := fresh("round")
	epoch := claim(t, s, name)
	large := make([]byte, 4*broker.MaxChunk+1)
	for i := range large {
		large[i] = byte(i * 7 >> 3)
	}
	for _, record := range [][]byte{{0}, []byte("text"), large, {}, []byte("shorter"), nil, bytes.Repeat([]byte{0xFF}, 5000)} {
		require.NoError(t, Put(t.Context(), s, name, epoch, record))
		got := get(t, s, name)
		require.NotNil(t, got, "an empty chunk is one")
		require.True(t, bytes.Equal(record, got), "%d bytes were saved, %d loaded", len(record), len(got))
	}
	claim(t, s, name)
	r := load(t, s, name)
	require.Len(t, r.Chunks[broker.SoleChunk], 5000, "a claim leaves the record")
	require.Equal(t, epoch, r.Epoch, "and who has saved it")
}

func changes(t *testing.T, s broker.Store) {
	name := fresh("changes")
	epoch := claim(t, s, name)
	version := uint64(0)
	chunks := func(pairs ...string) map[string][]byte {
		m := map[string][]byte{}
		for pair := range slices.Chunk(pairs, 2) {
			m[pair[0]] = []byte(pair[1])
		}
		return m
	}
	for _, step := range []struct {
		change broker.Change
		want   map[string][]byte
	}{
		{broker.Change{}, chunks()},
		{broker.Change{Put: chunks("a", "1", "b", "1", "c", "1")}, chunks("a", "1", "b", "1", "c", "1")},
		{broker.Change{Put: chunks("b", "2")}, chunks("a", "1", "b", "2", "c", "1")},
		{broker.Change{Put: chunks("d", ""), Drop: []string{"a"}}, chunks("b", "2", "c", "1", "d", "")},
		{broker.Change{Drop: []string{"a", "never", "c", "c"}}, chunks("b", "2", "d", "")},
		{broker.Change{Put: chunks("b", "3"), Drop: []string{"b"}}, chunks("b", "3", "d", "")},
		{broker.Change{}, chunks("b", "3", "d", "")},
		{broker.Change{Drop: []string{"b", "d"}}, chunks()},
		{broker.Change{Put: chunks("b", "4")}, chunks("b", "4")},
	} {
		version = saves(t, s, name, epoch, version, step.change)
		require.Equal(t, broker.Record{Version: version, Epoch: epoch, Chunks: step.want}, load(t, s, name))
	}
	next := claim(t, s, name)
	saves(t, s, name, next, version, broker.Change{Put: chunks("e", "5")})
	r := load(t, s, name)
	require.Equal(t, chunks("b", "4", "e", "5"), r.Chunks, "chunks of the predecessor stay")
	require.Equal(t, next, r.Epoch)
}

func manyChunks(t *testing.T, s broker.Store) {
	name := fresh("many")
	epoch := claim(t, s, name)
	want := map[string][]byte{}
	for i := range 1000 {
		want[fmt.Sprint(i)] = []byte(fmt.Sprint("chunk ", i))
	}
	for i := range 8 {
		want[fmt.Sprint("large ", i)] = bytes.Repeat([]byte{byte(i)}, broker.MaxChunk)
	}
	version := saves(t, s, name, epoch, 0, broker.Change{Put: want})
	require.Equal(t, want, load(t, s, name).Chunks)
	c := broker.Change{Put: map[string][]byte{"500": []byte("other"), "large 3": {}}}
	for i := 100; i < 1000; i += 2 {
		c.Drop = append(c.Drop, fmt.Sprint(i))
		delete(want, fmt.Sprint(i))
	}
	want["500"], want["large 3"] = []byte("other"), []byte{}
	saves(t, s, name, epoch, version, c)
	require.Equal(t, want, load(t, s, name).Chunks)
}

func bounds(t *testing.T, s broker.Store) {
	name := fresh("bounds")
	epoch := claim(t, s, name)
	version := saves(t, s, name, epoch, 0, broker.Change{Put: map[string][]byte{strings.Repeat("i", broker.MaxChunkID): make([]byte, broker.MaxChunk)}})
	before := load(t, s, name)
	for id, data := range map[string][]byte{"": {}, strings.Repeat("i", broker.MaxChunkID+1): {}, "large": make([]byte, broker.MaxChunk+1)} {
		_, err := s.Save(t.Context(), name, epoch, version, broker.Change{Put: map[string][]byte{id: data, "good": {}}})
		require.Error(t, err)
		require.Equal(t, before, load(t, s, name))
	}
}

// A save whose answer was lost, and that has its effect only after another one.
func late(t *testing.T, s broker.Store) {
	name := fresh("late")
	epoch := claim(t, s, name)
	put := func(id, data string) broker.Change { return broker.Change{Put: map[string][]byte{id: []byte(data)}} }
	first := saves(t, s, name, epoch, 0, put("a", "1"))
	second := saves(t, s, name, epoch, first, put("a", "2"))
	for _, version := range []uint64{0, first, second + 1, ^uint64(0)} {
		_, err := s.Save(t.Context(), name, epoch, version, put("b", "late"))
		require.ErrorIs(t, err, broker.ErrStale)
		require.Equal(t, map[string][]byte{"a": []byte("2")}, load(t, s, name).Chunks)
	}
	next := claim(t, s, name)
	_, err := s.Save(t.Context(), name, next, first, put("a", "late"))
	require.ErrorIs(t, err, broker.ErrStale, "nor does a claim let it pass")
	saves(t, s, name, next, second, put("a", "3"))
}
