package broker

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

var monday = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func rotated(t require.TestingT, k signingKeys, now time.Time) signingKeys {
	next, changed := k.rotate(now, day)
	require.True(t, changed)
	require.NotEqual(t, k.newest.id, next.newest.id)
	return next
}

func TestRotationKeepsWhatTheKeyBeforeHasSigned(t *testing.T) {
	first := newSigningKeys(monday)
	s := newSigner(first)
	before := s.id(typical, "alice")

	second := rotated(t, first, monday.Add(2*day))
	s.use(second)
	n, ok := s.parse(before, "alice")
	require.True(t, ok)
	require.Equal(t, typical, n)
	between := s.id(typical, "alice")
	require.NotEqual(t, before, between, "the newest signs")
	_, ok = newSigner(signingKeys{newest: second.newest}).parse(between, "alice")
	require.True(t, ok, "the newest signs")

	s.use(rotated(t, second, monday.Add(4*day)))
	_, ok = s.parse(before, "alice")
	assert.False(t, ok, "its key was dropped")
	_, ok = s.parse(between, "alice")
	assert.True(t, ok)
}

// After 255 rotations, a new key has the id of a dropped one, but does not accept its ids.
func TestKeyIDsComeRound(t *testing.T) {
	k := newSigningKeys(monday)
	s := newSigner(k)
	first := s.id(typical, "alice")
	seen := map[byte]bool{k.newest.id: true}
	now := monday
	for range 255 {
		now = now.Add(2 * day)
		k = rotated(t, k, now)
		require.NotZero(t, k.newest.id)
		seen[k.newest.id] = true
	}
	assert.Len(t, seen, 255)
	assert.Equal(t, byte(1), k.newest.id)
	s.use(k)
	_, ok := s.parse(first, "alice")
	assert.False(t, ok)
}

func TestYoungKeyStays(t *testing.T) {
	k := newSigningKeys(monday.Add(999 * time.Millisecond))
	for _, after := range []time.Duration{0, time.Second, time.Hour, day} {
		next, changed := k.rotate(monday.Add(after), day)
		require.False(t, changed, after)
		require.Equal(t, k.record(), next.record())
	}
	rotated(t, k, monday.Add(day+2*time.Second))
	_, changed := k.rotate(monday.Add(100*365*day), math.MaxInt64)
	assert.False(t, changed)
}

// A program that starts again and again drops no key that has signed open leases.
func TestCrashLoopDropsNoKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := monday.Add(time.Duration(rapid.Int64Range(0, int64(3*day)).Draw(t, "age")))
		k := newSigningKeys(monday)
		id := newSigner(k).id(typical, "alice")
		for range rapid.IntRange(1, 50).Draw(t, "starts") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(day/50)).Draw(t, "later")))
			var err error
			if next, changed := k.rotate(now, day); changed {
				k, err = parseSigningKeys(next.record())
				require.NoError(t, err)
			}
			_, ok := newSigner(k).parse(id, "alice")
			require.True(t, ok)
		}
	})
}

// alone returns a key in a form that can be compared.
func (k signingKey) alone() string { return string(signingKeys{newest: k}.record()) }

func TestKeyFromTheFutureCountsFromNow(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"a second": time.Second, "a day": day, "two centuries": 200 * 365 * day} {
		t.Run(name, func(t *testing.T) {
			k := rotated(t, newSigningKeys(monday.Add(ahead-2*day)), monday.Add(ahead))
			now := monday
			next, changed := k.rotate(now, day)
			require.True(t, changed, "to be saved")
			require.Equal(t, k.newest.id, next.newest.id, "but not replaced")
			require.Equal(t, k.newest.reveal(), next.newest.reveal())
			require.Equal(t, k.older.alone(), next.older.alone())
			k, err := parseSigningKeys(next.record())
			require.NoError(t, err)
			for range 10 {
				now = now.Add(time.Hour)
				_, changed = k.rotate(now, day)
				require.False(t, changed, "not at each start")
			}
			rotated(t, k, now.Add(day))
		})
	}
}

func TestClockBefore1970(t *testing.T) {
	for _, now := range []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0), time.Unix(math.MinInt64, 0)} {
		k, err := parseSigningKeys(newSigningKeys(now).record())
		require.NoError(t, err)
		_, changed := k.rotate(now, day)
		assert.False(t, changed)
		k, changed = newSigningKeys(monday).rotate(now, day)
		require.True(t, changed)
		_, err = parseSigningKeys(k.record())
		require.NoError(t, err)
	}
}

