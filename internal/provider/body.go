package provider

// Body reads an answer's body as it streams by, and keeps what it says of usage
// and of errors; the zero Body is ready. It is the same for all providers, whose
// answers differ in names that do not collide. However long the body, Body holds
// a few KB of it at most.
type Body struct {
	careful bool // read every event, whatever it may be of
	format  bodyFormat
	bom     int // bytes of a byte order mark
	scan    scanner
	facts   facts
	events  events
	frames  frames
}

type bodyFormat uint8

const (
	unseen    bodyFormat = iota
	document             // JSON: one, several, or an array of them
	eventText            // text/event-stream
	frameData            // application/vnd.amazon.eventstream
	foreign              // anything else
)

// Write takes the next piece of the body. It never fails, and does not keep p.
func (b *Body) Write(p []byte) (int, error) {
	b.read(p)
	return len(p), nil
}

// Usage gives the last usage that the body has stated, as far as it has.
func (b *Body) Usage() Usage { return b.facts.counts.usage() }

// Ended reports whether the provider has said that its answer is complete. An
// answer that an error ends is not.
func (b *Body) Ended() bool {
	if b.facts.found {
		return false
	}
	if b.format == document {
		return b.facts.whole
	}
	return b.facts.said
}

// Error gives the error that the body tells of as a small JSON document, for
// Response.Body; nil if there is none.
func (b *Body) Error() []byte {
	if !b.facts.found {
		return nil
	}
	return b.facts.failure().json()
}

func (b *Body) read(p []byte) {
	if b.format == unseen {
		p = b.sniff(p)
	}
	switch b.format {
	case document:
		b.scan.write(p, &b.facts)
	case eventText:
		b.events.write(p, b)
	case frameData:
		b.frames.write(p, b)
	}
}

// sniff tells the format by the first byte that is not blank.
func (b *Body) sniff(p []byte) []byte {
	const bom = "\xEF\xBB\xBF"
	for i, c := range p {
		switch {
		case b.bom < len(bom) && c == bom[b.bom]:
			b.bom++
			continue
		case c == ' ', c == '\t', c == '\r', c == '\n':
			continue
		case c == '{', c == '[':
			b.format = document
		case c == ':', c >= 'a' && c <= 'z':
			b.format = eventText
		case c == 0:
			b.format = frameData
		default:
			b.format = foreign
		}
		return p[i:]
	}
	return nil
}
