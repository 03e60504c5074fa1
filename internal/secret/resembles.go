package secret

import (
	"strings"
	"unicode"
)

// Resembles reports whether text looks like a credential, put where a name belongs: it has the usual prefix, or 24 letters and
// digits in a row with at least three digits, which no name for people has.
func Resembles(text string) bool {
	if strings.HasPrefix(text, "sk-") {
		return true
	}
	run, digits := 0, 0
	for _, r := range text {
		switch {
		case unicode.IsDigit(r):
			run, digits = run+1, digits+1
		case unicode.IsLetter(r):
			run++
		default:
			run, digits = 0, 0
		}
		if run >= 24 && digits >= 3 {
			return true
		}
	}
	return false
}

// Name returns a name that somebody has asked for, to be shown and written down; or [Redacted], if it resembles a credential.
func Name(asked string) string {
	if Resembles(asked) {
		return Redacted
	}
	return asked
}