func TestRotationWhileServing(t *testing.T) {
	k := newSigningKeys(monday)
	s := newSigner(k)
	old := s.id(typical, "alice")
	second := rotated(t, k, monday.Add(2*day))
	done := make(chan struct{})
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for _, id := range []string{old, s.id(typical, "alice")} {
					n, ok := s.parse(id, "alice")
					if !assert.True(t, ok) || !assert.Equal(t, typical, n) {
						return
					}
				}
				if _, ok := s.parse(old, "bob"); !assert.False(t, ok, "it is not bob's") {
					return
				}
			}
		})
	}
	for i := range 2000 { // the first key is always one of the two
		if i%2 == 0 {
			s.use(second)
		} else {
			s.use(signingKeys{newest: k.newest, older: second.newest})
		}
	}
	close(done)
	workers.Wait()
}

func TestSigningKeysAreKept(t *testing.T) {
	one := newSigningKeys(monday)
	for _, k := range []signingKeys{one, rotated(t, one, monday.Add(2*day))} {
		back, err := parseSigningKeys(k.record())
		require.NoError(t, err)
		assert.Equal(t, k.record(), back.record())
		assert.Equal(t, k.newest.created, back.newest.created)
		n, ok := newSigner(back).parse(newSigner(k).id(typical, "alice"), "alice")
		require.True(t, ok)
		assert.Equal(t, typical, n)
	}
	assert.NotEqual(t, one.newest.reveal(), newSigningKeys(monday).newest.reveal())
	assert.NotZero(t, one.newest.reveal())
}

// addresses are where something lies in memory, which may look like anything.
var addresses = regexp.MustCompile(`0x[0-9a-f]+`)

func TestDamagedSigningRecordIsRefused(t *testing.T) {
	const planted = "c2lnbmVkLWJ5LXRoZS1wbGFudGVkLWtleS0wMTIzNDU2Nzg5"
	key := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	good := key("signed-by-the-planted-key-012345")
	for name, record := range map[string]string{
		"nothing":          "",
		"null":             "null",
		"not JSON":         "c2lnbmVkLWJ5LXRoZS1wbGFudGVkLWtleS0wMTIzNDU2Nzg5",
		"list":             "[]",
		"cut":              `{"version":1,"keys":[{"id":1,"created":1,"key":"` + good,
		"more":             `{"version":1,"keys":[{"id":1,"created":1,"key":"` + good + `"}]}{}`,
		"no version":       `{"keys":[{"id":1,"created":1,"key":"` + good + `"}]}`,
		"later version":    `{"version":2,"keys":[{"id":1,"created":1,"key":"` + good + `"}]}`,
		"no keys":          `{"version":1}`,
		"three keys":       `{"version":1,"keys":[{"id":1,"key":"` + good + `"},{"id":2,"key":"` + good + `"},{"id":3,"key":"` + good + `"}]}`,
		"one id":           `{"version":1,"keys":[{"id":1,"key":"` + good + `"},{"id":1,"key":"` + good + `"}]}`,
		"no id":            `{"version":1,"keys":[{"created":1,"key":"` + good + `"}]}`,
		"id too large":     `{"version":1,"keys":[{"id":256,"created":1,"key":"` + good + `"}]}`,
		"id a key":         `{"version":1,"keys":[{"id":"` + planted + `","created":1,"key":"` + good + `"}]}`,
		"no id, then one":  `{"version":1,"keys":[{"id":0,"created":1,"key":"` + good + `"},{"id":1,"created":1,"key":"` + good + `"}]}`,
		"an id, then none": `{"version":1,"keys":[{"id":1,"created":1,"key":"` + good + `"},{"id":0,"created":1,"key":"` + good + `"}]}`,
		"created before":   `{"version":1,"keys":[{"id":1,"created":-1,"key":"` + good + `"}]}`,
		"short key":        `{"version":1,"keys":[{"id":1,"created":1,"key":"` + good[:40] + `"}]}`,
		"long key":         `{"version":1,"keys":[{"id":1,"created":1,"key":"` + planted + `"}]}`,
		"zero key":         `{"version":1,"keys":[{"id":1,"created":1,"key":"` + key(strings.Repeat("\x00", 32)) + `"}]}`,
		"no key":           `{"version":1,"keys":[{"id":1,"created":1}]}`,
		"not base64":       `{"version":1,"keys":[{"id":1,"created":1,"key":"` + planted + `!"}]}`,
		"key of numbers":   `{"version":1,"keys":[{"id":1,"created":1,"key":[115,105,103,300]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			k, err := parseSigningKeys([]byte(record))
			require.ErrorContains(t, err, "record of the signing keys")
			require.Zero(t, k.newest.id)
			for e := err; e != nil; e = errors.Unwrap(e) {
				for _, secret := range []string{"signed-by", "c2lnbmVk", "115", "300", "256"} {
					said := addresses.ReplaceAllString(fmt.Sprintf("%+v %#v", e, e), "")
					require.NotContains(t, said, secret)
				}
			}
		})
	}
	_, err := parseSigningKeys([]byte(`{"version":1,"keys":[{"id":1,"key":"` + good + `"}]}`))
	require.NoError(t, err, "but this is a record")
}

// spellings returns the texts as which bytes may be printed.
func spellings(b []byte) []string {
	return []string{
		string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), fmt.Sprintf("% x", b), fmt.Sprintf("%#x", b),
		fmt.Sprintf("%#v", b), strings.Trim(fmt.Sprint(b), "[]"), strings.Trim(fmt.Sprintf("%o", b), "[]"),
		strings.Trim(fmt.Sprintf("%b", b), "[]"), strings.Trim(fmt.Sprintf("%q", b), `"`), strings.Trim(fmt.Sprintf("%#v", string(b)), `"`),
		base64.StdEncoding.EncodeToString(b)[:30], base64.RawURLEncoding.EncodeToString(b)[:30],
		strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ","), strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", "\n- "),
	}
}

