package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// disk is an open file and its content.
type disk struct {
	db    *bbolt.DB
	file  *os.File // the one that bbolt uses
	names map[string]entry
	seal  seal
	size  int64 // of the file
	live  int64 // bytes in pages that are in use
}

// seal is a checksum over all entries, written in the same transaction as they are. bbolt's
// pages have no checksums. The seal shows when a name, an epoch or a manifest is damaged, and
// when an entry is missing; a manifest shows that of its chunks.
type seal struct{ count, sum uint64 }

// openDisk checks an existing file, migrates it to the current schema and reads it. The
// caller holds the lock file.
func openDisk(path string) (d *disk, err error) {
	d = &disk{names: map[string]entry{}}
	err = guard(func() error {
		if err := d.verify(path); err != nil {
			return err
		}
		if err := d.open(path); err != nil {
			return err
		}
		if err := migrate(d.db, false); err != nil {
			return err
		}
		return d.db.View(d.read)
	})
	if err != nil {
		d.abandon(err)
		return nil, err
	}
	return d, nil
}

func (d *disk) verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is not a file but %s", info.Mode().Type())
	}
	d.size = info.Size()
	d.live, err = verify(f, d.size)
	return err
}

func (d *disk) open(path string) (err error) {
	d.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			d.file, err = os.OpenFile(name, flag, mode)
			if err == nil && flag&os.O_RDWR != 0 { // a restored copy may be readable to others, and it holds the keys that sign lease ids
				err = d.file.Chmod(mode)
			}
			return d.file, err
		},
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return ErrInUse
	}
	return err
}

// lockTimeout is how long to wait for a program that has the file open without the lock file.
const lockTimeout = 100 * time.Millisecond

// create makes an empty state file. It has a temporary name until it is complete, so that
// an empty or incomplete file under the path is always a damaged one.
func create(path string) error {
	temp := path + newSuffix
	err := inNew(temp, func(d *disk) error { return migrate(d.db, true) })
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	return syncDir(path)
}

// inNew makes a file, fills it and closes it, which syncs it to the disk.
func inNew(path string, fill func(*disk) error) error {
	d := &disk{}
	err := guard(func() error {
		if err := d.open(path); err != nil {
			return err
		}
		if err := fill(d); err != nil {
			return err
		}
		return d.close()
	})
	if err != nil {
		d.abandon(err)
	}
	return err
}

// syncDir makes a rename in the directory of a file durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Suffixes of temporary files beside the state file.
const (
	newSuffix     = ".new"
	compactSuffix = ".compact"
)

// tidy removes the temporary files of a process that was killed.
func tidy(path string) error {
	for _, suffix := range []string{newSuffix, compactSuffix} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *disk) close() error {
	if d.db == nil {
		return nil
	}
	return d.db.Close()
}

// abandon closes a file after an error. After a panic, bbolt may still hold its own locks,
// and closing it could block. Then its memory mapping is leaked, and only the lock on the
// file is released and the file closed.
func (d *disk) abandon(cause error) {
	if !errors.As(cause, new(panicked)) {
		_ = guard(d.close)
	}
	if d.file != nil {
		unlock(d.file)
		_ = d.file.Close()
	}
}

// panicked is the value of a panic of bbolt. It wraps ErrCorrupt.
type panicked struct{ value any }

func (p panicked) Error() string { return fmt.Sprintf("%v: %v", ErrCorrupt, p.value) }
func (p panicked) Unwrap() error { return ErrCorrupt }

// guard calls f and turns a panic of bbolt into an error. That includes the fault when a
// page of the memory mapping cannot be read from the disk.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = panicked{p}
		}
	}()
	return f()
}
