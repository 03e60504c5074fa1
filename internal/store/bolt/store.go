// Package bolt keeps the records of a broker in one bbolt file. A save writes the chunks that
// it changes, and a manifest that says which chunks make up the record, in one transaction.
//
// The whole content of the file is also in memory, from where Load and Renew answer. One
// goroutine, the writer, changes both. It writes all requests that wait for it in one
// transaction, which costs one fsync: if a hundred pools save at the same time, the first
// is written alone and the others together.
//
// After a failed write it is unknown what the file holds. The writer then closes the file,
// opens it again and checks it. Calls fail until that succeeds, which needs nobody's help
// once the cause, such as a full disk, is gone.
//
// Where to find what:
//
//	store.go    Store: what a broker calls
//	writer.go   the writer: batches, decisions, failures
//	watch.go    watches of later claims
//	disk.go     the open file: open, create, close, panics of bbolt
//	schema.go   the buckets in the file, reading and writing entries
//	entry.go    what is known of a name: epoch, manifest, chunks, and their checksums
//	migrate.go  files of earlier schema versions
//	verify.go   the check of bbolt's pages before bbolt follows them
//	compact.go  making a file smaller at the start
//	lock_*.go   the lock that keeps other processes out
//	errors.go   the errors, and what to do about them
package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/failpoint"
)

// MaxName is the largest size of a name in bytes.
const MaxName = 1 << 10

// Store is a broker.Store in a file that no other process uses.
//
// Every method except Close returns when its context ends, however long the disk takes.
// What the call asked for may still happen then, as after any error other than
// broker.ErrFenced and broker.ErrStale.
type Store struct {
	path     string
	lock     *os.File
	requests chan *request // unbuffered, so that a request that is given up before the writer takes it has no effect
	closing  chan struct{}
	closed   chan struct{} // closed when the writer has ended
	close    func() error

	disk *disk // used by the writer only; nil after a failure

	mu      sync.Mutex
	names   map[string]entry // what the file holds; only the writer changes it, and holds mu then
	failed  error            // why names may differ from what the file holds
	watches watches
}

// Open opens the file and reads all of it. If there is none, it makes one with mode 0600,
// and its directory with mode 0700. It refuses a file that another process uses
// (ErrInUse), that a newer keybroker has written (ErrNewer), or that is damaged
// (ErrCorrupt). It compacts a file of more than 16 MiB of which more than half is unused.
//
// Beside the file there is a lock file with the suffix ".lock", which stays after Close.
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
	// Compaction renames a file to this path, which must replace the file and not a link.
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

// Close waits for the write under way, however long the disk takes, and closes the file.
// Calls that wait for the writer return ErrClosed. Watches stay open until their contexts
// end, but receive nothing more. Further calls of Close do nothing.
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

// Save implements broker.Store. It returns after the fsync.
func (s *Store) Save(ctx context.Context, name string, epoch, version uint64, change broker.Change) (uint64, error) {
	if err := change.Check(); err != nil {
		return 0, fmt.Errorf("state file %s: %w", s.path, err)
	}
	failpoint.At("before-save")
	r := &request{name: name, epoch: epoch, seen: version, change: broker.Change{Drop: slices.Clone(change.Drop)}}
	// The chunks are copied, because the writer keeps them, and may still read them after the
	// caller's context has ended.
	r.change.Put = make(map[string][]byte, len(change.Put))
	for id, data := range change.Put {
		r.change.Put[id] = bytes.Clone(data)
		r.size += len(data)
	}
	next, err := s.call(ctx, r)
	if err == nil {
		failpoint.At("after-save")
		failpoint.Note("saved", name)
	}
	return next, err
}

// Load implements broker.Store.
func (s *Store) Load(ctx context.Context, name string) (broker.Record, error) {
	e, err := s.look(ctx, name)
	return e.record(), err
}

// Renew implements broker.Store. What is in memory confirms it, because no other process can
// claim in a file that this process has locked.
func (s *Store) Renew(ctx context.Context, name string, epoch uint64) error {
	e, err := s.look(ctx, name)
	if err == nil && (e.epoch != epoch || epoch == 0) {
		err = broker.ErrFenced
	}
	return err
}

// look returns what the file holds for a name. It does not touch the disk, unless a write has
// failed: then it has the file opened and checked again. Load and Renew both do so, because an
// owner that has nothing to save calls nothing else.
func (s *Store) look(ctx context.Context, name string) (entry, error) {
	if err := s.usable(ctx, name); err != nil {
		return entry{}, err
	}
	e, err := s.inMemory(name)
	if err != nil {
		if _, err = s.call(ctx, &request{name: name, reopen: true}); err == nil {
			e, err = s.inMemory(name)
		}
	}
	return e, err
}

// inMemory returns an entry, or why it may differ from what the file holds.
func (s *Store) inMemory(name string) (entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return entry{}, s.failed
	}
	return s.names[name], nil
}

// usable returns why a call cannot succeed, or nil.
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
