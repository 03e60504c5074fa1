package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// maxLine bounds the memory that a line takes to read. The log writes none as long.
const maxLine = 1 << 20

// read calls f for every entry, in the order of the lines, until f returns false. A
// line that is not an entry, because a crash cut it off or because it is longer than
// 1 MiB, counts as unreadable and is passed over. The error is the reader's.
func read(r io.Reader, f func(*Entry) bool) (unreadable int, err error) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		long := err == bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			_, err = lines.ReadSlice('\n')
		}
		if e := parse(line); e != nil && !long {
			if !f(e) {
				return unreadable, nil
			}
		} else if long || len(bytes.TrimSpace(line)) > 0 {
			unreadable++
		}
		if errors.Is(err, io.EOF) {
			return unreadable, nil
		} else if err != nil {
			return unreadable, err
		}
	}
}

// parse returns nil for what is not an entry.
func parse(line []byte) *Entry {
	e := &Entry{}
	if json.Unmarshal(line, e) != nil || e.Time.IsZero() || e.Decision == "" {
		return nil
	}
	return e
}
