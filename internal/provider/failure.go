package provider

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
)

// failure is what the body of an error says, in its own words and whatever its
// shape; empty where it says nothing. Numbers are as they were written.
type failure struct {
	found     bool   // the body, or an event of the stream, tells of an error
	kind      string // error.type, error_type; else the body's own type
	code      string // error.code, response.error.code; else the body's own code
	status    string // error.status (Google)
	message   string // error.message, response.error.message, error where it is a string; else message, detail or title
	errorCode string // error.details.error_code (Anthropic)
	reason    string // error.metadata.reason, error.details[].reason, error.errors[].reason: the first of them
	source    string // error.metadata.limit_source (OpenRouter)
	delay     string // error.details[].retryDelay (Google)

	violations []violation // error.details[].violations[] (Google)
	violated   []string    // violated-policies[] (IETF)
	header     http.Header // error.metadata.headers (OpenRouter), canonical names
}

// violation is one entry of a google.rpc.QuotaFailure.
type violation struct {
	metric, id, model, value string // quotaMetric, quotaId, quotaDimensions.model, quotaValue
}

// failureOf reads the body of an error, or a stream that ends in one.
func failureOf(body []byte) failure {
	b := Body{careful: true}
	b.read(body)
	return b.facts.failure()
}

// json gives a body that failureOf reads back to the same failure.
func (f failure) json() []byte {
	body := struct {
		Error    any      `json:"error"`
		Violated []string `json:"violated-policies,omitempty"`
	}{true, f.violated}
	if !reflect.DeepEqual(f, failure{found: true, violated: f.violated}) {
		body.Error = f.object()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(body) != nil {
		return nil // texts and lists of texts: it cannot be
	}
	return bytes.TrimSpace(b.Bytes())
}

// object is an error in Google's shape, which has room for everything.
func (f failure) object() any {
	type entry struct {
		Metric     string            `json:"quotaMetric,omitempty"`
		ID         string            `json:"quotaId,omitempty"`
		Dimensions map[string]string `json:"quotaDimensions,omitempty"`
		Value      string            `json:"quotaValue,omitempty"`
	}
	type detail struct {
		ErrorCode  string  `json:"error_code,omitempty"`
		RetryDelay string  `json:"retryDelay,omitempty"`
		Violations []entry `json:"violations,omitempty"`
	}
	type metadata struct {
		Reason  string      `json:"reason,omitempty"`
		Source  string      `json:"limit_source,omitempty"`
		Headers http.Header `json:"headers,omitempty"`
	}
	d := detail{ErrorCode: f.errorCode, RetryDelay: f.delay}
	for _, v := range f.violations {
		e := entry{Metric: v.metric, ID: v.id, Value: v.value}
		if v.model != "" {
			e.Dimensions = map[string]string{"model": v.model}
		}
		d.Violations = append(d.Violations, e)
	}
	return struct {
		Type     string   `json:"type,omitempty"`
		Code     string   `json:"code,omitempty"`
		Status   string   `json:"status,omitempty"`
		Message  string   `json:"message,omitempty"`
		Details  []detail `json:"details"`
		Metadata metadata `json:"metadata"`
	}{f.kind, f.code, f.status, f.message, []detail{d}, metadata{f.reason, f.source, f.header}}
}
