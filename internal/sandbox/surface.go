package sandbox

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
)

// obj is a JSON object on its way out.
type obj = map[string]any

// dialect is how a provider speaks, whatever the endpoint.
type dialect interface {
	// credential is what the request authenticates with; "" if nothing.
	credential(r *http.Request) string

	// demand is what a request asks of the limits.
	demand(req *request) demand

	// identify sets the headers that name the answer, and the organisation if
	// it is known.
	identify(h http.Header, organization, id string, took time.Duration)

	// limits sets the rate headers.
	limits(h http.Header, now time.Time, ls [dimensions]*level)

	// fail sets the retry headers, and returns the status and body of a
	// failure.
	fail(h http.Header, f failure) (status int, body any)

	// models is the body of GET /v1/models.
	models(names []string) any
}

// format is how one endpoint puts an answer: whole, or as events. Output is
// data; who writes it knows nothing of the format.
type format interface {
	whole(a *answer) any
	begin(a *answer) []event
	delta(a *answer, text string) []event
	end(a *answer) []event
}

// endpoint is one path that generates answers.
type endpoint struct {
	dialect
	format
	parse func(body []byte) (*request, error)
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

// event is one server-sent event. Its data is raw, if set, and JSON
// otherwise.
type event struct {
	name string
	data any
	raw  string
}

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
	overloaded
	exhausted
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

// first returns the first limit that is set.
func first(ls ...*level) *level {
	for _, l := range ls {
		if l != nil {
			return l
		}
	}
	return nil
}

// ceil is d in units, rounded up: a wait must not end early.
func ceil(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

// bearer is the token of an Authorization header.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
