//go:build !unix

package bolt

import "os"

// lock leaves it to bbolt's own lock, which is on the state file, where there is
// no flock.
func lock(path string) (*os.File, error) {
	return os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
}

func unlock(*os.File) {}
