package canary

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// watcher links each file that appears in a folder to a second name, by which it can be
// read when it is gone. One goroutine does this for all, outside of any synctest bubble.
type watcher struct {
	mu      sync.Mutex
	inotify int
	folders map[int32]folder
}

type folder struct {
	*keeper
	path string
}

var files *watcher // nil before watch, or without inotify

var watch = sync.OnceFunc(func() {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return
	}
	files = &watcher{inotify: fd, folders: map[int32]folder{}}
	raw, err := os.NewFile(uintptr(fd), "inotify").SyscallConn()
	if err != nil {
		return
	}
	go func() {
		_ = raw.Read(func(uintptr) bool {
			files.mu.Lock()
			defer files.mu.Unlock()
			files.drain()
			return false // wait for more
		})
	}()
})

// keeper keeps the files of a folder and those below it.
type keeper struct {
	kept  string            // the folder with the second names
	names map[string]string // where the files were, by their second names
}

func keepFiles(dir, kept string) *keeper {
	k := &keeper{kept: kept, names: map[string]string{}}
	if files != nil {
		files.mu.Lock()
		defer files.mu.Unlock()
		files.add(k, dir)
	}
	return k
}

// end gives the files that are gone, as name to read → name of before.
func (k *keeper) end() map[string]string {
	if files == nil {
		return nil
	}
	files.mu.Lock()
	defer files.mu.Unlock()
	files.drain()
	for id, f := range files.folders {
		if f.keeper == k {
			delete(files.folders, id)
			_, _ = syscall.InotifyRmWatch(files.inotify, uint32(id))
		}
	}
	for second, first := range k.names {
		a, err := os.Stat(second)
		b, err2 := os.Lstat(first)
		if err == nil && err2 == nil && os.SameFile(a, b) {
			delete(k.names, second) // it is there still
		}
	}
	return k.names
}

// add watches a folder; what is in it already has come in between.
func (w *watcher) add(k *keeper, path string) {
	const events = syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_ONLYDIR
	id, err := syscall.InotifyAddWatch(w.inotify, path, events)
	if err != nil {
		return
	}
	w.folders[int32(id)] = folder{k, path}
	entries, _ := os.ReadDir(path)
	for _, e := range entries {
		w.appeared(folder{k, path}, e.Name())
	}
}

func (w *watcher) appeared(f folder, name string) {
	path := filepath.Join(f.path, name)
	info, err := os.Lstat(path)
	switch {
	case err != nil: // too late
	case info.IsDir():
		w.add(f.keeper, path)
	case info.Mode()&fs.ModeType == 0:
		second := filepath.Join(f.kept, strconv.Itoa(len(f.names)))
		if os.Link(path, second) == nil {
			f.names[second] = path
		}
	}
}

// drain handles what has happened so far. The lock is held.
func (w *watcher) drain() {
	buf := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(w.inotify, buf)
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		for b := buf[:n]; len(b) >= syscall.SizeofInotifyEvent; {
			id, size := int32(binary.NativeEndian.Uint32(b)), int(binary.NativeEndian.Uint32(b[12:]))
			name := bytes.TrimRight(b[syscall.SizeofInotifyEvent:syscall.SizeofInotifyEvent+size], "\x00")
			if f, ok := w.folders[id]; ok && len(name) > 0 {
				w.appeared(f, string(name))
			}
			b = b[syscall.SizeofInotifyEvent+size:]
		}
	}
}
