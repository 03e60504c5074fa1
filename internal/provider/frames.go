package provider

import (
	"encoding/binary"
	"hash/crc32"
)

// frames reads Amazon's binary event stream. A message is the length of all, the
// length of its headers, the CRC of both, the headers, a payload of JSON, and
// the CRC of all.
type frames struct {
	at      framePart
	left    int // bytes of the part
	payload int
	part    []byte // of the prelude or the headers, so far
}

type framePart uint8

const (
	inPrelude framePart = iota
	inHeaders
	inPayload
	inCRC
)

const (
	preludeLength  = 12
	crcLength      = 4
	longestFrame   = 32 << 20
	longestHeaders = 1 << 10 // of those that are read; longer ones say nothing
)

func (s *frames) write(p []byte, b *Body) {
	if s.at == inPrelude && s.left == 0 {
		s.left = preludeLength
	}
	for len(p) > 0 && b.format == frameData {
		n := min(len(p), s.left)
		s.take(p[:n], b)
		p, s.left = p[n:], s.left-n
		for s.left == 0 && b.format == frameData {
			s.next(b)
		}
	}
}

func (s *frames) take(p []byte, b *Body) {
	switch s.at {
	case inPrelude, inHeaders:
		s.part = append(s.part, p[:min(len(p), longestHeaders+1-len(s.part))]...)
	case inPayload:
		b.scan.write(p, &b.facts)
	}
}

// next ends a part.
func (s *frames) next(b *Body) {
	switch s.at {
	case inPrelude:
		total, headers := binary.BigEndian.Uint32(s.part), binary.BigEndian.Uint32(s.part[4:])
		if total > longestFrame || headers > total || total-headers < preludeLength+crcLength ||
			crc32.ChecksumIEEE(s.part[:8]) != binary.BigEndian.Uint32(s.part[8:]) {
			b.format = foreign
			return
		}
		s.at, s.left = inHeaders, int(headers)
		s.payload = int(total-headers) - preludeLength - crcLength
	case inHeaders:
		if len(s.part) <= longestHeaders {
			readHeaders(s.part, &b.facts)
		}
		s.at, s.left = inPayload, s.payload
	case inPayload:
		b.scan.reset()
		b.facts.over()
		s.at, s.left = inCRC, crcLength
	case inCRC:
		s.at, s.left = inPrelude, preludeLength
	}
	s.part = s.part[:0]
}

// readHeaders tells of the headers that say what the message is.
func readHeaders(p []byte, f *facts) {
	for len(p) > 0 {
		var name, value []byte
		var ok bool
		if name, value, p, ok = splitHeader(p); !ok {
			return
		}
		switch string(name) {
		case ":message-type":
			if s := string(value); s == "exception" || s == "error" {
				f.fail()
			}
		case ":exception-type":
			f.fail()
			f.text(exceptionKind, nil, value, false)
		case ":error-code":
			f.fail()
			f.text(exceptionCode, nil, value, false)
		case ":error-message":
			f.fail()
			f.text(exceptionMessage, nil, value, false)
		case ":event-type":
			f.said = f.said || string(value) == "messageStop"
		}
	}
}

// splitHeader splits off the first header: a name and, if it is a string, its value.
func splitHeader(p []byte) (name, value, rest []byte, ok bool) {
	n := int(p[0])
	if len(p) < 1+n+1 {
		return nil, nil, nil, false
	}
	name, kind, p := p[1:1+n], p[1+n], p[1+n+1:]
	const bytesValue, text = 6, 7
	sizes := [...]int{0, 0, 1, 2, 4, 8, bytesValue: 0, text: 0, 8: 8, 9: 16}
	if int(kind) >= len(sizes) {
		return nil, nil, nil, false
	}
	size := sizes[kind]
	if kind == bytesValue || kind == text {
		if len(p) < 2 {
			return nil, nil, nil, false
		}
		size, p = int(binary.BigEndian.Uint16(p)), p[2:]
	}
	if len(p) < size {
		return nil, nil, nil, false
	}
	if kind == text {
		value = p[:size]
	}
	return name, value, p[size:], true
}
