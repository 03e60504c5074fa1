package provider

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// plain gives the text of a JSON string. What is no text becomes U+FFFD, and an
// escape that is cut off at the end is left out.
func plain(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return strings.ToValidUTF8(string(raw), "\uFFFD")
	}
	var text []byte
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			i = len(raw)
		}
		text = append(text, raw[:i]...)
		var r rune
		if r, raw = escape(raw[i:]); r >= 0 {
			text = utf8.AppendRune(text, r)
		}
	}
	return strings.ToValidUTF8(string(text), "\uFFFD")
}

// escape reads the escape, or two that belong together, at the start of raw, and
// gives what follows. A negative rune is none.
func escape(raw []byte) (rune, []byte) {
	if len(raw) < 2 {
		return -1, nil
	}
	switch raw[1] {
	case 'b':
		return '\b', raw[2:]
	case 'f':
		return '\f', raw[2:]
	case 'n':
		return '\n', raw[2:]
	case 'r':
		return '\r', raw[2:]
	case 't':
		return '\t', raw[2:]
	case '"', '\\', '/':
		return rune(raw[1]), raw[2:]
	case 'u':
	default:
		return utf8.RuneError, raw[2:]
	}
	if len(raw) < 6 {
		return -1, nil
	}
	r, rest := codeUnit(raw), raw[6:]
	if len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
		if pair := utf16.DecodeRune(r, codeUnit(rest)); pair != utf8.RuneError {
			return pair, rest[6:]
		}
	}
	return r, rest // half a pair is turned into U+FFFD as it is appended
}

// codeUnit reads the digits of \uXXXX.
func codeUnit(raw []byte) rune {
	n, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// clip cuts a text such that it takes no more than most bytes in a JSON string,
// and gives how many it takes, at most.
func clip(text string, most int) (part string, size int, whole bool) {
	for i, r := range text {
		n := utf8.RuneLen(r)
		switch {
		case r < ' ', r == '\u2028', r == '\u2029':
			n = len(`\u0000`)
		case r == '"', r == '\\':
			n = 2
		}
		if size+n > most {
			return text[:i], size, false
		}
		size += n
	}
	return text, size, true
}
