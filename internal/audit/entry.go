// Package audit writes down who was given which key, and answers who held one.
//
// The log is a file of JSON lines, each an [Entry]. A grant is written before the
// key leaves the broker, so that whoever has a key is in it; see [Log.Write] for what
// "written" means. A key is named by its id and a lease by its [Fingerprint]: whoever
// reads the log can use neither.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
	"unicode/utf8"
)

// Decision is what a line is about.
type Decision string

// The decisions. Those who read a log pass over any other, which a later version
// may write.
const (
	Granted  Decision = "granted"  // a key was given to the holder
	Refused  Decision = "refused"  // allowed to ask, and got nothing: no room, invalid, …
	Denied   Decision = "denied"   // not allowed to ask: no identity, or no policy for it
	Ended    Decision = "ended"    // a lease's final report or its release, once a lease
	Restored Decision = "restored" // an operator took a key back into use
)

// Entry is a line of the log. What is empty or zero is not in the line.
type Entry struct {
	Time     time.Time `json:"time"` // in UTC
	Decision Decision  `json:"decision"`
	Method   string    `json:"method,omitempty"`   // of the API, as AcquireKey
	Holder   string    `json:"holder,omitempty"`   // the authenticated identity
	Peer     string    `json:"peer,omitempty"`     // the address that the call came from
	Pool     string    `json:"pool,omitempty"`     // by name
	Key      string    `json:"key,omitempty"`      // its id, never its value
	Lease    string    `json:"lease,omitempty"`    // its Fingerprint, never its id
	Requests int       `json:"requests,omitempty"` // what the lease is for
	Expires  time.Time `json:"expires,omitzero"`   // of a grant: when the ttl ends, unless it is renewed
	Reason   string    `json:"reason,omitempty"`   // machine-readable, as KEYS_EXHAUSTED

	// Omitted is how many lines were left out before this one, see [Log.Note].
	Omitted uint64 `json:"omitted,omitempty"`
}

// Fingerprint names a lease in the log without being its id, which is a secret of
// its holder: 24 hex digits of the id's SHA-256.
func Fingerprint(leaseID string) string {
	sum := sha256.Sum256([]byte(leaseID))
	return hex.EncodeToString(sum[:fingerprintSize])
}

const fingerprintSize = 12

// append adds the entry as one line, in a form that encoding/json reads back. It is
// written by hand since it is done under the log's lock, and encoding/json takes 2.5
// times as long.
func (e *Entry) append(b []byte) []byte {
	b = appendTime(append(b, `{"time":`...), e.Time)
	b = appendString(append(b, `,"decision":`...), string(e.Decision))
	b = appendField(b, `,"method":`, e.Method)
	b = appendField(b, `,"holder":`, e.Holder)
	b = appendField(b, `,"peer":`, e.Peer)
	b = appendField(b, `,"pool":`, e.Pool)
	b = appendField(b, `,"key":`, e.Key)
	b = appendField(b, `,"lease":`, e.Lease)
	if e.Requests != 0 {
		b = strconv.AppendInt(append(b, `,"requests":`...), int64(e.Requests), 10)
	}
	if !e.Expires.IsZero() {
		b = appendTime(append(b, `,"expires":`...), e.Expires)
	}
	b = appendField(b, `,"reason":`, e.Reason)
	if e.Omitted != 0 {
		b = strconv.AppendUint(append(b, `,"omitted":`...), e.Omitted, 10)
	}
	return append(b, "}\n"...)
}

// appendTime writes all nine digits, so that lines sort as text.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, `"2006-01-02T15:04:05.000000000Z07:00"`)
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendString(append(b, name...), value)
}

// maxString bounds a field, since some come from whoever asks: a longer one is cut.
// It is above what an identity can be, and keeps any line within maxLine.
const maxString = 4096

// appendString escapes what JSON must, and U+2028 and U+2029, which end a line for
// some readers. A byte that is not UTF-8 becomes U+FFFD, as in encoding/json.
func appendString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	s = s[:min(len(s), maxString)]
	b = append(b, '"')
	done := 0 // of s
	for i := 0; i < len(s); {
		c, size := rune(s[i]), 1
		if c >= utf8.RuneSelf {
			c, size = utf8.DecodeRuneInString(s[i:])
		}
		switch {
		case c == '"', c == '\\':
			b = append(append(b, s[done:i]...), '\\', byte(c))
		case c < ' ', c == 0x7f, c == '\u2028', c == '\u2029', c == utf8.RuneError:
			b = append(append(b, s[done:i]...), '\\', 'u',
				hexDigits[c>>12&15], hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15])
		default:
			i += size
			continue
		}
		i += size
		done = i
	}
	return append(append(b, s[done:]...), '"')
}
