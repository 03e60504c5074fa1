//go:build unix

package audit

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// at is a minute of the test's day.
func at(minute int) time.Time {
	return time.Date(2026, 1, 31, 8, minute, 0, 0, time.UTC)
}

// given and done are a lease's lines; its ttl is ten minutes.
func given(minute int, lease, key, holder string) *Entry {
	return &Entry{
		Time: at(minute), Decision: Granted, Method: "AcquireKey", Holder: holder, Peer: "10.0.0.1:" + fmt.Sprint(4000+minute),
		Pool: "p", Key: key, Lease: Fingerprint(lease), Expires: at(minute + 10),
	}
}

func done(minute int, lease, key, holder string) *Entry {
	e := given(minute, lease, key, holder)
	e.Decision, e.Expires = Ended, time.Time{}
	return e
}

func answer(q Query, log ...*Entry) *Answer {
	s := NewSearch(q, true)
	for _, e := range log {
		s.Add(e)
	}
	return s.Answer()
}

// names lists the leases of an answer by the names of the test.
func names(a *Answer) (text string) {
	for _, l := range a.Leases {
		for _, name := range []string{"old", "a", "b", "c", "open"} {
			if Fingerprint(name) == l.Lease {
				text += name + " "
			}
		}
	}
	return text
}

var story = []*Entry{
	{Time: at(0), Decision: Restored, Pool: "p", Key: "k1"},
	done(5, "old", "k1", "x"),                                               // granted before the log begins
	{Time: at(6), Decision: Ended, Holder: "x", Lease: Fingerprint("open")}, // of which key?
	given(10, "a", "k1", "x"),
	given(11, "b", "k2", "x"),
	{Time: at(12), Decision: Denied, Peer: "10.0.0.9:1", Reason: "NO_IDENTITY"},
	{Time: at(12), Decision: Denied, Peer: "10.0.0.9:2", Reason: "NO_IDENTITY", Omitted: 3},
	{Time: at(13), Decision: Denied, Holder: "y", Peer: "10.0.0.2:1", Pool: "q", Reason: "NO_POLICY"},
	{Time: at(15), Decision: Ended, Holder: "x", Lease: Fingerprint("a")},
	{Time: at(16), Decision: Ended, Holder: "x", Lease: Fingerprint("a")}, // said again
	given(20, "c", "k1", "y"),
	given(21, "c", "k1", "y"), // a repeated call
	given(30, "open", "k1", "x"),
	done(40, "c", "k1", "y"), // after its ttl: it was renewed
	done(45, "b", "k2", "x"),
}

func TestSearch(t *testing.T) {
	for _, c := range []struct {
		name string
		q    Query
		want string
	}{
		{"all", Query{}, "old a b c open "},
		{"a key", Query{Pool: "p", Key: "k1"}, "old a c open "},
		{"a holder", Query{Holder: "y"}, "c "},
		{"another pool", Query{Pool: "q"}, ""},
		{"a part of a name", Query{Key: "k"}, ""},
		{"a lease by its id", Query{Lease: "b"}, "b "},
		{"a lease by its fingerprint", Query{Lease: Fingerprint("b")}, "b "},
		{"held within", Query{Since: at(11), Until: at(14)}, "a b "},
		{"held all the time", Query{Since: at(41), Until: at(42)}, "b "},
		{"until the end, which is not in it", Query{Since: at(15), Until: at(16)}, "b "},
		{"from the grant, which is in it", Query{Since: at(1), Until: at(10)}, "old "},
		{"one before the log was held when it began", Query{Until: at(1)}, "old "},
		{"before the log", Query{Until: at(0)}, ""},
		{"no end but a ttl", Query{Since: at(39), Until: at(40)}, "b c open "},
		{"after the ttl", Query{Since: at(45)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, names(answer(c.q, story...)))
		})
	}
}

