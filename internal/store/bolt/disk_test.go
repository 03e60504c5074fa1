//go:build unix

package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"

	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// limitFiles makes the system refuse to enlarge a file beyond a size, as a full disk does. It
// holds for the whole process.
func limitFiles(t *testing.T, size uint64) (lift func()) {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	set := func(l syscall.Rlimit) { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)) }
	set(syscall.Rlimit{Cur: size, Max: limit.Max})
	return func() { set(limit) }
}

func TestFullDisk(t *testing.T) {
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		s := start(t, path)
		require.Len(t, load(t, s, "name"), 3<<20)
		return
	}
	s := start(t, path)
	epoch := claim(t, s, "name")
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("before")))
	info, err := os.Stat(path)
	require.NoError(t, err)

	lift := limitFiles(t, uint64(info.Size()))
	large := bytes.Repeat([]byte("123"), 1<<20)
	for range 30 {
		err := storetest.Put(t.Context(), s, "name", epoch, large)
		require.ErrorContains(t, err, "state file "+path)
		require.ErrorContains(t, err, "file too large")
		require.ErrorContains(t, err, "make sure that the disk has space")
		require.NotErrorIs(t, err, ErrCorrupt)
		require.Equal(t, "before", load(t, s, "name"))
		require.NoError(t, s.Renew(t.Context(), "name", epoch))
	}
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("before")), "what fits is saved")

	lift()
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, large), "there is space again")
}

func TestNoSpaceForANewFile(t *testing.T) {
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		start(t, path)
		return
	}
	lift := limitFiles(t, 8<<10)
	_, err := Open(path)
	require.ErrorContains(t, err, "state file "+path)
	require.NoFileExists(t, path)
	require.NoFileExists(t, path+newSuffix)
	lift()
	s, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// Calls return when their context ends although the disk does not answer. The test stalls
// the writer with bbolt's write lock.
func TestStalledDisk(t *testing.T) {
	s := start(t, file(t))
	epoch := claim(t, s, "name")
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("before")))
	before := runtime.NumGoroutine()
	stall, err := s.disk.db.Begin(true)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for i := range 200 {
		calls.Go(func() {
			var err error
			if i%2 == 0 {
				err = storetest.Put(ctx, s, "name", epoch, []byte("during"))
			} else {
				_, err = s.Claim(ctx, fmt.Sprint("other ", i))
			}
			assert.ErrorIs(t, err, context.Canceled)
			assert.ErrorContains(t, err, s.path)
		})
	}
	require.Equal(t, "before", load(t, s, "name"), "a load does not wait for the disk")
	require.NoError(t, s.Renew(t.Context(), "name", epoch))
	require.Eventually(t, func() bool { return inCall() >= 200 }, patience, time.Millisecond)
	cancel()
	calls.Wait()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, patience, time.Millisecond)

	require.NoError(t, stall.Rollback())
	err = storetest.Put(t.Context(), s, "name", epoch, []byte("after"))
	if errors.Is(err, broker.ErrStale) { // the save that the writer had taken came in between
		err = storetest.Put(t.Context(), s, "name", epoch, []byte("after"))
	}
	require.NoError(t, err)
	require.Equal(t, "after", load(t, s, "name"))
}

// A write that fails without an effect is followed by a reopened file. The test closes
// bbolt's file to make the write fail.
func TestFailedWrite(t *testing.T) {
	s := start(t, file(t))
	first := claim(t, s, "name")
	watch, err := s.Watch(t.Context(), "name")
	require.NoError(t, err)
	require.NoError(t, storetest.Put(t.Context(), s, "name", first, []byte("before")))
	require.NoError(t, s.disk.file.Close())
	_, err = s.Claim(t.Context(), "name")
	require.ErrorIs(t, err, os.ErrClosed)
	require.NoError(t, s.Renew(t.Context(), "name", first), "the file was read again")
	second := claim(t, s, "name")
	require.Equal(t, second, <-watch)
	require.ErrorIs(t, storetest.Put(t.Context(), s, "name", first, nil), broker.ErrFenced)
	require.Equal(t, "before", load(t, s, "name"))
}

// While the file can be neither written nor opened again, every call fails. When the disk is
// mended, a renewal is enough to have the file opened: an idle owner calls nothing else.
func TestARenewalOpensTheFileAgain(t *testing.T) {
	s := start(t, file(t))
	epoch := claim(t, s, "name")
	require.NoError(t, storetest.Put(t.Context(), s, "name", epoch, []byte("before")))
	away := s.path + ".away"
	require.NoError(t, os.Rename(s.path, away))
	require.NoError(t, s.disk.file.Close())
	_, err := s.Claim(t.Context(), "name")
	require.ErrorIs(t, err, os.ErrClosed)
	for range 2 {
		require.ErrorIs(t, s.Renew(t.Context(), "name", epoch), os.ErrNotExist)
	}
	require.NoError(t, os.Rename(away, s.path))
	require.NoError(t, s.Renew(t.Context(), "name", epoch))
	require.ErrorIs(t, s.Renew(t.Context(), "name", epoch+1), broker.ErrFenced)
	require.Equal(t, "before", load(t, s, "name"))
}

// A claim whose outcome was unknown fences the earlier owner if it took effect. The test
// changes the file without the store's knowledge, as a commit does whose last fsync fails.
func TestUnknownClaimThatLanded(t *testing.T) {
	s := start(t, file(t))
	first := claim(t, s, "name")
	watch, err := s.Watch(t.Context(), "name")
	require.NoError(t, err)
	_, err = s.disk.write(map[string]entry{"name": {epoch: first + 1}})
	require.NoError(t, err)
	_, err = s.Save(t.Context(), "name", first, 0, broker.Change{})
	require.ErrorIs(t, err, ErrCorrupt, "the transaction fences too")
	require.Equal(t, first+1, <-watch)
	require.ErrorIs(t, storetest.Put(t.Context(), s, "name", first, []byte("x")), broker.ErrFenced)
	require.ErrorIs(t, s.Renew(t.Context(), "name", first), broker.ErrFenced)
	require.Equal(t, first+2, claim(t, s, "name"))
}

// Saves at the same time share transactions, which bbolt numbers.
func TestSaversShareTransactions(t *testing.T) {
	s := start(t, file(t))
	const savers = 100
	names := make([]string, savers)
	for i := range names {
		names[i] = fmt.Sprint(i)
		claim(t, s, names[i])
	}
	id := func() int {
		tx, err := s.disk.db.Begin(true)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		return tx.ID()
	}
	before := id()
	stall, err := s.disk.db.Begin(true)
	require.NoError(t, err)
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() { assert.NoError(t, storetest.Put(t.Context(), s, name, 1, []byte("x"))) })
	}
	// Wait until all calls wait for the writer.
	require.Eventually(t, func() bool { return inCall() >= savers }, patience, time.Millisecond)
	require.NoError(t, stall.Rollback())
	all.Wait()
	require.LessOrEqual(t, id()-before, 10)
}

// inCall is how many goroutines wait for the writer.
func inCall() int {
	stacks := make([]byte, 4<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("bolt.(*Store).call("))
}

func TestClosedWhileWaiting(t *testing.T) {
	s := start(t, file(t))
	stall, err := s.disk.db.Begin(true)
	require.NoError(t, err)
	failed := make(chan error, 2)
	for range 2 {
		go func() { _, err := s.Claim(t.Context(), "name"); failed <- err }()
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.closing
	require.NoError(t, stall.Rollback())
	require.NoError(t, <-closed)
	for range 2 {
		if err := <-failed; err != nil {
			require.True(t, errors.Is(err, ErrClosed), "%v", err)
		}
	}
}
