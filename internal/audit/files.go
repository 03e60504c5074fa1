package audit

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Files answers a query from the files of one log, given in any order; those that
// gzip has compressed are read as well. It reads each once, in the order of their
// first entries, which is that in which they were written. See [NewSearch] for list,
// and [Search] for the memory it takes.
//
// A file that cannot be read to its end does not keep it from the others: the answer
// is from all that could be read, and the error says that it is not complete.
func Files(paths []string, q Query, list bool) (*Answer, error) {
	type part struct {
		path  string
		first time.Time
	}
	var parts []part
	var problems []error
	for _, path := range paths {
		p := part{path: path}
		_, err := readFile(path, func(e *Entry) bool { p.first = e.Time; return false })
		if err != nil && p.first.IsZero() {
			problems = append(problems, err)
			continue
		}
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, func(x, y part) int { return x.first.Compare(y.first) })
	s := NewSearch(q, list)
	for _, p := range parts {
		n, err := readFile(p.path, func(e *Entry) bool { s.Add(e); return true })
		s.answer.Unreadable += n
		if err != nil {
			problems = append(problems, err)
		}
	}
	return s.Answer(), errors.Join(problems...)
}

func readFile(path string, f func(*Entry) bool) (unreadable int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	buffered := bufio.NewReader(file)
	magic, _ := buffered.Peek(2)
	if string(magic) != "\x1f\x8b" {
		return read(buffered, f)
	}
	unzipped, err := gzip.NewReader(buffered)
	if err == nil {
		unreadable, err = read(unzipped, f)
	}
	if err != nil {
		err = fmt.Errorf("gzip %s: %w", path, err)
	}
	return unreadable, err
}
