package client

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// Pictures and files in a body are not taken for text.
func TestEstimate(t *testing.T) {
	wrap := func(s string) string { return `{"messages": [{"content": "` + s + `"}]}` }
	const frame = 8 // tokens of wrap's own
	for name, c := range map[string]struct {
		body   string
		length int64 // of the whole, if the body is cut off
		want   int64
	}{
		"nothing":         {"", 0, 0},
		"text":            {wrap(strings.Repeat("word ", 4000)), 0, 5000 + frame},
		"no spaces":       {wrap(strings.Repeat("0123456789", 1200)), 0, 3000 + frame},
		"one quote":       {`{"` + strings.Repeat("a", 500), 0, 125},
		"small picture":   {wrap("iVBORw0KGgo" + strings.Repeat("A", 1989)), 0, 500 + frame},
		"large picture":   {wrap("/9j/" + strings.Repeat("A", 6<<20)), 0, imageTokens + frame},
		"data URL":        {wrap("data:image/webp;base64," + strings.Repeat("A", 6<<20)), 0, imageTokens + frame},
		"PDF":             {wrap("JVBERi0x" + strings.Repeat("A", 640_000)), 0, 10_000 + frame},
		"large PDF":       {wrap("data:application/pdf;base64," + strings.Repeat("A", 9<<20)), 0, fileTokens + frame},
		"two pictures":    {wrap("/9j/"+strings.Repeat("A", 1<<20)) + wrap("R0lGOD"+strings.Repeat("A", 1<<20)), 0, 2 * (imageTokens + frame)},
		"cut in text":     {`{"x": "` + strings.Repeat("word ", 1000), 40_000, 10_000},
		"cut in a file":   {`{"x": "SUQz` + strings.Repeat("A", 5000), 640_000, 10_000},
		"a file, no JSON": {strings.Repeat("A", 5000), 4_000_000, 0},
	} {
		got := estimate(&http.Request{ContentLength: c.length}, []byte(c.body))
		assert.InDelta(t, c.want, got, 3, name)
	}
}

// Whatever is quoted, cut or nested: no more than all text, and no panic.
func TestEstimateOfAnything(t *testing.T) {
	pieces := rapid.SampledFrom([]string{
		`"`, `\`, `{`, `[1,`, `"k":`, "data:image/png;base64,", ";base64,", "data:", "/9j/", " ", strings.Repeat("A", 255), strings.Repeat("A", 1023), strings.Repeat("word ", 300),
	})
	rapid.Check(t, func(t *rapid.T) {
		body := "{" + strings.Join(rapid.SliceOfN(pieces, 0, 30).Draw(t, "pieces"), "")
		got := estimate(&http.Request{}, []byte(body))
		assert.LessOrEqual(t, got, int64(len(body))/bytesPerToken)
		assert.GreaterOrEqual(t, got, int64(0))
	})
}
