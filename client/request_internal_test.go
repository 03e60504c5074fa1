package client

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestReadBody(t *testing.T) {
	for body, want := range map[string]said{
		``:               {},
		`null`:           {},
		`[1, 2]`:         {},
		`{"model": "m"}`: {model: "m"},
		` {"a": [{"model": "x"}], "s": "}\"{", "model" : "m", "max_tokens":5}`:                           {model: "m", maxOutput: 5},
		`{"model": "m", "max_tokens": 5, "messages": [{"content": "cut o`:                                {model: "m", maxOutput: 5},
		`{"model": "m", "max_tokens": 5`:                                                                 {model: "m"}, // 5 may be 50
		`{"max_tokens": 5.0, "n": 1e1}`:                                                                  {maxOutput: 5, choices: 10},
		`{"max_tokens": "5", "model": 5}`:                                                                {},
		`{"max_tokens": -5, "n": null}`:                                                                  {},
		`{"max_tokens": 1e400, "n": 1e400}`:                                                              {},
		`{"max_tokens": 1e18, "n": 1e18}`:                                                                {maxOutput: mostSaid, choices: mostChoices},
		`{"max_tokens": 5, "max_completion_tokens": 7}`:                                                  {maxOutput: 7},
		`{"generationConfig": {"maxOutputTokens": 5, "x": {"maxOutputTokens": 9}, "candidateCount": 2}}`: {maxOutput: 5, choices: 2},
		`{"inferenceConfig": {"maxTokens": 5}, "modelId": "b"}`:                                          {model: "b", maxOutput: 5},
		`{"mod\u0065l": "a\/b\u00e9"}`:                                                                   {model: "a/bé"},
	} {
		assert.Equal(t, want, readBody([]byte(body)), body)
	}
}

// What is read of a valid document is what encoding/json reads, and nothing else
// than a document's beginning matters.
func FuzzReadBody(f *testing.F) {
	f.Add([]byte(`{"model": "m", "max_tokens": 5, "n": 2, "x": [1, {"a": "\"}"}, true]}`))
	f.Add([]byte(`{"generationConfig": {"maxOutputTokens": 5}, "model": "\u00e9\/\\", "best_of": 1e2}`))
	f.Add([]byte(`{"model": "m", "max_tok`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := readBody(body)
		assert.True(t, got.maxOutput >= 0 && got.choices >= 0 && got.maxOutput <= mostSaid && got.choices <= mostChoices)
		var names []string
		members(body, func(name string, value []byte) {
			names = append(names, name)
			assert.NotEmpty(t, value)
			assert.True(t, bytes.Contains(body, value))
		})
		if !json.Valid(body) || body[bytes.IndexFunc(body, func(c rune) bool { return !strings.ContainsRune(blanks, c) })] != '{' {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		_, _ = d.Token()
		i := 0
		for ; d.More(); i++ {
			name, err := d.Token()
			if !assert.NoError(t, err) || !assert.Less(t, i, len(names)) {
				return
			}
			assert.Equal(t, name, names[i])
			var value json.RawMessage
			assert.NoError(t, d.Decode(&value))
		}
		assert.Len(t, names, i)
		i = 0
		members(body, func(_ string, value []byte) {
			i++
			assert.True(t, json.Valid(value), "%q", value)
		})
	})
}
