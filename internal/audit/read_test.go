//go:build unix

package audit

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	lineA = `{"time":"2026-01-31T08:00:00Z","decision":"granted","lease":"a"}`
	lineB = `{"time":"2026-01-31T08:00:01Z","decision":"ended","lease":"b"}`
)

func TestRead(t *testing.T) {
	padded := lineA + strings.Repeat(" ", maxLine-len(lineA)-1)
	for _, c := range []struct {
		name, text string
		leases     string
		unreadable int
	}{
		{"nothing", "", "", 0},
		{"lines", lineA + "\n" + lineB + "\n", "ab", 0},
		{"no newline at the end", lineA + "\n" + lineB, "ab", 0},
		{"torn at the end", lineA + "\n" + lineB[:30], "a", 1},
		{"torn, then a fresh line", lineA[:30] + "\n" + lineB + "\n", "b", 1},
		{"torn, and no fresh line", lineA[:30] + lineB + "\n" + lineB + "\n", "b", 1},
		{"empty lines", "\n" + lineA + "\n\n \n", "a", 0},
		{"a hole, as a crash may leave", strings.Repeat("\x00", 5000) + "\n" + lineA + "\n", "a", 1},
		{"other JSON", "null\n{}\n[]\n7\n" + `{"time":"2026-01-31T08:00:00Z"}` + "\n" + lineA + "\n", "a", 5},
		{"a decision and a field of a later version", strings.Replace(lineA, "granted", `pondered","mood":"good`, 1), "a", 0},
		{"as long as may be", padded + "\n" + lineB + "\n", "ab", 0},
		{"too long", padded + " \n" + lineB + "\n", "b", 1},
		{"far too long, at the end", lineA + "\n" + padded + padded + padded, "a", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var leases string
			unreadable, err := read(iotest.HalfReader(strings.NewReader(c.text)), func(e *Entry) bool { leases += e.Lease; return true })
			require.NoError(t, err)
			assert.Equal(t, c.leases, leases)
			assert.Equal(t, c.unreadable, unreadable)
		})
	}
}

func TestReadError(t *testing.T) {
	bad, n := errors.New("bad disk"), 0
	_, err := read(io.MultiReader(strings.NewReader(lineA+"\n"), iotest.ErrReader(bad)), func(*Entry) bool { n++; return true })
	assert.ErrorIs(t, err, bad)
	assert.Equal(t, 1, n)
}

// FuzzRead reads anything, and finds an entry that stands on lines of its own in it.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"", lineA, lineA + "\n" + lineB[:9], "\x00\n\n{", "null", "[[[[", "\xff\u2028"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		own, all := 0, 0
		unreadable, err := read(strings.NewReader(before+"\n"+lineA+"\n"+after), func(e *Entry) bool {
			all++
			if e.Lease == "a" && e.Decision == Granted {
				own++
			}
			return true
		})
		require.NoError(t, err)
		require.GreaterOrEqual(t, own, 1)
		require.LessOrEqual(t, all+unreadable, strings.Count(before+after, "\n")+3)
	})
}
