package sandbox

import "net/http"

// The providers that copy OpenAI's API, each by what it does differently.

// azure counts by deployment; an estimate that includes max_tokens counts on
// arrival and is kept. Resets are whole seconds. A free tier's day that is used
// up looks like any refusal, with a long wait.
var azure = dialect{
	surface:    openAISurface,
	demand:     inputAndReserve,
	moves:      sliding,
	retryAfter: true, retryAfterMs: true,
	headers: openAIRates(wholeSeconds, either(rpm), either(tpm)).set,
	says: map[kind]wording{
		limited: {429, "", "429", "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 " +
			"have exceeded {what} rate limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds."},
		exhausted: {429, "", "429", "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 " +
			"have exceeded token rate limit of your current OpenAI F0 pricing tier. Please retry after 86400 seconds."},
		overloaded: {503, "", "InternalServerError", "The service is temporarily unable to process your request. Please try again later."},
		wrongKey:   {401, "", "401", "Access denied due to invalid subscription key or wrong API endpoint."},
		forbidden:  {403, "", "AuthenticationTypeDisabled", "Access to deployment {model} is denied."},
	},
	shape: func(_ http.Header, w *wording, _ *failure) any {
		return obj{"error": obj{"code": w.code, "message": w.message}}
	},
}

// inputAndReserve counts the input and the cap of the output on arrival, and
// keeps it.
func inputAndReserve(r *request) demand { return reserved(r, r.input+max(r.maxOutput, r.output)) }

// groq counts real tokens in buckets that refill all the time. Its headers are
// always about a day's requests and a minute's tokens.
var groq = dialect{
	surface:    openAISurface,
	demand:     asProduced,
	moves:      refilling,
	retryAfter: true,
	headers:    openAIRates(goDuration, either(rpd), either(tpm)).set,
	says: map[kind]wording{
		limited: {429, "{what}", "rate_limit_exceeded", "Rate limit reached for model `{model}` in organization `{organization}` " +
			"service tier `on_demand` on {PER}: Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}."},
		exhausted: {429, "tokens", "rate_limit_exceeded", "Rate limit reached for model `{model}` in organization `{organization}` " +
			"service tier `on_demand` on tokens per day (TPD): Limit 500000, Used 499800, Requested 3619. Please try again in 9m50.764s."},
		overloaded: {503, "internal_server_error", "", "{model} is currently over capacity. Please try again and back off exponentially."},
		wrongKey:   {401, "invalid_request_error", "invalid_api_key", "Invalid API Key"},
	},
	shape: openAIShape,
}

// mistral tells what remains of the minute, and no resets. A month that is used
// up shows in a header only.
var mistral = dialect{
	surface:    openAISurface,
	demand:     asProduced,
	moves:      sliding,
	retryAfter: true,
	headers: rates{
		{of: either(tpm), limit: "x-ratelimit-limit-tokens-minute", remaining: "x-ratelimit-remaining-tokens-minute"},
		{of: either(rpm), limit: "x-ratelimit-limit-req-minute", remaining: "x-ratelimit-remaining-req-minute"},
	}.set,
	says: map[kind]wording{
		limited:    {429, "rate_limited", "1300", "Rate limit exceeded"},
		exhausted:  {429, "rate_limited", "1300", "Rate limit exceeded"},
		overloaded: {503, "invalid_request_error", "", "Service tier capacity exceeded for this model."},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		if f.kind == exhausted {
			h.Set("x-ratelimit-limit-tokens-month", "4000000")
			h.Set("x-ratelimit-remaining-tokens-month", "0")
		}
		body := obj{"object": "error", "message": w.message, "type": w.typ, "param": nil, "code": nil, "raw_status_code": w.status}
		if w.code != "" {
			body["code"] = w.code
		}
		return body
	},
}

// cerebras reserves max_completion_tokens, and its windows end with the clock's
// minute and day, as samples of its headers do.
var cerebras = dialect{
	surface: openAISurface,
	demand:  inputAndReserve,
	moves:   onClock,
	headers: rates{
		{of: either(rpd), limit: "x-ratelimit-limit-requests-day", remaining: "x-ratelimit-remaining-requests-day",
			reset: "x-ratelimit-reset-requests-day", format: floatSeconds},
		{of: either(tpm), limit: "x-ratelimit-limit-tokens-minute", remaining: "x-ratelimit-remaining-tokens-minute",
			reset: "x-ratelimit-reset-tokens-minute", format: floatSeconds},
	}.set,
	says: map[kind]wording{
		limited:    {429, "too_many_requests_error", "{what}_quota_exceeded", "Too many {what} have been used. Please try again soon."},
		exhausted:  {402, "payment_required_error", "payment_required", "Payment required."},
		overloaded: {503, "too_many_requests_error", "queue_exceeded", "We're experiencing high traffic right now! Please try again soon."},
	},
	shape: openAIShape,
}

