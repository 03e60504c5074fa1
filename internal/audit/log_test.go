//go:build unix

package audit

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openAt opens a log that is closed with the test.
func openAt(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

// entries is what a file has; unreadable lines fail the test.
func entries(t *testing.T, path string) (all []*Entry) {
	t.Helper()
	unreadable, err := readFile(path, func(e *Entry) bool { all = append(all, e); return true })
	require.NoError(t, err)
	require.Zero(t, unreadable)
	return all
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := openAt(t, path)
	before := time.Now()
	e := grant("f")
	require.NoError(t, l.Write(e))
	assert.False(t, e.Time.Before(before), "it has a time now")
	stated := &Entry{Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Decision: Ended, Lease: "f"}
	require.NoError(t, l.Write(stated))
	require.NoError(t, openAt(t, path).Write(&Entry{Decision: Restored}), "by a second log at the same time")

	got := entries(t, path)
	require.Len(t, got, 3)
	e.Time = e.Time.Round(0).UTC()
	assert.Equal(t, []*Entry{e, stated}, got[:2])
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	for _, c := range []struct{ path, want string }{
		{dir, "audit log " + dir + ": it is not a file but a directory"},
		{pipe, "audit log " + pipe + ": it is not a file but a pipe"},
		{socket, "audit log " + socket + ": it is not a file but a socket"},
		{filepath.Join(dir, "none", "audit.jsonl"), "no such file or directory"},
		{"", "no such file or directory"},
	} {
		_, err := Open(c.path)
		assert.ErrorContains(t, err, c.want)
	}
}

func TestTornLineOfACrash(t *testing.T) {
	for _, c := range []struct {
		before, after string // the entry
		unreadable    int
	}{
		{"", "", 0},
		{"{\"time\":\"2026-01-31T08:00:00Z\",\"decision\":\"denied\"}\n", "", 0},
		{`{"time":"2026-01-31T08:00:00Z","decision":"denied"}`, "\n", 0},
		{`{"time":"2026-01-`, "\n", 1},
	} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		require.NoError(t, os.WriteFile(path, []byte(c.before), 0o644))
		e := &Entry{Decision: Ended, Lease: "f"}
		l := openAt(t, path)
		require.NoError(t, l.Write(e))
		require.NoError(t, l.Write(e))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		line := string(e.append(nil))
		assert.Equal(t, c.before+c.after+line+line, string(text))
		unreadable, err := read(strings.NewReader(string(text)), func(*Entry) bool { return true })
		require.NoError(t, err)
		assert.Equal(t, c.unreadable, unreadable)
		info, err := os.Stat(path)
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o644), info.Mode(), "it is the caller's")
	}
}

// full makes a path whose disk is full, and a function that makes room.
func full(t *testing.T) (path string, heal func()) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("/dev/full is Linux's")
	}
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	require.NoError(t, os.Symlink("/dev/full", path))
	return path, func() { require.NoError(t, os.Remove(path)) }
}

func TestDiskFull(t *testing.T) {
	for _, reopen := range []bool{true, false} {
		t.Run(fmt.Sprintf("reopen=%v", reopen), func(t *testing.T) {
			path, heal := full(t)
			l := openAt(t, path)
			for range 3 {
				assert.ErrorIs(t, l.Write(grant("lost")), syscall.ENOSPC)
			}
			assert.ErrorIs(t, l.Note(&Entry{Decision: Denied}), syscall.ENOSPC)
			assert.Equal(t, uint64(4), l.Failures())
			heal()
			if reopen {
				require.NoError(t, l.Reopen())
			}
			require.NoError(t, l.Write(grant("a")))
			require.NoError(t, l.Write(grant("b")))
			assert.Equal(t, uint64(4), l.Failures())
			got := entries(t, path)
			require.Len(t, got, 2)
			assert.Equal(t, "a", got[0].Lease)
		})
	}
}

// A disk that fills up takes half a line: here it is the limit of a file's size, which
// harms no other test, as none of this package runs beside it.
func TestDiskFullInALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := openAt(t, path)
	require.NoError(t, l.Write(grant("a")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	small := syscall.Rlimit{Cur: uint64(info.Size()) + 20, Max: old.Max}
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small))
	first, second := l.Write(grant("torn")), l.Write(grant("none"))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old))
	assert.ErrorIs(t, first, syscall.EFBIG)
	assert.ErrorIs(t, second, syscall.EFBIG)
	require.NoError(t, l.Write(grant("b")))

	var leases []string
	unreadable, err := readFile(path, func(e *Entry) bool { leases = append(leases, e.Lease); return true })
	require.NoError(t, err)
	assert.Equal(t, 1, unreadable)
	assert.Equal(t, []string{"a", "b"}, leases)
}

func TestReopenKeepsTheOldFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "audit.jsonl")
	l := openAt(t, path)
	require.NoError(t, os.Rename(dir, dir+".old"))
	assert.ErrorIs(t, l.Reopen(), fs.ErrNotExist)
	require.NoError(t, l.Write(grant("a")))
	assert.Len(t, entries(t, filepath.Join(dir+".old", "audit.jsonl")), 1)
}

func TestClose(t *testing.T) {
	l := openAt(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	require.NoError(t, l.Close())
	assert.ErrorIs(t, l.Write(grant("a")), fs.ErrClosed)
	assert.ErrorIs(t, l.Reopen(), fs.ErrClosed)
	assert.Equal(t, uint64(1), l.Failures())
}

func TestNote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l := openAt(t, path)
		note := func(n int) {
			for range n {
				require.NoError(t, l.Note(&Entry{Decision: Refused}))
			}
		}
		written := 0
		check := func(lines int, omitted uint64) {
			t.Helper()
			got := entries(t, path)[written:]
			written += lines
			require.Len(t, got, lines)
			for i, e := range got {
				if i > 0 {
					omitted = 0
				}
				require.Equal(t, omitted, e.Omitted)
			}
		}
		note(150)
		check(100, 0)
		require.NoError(t, l.Write(grant("a")))
		check(1, 50) // and a grant is always written
		time.Sleep(10*time.Millisecond - 1)
		note(1)
		check(0, 0)
		time.Sleep(time.Nanosecond)
		note(3)
		check(1, 1)
		time.Sleep(time.Hour)
		note(1000)
		check(100, 2)
		for range 300 { // ten times as fast as may be
			time.Sleep(time.Millisecond)
			note(1)
		}
		got := entries(t, path)[written:]
		assert.Len(t, got, 30)
		assert.Equal(t, uint64(909), got[0].Omitted)
		assert.Equal(t, uint64(9), got[1].Omitted)
	})
}

func TestOmittedOutlivesAFailure(t *testing.T) {
	path, heal := full(t)
	l := openAt(t, path)
	l.omitted = 5
	require.Error(t, l.Write(grant("a")))
	heal()
	require.NoError(t, l.Write(grant("a")))
	assert.Equal(t, uint64(5), entries(t, path)[0].Omitted)
}

// TestReopenUnderLoad moves the file away again and again while it is written to.
func TestReopenUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := openAt(t, path)
	const writers, files, lines = 8, 50, 40 // lines in each file, at least
	var stop atomic.Bool
	var written atomic.Int64
	var wg sync.WaitGroup
	counts := make([]int, writers)
	for w := range writers {
		wg.Go(func() {
			for !stop.Load() {
				assert.NoError(t, l.Write(&Entry{Decision: Granted, Lease: fmt.Sprint(w), Requests: counts[w]}))
				counts[w]++
				written.Add(1)
			}
		})
	}
	for i := range files {
		for written.Load() < int64(lines*(i+1)) {
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, os.Rename(path, fmt.Sprintf("%s.%d", path, i)))
		require.NoError(t, l.Reopen())
	}
	stop.Store(true)
	wg.Wait()

	found := make([]int, writers)
	var last time.Time
	for i := range files + 1 {
		name := fmt.Sprintf("%s.%d", path, i)
		if i == files {
			name = path
		}
		for _, e := range entries(t, name) {
			var w int
			require.NoError(t, json.Unmarshal([]byte(e.Lease), &w))
			require.Equal(t, found[w], e.Requests, "each line once, and in order")
			found[w]++
			require.False(t, e.Time.Before(last))
			last = e.Time
		}
	}
	assert.Equal(t, counts, found)
}

// A file that somebody has taken away, and has not said so, is not written to for long.
func TestFileThatIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l := openAt(t, path)
		require.NoError(t, l.Write(grant("a")))
		require.NoError(t, os.Remove(path))
		time.Sleep(lookEvery - 1)
		require.NoError(t, l.Write(grant("b")))
		assert.NoFileExists(t, path, "it is not looked at each time")
		time.Sleep(time.Nanosecond)
		require.NoError(t, l.Write(grant("c")))
		got := entries(t, path)
		require.Len(t, got, 1)
		assert.Equal(t, "c", got[0].Lease)
	})
}
