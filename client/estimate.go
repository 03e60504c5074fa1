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
	// leastFile is the length from which on a string is looked at for being a file.
	leastFile = 1 << 10
	// imageTokens is the most that a picture counts, whatever its size: providers
	// make it smaller before they look at it.
	imageTokens = 5000
	// Any other file counts fileTokens at most, and one for every fileBytes: a page of a
	// PDF has some 100 KB and counts 1500 to 3000, a second of sound has 16 KB and
	// counts 10 to 32. What it has used beyond that is known when it is answered.
	fileTokens = 20_000
	fileBytes  = 64
)

// estimate is how many tokens of input a request has: of text rather too many than
// too few, of files a guess that keeps no request from being sent. Its body may be
// cut off. What is not JSON is a file, of which nobody can tell from here: 0.
func estimate(r *http.Request, body []byte) int64 {
	size := min(max(int64(len(body)), r.ContentLength, 0), mostSaid)
	if !isJSON(body) {
		return 0
	}
	tokens, text := int64(0), size
	files(body, func(start, n int, picture bool) {
		length := int64(n)
		if start+n == len(body) { // the cut is in it
			length = size - int64(start)
		}
		text -= length
		if picture {
			tokens += min(length/bytesPerToken, imageTokens)
		} else {
			tokens += min(length/fileBytes, fileTokens)
		}
	})
	return tokens + text/bytesPerToken
}

func isJSON(body []byte) bool {
	p := bytes.TrimLeft(body, blanks)
	return len(p) > 0 && (p[0] == '{' || p[0] == '[')
}

// files calls f for the strings in a JSON text that are files in base64, by where
// they start and how long they are.
func files(body []byte, f func(start, n int, picture bool)) {
	for at := 0; at+leastFile <= len(body); {
		open := bytes.IndexByte(body[at:], '"')
		if open < 0 {
			return
		}
		at += open
		n := quoted(body[at:])
		if n == 0 { // it is cut off
			n = len(body) - at
		}
		if n >= leastFile {
			if file, picture := isFile(string(body[at+1 : at+128])); file {
				f(at, n, picture)
			}
		}
		at += n
	}
}

// How files begin in base64.
var (
	pictures = [...]string{"/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR"}                                         // JPEG, PNG, GIF, WebP (and WAV)
	others   = [...]string{"JVBERi", "SUQz", "//u", "//N", "//v", "T2dnUw", "ZkxhQ", "UEsD", "AAAA", "H4sI"} // PDF, MP3, Ogg, FLAC, office, MP4, gzip
)

// isFile judges a string by its beginning. A data URL says what it is.
func isFile(head string) (file, picture bool) {
	if kind, ok := strings.CutPrefix(head, "data:"); ok {
		return strings.Contains(kind, ";base64,"), strings.HasPrefix(kind, "image/")
	}
	for _, p := range pictures {
		if strings.HasPrefix(head, p) {
			return true, true
		}
	}
	for _, p := range others {
		file = file || strings.HasPrefix(head, p)
	}
	return file, false
}
