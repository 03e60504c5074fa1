//go:build unix

package bolt

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestFileAndDirectoryAreForOurEyesOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "state.db")
	require.NoError(t, start(t, path).Close())
	require.NoError(t, os.Chmod(path, 0o644)) // as a restored copy may be
	start(t, path)
	for name, mode := range map[string]os.FileMode{path: 0o600, path + ".lock": 0o600, filepath.Dir(path): 0o700} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, mode, info.Mode().Perm(), name)
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	path, child := inChild(t, func() string {
		path := file(t)
		start(t, path)
		return path
	})
	if !child {
		_, err := Open(path) // from the same process
		require.ErrorIs(t, err, ErrInUse)
		return
	}
	_, err := Open(path)
	require.ErrorIs(t, err, ErrInUse)
	require.EqualError(t, err, "state file "+path+": another keybroker uses this file; stop the other one, or give this one a file of its own")
	require.NoError(t, os.Remove(path+".lock")) // somebody deletes the lock file
	_, err = Open(path)
	require.ErrorIs(t, err, ErrInUse)
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := file(t)
	require.NoError(t, start(t, path).Close())
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, 9))
	})
	_, err := Open(path)
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "schema version 9")
	require.ErrorContains(t, err, "versions up to 2")
}

func edit(t *testing.T, path string, change func(*bbolt.Tx) error) {
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(change))
	require.NoError(t, db.Close())
}

func TestSomebodyElsesFileIsRefused(t *testing.T) {
	path := file(t)
	edit(t, path, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = Open(path)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "no schema version")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestLinkIsFollowed(t *testing.T) {
	path := file(t)
	link := path + ".link"
	require.NoError(t, start(t, path).Close())
	require.NoError(t, os.Symlink(path, link))
	start(t, link)
	_, err := Open(path)
	require.ErrorIs(t, err, ErrInUse)
}

// Files without access rights are reported as such. The child process gives up root's
// rights, because root may write anywhere.
func TestNoAccess(t *testing.T) {
	const nobody = 65534
	path, child := inChild(t, func() string {
		path := file(t)
		dir := filepath.Dir(path)
		require.NoError(t, start(t, path).Close())
		require.NoError(t, os.Mkdir(filepath.Join(dir, "closed"), 0o500))
		if os.Getuid() == 0 {
			require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
			for _, name := range []string{dir, path, path + ".lock", filepath.Join(dir, "closed")} {
				require.NoError(t, os.Chown(name, nobody, nobody))
			}
		}
		require.NoError(t, os.Chmod(path, 0o400))
		return path
	})
	if !child {
		require.NoError(t, start(t, path).Close())
		return
	}
	if os.Getuid() == 0 {
		require.NoError(t, syscall.Setgid(nobody))
		require.NoError(t, syscall.Setuid(nobody))
	}
	_, err := Open(path)
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, "state file "+path)
	require.ErrorContains(t, err, "may read and write the file and its directory")

	inClosed := filepath.Join(filepath.Dir(path), "closed", "state.db")
	_, err = Open(inClosed)
	require.ErrorIs(t, err, os.ErrPermission)
	require.ErrorContains(t, err, inClosed)

	require.NoError(t, os.Chmod(path, 0o600))
	s, err := Open(path)
	require.NoError(t, err, "nothing was damaged")
	require.NoError(t, s.Close())
}

func TestDirectoryInsteadOfFile(t *testing.T) {
	path := file(t)
	require.NoError(t, os.Mkdir(path, 0o700))
	_, err := Open(path)
	require.ErrorContains(t, err, "state file "+path)
}

func TestLeftoversAreRemoved(t *testing.T) {
	path := file(t)
	for _, suffix := range []string{newSuffix, compactSuffix} {
		require.NoError(t, os.WriteFile(path+suffix, []byte("half a fi"), 0o600))
	}
	start(t, path)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the file and its lock")
}

// The lock file alone keeps a second process out, even while there is no state file.
func TestLockFile(t *testing.T) {
	path := file(t)
	held, err := lock(path)
	require.NoError(t, err)
	_, err = Open(path)
	require.ErrorIs(t, err, ErrInUse)
	require.NoFileExists(t, path)
	require.NoError(t, held.Close())
	start(t, path)
}
