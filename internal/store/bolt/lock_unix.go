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

// lock takes the file beside the state file that says who uses it. The lock of
// bbolt is on the state file itself, which compaction replaces; this one stays the
// same file for good. The kernel releases it when the process ends, however it ends.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// A process that this one has just started holds the lock of a Store that was
	// closed meanwhile, until it runs its own program: hence a few tries.
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

// unlock releases a lock that lock or bbolt has taken.
func unlock(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil { // not if it is closed
		_ = raw.Control(func(fd uintptr) { _ = syscall.Flock(int(fd), syscall.LOCK_UN) })
	}
}
