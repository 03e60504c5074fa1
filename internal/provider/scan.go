package provider

import "bytes"

// scanner reads JSON as it comes, in pieces of any size, and tells of the values
// at the places of a tree. All else it passes over, so that it holds no more
// than a key and a short value. It trusts nobody, but it does not validate:
// where a document makes no sense, the rest of it is passed over.
type scanner struct {
	state   state
	escaped bool                 // the next byte of a string follows a backslash
	next    *node                // of the value to come; nil if nobody wants it
	stack   [treeDepth]container // the wanted containers that are open
	depth   int                  // of the stack
	skipped int                  // the unwanted containers that are open
	key     [maxKey + 1]byte     // the last key, or so much that it fits nothing
	keyLen  int                  //
	raw     []byte               // a wanted value as it is written, or its beginning
	rawMax  int                  // how much of it is of use
}

const (
	maxKey    = 64
	maxNumber = 32
	maxString = 4 << 10
	treeDepth = 12
)

// container is an open container.
type container struct {
	*node
	array bool
}

type state uint8

const (
	between   state = iota // documents
	atValue                // a value comes, or the end of an array
	atKey                  // a key comes, or the end of an object
	atColon                // after a key
	after                  // a value
	inKey                  //
	inString               // a wanted one
	inScalar               // a wanted number, or a word
	inOther                // an unwanted string
	inWord                 // an unwanted number, or a word
	skipping               // an unwanted container
	senseless              // until the next reset
)

// reset forgets the document, whether or not it has ended.
func (s *scanner) reset() {
	s.state, s.escaped, s.depth, s.skipped = between, false, 0, 0
}

// write takes the next piece.
func (s *scanner) write(p []byte, to *facts) {
	for len(p) > 0 {
		switch s.state {
		case inKey, inString, inOther:
			n, closed := s.text(p)
			s.keep(p[:n])
			if !closed {
				return
			}
			p = p[n+1:]
			s.closeString(to)
			if s.state == atColon && len(p) > 0 && p[0] == ':' {
				p, s.state = p[1:], atValue // as step does, in most cases
			}
		case inScalar, inWord:
			n := word(p)
			s.keep(p[:n])
			if p = p[n:]; len(p) > 0 {
				s.closeWord(p[0], to)
			}
		case skipping:
			p = s.skip(p)
		case senseless:
			return
		default:
			if c := p[0]; c > ' ' {
				s.step(c, to)
			}
			if s.state != inScalar && s.state != inWord {
				p = p[1:]
			}
		}
	}
}

// step takes a byte that is part of the structure, or begins a value.
func (s *scanner) step(c byte, to *facts) {
	switch s.state {
	case between:
		s.next = &documents
		if c == '{' {
			s.next = documents.each
		}
		if c == '{' || c == '[' {
			to.begin()
			s.open(c == '[', to)
			return
		}
	case atKey:
		if c == '"' {
			s.state, s.keyLen = inKey, 0
			return
		}
		if c == '}' {
			s.close(false, to)
			return
		}
	case atColon:
		if c == ':' {
			s.state = atValue
			return
		}
	case atValue:
		s.value(c, to)
		return
	case after:
		in := s.stack[s.depth-1]
		switch {
		case c == ',' && in.array:
			s.state, s.next = atValue, in.each
			return
		case c == ',':
			s.state = atKey
			return
		case c == ']' || c == '}':
			s.close(c == ']', to)
			return
		}
	}
	s.state = senseless
}

// value begins one.
func (s *scanner) value(c byte, to *facts) {
	switch c {
	case '{', '[':
		s.open(c == '[', to)
	case ']':
		s.close(true, to)
	case '}', ',', ':':
		s.state = senseless
	case '"':
		s.state = inOther
		if s.next != nil && s.next.leaf.isText() {
			s.want(inString, maxString)
		}
	default:
		s.state = inWord
		if s.next != nil && s.next.leaf != nothing {
			s.want(inScalar, maxNumber)
		}
	}
}

func (s *scanner) want(what state, most int) {
	s.state, s.raw, s.rawMax = what, s.raw[:0], most
}

// keep holds on to a part of a key or value, and to one byte more than is of
// use if it is too long.
func (s *scanner) keep(p []byte) {
	switch s.state {
	case inKey:
		s.keyLen += copy(s.key[s.keyLen:], p)
	case inString, inScalar:
		s.raw = append(s.raw, p[:min(len(p), s.rawMax+1-len(s.raw))]...)
	}
}

func (s *scanner) open(array bool, to *facts) {
	n := s.next
	if n != nil && n.leaf != nothing {
		to.enter(n.leaf)
	}
	if n == nil || array && n.each == nil || !array && n.members == nil && n.any == nil {
		s.state, s.skipped = skipping, 1
		return
	}
	s.stack[s.depth] = container{n, array}
	s.depth++
	s.state, s.next = atKey, n.each
	if array {
		s.state = atValue
	}
}

func (s *scanner) close(array bool, to *facts) {
	if s.depth == 0 || s.stack[s.depth-1].array != array {
		s.state = senseless
		return
	}
	s.depth--
	if s.stack[s.depth].leaf == aDocument {
		to.leave()
	}
	s.state = after
	if s.depth == 0 {
		s.state = between
		to.finish()
	}
}

// closeString ends the string or key whose closing quote has come.
func (s *scanner) closeString(to *facts) {
	switch s.state {
	case inKey:
		s.state, s.next = atColon, s.stack[s.depth-1].member(s.key[:s.keyLen])
		return
	case inString:
		to.text(s.next.leaf, s.key[:s.keyLen], s.raw[:min(len(s.raw), maxString)], len(s.raw) > maxString)
	}
	s.state = after
	if s.skipped > 0 {
		s.state = skipping
	}
}

// closeWord ends the number or word behind which c stands.
func (s *scanner) closeWord(c byte, to *facts) {
	if c > ' ' && c != ',' && c != ']' && c != '}' {
		s.state = senseless
		return
	}
	if s.state == inScalar && len(s.raw) <= maxNumber {
		to.scalar(s.next.leaf, s.key[:s.keyLen], s.raw)
	}
	s.state = after
}

// word is the length of a number or word at the start of p.
func word(p []byte) int {
	for i, c := range p {
		switch c {
		case ' ', '\t', '\r', '\n', ',', ']', '}', '"', ':', '[', '{':
			return i
		}
	}
	return len(p)
}

// text finds the quote that ends a string: one with an even number of
// backslashes in front. Without one, all of p belongs to the string.
func (s *scanner) text(p []byte) (n int, closed bool) {
	from := 0
	if s.escaped {
		from = 1
	}
	for {
		n = len(p)
		if i := bytes.IndexByte(p[from:], '"'); i >= 0 {
			n = from + i
		}
		slash := n
		for slash > from && p[slash-1] == '\\' {
			slash--
		}
		s.escaped = (n-slash)%2 == 1
		if n == len(p) {
			return n, false
		}
		if !s.escaped {
			return n, true
		}
		from = n + 1
	}
}

// skip passes over an unwanted container, and gives what is left of p.
func (s *scanner) skip(p []byte) []byte {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '"':
			n, closed := s.text(p[i+1:])
			if !closed {
				s.state = inOther
				return nil
			}
			i += n + 1
		case '{', '[':
			s.skipped++
		case '}', ']':
			if s.skipped--; s.skipped == 0 {
				s.state = after
				return p[i+1:]
			}
		}
	}
	return nil
}
