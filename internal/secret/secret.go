// Package secret holds the one type that may contain a key value.
//
// Everything that prints, logs or encodes a [Value] writes the same constant, so a key cannot leave the program by accident.
// The only way out is [Value.Reveal], which is easy to search for.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what a Value looks like in every format, the zero Value included.
const Redacted = "[secret]"

// Value is one key value. The zero Value holds the empty text. It is immutable and safe for concurrent use.
//
// The text lives in a closure, because reflection cannot look into one: fmt, spew and debuggers' dumps print unexported fields
// without asking their methods. The price is that == does not compile and reflect.DeepEqual never holds: use [Value.Equal].
type Value struct {
	reveal func() string
}

// New returns a Value that holds text.
func New(text string) Value {
	if text == "" {
		return Value{}
	}
	return Value{reveal: func() string { return text }}
}

// Reveal returns the text itself. Call it where the key is handed to its user, and nowhere else.
func (v Value) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// IsZero reports whether the text is empty. The encoders' omitzero and omitempty ask it, too.
func (v Value) IsZero() bool { return v.reveal == nil }

// Equal reports whether both hold the same text. The time it takes depends on the lengths only.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// String returns [Redacted].
func (v Value) String() string { return Redacted }

// Format writes [Redacted] for every verb and flag of package fmt.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// LogValue returns [Redacted] to package log/slog.
func (v Value) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText returns [Redacted]; encoding/json and encoding/xml use it as well.
func (v Value) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalBinary returns [Redacted]; encoding/gob uses it as well.
func (v Value) MarshalBinary() ([]byte, error) { return []byte(Redacted), nil }

// MarshalYAML returns [Redacted].
func (v Value) MarshalYAML() (any, error) { return Redacted, nil }
