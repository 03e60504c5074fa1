// Package canary finds out whether keys get out.
//
// Every key in this repository's tests has [Mark] in its value. What the tests print,
// log, write to files or get as an answer goes through this package, which searches it:
// the mark may be nowhere but in the answer of AcquireKey. What it finds makes the whole
// run of the package fail, whatever its tests say; [Main], in the package's TestMain,
// sees to that.
//
// A text is searched for the mark as it is, in capitals, in hexadecimal, in base64 and
// as a list of bytes, as fmt and testify print one. A part of a key that does not have
// the mark, or a key that is hashed or encrypted, is not found.
package canary

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Mark is what tells a key's value from all other text.
const Mark = "cnry7f3a"

// Key gives the value of a key. The name should be unique in the tests of the whole
// repository, so that a key that gets out tells where it came from.
func Key(name string) string { return "sk-" + Mark + "-" + name }

// suite is the detector of a package's tests.
var suite = newDetector()

// Writer searches what is written to it, also what is written in pieces. Any number of
// goroutines may write. The place is told with what is found.
func Writer(place string) io.Writer {
	heard()
	return suite.writer(place)
}

// Text searches a text.
func Text(place, text string) {
	heard()
	suite.text(place, []byte(text))
}

// Also has one more secret searched for from now on, and at the end of the run in all
// that was printed: a token, or a private key of an elliptic curve in PEM, of which the first two lines are taken:
// the rest is public.
func Also(secret string) {
	heard()
	parts := []string{secret}
	if b, _ := pem.Decode([]byte(secret)); b != nil {
		const line = 64
		text := base64.StdEncoding.EncodeToString(b.Bytes)
		parts = []string{text[:min(line, len(text))]}
		if len(text) >= 2*line {
			parts = append(parts, text[line:2*line])
		}
	}
	for _, part := range parts {
		suite.also(part)
		tell(part)
	}
}

// needle is one form of a secret.
type needle struct {
	text []byte
	form string
}

// finding is the first of those in one place.
type finding struct {
	place, form, context string
	times                int
}

func (f *finding) String() string {
	return fmt.Sprintf("%s (%s, %d times): %s", f.place, f.form, f.times, f.context)
}

// detector knows what to search for, and what was found.
type detector struct {
	mu      sync.RWMutex
	needles []needle            // the mark's
	more    map[uint32][]needle // of other secrets, by how they begin: there may be hundreds
	begin   [1 << 16]bool       // the first two bytes of these
	longest int                 // of all
	found   []*finding
}

func newDetector() *detector {
	d := &detector{more: map[uint32][]needle{}}
	d.needles = formsOf(Mark)
	for _, n := range d.needles {
		d.longest = max(d.longest, len(n.text))
	}
	return d
}

// shortest is the length of secrets, and of their parts in base64, that are searched for.
const shortest = 8

func (d *detector) also(secret string) {
	if len(secret) < shortest {
		panic("canary: so short a secret would be found everywhere: " + secret)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range formsOf(secret) {
		d.longest = max(d.longest, len(n.text))
		at := binary.BigEndian.Uint32(n.text)
		d.begin[at>>16] = true
		if !slices.ContainsFunc(d.more[at], func(m needle) bool { return bytes.Equal(m.text, n.text) }) {
			d.more[at] = append(d.more[at], n)
		}
	}
}

// formsOf lists the forms of a secret, each once.
func formsOf(secret string) []needle {
	b := []byte(secret)
	h := hex.EncodeToString(b)
	var decimal, literal []string
	for _, c := range b {
		decimal, literal = append(decimal, fmt.Sprint(c)), append(literal, fmt.Sprintf("%#02x", c))
	}
	forms := []needle{
		{b, "as it is"}, {bytes.ToUpper(b), "in capitals"}, {[]byte(h), "in hexadecimal"}, {[]byte(strings.ToUpper(h)), "in hexadecimal"},
		{[]byte(strings.Join(decimal, " ")), "as bytes"}, {[]byte(strings.Join(literal, ", ")), "as bytes"},
	}
	for before := range 3 { // bytes that share a group with the first ones
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, before), b...))
			text = text[(before*8+5)/6:]                              // the rest depends on what stands before
			text = text[:len(text)-[]int{0, 1, 1}[(before+len(b))%3]] // and on what stands behind
			if len(text) >= shortest {
				forms = append(forms, needle{[]byte(text), "in base64"})
			}
		}
	}
	slices.SortFunc(forms, func(a, b needle) int { return bytes.Compare(a.text, b.text) })
	return slices.CompactFunc(forms, func(a, b needle) bool { return bytes.Equal(a.text, b.text) })
}

