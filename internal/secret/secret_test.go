package secret

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"text/template"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

const planted = "sk-ant-cnry7f3a-planted-0123456789"

// The verbs that package fmt knows, %p, %T and %w included, which it answers without asking a Formatter.
var verbs = []string{"%v", "%+v", "%#v", "%s", "%q", "%+q", "%#q", "%d", "%x", "%X", "% x", "%o", "%b", "%c", "%U", "%e", "%t", "%10s", "%.2s", "%-20v", "%p", "%T", "%w", "%!"}

func TestValueHoldsItsText(t *testing.T) {
	v := New(planted)
	assert.Equal(t, planted, v.Reveal())
	assert.False(t, v.IsZero())
	assert.True(t, Value{}.IsZero())
	assert.True(t, New("").IsZero())
	assert.Empty(t, Value{}.Reveal())
}

func TestValueEqual(t *testing.T) {
	assert.True(t, New("a").Equal(New("a")))
	assert.True(t, New("").Equal(Value{}))
	assert.False(t, New("a").Equal(New("b")))
	assert.False(t, New("a").Equal(New("ab")))
	assert.False(t, New("a").Equal(Value{}))
}

func TestValuePrintsAsAConstant(t *testing.T) {
	for _, v := range []Value{New(planted), {}} {
		for _, verb := range verbs {
			if verb == "%p" || verb == "%T" || verb == "%w" || verb == "%!" {
				continue
			}
			assert.Equal(t, Redacted, fmt.Sprintf(verb, v), verb)
			assert.Equal(t, Redacted, fmt.Sprintf(verb, &v), "pointer, "+verb)
		}
		assert.Equal(t, Redacted, v.String())
		assert.Equal(t, Redacted, fmt.Sprint(v))
	}
}

func TestValueEncodesAsAConstant(t *testing.T) {
	v := New(planted)

	out, err := json.Marshal(map[string]any{"value": v, "pointer": &v})
	require.NoError(t, err)
	assert.JSONEq(t, `{"value":"[secret]","pointer":"[secret]"}`, string(out))

	out, err = yaml.Marshal(map[string]any{"value": v, "pointer": &v})
	require.NoError(t, err)
	assert.Equal(t, "pointer: '[secret]'\nvalue: '[secret]'\n", string(out))

	out, err = xml.Marshal(struct {
		XMLName xml.Name `xml:"k"`
		Key     Value
	}{Key: v})
	require.NoError(t, err)
	assert.Equal(t, "<k><Key>[secret]</Key></k>", string(out))

	out, err = v.MarshalText()
	require.NoError(t, err)
	assert.Equal(t, Redacted, string(out))

	var binary bytes.Buffer
	require.NoError(t, gob.NewEncoder(&binary).Encode(struct{ Key Value }{v}))
	assert.NotContains(t, binary.String(), planted)
	assert.Contains(t, binary.String(), Redacted)

	var page bytes.Buffer
	require.NoError(t, template.Must(template.New("").Parse("{{.}}")).Execute(&page, v))
	assert.Equal(t, Redacted, page.String())
}

func TestValueLogsAsAConstant(t *testing.T) {
	v := New(planted)
	type outer struct {
		Key   Value
		inner Value
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var buf bytes.Buffer
		slog.New(handler(&buf)).Info("m", "key", v, "pointer", &v, "outer", outer{v, v}, "list", []Value{v})
		assert.NotContains(t, buf.String(), planted, name)
		assert.Contains(t, buf.String(), Redacted, name)
	}
}

// Package fmt calls no methods on what it reaches through unexported fields: there, hiding is up to the representation.
func TestReflectionFindsNothing(t *testing.T) {
	v := New(planted)
	type inner struct {
		key     Value
		pointer *Value
		list    []Value
		table   map[string]Value
		any     any
	}
	type outer struct {
		Inner inner
		inner *inner
		Keys  []Value
	}
	in := inner{v, &v, []Value{v}, map[string]Value{"k": v}, v}
	everything := []any{v, &v, []Value{v}, [1]Value{v}, map[string]Value{"k": v}, map[string]*Value{"k": &v}, in, &in, outer{in, &in, []Value{v}}}

	for _, x := range everything {
		for _, verb := range verbs {
			assert.NotContains(t, fmt.Sprintf(verb, x), planted, "%s of %T", verb, x)
			assert.NotContains(t, fmt.Errorf("bad: "+verb, x).Error(), planted, "%s of %T", verb, x)
		}
		if encoded, err := json.Marshal(x); err == nil {
			assert.NotContains(t, string(encoded), planted, "%T", x)
		}
		if encoded, err := yaml.Marshal(x); err == nil {
			assert.NotContains(t, string(encoded), planted, "%T", x)
		}
		// What a failing test prints, which follows pointers.
		assert.NotContains(t, dump(x), planted, "%T", x)
	}
	// The search itself finds what can be found.
	require.Contains(t, dump(struct{ key *string }{new(planted)}), planted)
	require.Contains(t, fmt.Sprintf("%+v", struct{ key string }{planted}), planted)

	joined := errors.Join(fmt.Errorf("one: %v", v), fmt.Errorf("two: %+v", in))
	assert.NotContains(t, joined.Error(), planted)
	assert.Contains(t, joined.Error(), "one: "+Redacted)
}

// dump returns the text of a failed comparison with x.
func dump(x any) string {
	var r recorder
	assert.Equal(&r, "something else", x)
	assert.Equal(&r, []any{nil}, []any{x})
	return r.text
}

type recorder struct{ text string }

func (r *recorder) Errorf(format string, args ...any) { r.text += fmt.Sprintf(format, args...) }

func TestConcurrentUse(t *testing.T) {
	v := New(planted)
	done := make(chan string)
	for range 4 {
		go func() { done <- fmt.Sprint(v) + v.Reveal() }()
	}
	for range 4 {
		assert.Equal(t, Redacted+planted, <-done)
	}
}

func TestNamesAreShownUnlessTheyResembleKeys(t *testing.T) {
	for _, name := range []string{"", "anthropic-eu-1", "claude-sonnet-4-5-20250929", "a b"} {
		assert.Equal(t, name, Name(name))
	}
	for _, text := range []string{planted, "AIzaSyD3k9Xw2mQ7vLp0RtB4nYs6LdC1fGj3aEu", "5f2b8c1e9d7a4f6b8c2e1d3a5f7b9c0e"} {
		assert.Equal(t, Redacted, Name(text))
	}
}
