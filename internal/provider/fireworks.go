package provider

import "time"

// Fireworks: input and output tokens by account and model. The headers state
// them per second, but they are enforced per minute. The limits adapt to use;
// a 503 sheds load. Source: docs.fireworks.ai, "Rate limits"; the names of what
// remains are a community's word.
var fireworks = Dialect{
	Type:       "fireworks",
	BaseURL:    "https://api.fireworks.ai/inference/v1",
	AuthHeader: "authorization",
	AuthPrefix: "Bearer ",
	Limited:    []Dimension{Requests, InputTokens, OutputTokens},
	Kind:       Sliding,
	Held:       allTokens,
	Reserve:    separately,
	Count:      everyToken,
	rateScope:  ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: []header{
		{dimension: InputTokens, length: time.Minute, times: 60,
			limit: "X-Ratelimit-Limit-Tokens-Prompt", remaining: "X-Ratelimit-Remaining-Tokens-Prompt"},
		{dimension: OutputTokens, length: time.Minute, times: 60,
			limit: "X-Ratelimit-Limit-Tokens-Generated", remaining: "X-Ratelimit-Remaining-Tokens-Generated"},
		// How the cache adjusts it is not said.
		{dimension: InputTokens, name: "cache-adjusted", length: time.Minute, times: 60, aside: true,
			limit: "X-Ratelimit-Limit-Tokens-Cache-Adjusted-Prompt", remaining: "X-Ratelimit-Remaining-Tokens-Cache-Adjusted-Prompt"},
	},
}