type failure struct{ text string }

func (f *failure) Errorf(format string, args ...any) { f.text += fmt.Sprintf(format, args...) }

func TestNobodySeesSigningKeys(t *testing.T) {
	k := rotated(t, newSigningKeys(monday), monday.Add(2*day))
	s := newSigner(k)
	id := s.id(typical, "alice") // now there is an HMAC with the key
	_, ok := s.parse(id, "alice")
	require.True(t, ok)

	newest, older := k.newest.reveal(), k.older.reveal()
	secrets := append(spellings(newest[:]), spellings(older[:])...)
	clean := func(text, how string) {
		t.Helper()
		for _, secret := range secrets {
			require.False(t, strings.Contains(text, secret), how) // the message must not show the text
		}
	}
	found := func(text string) bool {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				return true
			}
		}
		return false
	}
	require.True(t, found(string(k.record())), "the search finds what can be found")
	require.True(t, found(fmt.Sprint(newest)))
	require.True(t, found(fmt.Sprintf("%x", older)))

	type outer struct {
		Keys  signingKeys
		keys  signingKeys
		inner *signingKeys
		any   any
		s     *signer
	}
	things := []any{
		k, &k, k.newest, &k.newest, s, *s.keys.Load(), s.keys.Load(), s.keys.Load().newest, outer{k, k, &k, k, s}, &outer{k, k, &k, k, s},
		[]signingKeys{k}, map[string]signingKeys{"k": k}, [1]signingKey{k.newest},
	}
	for _, x := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%+q", "%#q", "%d", "%x", "%X", "% x", "%#x", "%o", "%b", "%c", "%U", "%e", "%t", "%10s", "%.2s", "%w", "%!", "%p", "%T"} {
			clean(fmt.Sprintf(verb, x), fmt.Sprintf("%s of %T", verb, x))
			clean(fmt.Errorf("bad: "+verb, x).Error(), fmt.Sprintf("%s of %T", verb, x))
		}
		clean(fmt.Sprintln(x), fmt.Sprintf("%T", x))
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "x", x, "list", []any{x})
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "x", k, "list", []any{k}, "outer", outer{Keys: k})
		clean(logged.String(), fmt.Sprintf("log of %T", x))
		if text, err := json.Marshal(x); err == nil {
			clean(string(text), fmt.Sprintf("JSON of %T", x))
		}
		if text, err := yaml.Marshal(x); err == nil {
			clean(string(text), fmt.Sprintf("YAML of %T", x))
		}
		var f failure // a failed assertion prints what pointers refer to
		assert.Equal(&f, "something else", x)
		assert.Equal(&f, []any{nil}, []any{x})
		clean(f.text, fmt.Sprintf("failed test of %T", x))
	}
	assert.Equal(t, hiddenKeys, k.String())
	assert.Equal(t, hiddenKeys, k.newest.String())
	clean(id, "an id")
}
