package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
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
	d := Request{Pool: h.Pool, Model: h.Model, InputTokens: h.InputTokens, MaxOutputTokens: h.MaxOutputTokens}
	if d.Model == "" {
		d.Model = said.model
	}
	if d.Model == "" {
		d.Model = modelIn(r.URL.Path)
	}
	if d.InputTokens == 0 {
		d.InputTokens = estimate(r, body)
	}
	if d.MaxOutputTokens == 0 {
		d.MaxOutputTokens = said.maxOutput * max(said.choices, 1)
	}
	return d
}

// bytesPerToken is few, so that the estimate is rather high: JSON around the text
// adds bytes, and text in other scripts has fewer to a token.
const bytesPerToken = 4

func estimate(r *http.Request, body []byte) int64 {
	return max(int64(len(body)), r.ContentLength, 0) / bytesPerToken
}

// modelIn finds the model in a path: Gemini's and Vertex's "/models/m:generate…",
// Bedrock's "/model/m/converse", Azure's "/deployments/d/…".
func modelIn(path string) string {
	for _, mark := range [...]string{"/models/", "/model/", "/deployments/"} {
		if _, rest, ok := strings.Cut(path, mark); ok {
			if i := strings.IndexAny(rest, "/:"); i > 0 {
				rest = rest[:i]
			}
			return rest
		}
	}
	return ""
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
			if len(value) > 1 && value[0] == '"' {
				s.model = string(value[1 : len(value)-1])
			}
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			s.maxOutput = max(s.maxOutput, number(value))
		case "n", "best_of":
			s.choices = max(s.choices, number(value))
		case "generationConfig", "generation_config", "inferenceConfig":
			members(value, func(name string, value []byte) {
				switch name {
				case "maxOutputTokens", "max_output_tokens", "maxTokens":
					s.maxOutput = max(s.maxOutput, number(value))
				case "candidateCount", "candidate_count":
					s.choices = max(s.choices, number(value))
				}
			})
		}
	})
	return s
}

func number(value []byte) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return min(n, 1e12)
}

// members calls f for the members of a JSON object, in their order, with names and
// values as they are written. It stops where the JSON makes no sense, or ends.
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
		name := string(p[1 : n-1])
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

// peek gives the beginning of a request's body, up to most bytes, and what the
// request is to send in its place. Whole means that this is all of it, so that it
// can be sent again. The caller's request is not changed; its body is read, as
// that is a transport's to do.
func peek(r *http.Request, most int64) (body []byte, rest io.ReadCloser, whole bool, err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, http.NoBody, true, nil
	}
	body, err = io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		_ = r.Body.Close()
		return nil, nil, false, err
	}
	if int64(len(body)) <= most {
		_ = r.Body.Close()
		return body, nil, true, nil
	}
	return body, struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}, false, nil
}
