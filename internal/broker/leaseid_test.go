package broker

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// keysFrom makes signing keys that are the same in each run. The first is the newest.
func keysFrom(ids ...byte) signingKeys {
	var keys [2]signingKey
	for i, id := range ids {
		var b [32]byte
		for j := range b {
			b[j] = id + byte(7*j)
		}
		keys[i] = makeSigningKey(id, 1_790_000_000, b)
	}
	return signingKeys{newest: keys[0], older: keys[1]}
}

// typical is a lease with common values.
var typical = leaseName{
	pool: pool.Hash("anthropic"), epoch: 12, lease: 1_234_567, key: pool.Hash("team-a"), class: pool.Hash("claude-opus-4"),
	ttl: 2 * time.Minute, count: 1, reserved: provider.Amounts{1, 12_000, 4_096, 16_096, 1},
}

func names(t *rapid.T) leaseName {
	n := leaseName{
		pool: rapid.Uint64().Draw(t, "pool"), epoch: rapid.Uint64().Draw(t, "epoch"),
		lease: pool.LeaseID(rapid.Uint64().Draw(t, "lease")),
		key:   rapid.Uint64().Draw(t, "key"), class: rapid.Uint64().Draw(t, "class"),
		ttl:   time.Duration(rapid.Int64Range(0, maxLeaseAmount).Draw(t, "ttl")),
		count: rapid.IntRange(0, maxLeaseCount).Draw(t, "count"),
	}
	for d := range n.reserved {
		n.reserved[d] = rapid.Int64Range(0, maxLeaseAmount).Draw(t, "reserved")
	}
	return n
}

// signed makes an id of any bytes with a good tag.
func signed(k signingKeys, name []byte, holder string) string {
	p := k.newest.activate().free.Get().(*scratch)
	copy(p.name[1:], name)
	return base64.RawURLEncoding.EncodeToString(append(name[:len(name):len(name)], p.tag(len(name), holder)...))
}

func bytesOf(t require.TestingT, id string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(id)
	require.NoError(t, err)
	return b
}

func TestLeaseIDNamesItsLeaseToItsHolderOnly(t *testing.T) {
	s, stranger := newSigner(keysFrom(1)), newSigner(newSigningKeys(time.Now()))
	rapid.Check(t, func(t *rapid.T) {
		n, holder := names(t), rapid.String().Draw(t, "holder")
		id := s.id(n, holder)
		got, ok := s.parse(id, holder)
		require.True(t, ok)
		require.Equal(t, n, got)
		require.Equal(t, id, s.id(n, holder), "derived, not drawn")

		other := rapid.String().Filter(func(o string) bool { return o != holder }).Draw(t, "other")
		_, ok = s.parse(id, other)
		require.False(t, ok, "another holder")
		_, ok = stranger.parse(id, holder)
		require.False(t, ok, "another broker")
	})
}

// Leases that differ in one field have different ids.
func TestLeaseIDSaysEverything(t *testing.T) {
	s := newSigner(keysFrom(1))
	seen := map[string]string{s.id(typical, "alice"): "typical"}
	for what, change := range map[string]func(*leaseName){
		"pool": func(n *leaseName) { n.pool++ }, "epoch": func(n *leaseName) { n.epoch++ },
		"lease": func(n *leaseName) { n.lease++ }, "key": func(n *leaseName) { n.key++ },
		"class": func(n *leaseName) { n.class++ }, "ttl": func(n *leaseName) { n.ttl++ },
		"count": func(n *leaseName) { n.count++ }, "reserved": func(n *leaseName) { n.reserved[provider.Concurrency]++ },
	} {
		n := typical
		change(&n)
		id := s.id(n, "alice")
		assert.Empty(t, seen[id], what)
		seen[id] = what
	}
}

// A change of the format needs a new version, because ids that the previous program made are
// still in use.
func TestLeaseIDHasTheFormatOfItsVersion(t *testing.T) {
	const made = "AgElJLQmGZYRs96Qo3F9ElLWLJik9kfQXvQMh61LgOC6hL8DAQHgXYAg4H0B6z7xWB7rI6YvJY_NI50XPQ"
	s := newSigner(keysFrom(1))
	require.Equal(t, made, s.id(typical, "alice"))
	n, ok := s.parse(made, "alice")
	require.True(t, ok)
	assert.Equal(t, typical, n)
}

