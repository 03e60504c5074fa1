package provider

import "net/http"

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
