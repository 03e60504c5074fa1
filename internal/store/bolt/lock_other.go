//go:build !unix

package bolt

import "os"

// lock only makes the lock file, because this system has no flock. What excludes other
// processes is bbolt's own lock on the state file.
func lock(path string) (*os.File, error) {
	return os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
}

func unlock(*os.File) {}
