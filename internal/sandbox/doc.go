// Package sandbox is a simulated provider over HTTP: the surfaces and habits of
// all that keybroker knows, with real limits behind them and nonsense for
// answers.
//
// It lets people try keybroker without spending money, and it lets tests
// drive the official SDKs against limits that are exactly known. It answers
//
//	POST /v1/messages                       Anthropic, JSON and SSE
//	POST …/chat/completions                 OpenAI and its clones, JSON and SSE
//	POST …/v1/responses                     OpenAI, JSON and SSE (text only)
//	POST …/models/{model}:generateContent   Gemini and Vertex, JSON
//	POST …:streamGenerateContent            the same, SSE or a JSON array
//	POST /model/{model}/converse[-stream]   Bedrock, JSON or AWS event stream
//	POST /v2/chat                           Cohere, JSON and SSE
//	POST /v1/call                           the generic provider, JSON
//	GET  …                                  GitHub, JSON
//	GET  /v1/models                         Anthropic or OpenAI, by the credential's header
//
// Everything else is a 404. The path decides the surface, which is the format
// of requests and answers; the credential must belong to an account of that
// surface. The type of that account decides the rest: what counts and how, what
// headers tell, and the words of every failure. Nothing here is shared with
// package provider, which has to understand it. Where a provider's habits are
// not known, the strictest ones that fit what is known were taken; each dialect
// says so.
//
// # Limits
//
// Every account × model class has limits of its own, kept by package sim: token
// buckets, sliding or fixed windows, as the provider counts. A request is charged
// in every dimension or in none:
//
//   - requests: one, on arrival;
//   - ITPM: the estimated input, on arrival;
//   - OTPM: the real output. A request is refused when the output it is about
//     to produce does not fit on arrival; it is charged slice by slice as it
//     is generated, so that concurrent answers can overdraw the limit. Each
//     such charge counts as OverLimit in [Stats];
//   - TPM and TPD: mostly as input and OTPM together. With OpenAI, the larger of
//     max_tokens and the input estimate, and with Azure and Cerebras their sum,
//     on arrival, and kept whatever the answer turns out to be; with Gemini and
//     Vertex, the input only.
//
// Refused requests cost nothing. Rate headers, where the provider has any, are on
// every answer whose class is known, and tell of the moment the answer begins.
//
// # Making it do things
//
// The input is estimated as a quarter of its text's bytes, and the length of
// an answer is drawn around Options.OutputTokens. Two request headers replace
// these guesses: x-sandbox-input-tokens and x-sandbox-output-tokens (the
// latter still capped by max_tokens). Two suffixes of a model's name make the
// request fail, at no charge:
//
//	-overloaded   Anthropic: 529 overloaded_error; OpenAI: 503 server_is_overloaded
//	-exhausted    Anthropic: 429 enforced_spend_limit_reached; OpenAI: insufficient_quota
//
// Such a model belongs to the class of the name without the suffix. Programs that
// hold the [Server] can make things go wrong for whole accounts and for single
// keys: see Revoke, Forbid, Overload, Exhaust, SetLimits and Use.
package sandbox