func TestSearchSums(t *testing.T) {
	a := answer(Query{Key: "k1"}, story...)
	assert.Equal(t, []Holding{
		{Pool: "p", Key: "k1", Holder: "x", Leases: 3, First: at(5), Last: at(40), Open: 1, Peers: []string{"10.0.0.1"}},
		{Pool: "p", Key: "k1", Holder: "y", Leases: 1, First: at(20), Last: at(40), Peers: []string{"10.0.0.1"}},
	}, a.Holdings)
	assert.Equal(t, []Denial{
		{Peer: "10.0.0.9", Reason: "NO_IDENTITY", Count: 2},
		{Holder: "y", Peer: "10.0.0.2", Reason: "NO_POLICY", Count: 1},
	}, a.Denials)
	assert.Equal(t, uint64(3), a.Omitted)
	assert.Equal(t, at(0), a.Begins)
	assert.Equal(t, at(45), a.Ends)
	assert.Equal(t, Lease{
		Lease: Fingerprint("c"), Pool: "p", Key: "k1", Holder: "y", Peer: "10.0.0.1:4020",
		Granted: at(20), Ended: at(40), Expires: at(31),
	}, a.Leases[2])

	a = answer(Query{Pool: "p", Holder: "x", Since: at(12)}, story...)
	assert.Len(t, a.Denials, 1, "one whose caller is unknown may have been x; the other is y's")
	a = answer(Query{Since: at(14)}, story...)
	assert.Empty(t, a.Denials)
	assert.Zero(t, a.Omitted)
}

func TestSearchIsBounded(t *testing.T) {
	s := NewSearch(Query{}, false)
	for i := range 5000 {
		lease, peer := fmt.Sprint(i), fmt.Sprintf("10.0.%d.%d:1", i/256, i%256)
		g := given(1, lease, "k", "x")
		g.Peer = peer
		s.Add(g)
		s.Add(done(2, lease, "k", "x"))
		s.Add(&Entry{Time: at(3), Decision: Denied, Peer: peer})
		require.Empty(t, s.open)
	}
	a := s.Answer()
	require.Len(t, a.Holdings, 1)
	assert.Equal(t, 5000, a.Holdings[0].Leases)
	assert.Len(t, a.Holdings[0].Peers, maxPeers)
	assert.Empty(t, a.Leases)
	require.Len(t, a.Denials, maxDenials+1)
	assert.Equal(t, Denial{Count: 4000}, a.Denials[0])
}

// write puts entries into a file, and gzips it if its name says so.
func write(t *testing.T, dir, name string, log ...*Entry) string {
	t.Helper()
	var text []byte
	for _, e := range log {
		text = e.append(text)
	}
	if filepath.Ext(name) == ".gz" {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(text)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		text = b.Bytes()
	}
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	third := write(t, dir, "audit.jsonl", story[11:]...)
	second := write(t, dir, "audit.jsonl.1", story[4:11]...)
	first := write(t, dir, "audit.jsonl.2.gz", story[:4]...)
	empty := write(t, dir, "audit.jsonl.3")
	want := answer(Query{}, story...)
	for _, paths := range [][]string{{first, second, third, empty}, {third, empty, second, first}, {second, third, first}} {
		got, err := Files(paths, Query{}, true)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	good := write(t, dir, "good", story...)
	short := write(t, dir, "short.gz", given(50, "last", "k1", "z"))
	text, err := os.ReadFile(short)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(short, text[:len(text)-4], 0o600))
	torn := filepath.Join(dir, "torn")
	require.NoError(t, os.WriteFile(torn, []byte("{\"time"), 0o600))

	a, err := Files([]string{filepath.Join(dir, "missing"), short, dir, torn, good}, Query{}, true)
	assert.ErrorContains(t, err, "missing: no such file")
	assert.ErrorContains(t, err, "short.gz: unexpected EOF")
	assert.ErrorContains(t, err, dir+": is a directory")
	assert.Len(t, a.Leases, 6, "all that could be read")
	assert.Equal(t, 1, a.Unreadable)
}

// BenchmarkFiles reads a log of 20,000 leases; all of them match.
func BenchmarkFiles(b *testing.B) {
	var text []byte
	for i := range 20000 {
		lease := fmt.Sprint(i)
		text = done(2, lease, "k", "x").append(given(1, lease, "k", "x").append(text))
	}
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	require.NoError(b, os.WriteFile(path, text, 0o600))
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		a, err := Files([]string{path}, Query{Key: "k"}, false)
		require.NoError(b, err)
		require.Equal(b, 20000, a.Holdings[0].Leases)
	}
}
