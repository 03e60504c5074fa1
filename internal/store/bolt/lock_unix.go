//go:build unix

package bolt

import (
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	lockWait = 150 * time.Millisecond
	lockPoll = 10 * time.Millisecond
)

// lock takes an exclusive lock on the lock file beside the state file. bbolt's own lock is
// not enough, because it is on the state file, which compaction replaces. The kernel
// releases the lock when the process ends, however it ends.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// Several attempts are needed: a child process that was forked while an earlier Store
	// was open holds that Store's lock until it executes its own program.
	for end := time.Now().Add(lockWait); ; time.Sleep(lockPoll) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK):
			_ = f.Close()
			return nil, os.NewSyscallError("flock "+f.Name(), err)
		case time.Now().After(end):
			_ = f.Close()
			return nil, ErrInUse
		}
	}
}

// unlock releases a lock that lock or bbolt took.
func unlock(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil { // fails if the file is closed
		_ = raw.Control(func(fd uintptr) { _ = syscall.Flock(int(fd), syscall.LOCK_UN) })
	}
}