func TestLeaseIDsOfExtremeLeases(t *testing.T) {
	s := newSigner(keysFrom(1))
	most := leaseName{
		pool: math.MaxUint64, epoch: math.MaxUint64, lease: math.MaxUint64, key: math.MaxUint64, class: math.MaxUint64,
		ttl: maxLeaseAmount, count: maxLeaseCount,
	}
	beyond := most
	beyond.ttl, beyond.count = math.MaxInt64, math.MaxInt
	for d := range most.reserved {
		most.reserved[d], beyond.reserved[d] = maxLeaseAmount, math.MaxInt64
	}
	below := leaseName{ttl: -1, count: math.MinInt}
	for d := range below.reserved {
		below.reserved[d] = math.MinInt64
	}
	shortest := idEncoding.EncodedLen(leastName + len(below.reserved) + tagSize)
	for name, c := range map[string]struct {
		in, out leaseName
		length  int
	}{
		"zero": {leaseName{}, leaseName{}, shortest}, "below zero": {below, leaseName{}, shortest},
		"largest": {most, most, mostText}, "too large": {beyond, most, mostText},
	} {
		t.Run(name, func(t *testing.T) {
			for _, holder := range []string{"", "alice", strings.Repeat("a", 1_000_000)} {
				id := s.id(c.in, holder)
				require.Len(t, id, c.length)
				got, ok := s.parse(id, holder)
				require.True(t, ok)
				require.Equal(t, c.out, got)
			}
		})
	}
}

func TestLeaseIDWithAnyBitFlippedIsUnknown(t *testing.T) {
	s := newSigner(keysFrom(1, 3)) // a flipped bit may turn one key id into the other
	rapid.Check(t, func(t *rapid.T) {
		holder := rapid.String().Draw(t, "holder")
		id := s.id(names(t), holder)
		for at := range 8 * len(id) {
			text := []byte(id)
			text[at/8] ^= 1 << (at % 8)
			_, ok := s.parse(string(text), holder)
			require.False(t, ok, "%q for %q", text, id)
		}
		b := bytesOf(t, id)
		for at := range 8 * len(b) {
			b[at/8] ^= 1 << (at % 8)
			_, ok := s.parse(base64.RawURLEncoding.EncodeToString(b), holder)
			require.False(t, ok, "bit %d", at)
			b[at/8] ^= 1 << (at % 8)
		}
	})
}

func TestLeaseIDCutOrLongerIsUnknown(t *testing.T) {
	s := newSigner(keysFrom(1))
	rapid.Check(t, func(t *rapid.T) {
		holder := rapid.String().Draw(t, "holder")
		id := s.id(names(t), holder)
		for i := range id {
			_, ok := s.parse(id[:i], holder)
			require.False(t, ok, "the first %d", i)
			_, ok = s.parse(id[i+1:], holder)
			require.False(t, ok, "without the first %d", i+1)
		}
		for _, more := range []string{"A", "AA", "AAAA", "=", "\n", "\r\n", "\x00", id} {
			_, ok := s.parse(id+more, holder)
			require.False(t, ok, "%q after it", more)
			_, ok = s.parse(more+id, holder)
			require.False(t, ok, "%q before it", more)
		}
		at := rapid.IntRange(0, len(id)).Draw(t, "place")
		_, ok := s.parse(id[:at]+"\n"+id[at:], holder)
		require.False(t, ok, "a new line in it")
	})
}

// Even if the last character has unused bits, only one character is accepted.
func TestLeaseIDHasOneSpelling(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=\n\r"
	s := newSigner(keysFrom(1))
	lengths := map[int]bool{}
	for _, ttl := range []time.Duration{1, 1 << 7, 1 << 14} {
		n := typical
		n.ttl = ttl
		id := s.id(n, "alice")
		lengths[len(id)%4] = true
		for i := range id {
			taken := 0
			for _, c := range alphabet {
				if _, ok := s.parse(id[:i]+string(c)+id[i+1:], "alice"); ok {
					taken++
				}
			}
			assert.Equal(t, 1, taken)
		}
	}
	assert.Len(t, lengths, 3, "every number of spare bits")
}

