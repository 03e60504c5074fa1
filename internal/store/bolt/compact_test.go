//go:build unix

package bolt

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/testing/long"

	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// hollow returns the bytes of a state file of more than 16 MiB of which little is in use.
func hollow(t *testing.T) []byte {
	path := file(t)
	s := start(t, path)
	s.disk.db.NoSync = true
	for _, record := range [][]byte{make([]byte, 1<<20), []byte("small")} {
		for i := range 20 {
			name := fmt.Sprint("name ", i)
			require.NoError(t, storetest.Put(t.Context(), s, name, claim(t, s, name), record))
		}
	}
	require.NoError(t, s.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Greater(t, len(data), compactAbove)
	return data
}

// whole checks that a file has the content of hollow, is compacted, and has no temporary file
// beside it.
func whole(t *testing.T, path string) {
	s := start(t, path)
	for i := range 20 {
		name := fmt.Sprint("name ", i)
		require.Equal(t, "small", load(t, s, name))
		require.NoError(t, s.Renew(t.Context(), name, 2))
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(1<<20))
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the file and its lock")
	require.NoError(t, storetest.Put(t.Context(), s, "name 1", 2, []byte("more")))
	require.NoError(t, s.Close())
}

func TestCompaction(t *testing.T) {
	data, path := hollow(t), file(t)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	whole(t, path)
}

// If there is no space for a copy, the old file stays in use.
func TestNoSpaceForCompaction(t *testing.T) {
	path, child := inChild(t, func() string {
		path := file(t)
		require.NoError(t, os.WriteFile(path, hollow(t), 0o600))
		return path
	})
	if !child {
		whole(t, path) // the next start has space
		return
	}
	limitFiles(t, 8<<10)
	s := start(t, path)
	require.Equal(t, "small", load(t, s, "name 3"))
	require.Greater(t, s.disk.size, int64(compactAbove))
	require.NoFileExists(t, path+compactSuffix)
}

// crasher builds the program testdata/crasher with failpoints.
func crasher(t *testing.T) string {
	program := filepath.Join(t.TempDir(), "crasher")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-race", "-tags", "failpoints", "-o", program, "./testdata/crasher").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// crash runs that program until the failpoint kills it, and returns what it printed.
func crash(t *testing.T, program, failpoint, path string, saves int) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, path, strconv.Itoa(saves))
	cmd.Env = append(os.Environ(), "KEYBROKER_FAILPOINT="+failpoint)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.Error(t, cmd.Run())
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.Equal(t, syscall.SIGKILL, status.Signal(), "%s", errs.String())
	return out.String()
}

func TestKilled(t *testing.T) {
	program, data := crasher(t), hollow(t)
	for _, failpoint := range []string{"compact-copied:1", "compact-renamed:1"} {
		t.Run(failpoint, func(t *testing.T) {
			path := file(t)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			crash(t, program, failpoint, path, 0)
			whole(t, path)
		})
	}
	for _, c := range []struct {
		failpoint string
		record    string // of the last save that had its effect, acknowledged or not
	}{
		{"before-save:1", ""}, {"chunks-written:1", ""}, {"after-save:1", "0"},
		{"before-save:4", "2"}, {"chunks-written:4", "2"}, {"after-save:4", "3"},
	} {
		t.Run(c.failpoint, func(t *testing.T) {
			path := file(t)
			acknowledged := len(strings.Fields(crash(t, program, c.failpoint, path, 9)))
			s := start(t, path)
			r, err := s.Load(t.Context(), "crash")
			require.NoError(t, err)
			want := map[string][]byte{broker.SoleChunk: []byte(c.record), "new " + c.record: []byte(c.record)}
			if c.record == "" {
				want = nil
			}
			require.Equal(t, want, r.Chunks)
			require.Equal(t, uint64(acknowledged+2), claim(t, s, "crash"))
		})
	}
}

// Many saves do not make the file grow, because bbolt uses free pages again. They do become
// fragmented, so that the file doubles once or twice: a day with one save a second, 86,400
// saves, was measured to end at 0.5 or 1 MiB. 5,000 saves must end far below the size at
// which a file is compacted.
func TestFileStaysSmall(t *testing.T) {
	path := file(t)
	s := start(t, path)
	s.disk.db.NoSync = true // pages are used again in the same way
	epoch := claim(t, s, "name")
	record := bytes.Repeat([]byte("0123456789"), 11<<10)
	var sizes []int64
	saves := 1000
	if long.Enabled {
		saves = 5000
	}
	for i := range saves {
		require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, record[:100<<10-i%50*200]))
		if i%1000 == 999 {
			info, err := os.Stat(path)
			require.NoError(t, err)
			sizes = append(sizes, info.Size())
		}
	}
	t.Logf("bytes after each 1,000 saves: %v", sizes)
	require.LessOrEqual(t, sizes[len(sizes)-1], int64(compactAbove/8))
}