// fireworks tells its limits per second and enforces them per minute; input and
// output count as they are real. A refusal states no wait.
var fireworks = dialect{
	surface: openAISurface,
	demand:  asProduced,
	moves:   sliding,
	headers: rates{
		{of: either(itpm), perSecond: true, limit: "x-ratelimit-limit-tokens-prompt", remaining: "x-ratelimit-remaining-tokens-prompt"},
		{of: either(otpm), perSecond: true, limit: "x-ratelimit-limit-tokens-generated", remaining: "x-ratelimit-remaining-tokens-generated"},
	}.set,
	says: map[kind]wording{
		limited: {429, "Too Many Requests", "", "You have exceeded your usage limits. Please try again later or contact Fireworks " +
			"to explore dedicated capacity."},
		exhausted:  {402, "Payment Required", "", "The account has no credit left."},
		overloaded: {503, "Service Unavailable", "", "The deployment is overloaded. Please try again later."},
		wrongKey:   {401, "Unauthorized", "", "The API key you provided is invalid."},
		forbidden:  {403, "Forbidden", "", "The account may not use {model}."},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		if f.kind == limited {
			h.Set("x-ratelimit-over-limit", "yes")
		}
		return obj{"error": w.typ, "message": w.message}
	},
}

// together enforces and tells its limits second by second. A 503 means that
// there is no capacity, though the rate is within the limit.
var together = dialect{
	surface:   openAISurface,
	demand:    asProduced,
	moves:     sliding,
	perSecond: true,
	headers: rates{
		{of: either(rpm), limit: "x-ratelimit-limit", remaining: "x-ratelimit-remaining", reset: "x-ratelimit-reset", format: wholeSeconds},
		{of: either(tpm), limit: "x-tokenlimit-limit", remaining: "x-tokenlimit-remaining"},
	}.set,
	says: map[kind]wording{
		limited:    {429, "{what}", "", "You have exceeded the dynamic rate limit of {limit} {what} per second."},
		exhausted:  {402, "credit_limit", "", "Credit limit exceeded."},
		overloaded: {503, "service_unavailable", "", "The server is overloaded or not ready yet."},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		body := openAIShape(h, w, f).(obj)
		if f.kind == limited {
			body["error_type"] = map[string]string{"requests": "dynamic_request_limited", "tokens": "dynamic_token_limited"}[w.typ]
		}
		return body
	},
}

// openRouter tells of its limits with its own refusals only, within the body,
// and in milliseconds since 1970. A busy provider behind it is a 429 without.
var openRouter = dialect{
	surface: openAISurface,
	demand:  callOnly,
	moves:   sliding,
	says: map[kind]wording{
		limited:    {429, "", "", "Rate limit exceeded: free-models-per-min. "},
		exhausted:  {402, "", "", "Insufficient credits. Add more using https://openrouter.ai/settings/credits"},
		overloaded: {429, "", "", "Provider returned error"},
		wrongKey:   {401, "", "", "User not found."},
		forbidden:  {403, "", "", "{model} requires access that this key does not have."},
	},
	shape: func(_ http.Header, w *wording, f *failure) any {
		inner := obj{"code": w.status, "message": w.message}
		switch f.kind {
		case limited:
			inner["metadata"] = obj{"headers": obj{
				"X-RateLimit-Limit": decimal(f.refusal.limit), "X-RateLimit-Remaining": "0",
				"X-RateLimit-Reset": epochMillis(f.now, f.refusal.stated()),
			}}
		case exhausted:
			inner["metadata"] = obj{"limit_source": "openrouter_credits"}
		case overloaded:
			inner["metadata"] = obj{"provider_name": "Sandbox", "raw": f.model + " is temporarily rate-limited upstream."}
		}
		return obj{"error": inner}
	},
}

// deepSeek limits requests at one time, and nothing else, and tells nothing.
var deepSeek = dialect{
	surface: openAISurface,
	demand:  callOnly,
	moves:   sliding,
	says: map[kind]wording{
		limited:    {429, "rate_limit_error", "", "Rate Limit Reached"},
		exhausted:  {402, "unknown_error", "invalid_request_error", "Insufficient Balance"},
		overloaded: {503, "service_unavailable_error", "", "Service is too busy."},
		wrongKey:   {401, "authentication_error", "invalid_request_error", "Authentication Fails (no such user)"},
	},
	shape: openAIShape,
}

// xai tells nothing; all tokens count. A wrong key is a 400 (seen in many
// reports, such as continuedev/continue#10778), and an error a plain string.
var xai = dialect{
	surface: openAISurface,
	demand:  asProduced,
	moves:   sliding,
	says: map[kind]wording{
		limited: {429, "", "Some resource has been exhausted", "Too many requests for team {organization} and model {model}."},
		exhausted: {429, "", "Some resource has been exhausted", "Your team {organization} has either used all available credits or reached " +
			"its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."},
		overloaded: {503, "", "The service is currently unavailable", "The model is at capacity. Please try again later."},
		wrongKey: {400, "", "Client specified an invalid argument",
			"Incorrect API key provided: xa***xx. You can obtain an API key from https://console.x.ai."},
		forbidden: {403, "", "The caller does not have permission to execute the specified operation",
			"Your API key does not have access to the model {model}."},
	},
	shape: func(_ http.Header, w *wording, _ *failure) any { return obj{"code": w.code, "error": w.message} },
}
