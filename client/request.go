package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/keybroker/keybroker/internal/provider"
)

// Hint says what a request will use, where the caller knows better than its body
// does. Fields that are zero are left to the body.
type Hint struct {
	Pool            string
	Model           string
	InputTokens     int64
	MaxOutputTokens int64
}

type hintKey struct{}

// WithHint makes the requests of a context go by a hint.
func WithHint(ctx context.Context, h Hint) context.Context {
	return context.WithValue(ctx, hintKey{}, h)
}

// demand is what a request is expected to use: by its hint, its body and its
// path.
func demand(r *http.Request, body []byte) Request {
	h, _ := r.Context().Value(hintKey{}).(Hint)
	said := readBody(body)
	if said.model == "" && len(body) > 0 {
		said.model = modelField(r.Header.Get("Content-Type"), body)
	}
	return Request{
		Pool:            h.Pool,
		Model:           cmp.Or(h.Model, deployment(r.URL.Path), strings.TrimPrefix(said.model, "models/"), modelIn(r.URL.Path), provider.NoModel),
		InputTokens:     cmp.Or(h.InputTokens, estimate(r, body)),
		MaxOutputTokens: cmp.Or(h.MaxOutputTokens, said.maxOutput*max(said.choices, 1)),
	}
}

// deployment is Azure's name for a model, which the body does not change.
func deployment(path string) string {
	_, rest, _ := strings.Cut(path, "/deployments/")
	name, _, _ := strings.Cut(rest, "/")
	return strings.ToValidUTF8(name, "?")
}

// modelIn finds the model in a path: Gemini's and Vertex's "/models/m:generate…"
// and Bedrock's "/model/m/converse", where m may have colons, and slashes too.
func modelIn(path string) string {
	name := ""
	if _, rest, ok := strings.Cut(path, "/models/"); ok {
		if name, _, ok = strings.Cut(rest, ":"); !ok && strings.Contains(rest, "/") {
			name = "" // "/models/chat/completions"
		}
	} else if _, rest, ok := strings.Cut(path, "/model/"); ok {
		name = rest[:max(strings.LastIndexByte(rest, '/'), 0)]
	}
	return strings.ToValidUTF8(name, "?")
}

// modelField finds the model in a form with files, as calls for transcriptions are.
func modelField(contentType string, body []byte) string {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" {
		return ""
	}
	form := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := form.NextPart()
		if err != nil {
			return ""
		}
		if part.FormName() == "model" {
			name, _ := io.ReadAll(io.LimitReader(part, 256))
			return strings.ToValidUTF8(string(name), "?")
		}
	}
}

// said is what the body of a request says of its size.
type said struct {
	model              string
	maxOutput, choices int64
}

// readBody reads the members of a JSON object that matter, at its top and, for
// Gemini and Bedrock, in the object that configures the answer. A body that is cut
// off gives what stands before the cut.
func readBody(body []byte) (s said) {
	members(body, func(name string, value []byte) {
		switch name {
		case "model", "modelId":
			if value[0] == '"' {
				s.model = text(value)
			}
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			s.maxOutput = max(s.maxOutput, number(value))
		case "n", "best_of":
			s.choices = max(s.choices, min(number(value), mostChoices))
		case "generationConfig", "generation_config", "inferenceConfig":
			members(value, func(name string, value []byte) {
				switch name {
				case "maxOutputTokens", "max_output_tokens", "maxTokens":
					s.maxOutput = max(s.maxOutput, number(value))
				case "candidateCount", "candidate_count":
					s.choices = max(s.choices, min(number(value), mostChoices))
				}
			})
		}
	})
	return s
}

// What a body may say at most, so that products stay in range.
const (
	mostSaid    = 1e12
	mostChoices = 1000
)

// number is a JSON number that is a count; 0 if it is none.
func number(value []byte) int64 {
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || !(f > 0) {
		return 0
	}
	return int64(math.Ceil(min(f, mostSaid)))
}

// text is what a JSON string says; empty if it is none.
func text(quoted []byte) (s string) {
	if bytes.IndexByte(quoted, '\\') < 0 && utf8.Valid(quoted) {
		return string(quoted[1 : len(quoted)-1])
	}
	_ = json.Unmarshal(quoted, &s) // fails for what is no string
	return s
}

// members calls f for the members of a JSON object, in their order, with values as
// they are written. It stops where the JSON makes no sense, or ends.
func members(object []byte, f func(name string, value []byte)) {
	p := bytes.TrimLeft(object, blanks)
	if len(p) == 0 || p[0] != '{' {
		return
	}
	for p = p[1:]; ; {
		p = bytes.TrimLeft(p, blanks+",")
		n := length(p)
		if n < 2 || p[0] != '"' {
			return
		}
		name := text(p[:n])
		p = bytes.TrimLeft(p[n:], blanks)
		if len(p) == 0 || p[0] != ':' {
			return
		}
		p = bytes.TrimLeft(p[1:], blanks)
		if n = length(p); n == 0 {
			return
		}
		f(name, p[:n])
		p = p[n:]
	}
}

const blanks = " \t\r\n"

// length is that of the JSON value at the start of p, 0 if it does not end there.
func length(p []byte) int {
	depth := 0
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '"':
			n := quoted(p[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
	return 0
}

// quoted is the length of the JSON string at the start of p, 0 if it does not end.
func quoted(p []byte) int {
	for i := 1; i < len(p); i++ {
		n := bytes.IndexByte(p[i:], '"')
		if n < 0 {
			return 0
		}
		i += n
		slashes := 0
		for p[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
	return 0
}

// peek gives the beginning of a request's body, up to most bytes, and the rest, nil
// if that is all: then it can be sent again. The caller's request is not changed;
// its body is read, as that is a transport's to do, and closed unless there is a
// rest.
func peek(r *http.Request, most int64) (body []byte, rest io.ReadCloser, err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil, nil
	}
	if body, err = readSome(r, most+1); err != nil || int64(len(body)) <= most {
		_ = r.Body.Close()
		return body, nil, err
	}
	return body, struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}, nil
}

// readSome reads no longer than the request's context lasts.
func readSome(r *http.Request, most int64) ([]byte, error) {
	read := func() ([]byte, error) {
		b := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), most)+bytes.MinRead))
		_, err := b.ReadFrom(io.LimitReader(r.Body, most))
		return b.Bytes(), err
	}
	if r.GetBody != nil || r.Context().Done() == nil { // it is in memory, or there is no hurry
		return read()
	}
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		body, err := read()
		done <- result{body, err}
	}()
	select {
	case got := <-done:
		return got.body, got.err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}
