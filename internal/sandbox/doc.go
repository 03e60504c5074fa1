// Package sandbox is a simulated provider over HTTP: the Anthropic and the
// OpenAI surface, with real limits behind them and nonsense for answers.
//
// It lets people try keybroker without spending money, and it lets tests
// drive the official SDKs against limits that are exactly known. It answers
//
//	POST /v1/messages           Anthropic, JSON and SSE
//	POST /v1/chat/completions   OpenAI, JSON and SSE
//	POST /v1/responses          OpenAI, JSON and SSE (text only)
//	GET  /v1/models             of either, by the credential's header
//
// Everything else is a 404. The path decides the surface; the credential
// must belong to an account of that surface (x-api-key or a bearer token for
// Anthropic, a bearer token for OpenAI).
//
// # Limits
//
// Every account × model class has token buckets of its own, kept by package
// sim. A request is charged in every dimension or in none:
//
//   - requests: one, on arrival;
//   - ITPM: the estimated input, on arrival;
//   - OTPM: the real output. A request is refused when the output it is about
//     to produce does not fit on arrival; it is charged slice by slice as it
//     is generated, so that concurrent answers can overdraw the bucket. Each
//     such charge counts as OverLimit in [Stats];
//   - TPM and TPD: with Anthropic, input on arrival and output as it is
//     generated; with OpenAI, the larger of max_tokens and the input estimate,
//     on arrival, and kept whatever the answer turns out to be.
//
// Refused requests cost nothing. Rate headers are on every answer whose class
// is known, and tell of the moment the answer begins.
//
// # Making it do things
//
// The input is estimated as a quarter of its text's bytes, and the length of
// an answer is drawn around Options.OutputTokens. Two request headers replace
// these guesses: x-sandbox-input-tokens and x-sandbox-output-tokens (the
// latter still capped by max_tokens). Two suffixes of a model's name make the
// request fail, at no charge:
//
//	-overloaded   529 overloaded_error; OpenAI: 503 server_is_overloaded
//	-exhausted    429 enforced_spend_limit_reached; OpenAI: insufficient_quota
//
// Such a model belongs to the class of the name without the suffix.
package sandbox
