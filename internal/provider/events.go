package provider

import (
	"bytes"
	"encoding/binary"
)

// events reads server-sent events: the documents in their data, and the names
// that say how things stand.
type events struct {
	line   lineKind
	head   [8]byte // of the line, until its kind is known
	length int     // of the head
	name   []byte  // of the event, or a part that fits nothing
	done   int     // how much of [DONE] the data has been so far; negative if it is not
	begun  bool    // the event has data
}

type lineKind uint8

const (
	lineStart lineKind = iota
	lineData
	lineName
	lineOther
)

const maxName = 32

func (e *events) write(p []byte, b *Body) {
	for len(p) > 0 {
		if n := e.idle(p, b); n > 0 {
			p = p[n:]
			continue
		}
		n := bytes.IndexByte(p, '\n')
		if n < 0 {
			e.piece(p, b)
			return
		}
		e.piece(p[:n+1], b)
		e.endLine(b)
		p = p[n+1:]
	}
}

// idle is the length of the rest of an event at the start of p, if that is one
// line of data in which nothing can be of interest; 0 if it is not. Most events
// of a stream are such, and need not be read.
func (e *events) idle(p []byte, b *Body) int {
	midLine, failing := e.line != lineStart || e.length > 0, b.facts.found && !b.facts.kept
	if midLine || failing || e.begun || b.careful || !bytes.HasPrefix(p, dataPrefix) {
		return 0
	}
	n := bytes.IndexByte(p, '\n') + 1
	end := n + 1
	if bytes.HasPrefix(p[n:], crlf) {
		end++
	} else if n == len(p) || p[n] != '\n' {
		return 0
	}
	if n == 0 || mayTell(p[:n]) {
		return 0
	}
	b.facts.over()
	return end
}

var (
	dataPrefix = []byte("data: {")
	crlf       = []byte("\r\n")
	null       = []byte(`":null`)
	usageMark  = []byte("usage")
	errorMark  = []byte("error")
	reasonMark = []byte("Reason") // finishReason, blockReason
)

// mayTell reports whether a document may tell of usage, an error or the end. It
// must, if the scanner would find something in it.
func mayTell(p []byte) bool {
	for rest := p; ; {
		i := bytes.Index(rest, usageMark)
		if i < 0 {
			return bytes.Contains(p, reasonMark) || hasDoubleR(p) && bytes.Contains(p, errorMark)
		}
		if rest = rest[i+len(usageMark):]; !bytes.HasPrefix(rest, null) {
			return true
		}
	}
}

// hasDoubleR looks for "rr", eight places at a time: it is rare, and all the
// letters of "error" are not, which makes them slow to search for.
func hasDoubleR(p []byte) bool {
	const r, low, high = 0x7272727272727272, 0x0101010101010101, 0x8080808080808080
	for len(p) > 8 {
		other := (binary.LittleEndian.Uint64(p) ^ r) | (binary.LittleEndian.Uint64(p[1:]) ^ r)
		if (other-low)&^other&high != 0 { // one of its bytes is 0
			return true
		}
		p = p[8:]
	}
	return bytes.Contains(p, []byte("rr"))
}

// piece takes a part of a line, the end included.
func (e *events) piece(p []byte, b *Body) {
	for e.line == lineStart && len(p) > 0 {
		e.decide(p[0])
		p = p[1:]
	}
	switch e.line {
	case lineData:
		e.match(p, &b.facts)
		b.scan.write(p, &b.facts)
	case lineName:
		e.name = append(e.name, p[:min(len(p), maxName-len(e.name))]...)
	}
}

// decide takes a byte of a line's field name, up to the colon.
func (e *events) decide(c byte) {
	if c != ':' {
		e.head[e.length] = c
		if e.length++; e.length == len(e.head) {
			e.line = lineOther
		}
		return
	}
	switch string(e.head[:e.length]) {
	case "data":
		e.line, e.begun = lineData, true
	case "event":
		e.line, e.name = lineName, e.name[:0]
	default:
		e.line = lineOther
	}
}

func (e *events) endLine(b *Body) {
	switch e.line {
	case lineStart:
		if len(bytes.TrimSpace(e.head[:e.length])) == 0 {
			e.endEvent(b)
		}
	case lineName:
		switch string(bytes.TrimSpace(e.name)) {
		case "error":
			b.facts.fail()
		case "message_stop", "message-end", "response.completed", "response.incomplete":
			b.facts.said = true
		}
	}
	e.line, e.length = lineStart, 0
}

func (e *events) endEvent(b *Body) {
	b.scan.reset()
	b.facts.over()
	e.done, e.begun = 0, false
}

// match looks for the data with which OpenAI, and all who copy it, end a stream.
func (e *events) match(p []byte, f *facts) {
	const end = "[DONE]"
	for _, c := range p {
		switch {
		case e.done < 0 || e.done == len(end):
			return
		case c == end[e.done]:
			if e.done++; e.done == len(end) {
				f.said = true
			}
		case e.done > 0 || c > ' ':
			e.done = -1
		}
	}
}
