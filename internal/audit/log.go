package audit

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Log is an open log. Any number of goroutines may use it. A file that was moved or
// taken away is noticed within seconds, and the path opened anew.
//
// Each line is a write(2) of its own, under a lock. To gather lines for one write was
// measured, and gains nothing: handing the result to those who wait costs as much as
// the system call it saves.
type Log struct {
	path     string
	failures atomic.Uint64

	mu      sync.Mutex
	file    *os.File  // nil once it is closed
	line    []byte    // a buffer
	torn    bool      // the file does not end with a newline
	failed  bool      // the last write failed
	omitted uint64    // lines left out since a line was written
	quiet   time.Time // when the allowance of Note will be full again
	looked  time.Time // when it was last seen that the path is still that of the file
}

// Open opens a log to append to it, and makes it if need be, for the owner's eyes
// only; the mode of one that exists stays as it is. The path must be that of a file
// or a character device.
func Open(path string) (*Log, error) {
	l := &Log{path: path}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// open puts the file at the path in the place of the one in use, and closes that.
// After an error the old one stays in use.
func (l *Log) open() error {
	// A pipe is refused before it is opened, which would wait for a reader: it could
	// hold up every grant, and nobody could ask it later who held a key.
	info, err := os.Stat(l.path)
	if err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeCharDevice == 0 {
		return fmt.Errorf("audit log %s: it is not a file but %s", l.path, kind(info.Mode()))
	}
	file, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	torn, err := isTorn(file)
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("audit log: %w", err)
	}
	if l.file != nil {
		_ = l.file.Close() // nothing is buffered here
	}
	l.file, l.torn, l.failed, l.looked = file, torn, false, time.Now()
	return nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// isTorn reports whether a file ends within a line, as it may after a crash.
func isTorn(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false, err
	}
	var last [1]byte
	_, err = file.ReadAt(last[:], info.Size()-1)
	return last[0] != '\n', err
}

// Write writes an entry down; it sets e.Omitted, and e.Time if that is zero. When it
// returns nil, the line has been handed to the operating system by write(2). It is
// not synced: it outlives this process however it ends, but not a machine that loses
// power in the seconds after.
//
// When it returns an error, the line is not in the log, or not whole, or (rarely)
// there for a grant that was then not made. The next Write opens the path anew and
// tries again, so a log heals when its disk has room.
func (l *Log) Write(e *Entry) error {
	return l.add(e, false)
}

// Note is Write for an entry that gives nobody anything. At most 100 a second are
// written, and 100 at once, so that nobody can fill the disk by asking; the next line
// that is written, by Write or Note, says how many were left out before it. To leave
// one out is not an error.
func (l *Log) Note(e *Entry) error {
	return l.add(e, true)
}

func (l *Log) add(e *Entry, note bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now() // under the lock, so that the lines are in order
	if note && !l.allow(now) {
		l.omitted++
		return nil
	}
	if e.Time.IsZero() {
		e.Time = now.UTC()
	}
	e.Omitted = l.omitted
	l.line = e.append(l.line[:0])
	if err := l.put(l.line); err != nil {
		l.failures.Add(1)
		return err
	}
	l.omitted = 0
	return nil
}

// What Note may write.
const (
	noteEvery = time.Second / 100
	noteBurst = 100
)

// allow takes one from the allowance of Note, if there is one.
func (l *Log) allow(now time.Time) bool {
	quiet := l.quiet
	if quiet.Before(now) {
		quiet = now
	}
	quiet = quiet.Add(noteEvery)
	if quiet.Sub(now) > noteBurst*noteEvery {
		return false
	}
	l.quiet = quiet
	return true
}

// put writes a line to the file.
func (l *Log) put(line []byte) error {
	if l.file == nil {
		return l.closed()
	}
	if l.failed || l.moved() {
		_ = l.open() // or the old one is tried again
	}
	if l.torn {
		if _, err := l.file.Write([]byte{'\n'}); err != nil {
			l.failed = true
			return fmt.Errorf("audit log: %w", err)
		}
		l.torn = false
	}
	if n, err := l.file.Write(line); err != nil {
		l.failed, l.torn = true, n > 0
		return fmt.Errorf("audit log: %w", err)
	}
	l.failed = false
	return nil
}

// lookEvery is how often it is looked whether somebody has moved the file, or taken it
// away, and not said so.
const lookEvery = 5 * time.Second

func (l *Log) moved() bool {
	now := time.Now()
	if now.Sub(l.looked) < lookEvery {
		return false
	}
	l.looked = now
	there, err := os.Stat(l.path)
	if err != nil {
		return true
	}
	here, err := l.file.Stat()
	return err != nil || !os.SameFile(here, there)
}

func (l *Log) closed() error {
	return fmt.Errorf("audit log %s: %w", l.path, fs.ErrClosed)
}

// Reopen opens the path anew, after the file was moved away, and then closes the old
// one. No line is lost or torn. After an error the old file stays in use.
func (l *Log) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return l.closed()
	}
	return l.open()
}

// Close closes the log. A Write after it is an error.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Failures is how many lines could not be written, since Open.
func (l *Log) Failures() uint64 { return l.failures.Load() }
