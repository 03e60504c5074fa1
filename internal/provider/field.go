package provider

import (
	"strconv"
	"strings"
)

// member is one of a structured field's list or dictionary (RFC 9651): what the
// RateLimit drafts use of it.
type member struct {
	key    string // in a dictionary
	value  bare
	params []param
}

type param struct {
	key   string
	value bare
}

// bare is a value. Only strings and integers matter here.
type bare struct {
	kind   byte // '"' for a string, '1' for an integer, 0 for anything else
	text   string
	number int64
}

// param finds an integer parameter; a later one overrides. It is Unknown where
// it is missing or less than 0, and ok is false if it is there and not that.
func (m *member) param(keys ...string) (n int64, ok bool) {
	n, ok = Unknown, true
	for _, p := range m.params {
		for _, k := range keys {
			if p.key == k {
				ok = p.value.kind == '1' && p.value.number >= 0
				n = Unknown
				if ok {
					n = p.value.number
				}
			}
		}
	}
	return n, ok
}

// parseField reads a list or a dictionary, and nothing of one that is malformed:
// the standard wants it ignored as a whole.
func parseField(s string, dictionary bool) []member {
	p := fieldParser{rest: strings.Trim(s, " ")}
	var ms []member
	for {
		var m member
		if dictionary {
			m.key = p.key()
			if !p.skip('=') {
				return nil
			}
		}
		m.value = p.bare()
		for !p.bad && p.skip(';') {
			p.rest = strings.TrimLeft(p.rest, " ")
			x := param{key: p.key()}
			if p.skip('=') {
				x.value = p.bare()
			}
			m.params = append(m.params, x)
		}
		ms = append(ms, m)
		p.rest = strings.TrimLeft(p.rest, " \t")
		switch {
		case p.bad:
			return nil
		case p.rest == "":
			return ms
		case !p.skip(','):
			return nil
		}
		p.rest = strings.TrimLeft(p.rest, " \t")
	}
}

type fieldParser struct {
	rest string
	bad  bool
}

func (p *fieldParser) skip(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *fieldParser) take(chars string) string {
	s := prefix(p.rest, chars)
	p.rest = p.rest[len(s):]
	return s
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

func (p *fieldParser) key() string {
	if p.rest == "" || !strings.ContainsRune(lower+"*", rune(p.rest[0])) {
		p.bad = true
		return ""
	}
	return p.take(lower + digits + "_-.*")
}

func (p *fieldParser) bare() bare {
	if p.rest == "" {
		p.bad = true
		return bare{}
	}
	switch c := p.rest[0]; {
	case c == '"':
		return p.quoted()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	case c == ':': // bytes
		p.skip(':')
		p.take(lower + upper + digits + "+/=")
		p.bad = p.bad || !p.skip(':')
	case c == '?': // boolean
		p.skip('?')
		p.bad = p.bad || !p.skip('0') && !p.skip('1')
	case strings.IndexByte(lower+upper+"*", c) >= 0: // token
		p.take(lower + upper + digits + ":/!#$%&'*+-.^_`|~")
	default:
		p.bad = true
	}
	return bare{}
}

func (p *fieldParser) quoted() bare {
	var text []byte
	for i := 1; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case c == '"':
			p.rest = p.rest[i+1:]
			return bare{kind: '"', text: string(text)}
		case c == '\\':
			if i++; i == len(p.rest) || p.rest[i] != '"' && p.rest[i] != '\\' {
				p.bad = true
				return bare{}
			}
			c = p.rest[i]
		case c < ' ' || c > '~':
			p.bad = true
			return bare{}
		}
		text = append(text, c)
	}
	p.bad = true
	return bare{}
}

// number reads an integer of 15 digits at most, or passes over a decimal.
func (p *fieldParser) number() bare {
	sign := ""
	if p.skip('-') {
		sign = "-"
	}
	whole := p.take(digits)
	if whole == "" || len(whole) > 15 {
		p.bad = true
		return bare{}
	}
	if p.skip('.') {
		fraction := p.take(digits)
		p.bad = p.bad || fraction == "" || len(fraction) > 3 || len(whole) > 12
		return bare{}
	}
	n, _ := strconv.ParseInt(sign+whole, 10, 64)
	return bare{kind: '1', number: n}
}
