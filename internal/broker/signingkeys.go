package broker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// signingKeysName is the name under which a store keeps the signing keys. No pool may have
// this name.
const signingKeysName = "signing keys"

// signingKeys are what lease ids are signed with. The newest signs, and what older has
// signed is still accepted. They print as a constant; only record reveals their bytes.
type signingKeys struct{ newest, older signingKey }

// signingKey hides its bytes in a closure, because reflection cannot look into one. Package
// fmt prints unexported fields without calling their methods.
type signingKey struct {
	id      byte  // which the ids that it signs name; 0 if there is no such key
	created int64 // in Unix seconds
	reveal  func() [sha256.Size]byte
}

func newSigningKey(id byte, now time.Time) signingKey {
	var b [sha256.Size]byte
	rand.Read(b[:]) // never fails
	return makeSigningKey(id, unix(now), b)
}

func makeSigningKey(id byte, created int64, b [sha256.Size]byte) signingKey {
	return signingKey{id, created, func() [sha256.Size]byte { return b }}
}

// unix returns Unix seconds, and 0 if the clock stands before 1970.
func unix(t time.Time) int64 { return max(t.Unix(), 0) }

// activate makes a key ready for use. It returns nil if there is no such key.
func (k signingKey) activate() *activeKey {
	if k.id == 0 {
		return nil
	}
	a := &activeKey{id: k.id}
	a.free.New = func() any {
		b := k.reveal()
		return &scratch{mac: hmac.New(sha256.New, b[:])}
	}
	return a
}

// newSigningKeys makes the first key.
func newSigningKeys(now time.Time) signingKeys { return signingKeys{newest: newSigningKey(1, now)} }

// rotate makes a new key and drops the older one, unless the newest is younger than young.
// What the older one has signed may still be in use then, and a program that starts again
// and again must not drop it. changed means that the keys are to be saved and then used.
//
// The clock may be wrong. If the newest key was created in the future, its age counts from
// now on, so that it neither stays for ever nor is replaced at each start.
func (k signingKeys) rotate(now time.Time, young time.Duration) (next signingKeys, changed bool) {
	age := unix(now) - k.newest.created
	switch {
	case age < 0:
		k.newest.created = unix(now)
		return k, true
	case age <= int64(young/time.Second)+1: // both were rounded down to seconds
		return k, false
	}
	return signingKeys{newest: newSigningKey(k.newest.id%255+1, now), older: k.newest}, true
}

// signingRecord is what a store keeps of signingKeys. It prints the keys, so it is used only
// in record and parseSigningKeys.
type signingRecord struct {
	Version int            `json:"version"`
	Keys    []signingBytes `json:"keys"` // the newest first
}

type signingBytes struct {
	ID      byte   `json:"id"`
	Created int64  `json:"created"`
	Key     []byte `json:"key"`
}

const signingRecordVersion = 1

// record returns the bytes of the keys, for a store and nobody else.
func (k signingKeys) record() []byte {
	r := signingRecord{Version: signingRecordVersion}
	for _, k := range []signingKey{k.newest, k.older} {
		if k.id != 0 {
			b := k.reveal()
			r.Keys = append(r.Keys, signingBytes{k.id, k.created, b[:]})
		}
	}
	b, err := json.Marshal(r)
	if err != nil { // numbers and bytes can always be encoded
		panic("signing keys cannot be written")
	}
	return b
}

// change is what saves the keys.
func (k signingKeys) change() Change {
	return Change{Put: map[string][]byte{SoleChunk: k.record()}}
}

var errSigningRecord = errors.New("the record of the signing keys is damaged")

// parseSigningKeys reads a record. Its errors must not quote the record, so they wrap none
// of package json, which do.
func parseSigningKeys(record []byte) (signingKeys, error) {
	var r signingRecord
	if json.Unmarshal(record, &r) != nil {
		return signingKeys{}, fmt.Errorf("%w: it is not the JSON of signing keys", errSigningRecord)
	}
	if r.Version > signingRecordVersion {
		return signingKeys{}, errors.New("the record of the signing keys is from a later version of this program; use that, or a later one")
	}
	if r.Version != signingRecordVersion || len(r.Keys) < 1 || len(r.Keys) > 2 {
		return signingKeys{}, fmt.Errorf("%w: version %d with %d keys", errSigningRecord, r.Version, len(r.Keys))
	}
	var keys [2]signingKey
	for i, k := range r.Keys {
		if k.ID == 0 || k.Created < 0 || len(k.Key) != sha256.Size || [sha256.Size]byte(k.Key) == [sha256.Size]byte{} {
			return signingKeys{}, fmt.Errorf("%w: key %d of %d is not one", errSigningRecord, i+1, len(r.Keys))
		}
		keys[i] = makeSigningKey(k.ID, k.Created, [sha256.Size]byte(k.Key))
	}
	if keys[0].id == keys[1].id {
		return signingKeys{}, fmt.Errorf("%w: two keys with one id", errSigningRecord)
	}
	return signingKeys{newest: keys[0], older: keys[1]}, nil
}

const hiddenKeys = "[signing keys]"

// String hides them.
func (signingKeys) String() string { return hiddenKeys }

// Format hides them from every verb and flag of package fmt.
func (signingKeys) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenKeys) }

// LogValue hides them from package log/slog.
func (signingKeys) LogValue() slog.Value { return slog.StringValue(hiddenKeys) }

// String hides it.
func (signingKey) String() string { return hiddenKeys }

// Format hides it from every verb and flag of package fmt.
func (signingKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenKeys) }

// LogValue hides it from package log/slog.
func (signingKey) LogValue() slog.Value { return slog.StringValue(hiddenKeys) }
