package provider

import "time"

// Together: requests and tokens a second, by organisation and model; the limits
// move with the load. A reset is the suggested interval before another try. A
// 503 means that there is no capacity, though the rate is below the limit.
// Source: docs.together.ai, "Rate limits".
var together = Dialect{
	Type:           "together",
	BaseURL:        "https://api.together.xyz/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: []header{
		{dimension: Requests, length: time.Second, format: inSeconds,
			limit: "X-Ratelimit-Limit", remaining: "X-Ratelimit-Remaining", reset: "X-Ratelimit-Reset"},
		{dimension: Tokens, length: time.Second,
			limit: "X-Tokenlimit-Limit", remaining: "X-Tokenlimit-Remaining"},
	},
	rules: []rule{
		{word: "dynamic_request_limited", class: RateLimited, scope: ClassScope},
		{word: "dynamic_token_limited", class: RateLimited, scope: ClassScope},
	},
}
