// Package bolt keeps the records of a broker in one file, by way of bbolt.
//
// What the file holds is also in memory, from where Load and Renew answer. One
// goroutine writes. All calls that wait for it when it is free share a transaction,
// and so an fsync: a hundred pools that save at once cost two.
//
// After a write that failed nobody knows what the file holds. It is closed then,
// opened and checked anew, and calls fail until that has worked; nothing else is
// needed once the disk has space again.
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/failpoint"
)

// MaxName is the most bytes that a name has.
const MaxName = 1 << 10

// Store is a broker.Store in a file that no other process uses.
//
// Every method but Close returns when its context ends, however long the disk
// takes; what it had begun may then still happen. A call that fails for another
// reason than broker.ErrFenced leaves its outcome open too.
type Store struct {
	path     string
	lock     *os.File
	requests chan *request // unbuffered: whoever gives up before it is taken has done nothing
	closing  chan struct{}
	closed   chan struct{} // the writer has ended
	close    func() error

	disk *disk // the writer's; nil after a failure

	mu      sync.Mutex
	names   map[string]entry // changed by the writer only, under mu
	failed  error            // why names may not be what the file says
	watches watches
}

// Open opens the file, or makes it, with mode 0600, and its directory, with mode
// 0700, if there is none. It reads all of it, and refuses a file that another
// process uses (ErrInUse), that a newer keybroker has written (ErrNewer) or that is
// damaged (ErrCorrupt). A file of more than 16 MiB of which more than half is unused
// is made smaller.
//
// A lock file stands beside it, under its name and ".lock", also after Close.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, located(path, err)
	}
	return s, nil
}

func open(path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// What is renamed must be the file itself, not a link to it.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	held, err := lock(path)
	if err != nil {
		return nil, err
	}
	d, err := openLocked(path)
	if err != nil {
		_ = held.Close()
		return nil, err
	}
	s := &Store{
		path: path, lock: held, disk: d, names: d.names,
		requests: make(chan *request), closing: make(chan struct{}), closed: make(chan struct{}),
		watches: watches{},
	}
	s.close = sync.OnceValue(s.end)
	go s.write()
	return s, nil
}

func openLocked(path string) (*disk, error) {
	if err := tidy(path); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, err
		}
	}
	d, err := openDisk(path)
	if err != nil {
		return nil, err
	}
	return compact(path, d)
}

// Close waits for the write under way, however long the disk takes, and lets go of
// the file. Calls that wait return ErrClosed. Watches go on until their contexts
// end, and hear nothing more. Later calls of Close change nothing.
func (s *Store) Close() error { return s.close() }

func (s *Store) end() error {
	close(s.closing)
	<-s.closed
	var err error
	if s.disk != nil {
		err = s.disk.close()
	}
	if err := errors.Join(err, s.lock.Close()); err != nil {
		return located(s.path, err)
	}
	return nil
}

// Claim implements broker.Store.
func (s *Store) Claim(ctx context.Context, name string) (uint64, error) {
	return s.call(ctx, &request{name: name, claim: true})
}

// Save implements broker.Store. It returns when the record has reached the disk.
func (s *Store) Save(ctx context.Context, name string, epoch uint64, record []byte) error {
	failpoint.At("before-save")
	// The record is copied because the write may go on when the caller is told that
	// its time is over. It is never nil: an empty record is one.
	_, err := s.call(ctx, &request{name: name, epoch: epoch, record: append([]byte{}, record...)})
	if err == nil {
		failpoint.At("after-save")
	}
	return err
}

// Load implements broker.Store. It does not touch the disk.
func (s *Store) Load(ctx context.Context, name string) ([]byte, error) {
	e, err := s.look(ctx, name)
	return bytes.Clone(e.record), err
}

// Renew implements broker.Store. It does not touch the disk: nobody else claims in
// a file that this process has locked.
func (s *Store) Renew(ctx context.Context, name string, epoch uint64) error {
	e, err := s.look(ctx, name)
	if err == nil && (e.epoch != epoch || epoch == 0) {
		err = broker.ErrFenced
	}
	return err
}

func (s *Store) look(ctx context.Context, name string) (entry, error) {
	if err := s.usable(ctx, name); err != nil {
		return entry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return entry{}, s.failed
	}
	return s.names[name], nil
}

// usable says whether a call has any prospect.
func (s *Store) usable(ctx context.Context, name string) error {
	select {
	case <-s.closing:
		return located(s.path, ErrClosed)
	default:
	}
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("a name in state file %s has %d bytes; 1 to %d are allowed", s.path, len(name), MaxName)
	}
	return ctx.Err()
}
