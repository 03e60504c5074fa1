package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// sample returns the bytes of a file that has all kinds of pages, and its content by name.
func sample(t *testing.T) (data []byte, content map[string]string) {
	path := file(t)
	s := start(t, path)
	content = map[string]string{"only claimed": ""}
	claim(t, s, "only claimed")
	for i := range 60 {
		name := fmt.Sprintf("pool-%02d-%s", i, strings.Repeat("x", i))
		content[name] = strings.Repeat(name, 1+i%7)
		require.NoError(t, storetest.Put(t.Context(), s, name, claim(t, s, name), []byte(content[name])))
	}
	content["large"] = strings.Repeat("large", 3000)
	require.NoError(t, storetest.Put(t.Context(), s, "large", claim(t, s, "large"), []byte(content["large"])))
	require.NoError(t, s.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data, content
}

// judge opens a damaged file. Either Open refuses it with an error that says what to do, or
// the file holds everything that was saved.
func judge(t *testing.T, path string, data []byte, content map[string]string, what string) (refused bool) {
	require.NoError(t, os.WriteFile(path, data, 0o600))
	s, err := Open(path)
	if err != nil {
		require.ErrorContains(t, err, path, what)
		require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer), "%s: %v", what, err)
		if errors.Is(err, ErrCorrupt) {
			require.ErrorContains(t, err, "start once with --state-lost", what)
		}
		return true
	}
	for name, record := range content {
		require.True(t, record == load(t, s, name), "%s: another record of %s", what, name)
		require.NoError(t, s.Renew(t.Context(), name, 1), what)
	}
	require.Equal(t, uint64(2), claim(t, s, "only claimed"), what)
	require.NoError(t, storetest.Put(t.Context(), s, "large", 1, []byte("small")), what)
	require.NoError(t, s.Close())
	return false
}

func TestTruncatedFile(t *testing.T) {
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		return
	}
	data, content := sample(t)
	for size := 0; size < len(data); size += 512 {
		if size > 128<<10 {
			break
		}
		judge(t, path, data[:size], content, fmt.Sprintf("%d of %d bytes", size, len(data)))
	}
	require.True(t, judge(t, path, nil, content, "an empty file is not a new one"))
	require.True(t, judge(t, path, []byte(strings.Repeat("garbage!", 9000)), content, "garbage"))
}

func TestDamagedFile(t *testing.T) {
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		return
	}
	data, content := sample(t)
	used := len(data) / 2 // bbolt has made the file larger than it needs
	seed := rand.Uint64()
	random, refused := rand.New(rand.NewPCG(seed, 0)), 0
	const variants, page = 300, 4096
	for i := range variants {
		damaged := append([]byte(nil), data...)
		at := random.IntN(used)
		from, to := at/page*page, random.IntN(used/page)*page
		switch i % 6 {
		case 0, 1, 2:
			damaged[at] ^= 1 << random.IntN(8)
		case 3: // in a page header or the start of the elements
			damaged[from+random.IntN(64)] = byte(random.Uint32())
		case 4:
			clear(damaged[from : from+page])
		case 5:
			copy(damaged[to:to+page], data[from:from+page])
		}
		if judge(t, path, damaged, content, fmt.Sprintf("seed %d, variant %d", seed, i)) {
			refused++
		}
	}
	t.Logf("%d of %d variants refused", refused, variants)
	require.Greater(t, refused, variants/5)
}

// A file that is truncated while it is in use is reported as damaged. Without guard, bbolt's
// read of a page beyond the end would end the process with SIGBUS.
func TestFileCutWhileInUse(t *testing.T) {
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		return
	}
	s := start(t, path)
	epoch := claim(t, s, "name")
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("record")))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 0))
	for range 3 {
		err = storetest.Put(t.Context(), s, "name", epoch, []byte("later"))
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "--state-lost")
		require.ErrorIs(t, s.Renew(t.Context(), "name", epoch), ErrCorrupt, "an owner steps down")
		_, err = s.Load(t.Context(), "name")
		require.ErrorIs(t, err, ErrCorrupt)
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("latest")), "restored")
	require.Equal(t, "latest", load(t, s, "name"))
}

// A branch page that refers to itself is refused. bbolt would follow it until its stack is
// full.
func TestBranchIntoItself(t *testing.T) {
	data, content := sample(t)
	const page = 4096
	found := 0
	for id := 2; (id+1)*page <= len(data); id++ {
		damaged := bytes.Clone(data)
		header := damaged[id*page:]
		if order.Uint64(header) != uint64(id) || order.Uint16(header[8:]) != branchFlag {
			continue
		}
		order.PutUint16(header[10:], 1)
		order.PutUint64(header[headerSize+8:], uint64(id))
		if judge(t, file(t), damaged, content, fmt.Sprintf("page %d", id)) { // a free page may say anything
			found++
		}
	}
	require.NotZero(t, found)
}
