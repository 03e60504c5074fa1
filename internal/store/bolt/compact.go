package bolt

import (
	"os"

	"go.etcd.io/bbolt"

	"github.com/keybroker/keybroker/internal/failpoint"
)

// compactAbove is the size in bytes above which a file is compacted if less than half of it
// is in use. bbolt never makes a file smaller.
const compactAbove = 16 << 20

// compact copies the content of a file into a new one, and renames that to the path. A
// process that is killed meanwhile leaves either file under that path, and each of them is
// complete.
//
// If the copy fails, the old file stays in use. A disk without space for a copy must not
// keep a broker from starting.
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

// copyTo makes a copy, syncs it to the disk and checks that it has the same content.
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
