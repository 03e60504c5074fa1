package client

import (
	"bytes"
	"net/http"
	"strings"
)

const (
	// bytesPerToken is few, so that the estimate is rather high: JSON around the text
	// adds bytes, and text in other scripts has fewer to a token.
	bytesPerToken = 4
	// leastBlob is the length from which on a string is looked at for being base64.
	leastBlob = 1 << 10
	// imageTokens is the most that a picture counts, whatever its size: providers
	// make it smaller before they look at it.
	imageTokens = 5000
	// blobBytesPerToken is for other files: a page of a PDF has some 100 KB and counts
	// 1500 to 3000 tokens, and a second of sound has some 16 KB and counts 10 to 32.
	blobBytesPerToken = 40
)

// estimate is how many tokens of input a request has, rather too many than too few.
// Its body may be cut off. What is not JSON is a file, of which nobody can tell
// from here: 0.
func estimate(r *http.Request, body []byte) int64 {
	size := min(max(int64(len(body)), r.ContentLength, 0), mostSaid)
	if !isJSON(body) {
		return 0
	}
	tokens, text := int64(0), size
	blobs(body, func(start, n int) {
		length := int64(n)
		if start+n == len(body) { // the cut is in it
			length = size - int64(start)
		}
		text -= length
		tokens += blobTokens(body[start:start+n], length)
	})
	return tokens + text/bytesPerToken
}

func isJSON(body []byte) bool {
	p := bytes.TrimLeft(body, blanks)
	return len(p) > 0 && (p[0] == '{' || p[0] == '[')
}

// blobs calls f for the strings in a JSON text that are long and base64, by where
// they start and how long they are.
func blobs(body []byte, f func(start, n int)) {
	for at := 0; at+leastBlob <= len(body); {
		open := bytes.IndexByte(body[at:], '"')
		if open < 0 {
			return
		}
		at += open
		n := quoted(body[at:])
		if n == 0 { // it is cut off
			n = len(body) - at
		}
		if n >= leastBlob && isBase64(body[at+1:at+n]) {
			f(at, n)
		}
		at += n
	}
}

// isBase64 judges by the beginning. A data URL says so itself.
func isBase64(s []byte) bool {
	const enough = 256
	if head := s[:enough]; bytes.HasPrefix(head, []byte("data:")) {
		return bytes.Contains(head, []byte(";base64,"))
	}
	for _, c := range s[:enough] {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && c != '+' && c != '/' && c != '-' && c != '_' && c != '=' {
			return false
		}
	}
	return true
}

// pictures are how JPEG, PNG, GIF and WebP begin in base64.
var pictures = [...]string{"/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR"}

func blobTokens(blob []byte, length int64) int64 {
	head := string(blob[1:64])
	picture := strings.HasPrefix(head, "data:image/")
	for _, p := range pictures {
		picture = picture || strings.HasPrefix(head, p)
	}
	if picture {
		return min(length/bytesPerToken, imageTokens)
	}
	return length / blobBytesPerToken
}
