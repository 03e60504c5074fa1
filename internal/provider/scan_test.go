package provider

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The fixed stack of the scanner holds the deepest path.
func TestTreeDepth(t *testing.T) {
	var deepest func(n *node) int
	deepest = func(n *node) int {
		most := 0
		for _, m := range append([]*node{n.each, n.any}, n.members...) {
			if m != nil {
				most = max(most, deepest(m))
			}
		}
		return most + 1
	}
	assert.LessOrEqual(t, deepest(&documents), treeDepth)
}

// Every name that the events' short cut does not know must be one that matters
// only inside of something it does.
func TestNothingIdleTells(t *testing.T) {
	for _, p := range append(usagePaths, failurePaths...) {
		if p.leaf < numCounts || p.leaf.ofError() || p.leaf == finishReason {
			assert.True(t, mayTell([]byte(p.to)), p.to)
		}
	}
	assert.False(t, mayTell([]byte(`{"usage":null,"x":1,"usage":null}`)))
	assert.True(t, mayTell([]byte(`{"usage":null,"usage":{}}`)))
	for i := range 40 {
		for _, word := range []string{"rr", "error", "r", "rxr", "ssr", "sr", "\x72\x73", "\xf2\xf2"} {
			p := strings.Repeat("x", i) + word + strings.Repeat("y", 40-i)
			assert.Equal(t, strings.Contains(p, "rr"), hasDoubleR([]byte(p)), p)
			assert.Equal(t, word == "error", mayTell([]byte(p)), p)
		}
	}
}

// Texts as encoding/json reads them.
func FuzzText(f *testing.F) {
	f.Add(`plain`)
	f.Add(`\u00e9\ud83d\ude00\ud83d\u0041\udc00\"\\\/\b`)
	f.Add(`\u12`)
	f.Fuzz(func(t *testing.T, raw string) {
		text := plain([]byte(raw))
		require.True(t, utf8.ValidString(text))
		part, size, whole := clip(text, 20)
		require.True(t, strings.HasPrefix(text, part))
		require.Equal(t, whole, part == text)
		require.LessOrEqual(t, size, 20)
		if utf8.ValidString(raw) {
			var want string
			if json.Unmarshal([]byte(`"`+raw+`"`), &want) == nil {
				require.Equal(t, want, text)
			}
		}
	})
}

// seeds adds the bodies of the tables, but for long ones, which are slow to vary.
func seeds(f *testing.F, add func(body string)) {
	for _, c := range bodies {
		if len(c.body) < 4<<10 {
			add(c.body)
		}
	}
	for _, body := range []string{geminiError, `{"error":{"metadata":{"reason":"r","limit_source":"s","headers":{"X-A":["1",2]}}}}`, `{"title":"Quota","violated-policies":["a","b"],"error":true}`} {
		add(body)
		add(sse("error|" + body))
		add(frame(body, ":message-type", "exception", ":exception-type", "throttlingException"))
	}
}

// However a body is cut into pieces, it says the same, nothing that it says is
// out of bounds, and little of it is held.
func FuzzBody(f *testing.F) {
	seeds(f, func(body string) { f.Add([]byte(body), uint64(len(body))) })
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		body := string(p)
		whole := reading(body)
		assertSame(t, whole, pieces(body, 1, rand.New(rand.NewPCG(seed, 0))))
		assertSame(t, whole, pieces(body, 1+int(seed%64), rand.New(rand.NewPCG(seed, 1))))
		careful := &Body{careful: true}
		careful.read(p)
		assertSame(t, whole, careful)

		u := whole.Usage()
		for _, n := range []int64{u.Input, u.CacheWrite, u.CacheRead, u.Output, u.Reasoning, u.Total} {
			require.GreaterOrEqual(t, n, int64(Unknown))
			require.LessOrEqual(t, n, int64(2*mostTokens))
		}
		require.False(t, whole.Ended() && whole.Error() != nil)
		require.LessOrEqual(t, memory(whole), 20<<10)
	})
}

// What Error reports is small, and means what the body means.
func FuzzFailure(f *testing.F) {
	seeds(f, func(body string) { f.Add([]byte(body)) })
	f.Fuzz(func(t *testing.T, body []byte) {
		said := failureOf(body)
		b := reading(string(body))
		report := b.Error()
		require.Equal(t, said.found, report != nil)
		require.LessOrEqual(t, len(report), 8<<10)
		if said.found {
			require.True(t, json.Valid(report))
			require.Equal(t, said, failureOf(report))
			require.Equal(t, said, b.facts.failure())
			require.Equal(t, string(report), string(reading(string(report)).Error()), "canonical")
		}
	})
}
