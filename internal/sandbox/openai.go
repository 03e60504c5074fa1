package sandbox

import (
	"net/http"
	"strconv"
	"time"
)

// openAI is api.openai.com: token buckets by model; a request counts the larger
// of max_tokens and its input, kept whatever the answer uses. Resets are the
// time until full.
var openAI = dialect{
	surface:    openAISurface,
	demand:     func(r *request) demand { return reserved(r, max(r.maxOutput, r.input)) },
	moves:      refilling,
	retryAfter: true, retryAfterMs: true,
	identify: func(h http.Header, organization, id string, took time.Duration) {
		xRequestID(h, organization, id, took)
		h.Set("openai-processing-ms", strconv.FormatInt(took.Milliseconds(), 10))
		if organization != "" {
			h.Set("openai-organization", organization)
		}
	},
	// One set of headers for requests and one for tokens: of the minute's limit,
	// or of the day's if there is no other.
	headers: openAIRates(goDuration, either(rpm, rpd), either(tpm, tpd)).set,
	says: map[kind]wording{
		notFound: {404, "invalid_request_error", "not_found", "Invalid URL"},
		noKey: {401, "invalid_request_error", "",
			"You didn't provide an API key. You need to provide it in an Authorization header using Bearer auth."},
		wrongKey: {401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."},
		tooLarge: {413, "invalid_request_error", "", "The request body is too large."},
		invalid:  {400, "invalid_request_error", "", "{problem}"},
		limited: {429, "{what}", "rate_limit_exceeded", "Rate limit reached for {model} in organization {organization} on {PER}: " +
			"Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}."},
		oversized: {429, "{what}", "rate_limit_exceeded", "Request too large for {model} in organization {organization} on {PER}: " +
			"Limit {limit}, Requested {requested}. The input or output tokens must be reduced in order to run successfully."},
		overloaded: {503, "server_error", "server_is_overloaded", "The server is currently overloaded. Please try again later."},
		exhausted: {429, "insufficient_quota", "insufficient_quota",
			"You exceeded your current quota, please check your plan and billing details."},
		forbidden: {403, "invalid_request_error", "model_not_found", "Project {organization} does not have access to model {model}."},
	},
	shape: openAIShape,
}

func openAIShape(_ http.Header, w *wording, f *failure) any {
	inner := obj{"message": w.message, "type": w.typ, "param": nil, "code": nil}
	if f.param != "" {
		inner["param"] = f.param
	}
	if w.code != "" {
		inner["code"] = w.code
	}
	return obj{"error": inner}
}

func openAIRates(format func(time.Time, time.Duration) string, requests, tokens func(*levels) *level) rates {
	return rates{
		{of: requests, limit: "x-ratelimit-limit-requests", remaining: "x-ratelimit-remaining-requests",
			reset: "x-ratelimit-reset-requests", format: format},
		{of: tokens, limit: "x-ratelimit-limit-tokens", remaining: "x-ratelimit-remaining-tokens",
			reset: "x-ratelimit-reset-tokens", format: format},
	}
}

// xRequestID names an answer where a provider has no way of its own.
func xRequestID(h http.Header, _, id string, _ time.Duration) { h.Set("x-request-id", "req_"+id) }

func openAIModels(names []string) any {
	data := []obj{}
	for _, name := range names {
		data = append(data, obj{"id": name, "object": "model", "created": 1767225600, "owned_by": "sandbox"})
	}
	return obj{"object": "list", "data": data}
}
