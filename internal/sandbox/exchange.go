package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxBody is the largest request body that is read: 32 MiB.
const maxBody = 32 << 20

// exchange is one request and its answer under way.
type exchange struct {
	answer
	server  *Server
	w       http.ResponseWriter
	surface surface
	dialect *dialect
	nth     uint64   // of the server's requests
	key     string   // empty until it is known to be somebody's
	account *account // nil until the credential is known
	class   *class   // nil until the model is known
	framing framing  // of a stream
	events  int      // of it, so far
}

// serve answers the requests of one endpoint.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, ep endpoint, model string) {
	x := s.exchange(w, ep.surface)
	if !s.authenticate(x, r) || !x.read(r, ep, model) || x.troubled() {
		return
	}
	d := x.dialect.demand(&x.request)
	if refused := x.account.admit(x.class, s.elapsed(), d); refused != nil {
		x.fail(failure{kind: limited, refusal: refused})
		return
	}
	if x.stream || ep.stream {
		x.framing = ep.framing
		s.answerStream(r, x, ep, d)
	} else {
		s.answerWhole(r, x, ep, d)
	}
}

// read parses the request and finds its class, or answers with what is wrong.
func (x *exchange) read(r *http.Request, ep endpoint, named string) bool {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, r.Body, maxBody))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		x.fail(failure{kind: tooLarge})
		return false
	}
	var req *request
	if err == nil {
		req, err = ep.parse(body, named)
	}
	if err == nil {
		err = x.server.size(req, r.Header, x.nth)
	}
	if err != nil {
		f := failure{kind: invalid, message: "The request body could not be read."}
		var bad *badRequest
		if errors.As(err, &bad) {
			f.message, f.param = bad.message, bad.param
		}
		x.fail(f)
		return false
	}
	x.request = *req
	model, _ := x.wish()
	x.class = x.account.classOf(model)
	return true
}

// wish splits a model's name from the failure that its suffix asks for.
func (x *exchange) wish() (model string, f *failure) {
	if model, ok := strings.CutSuffix(x.model, "-overloaded"); ok {
		return model, &failure{kind: overloaded}
	}
	if model, ok := strings.CutSuffix(x.model, "-exhausted"); ok {
		return model, &failure{kind: exhausted}
	}
	return x.model, nil
}

// troubled answers a request that asks to fail, or that somebody has seen to it
// that it does.
func (x *exchange) troubled() bool {
	model, f := x.wish()
	x.account.mu.Lock()
	switch {
	case f != nil:
	case x.server.forbids(x.key, model):
		f = &failure{kind: forbidden}
	case x.account.exhausted:
		f = &failure{kind: exhausted}
	case x.account.overloaded:
		f = &failure{kind: overloaded}
	}
	if f != nil {
		x.class.stats.Failed++
	}
	x.account.mu.Unlock()
	if f != nil {
		x.fail(*f)
	}
	return f != nil
}

// answerWhole generates the answer, then sends it as one JSON body. A client
// that left gets nothing.
func (s *Server) answerWhole(r *http.Request, x *exchange, ep endpoint, d demand) {
	nothing := func() error { return nil }
	silent := func(string) error { return nil }
	if s.generate(r.Context(), x, d, nothing, silent) == nil {
		x.rates()
		x.json(http.StatusOK, ep.format.whole(&x.answer))
	}
}

// answerStream sends the answer as it is generated. If the client leaves,
// what was generated until then is all that counts.
func (s *Server) answerStream(r *http.Request, x *exchange, ep endpoint, d demand) {
	begin := func() error {
		x.w.Header().Set("Content-Type", x.framing.contentType())
		x.w.Header().Set("Cache-Control", "no-cache")
		x.rates()
		x.header(http.StatusOK)
		return x.send(ep.format.begin(&x.answer))
	}
	emit := func(text string) error { return x.send(ep.format.delta(&x.answer, text)) }
	if s.generate(r.Context(), x, d, begin, emit) == nil {
		_ = x.send(ep.format.end(&x.answer)) // if the client is gone, there is nobody to tell
		_, _ = x.w.Write(x.framing.last())
	}
}

// send writes events and flushes them.
func (x *exchange) send(events []event) error {
	for _, e := range events {
		data := []byte(e.raw)
		if e.raw == "" {
			var err error
			if data, err = json.Marshal(e.data); err != nil {
				return err
			}
		}
		if _, err := x.w.Write(x.framing.frame(&e, data, x.events)); err != nil { // #nosec G705 -- an API's answer, and no page
			return err
		}
		x.events++
	}
	err := http.NewResponseController(x.w).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil // somebody wrapped the writer: late is better than never
	}
	return err
}

// fail answers with a failure. What it says of the limits outranks the limits.
func (x *exchange) fail(f failure) {
	f.id, f.model, f.now = x.id, x.model, x.server.options.Now()
	if x.account != nil {
		f.organization = x.account.Name
	}
	x.rates()
	x.json(x.dialect.fail(x.w.Header(), &f))
}

// json answers with a JSON body.
func (x *exchange) json(status int, body any) {
	x.w.Header().Set("Content-Type", "application/json")
	x.header(status)
	_ = json.NewEncoder(x.w).Encode(body) // if the client is gone, there is nobody to tell
}

// header sends the headers that every answer has. Date is set here because it
// must agree with the limits' clock.
func (x *exchange) header(status int) {
	h, now, organization := x.w.Header(), x.server.options.Now(), ""
	if x.account != nil {
		organization = x.account.Name
	}
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	identify := x.dialect.identify
	if identify == nil {
		identify = xRequestID
	}
	identify(h, organization, x.id, now.Sub(x.created))
	x.w.WriteHeader(status)
}

// rates sets the headers that tell of the limits.
func (x *exchange) rates() {
	if x.class != nil && x.dialect.headers != nil {
		now := x.server.options.Now()
		ls := x.account.levels(x.class, now.Sub(x.server.start))
		x.dialect.headers(x.w.Header(), now, &ls)
	}
}
