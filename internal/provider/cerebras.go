package provider

import "time"

// Cerebras: requests a day and tokens a minute, by organisation and model.
// max_completion_tokens are reserved up front; whether they are ever given back
// is not said, so they are kept. The docs call it a token bucket, but resets in
// samples lie on the clock's minute: Sliding is safe for both. Source:
// inference-docs.cerebras.ai, "Rate limits".
var cerebras = Dialect{
	Type:           "cerebras",
	BaseURL:        "https://api.cerebras.ai/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kept:           [NumDimensions]bool{Tokens: true},
	Kind:           Sliding,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: []header{
		{dimension: Requests, length: day, format: inSeconds,
			limit: "X-Ratelimit-Limit-Requests-Day", remaining: "X-Ratelimit-Remaining-Requests-Day", reset: "X-Ratelimit-Reset-Requests-Day"},
		{dimension: Tokens, length: time.Minute, format: inSeconds,
			limit: "X-Ratelimit-Limit-Tokens-Minute", remaining: "X-Ratelimit-Remaining-Tokens-Minute", reset: "X-Ratelimit-Reset-Tokens-Minute"},
	},
}