// A program that knows fewer dimensions made ids without the last ones.
func TestLeaseIDOfFewerDimensions(t *testing.T) {
	k := keysFrom(1)
	s := newSigner(k)
	b := bytesOf(t, s.id(typical, "alice"))
	name := b[:len(b)-tagSize]
	want := typical
	for d := provider.NumDimensions; d > 0; d-- {
		want.reserved[d-1] = 0
		name = name[:len(name)-len(binary.AppendUvarint(nil, uint64(typical.reserved[d-1])))]
		n, ok := s.parse(signed(k, name, "alice"), "alice")
		require.True(t, ok)
		assert.Equal(t, want, n)
	}
}

// Even with a good tag, only the encoding that this program writes is accepted.
func TestLeaseIDSpelledOtherwiseIsUnknown(t *testing.T) {
	k := keysFrom(1)
	s := newSigner(k)
	b := bytesOf(t, s.id(typical, "alice"))
	name := b[:len(b)-tagSize]
	_, ok := s.parse(signed(k, name, "alice"), "alice")
	require.True(t, ok)

	with := func(at int, b ...byte) []byte {
		return append(append(append([]byte{}, name[:at]...), b...), name[at+1:]...)
	}
	number := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	const epoch, last = 26, 1 // the first number, and one from the end
	require.Equal(t, byte(12), name[epoch])
	for what, b := range map[string][]byte{
		"version 0":             with(0, 0),
		"version 1":             with(0, 1),
		"version 3":             with(0, 3),
		"key 0":                 with(1, 0),
		"another key":           with(1, 2),
		"long epoch":            with(epoch, 12|0x80, 0),
		"longer epoch":          with(epoch, 12|0x80, 0x80, 0),
		"epoch that wraps":      with(epoch, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2),
		"long amount":           with(len(name)-last, 0x81, 0),
		"absurd amount":         with(len(name)-last, number(maxLeaseAmount+1)...),
		"amount below zero":     with(len(name)-last, number(math.MaxUint64)...),
		"number without an end": with(len(name)-last, 0x81),
		"one byte more":         append(name[:len(name):len(name)], 0),
		"absurd count":          append(append(append([]byte{}, name[:26]...), 12, 1, 1), append(number(maxLeaseCount+1), 1, 1, 1, 1, 1)...),
		"absurd time to live":   append(append(append([]byte{}, name[:26]...), 12, 1), append(number(maxLeaseAmount+1), 1, 1, 1, 1, 1, 1)...),
	} {
		t.Run(what, func(t *testing.T) {
			_, ok := s.parse(signed(k, b, "alice"), "alice")
			assert.False(t, ok)
		})
	}
}

// The boundary between a name and its holder cannot be moved: no two pairs have the same tag.
func TestLeaseIDsOfSimilarHoldersDiffer(t *testing.T) {
	k := keysFrom(1)
	s := newSigner(k)
	seen := map[string]string{}
	for _, holder := range []string{"", "a", "aa", "a\x00", "A", "a ", strings.Repeat("a", mostText), strings.Repeat("a", mostText+1)} {
		id := s.id(typical, holder)
		assert.Empty(t, seen[id])
		seen[id] = holder
	}

	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Byte(), 1, mostName).Draw(t, "all")
		cuts := rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)), 2, 2, rapid.ID[int]).Draw(t, "cuts")
		var tags [2]string
		for i, cut := range cuts {
			b := bytesOf(t, signed(k, all[:cut], string(all[cut:])))
			tags[i] = string(b[cut:])
		}
		require.NotEqual(t, tags[0], tags[1])
	})
}

// Ids of version 1 were not meant to outlive the program that made them.
func TestLeaseIDOfVersion1IsUnknown(t *testing.T) {
	s := newSigner(keysFrom(1))
	for _, id := range []string{"AQABAAAAAAAAAAIAAAAAAAAAA5q8Yk1uT3p0c2h2d3h5eno", signed(keysFrom(1), append([]byte{1}, make([]byte, leastName)...), "alice")} {
		_, ok := s.parse(id, "alice")
		assert.False(t, ok)
	}
}

func TestNothingLikeALeaseIDIsUnknown(t *testing.T) {
	s := newSigner(keysFrom(1))
	for _, id := range []string{
		"", "garbage", strings.Repeat("A", 1_000_000), strings.Repeat("\xff", leastText),
		strings.Repeat("A", leastText), strings.Repeat("_", mostText), strings.Repeat("\n", leastText),
	} {
		var ok bool
		assert.Zero(t, testing.AllocsPerRun(10, func() { _, ok = s.parse(id, "alice") }), "%d bytes", len(id))
		assert.False(t, ok)
	}
}
