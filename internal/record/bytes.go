package record

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/keybroker/keybroker/pool/limit"
)

// writer appends values to bytes.
type writer struct{ b []byte }

func (w *writer) uint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

// What a record says of amounts and times is bounded, so that the engine can add up a few of
// them. A number out of its bounds is written as the bound, and is damage when it is read.
const (
	most          = limit.Longest        // of an amount, and of a duration in nanoseconds
	longestWindow = 366 * 24 * time.Hour // far above that of any limit
)

// int writes an amount.
func (w *writer) int(n int64) { w.uint(uint64(min(max(n, 0), most))) }

func (w *writer) byte(n byte) { w.b = append(w.b, n) }

func (w *writer) text(s string) {
	w.uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

// duration writes whole seconds as such, since most are.
func (w *writer) duration(d time.Duration) {
	d = min(max(d, 0), most)
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
	errForm  = errors.New("a number is longer than it need be")
)

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if !r.varint(size) {
		return 0
	}
	return n
}

// varint takes a varint of so many bytes, as package binary reports them. It returns false if it
// is not one that a writer would have written.
func (r *reader) varint(size int) bool {
	switch {
	case size == 0:
		r.fail(errShort)
	case size < 0:
		r.fail(errRange)
	case size > 1 && r.b[size-1] == 0:
		r.fail(errForm)
	default:
		r.b = r.b[size:]
		return true
	}
	return false
}

// int reads an amount.
func (r *reader) int() int64 { return int64(r.atMost(most)) }

// atMost reads a number that is not above a bound.
func (r *reader) atMost(bound uint64) uint64 {
	n := r.uint()
	if n > bound {
		r.fail(errRange)
		return 0
	}
	return n
}

// below reads a number that is less than bound.
func (r *reader) below(bound int) int {
	return int(r.atMost(uint64(bound) - 1))
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
	unit, bound := time.Second, uint64(most)/uint64(time.Second)
	if n&1 == 1 {
		unit, bound = 1, most
	}
	if n >>= 1; n > bound || unit == 1 && n%uint64(time.Second) == 0 {
		r.fail(errRange)
		return 0
	}
	return time.Duration(n) * unit
}

// window writes the length of a limit's window.
func (w *writer) window(d time.Duration) { w.duration(min(d, longestWindow)) }

func (r *reader) window() time.Duration {
	d := r.duration()
	if d > longestWindow {
		r.fail(errRange)
		return 0
	}
	return d
}

func (w *writer) moment(t time.Time) {
	w.b = binary.AppendVarint(w.b, t.Unix())
	w.uint(uint64(t.Nanosecond()))
}

func (r *reader) moment() time.Time {
	n, size := binary.Varint(r.b)
	if !r.varint(size) {
		return time.Time{}
	}
	t := time.Unix(n, int64(r.below(int(time.Second)))).UTC()
	if t.IsZero() {
		r.fail(errRange)
	}
	return t
}
