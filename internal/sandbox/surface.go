package sandbox

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// obj is a JSON object on its way out.
type obj = map[string]any

// surface is a family of paths whose requests look alike. A key is looked up
// among the accounts of one surface.
type surface int

const (
	anthropicSurface surface = iota
	openAISurface
	googleSurface
	bedrockSurface
	cohereSurface
	githubSurface
	genericSurface
)

// stranger speaks on a surface to those whose key belongs to nobody.
func (s surface) stranger() *dialect {
	return [...]*dialect{&anthropic, &openAI, &gemini, &bedrock, &cohere, &github, &generic}[s]
}

// credential is what a request authenticates with; "" if nothing.
func (s surface) credential(r *http.Request) string {
	own := ""
	switch s {
	case anthropicSurface:
		own = r.Header.Get("x-api-key")
	case openAISurface: // Azure
		own = r.Header.Get("api-key")
	case googleSurface:
		own = cmp.Or(r.Header.Get("x-goog-api-key"), r.URL.Query().Get("key"))
	}
	return cmp.Or(own, bearer(r))
}

// format is how one endpoint puts an answer: whole, or as events. Output is
// data; who writes it knows nothing of the format.
type format interface {
	whole(a *answer) any
	begin(a *answer) []event
	delta(a *answer, text string) []event
	end(a *answer) []event
}

// endpoint is one path that generates answers. Its parser is told the model
// that the path names, if it names one.
type endpoint struct {
	surface surface
	format  format
	parse   func(body []byte, model string) (*request, error)
	stream  bool    // the path asks for a stream
	framing framing // of a stream
}

// request is what the limits and the answer need to know of a body.
type request struct {
	model        string
	stream       bool
	includeUsage bool  // OpenAI: send usage at the end of a chat stream
	maxOutput    int64 // the request's cap; 0 if it set none

	input  int64 // tokens, estimated or overridden
	output int64 // tokens that will be generated
	maxed  bool  // the cap cuts the answer short

	silent bool   // the answer has no text
	path   string // GitHub: what is asked for
}

// answer is an answer under way.
type answer struct {
	request
	id       string
	created  time.Time
	produced int64           // tokens so far
	text     strings.Builder // text so far
	sequence int             // of the Responses API's events
}

// event is one event of a stream. Its data is raw, if set, and JSON
// otherwise.
type event struct {
	name string
	data any
	raw  string
}

// framing is how the events of a stream are put on the wire.
type framing interface {
	contentType() string
	frame(e *event, data []byte, nth int) []byte
	last() []byte
}

// inEvents is text/event-stream.
type inEvents struct{}

func (inEvents) contentType() string { return "text/event-stream; charset=utf-8" }

func (inEvents) frame(e *event, data []byte, _ int) []byte {
	var frame []byte
	if e.name != "" {
		frame = append(frame, "event: "+e.name+"\n"...)
	}
	frame = append(frame, "data: "...)
	frame = append(frame, data...)
	return append(frame, "\n\n"...)
}

func (inEvents) last() []byte { return nil }

// failure is what went wrong, for a dialect to put into words.
type failure struct {
	kind         kind
	message      string // of an invalid request
	param        string // which it was about, if one
	refusal      *refusal
	organization string
	model        string
	id           string // of the answer
	now          time.Time
}

type kind int

const (
	notFound kind = iota
	noKey
	wrongKey
	invalid
	tooLarge
	limited
	oversized // limited, and no wait helps; where there is a word for it
	crowded   // limited, by too many requests at one time; where there is a word for it
	overloaded
	exhausted
	forbidden
)

// badRequest is an error of parse that says what is wrong with a body.
type badRequest struct{ message, param string }

func (e *badRequest) Error() string { return e.message }

// decode reads a JSON body, and reports errors in the words of the API rather
// than of Go.
func decode(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var mismatch *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return &badRequest{mismatch.Field + ": the value has the wrong type", mismatch.Field}
	}
	return &badRequest{message: "The request body is not a valid JSON object."}
}

// ceil is d in units, rounded up: a wait must not end early.
func ceil(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// bearer is the token of an Authorization header. GitHub's clients have another
// word for it.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "token") {
		return ""
	}
	return strings.TrimSpace(token)
}
