//go:build unix

package audit

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEntryIsStable(t *testing.T) {
	at := time.Date(2026, 1, 31, 9, 0, 0, 500, time.FixedZone("CET", 3600))
	full := &Entry{
		Time: at, Decision: Granted, Method: "AcquireKey", Holder: "h", Peer: "10.0.0.1:9", Pool: "p",
		Key: "k", Lease: "f", Requests: 3, Expires: at.Add(time.Minute), Reason: "r", Omitted: 7,
	}
	assert.Equal(t, `{"time":"2026-01-31T08:00:00.000000500Z","decision":"granted","method":"AcquireKey",`+
		`"holder":"h","peer":"10.0.0.1:9","pool":"p","key":"k","lease":"f","requests":3,`+
		`"expires":"2026-01-31T08:01:00.000000500Z","reason":"r","omitted":7}`+"\n", string(full.append(nil)))
	small := &Entry{Time: at, Decision: Denied}
	assert.Equal(t, `{"time":"2026-01-31T08:00:00.000000500Z","decision":"denied"}`+"\n", string(small.append(nil)))
}

func TestFingerprint(t *testing.T) {
	assert.Equal(t, "ba7816bf8f01cfea414140de", Fingerprint("abc"), "the first 12 bytes of SHA-256")
}

func TestLongestLineCanBeRead(t *testing.T) {
	worst := strings.Repeat("\x00", maxLine)
	e := &Entry{
		Time: time.Now(), Decision: Decision(worst), Method: worst, Holder: worst, Peer: worst, Pool: worst,
		Key: worst, Lease: worst, Requests: math.MinInt, Expires: time.Now(), Reason: worst, Omitted: math.MaxUint64,
	}
	assert.Less(t, len(e.append(nil)), maxLine)
}

// FuzzAppend compares a line with what encoding/json makes of it and would have made.
func FuzzAppend(f *testing.F) {
	for _, s := range []string{
		"", "plain", `"\/`, "\x00\x1f\x7f\n\r\t", "\u2028\u2029", "é\u00a0😀", "\xff\xc3(\xed\xa0\x80", "\ufffd", "<&>",
		strings.Repeat("é", maxString), "a" + strings.Repeat("é", maxString),
	} {
		f.Add(s, s+"x", int64(len(s)), uint64(len(s)), int64(1769846400), int64(123))
	}
	f.Fuzz(func(t *testing.T, s, other string, requests int64, omitted uint64, seconds, nanos int64) {
		const day = 24 * 3600
		at := time.Unix(seconds%(4000*365*day), nanos).UTC()
		if at.Year() < 1 {
			t.Skip("encoding/json has no such year")
		}
		e := &Entry{
			Time: at, Decision: Decision(s), Method: other, Holder: s + other, Peer: other + s, Pool: s,
			Key: other, Lease: s, Requests: int(requests), Expires: at.Add(time.Hour), Reason: other, Omitted: omitted,
		}
		line := e.append(nil)
		require.Equal(t, len(line)-1, strings.IndexAny(string(line), "\n\r\u2028\u2029"), "one line: %q", line)
		var got, want Entry
		require.NoError(t, json.Unmarshal(line, &got), "%q", line)
		for _, field := range []*string{&e.Method, &e.Holder, &e.Peer, &e.Pool, &e.Key, &e.Lease, &e.Reason, (*string)(&e.Decision)} {
			*field = (*field)[:min(len(*field), maxString)]
		}
		text, err := json.Marshal(e)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &want))
		require.Equal(t, want, got)
	})
}
