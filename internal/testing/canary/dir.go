package canary

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Dir is t.TempDir whose files are searched when the test has ended, their names too:
// call it before the broker is started, whose cleanup then comes first. On Linux, files
// are searched as well that were deleted or replaced in between, unless they were there
// for some moments only; what was overwritten in a file is not seen.
//
// Files that have keys on purpose are not searched: those whose names, without their
// folder, match one of the patterns of keyed, as path.Match has it.
func Dir(t testing.TB, keyed ...string) string {
	heard()
	return suite.dir(t, t.Errorf, keyed...)
}

func (d *detector) dir(t testing.TB, complain func(format string, args ...any), keyed ...string) string {
	dir := t.TempDir()
	keeper := keepFiles(dir, t.TempDir())
	t.Cleanup(func() {
		before := len(d.findings())
		gone := keeper.end() // first, so that nothing is missed that is replaced now
		d.folder(t, dir, keyed)
		for file, path := range gone {
			d.file(t, dir, path, file, keyed)
		}
		if all := d.findings(); len(all) > before {
			complain("a key is in a file: %s", all[before:])
		}
	})
	return dir
}

func (d *detector) folder(t testing.TB, dir string, keyed []string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			d.file(t, dir, path, path, keyed)
		}
		return nil // it has just gone, or may not be read
	})
	if err != nil {
		t.Error(err)
	}
}

// file searches a file, which was at path once.
func (d *detector) file(t testing.TB, dir, path, file string, keyed []string) {
	for _, pattern := range keyed {
		if ok, err := filepath.Match(pattern, filepath.Base(path)); ok || err != nil {
			return
		}
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		name = path
	}
	d.text("the name of a file of "+t.Name(), []byte(name))
	if text, err := os.ReadFile(file); err == nil {
		d.text("the file "+name+" of "+t.Name(), text)
	}
}
