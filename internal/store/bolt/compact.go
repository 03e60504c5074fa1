package bolt

import (
	"os"

	"go.etcd.io/bbolt"

	"github.com/keybroker/keybroker/internal/failpoint"
)

// compactAbove is the size in bytes from which a file is worth compacting when less
// than half of it holds something. bbolt never gives space back by itself.
const compactAbove = 16 << 20

// compact copies what a file holds into a new one, and puts that in its place. A
// process that is killed meanwhile leaves either the one or the other under the
// name, each of them whole.
//
// If there is no copy to be had, the old file serves on: a disk without space for
// one must not keep a broker from starting.
func compact(path string, d *disk) (*disk, error) {
	if d.size <= compactAbove || d.live > d.size/2 {
		return d, nil
	}
	temp := path + compactSuffix
	if err := copyTo(temp, d); err != nil {
		_ = os.Remove(temp)
		return d, nil
	}
	failpoint.At("compact-copied")
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return d, nil
	}
	failpoint.At("compact-renamed")
	if err := d.close(); err != nil {
		return nil, err
	}
	if err := syncDir(path); err != nil {
		return nil, err
	}
	return openDisk(path)
}

// copyTo makes a copy, durable and checked.
func copyTo(temp string, d *disk) error {
	err := inNew(temp, func(dst *disk) error { return bbolt.Compact(dst.db, d.db, 0) })
	if err != nil {
		return err
	}
	copied, err := openDisk(temp)
	if err != nil {
		return err
	}
	if err := copied.close(); err != nil {
		return err
	}
	if copied.seal != d.seal {
		return corrupt("the copy differs")
	}
	return nil
}