// hit is where a needle was found.
type hit struct {
	from, to int
	form     string
}

// search gives the first place of each needle that ends behind some bytes which were
// searched before.
func (d *detector) search(text []byte, before int) (hits []hit) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, n := range d.needles {
		start := max(0, before-len(n.text)+1)
		if i := bytes.Index(text[min(start, len(text)):], n.text); i >= 0 {
			hits = append(hits, hit{start + i, start + i + len(n.text), n.form})
		}
	}
	if len(d.more) == 0 {
		return hits
	}
	for i := max(0, before-d.longest+1); i+4 <= len(text); i++ {
		if !d.begin[binary.BigEndian.Uint16(text[i:])] {
			continue
		}
		for _, n := range d.more[binary.BigEndian.Uint32(text[i:])] {
			if to := i + len(n.text); to > before && bytes.HasPrefix(text[i:], n.text) {
				hits = append(hits, hit{i, to, n.form})
			}
		}
	}
	return hits
}

func (d *detector) report(place string, text []byte, h hit) {
	context := d.around(text, h)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.found {
		if f.place == place && f.form == h.form {
			f.times++
			return
		}
	}
	d.found = append(d.found, &finding{place, h.form, context, 1})
}

// around shows what stands beside a hit, without any secret.
func (d *detector) around(text []byte, h hit) string {
	const width = 120
	part := func(b []byte) string {
		for hits := d.search(b, 0); len(hits) > 0; hits = d.search(b, 0) {
			b = slices.Concat(b[:hits[0].from], []byte("…"), b[hits[0].to:])
		}
		return strings.Trim(fmt.Sprintf("%q", b), `"`)
	}
	inKey := func(r rune) bool {
		return r == '-' || r == '_' || r == '+' || r == '/' || r == '=' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	left, right := text[:h.from], text[h.to:]
	left, right = bytes.TrimRightFunc(left, inKey), bytes.TrimLeftFunc(right, inKey)
	return part(left[max(0, len(left)-width):]) + "[the key]" + part(right[:min(len(right), width)])
}

// text searches what is whole, and what is compressed in it.
func (d *detector) text(place string, text []byte) {
	for _, h := range d.search(text, 0) {
		d.report(place, text, h)
	}
	magic := []byte{0x1f, 0x8b, 8}
	for rest := text; ; {
		i := bytes.Index(rest, magic)
		if i < 0 {
			return
		}
		if r, err := gzip.NewReader(bytes.NewReader(rest[i:])); err == nil {
			const most = 64 << 20
			plain, _ := io.ReadAll(io.LimitReader(r, most)) // as far as it goes
			for _, h := range d.search(plain, 0) {
				d.report(place+", compressed", plain, h)
			}
		}
		rest = rest[i+len(magic):]
	}
}

// stream is a text that comes in pieces.
type stream struct {
	*detector
	place string
	mu    sync.Mutex
	tail  []byte // in which a needle may begin
}

func (d *detector) writer(place string) io.Writer { return &stream{detector: d, place: place} }

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detector.mu.RLock()
	longest := s.longest
	s.detector.mu.RUnlock()
	text := append(s.tail, p...)
	for _, h := range s.search(text, len(s.tail)) {
		s.report(s.place, text, h)
	}
	s.tail = append(s.tail[:0], text[max(0, len(text)-longest+1):]...)
	return len(p), nil
}

// findings lists what was found.
func (d *detector) findings() (all []string) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, f := range d.found {
		all = append(all, f.String())
	}
	return all
}
