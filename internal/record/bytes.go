package record

import (
	"encoding/binary"
	"errors"
	"time"
)

// writer appends values to bytes.
type writer struct{ b []byte }

func (w *writer) uint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

// int writes a number that is 0 or more; one below 0 is written as 0.
func (w *writer) int(n int64) { w.uint(uint64(max(n, 0))) }

func (w *writer) byte(n byte) { w.b = append(w.b, n) }

func (w *writer) text(s string) {
	w.uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// duration writes whole seconds as such, since most are.
func (w *writer) duration(d time.Duration) {
	d = max(d, 0)
	if d%time.Second == 0 {
		w.uint(uint64(d/time.Second) << 1)
	} else {
		w.uint(uint64(d)<<1 | 1)
	}
}

// reader takes values from bytes. After the first mistake it returns zeros, and err says what
// the mistake was.
type reader struct {
	b   []byte
	err error
}

var (
	errShort = errors.New("a part ends too soon")
	errRange = errors.New("a number is out of its range")
)

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || size > 1 && r.b[size-1] == 0 { // too short, too long, or not as a writer would have it
		r.fail(errShort)
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int64 {
	n := r.uint()
	if n > 1<<63-1 {
		r.fail(errRange)
		return 0
	}
	return int64(n)
}

// below reads a number that is less than bound.
func (r *reader) below(bound int) int {
	n := r.uint()
	if n >= uint64(bound) {
		r.fail(errRange)
		return 0
	}
	return int(n)
}

// count reads how many elements follow, each of which has at least one byte.
func (r *reader) count() int {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	n := r.b[0]
	r.b = r.b[1:]
	return n
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail(errShort)
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes(r.count())) }

func (r *reader) duration() time.Duration {
	n := r.uint()
	if n&1 == 1 {
		if n>>1 > 1<<63-1 || n>>1%uint64(time.Second) == 0 {
			r.fail(errRange)
		}
		return time.Duration(n >> 1)
	}
	if n>>1 > (1<<63-1)/uint64(time.Second) {
		r.fail(errRange)
		return 0
	}
	return time.Duration(n>>1) * time.Second
}

func (w *writer) moment(t time.Time) {
	w.b = binary.AppendVarint(w.b, t.Unix())
	w.uint(uint64(t.Nanosecond()))
}

func (r *reader) moment() time.Time {
	n, size := binary.Varint(r.b)
	if size <= 0 || size > 1 && r.b[size-1] == 0 {
		r.fail(errShort)
		return time.Time{}
	}
	r.b = r.b[size:]
	t := time.Unix(n, int64(r.below(int(time.Second)))).UTC()
	if t.IsZero() {
		r.fail(errRange)
	}
	return t
}
