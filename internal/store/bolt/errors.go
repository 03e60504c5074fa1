package bolt

import (
	"errors"
	"fmt"
)

var (
	// ErrInUse is returned by Open when another process, or another Store in this process,
	// has the file open.
	ErrInUse = errors.New("another keybroker uses this file")
	// ErrNewer is returned by Open for a file that a newer keybroker has written.
	ErrNewer = errors.New("a newer keybroker has written this file")
	// ErrCorrupt is returned when the file does not hold what was written to it.
	ErrCorrupt = errors.New("the file is damaged")
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("the store is closed")
)

// corrupt returns an ErrCorrupt that says what is wrong inside the file. located adds the
// path and what to do.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// located adds the path of the file to an error, and what an operator can do about it.
func located(path string, err error) error {
	what := "make sure that the disk has space and that keybroker may read and write the file and its directory"
	switch {
	case errors.Is(err, ErrClosed):
		return fmt.Errorf("state file %s: %w", path, err)
	case errors.Is(err, ErrInUse):
		what = "stop the other one, or give this one a file of its own"
	case errors.Is(err, ErrNewer):
		what = "run that version or a later one"
	case errors.Is(err, ErrCorrupt):
		what = "move the file away, or put a copy in its place, and start once with --state-lost, which takes all limits for used"
	}
	return fmt.Errorf("state file %s: %w; %s", path, err, what)
}
