package provider

import "time"

// Mistral: requests a second, tokens a minute and tokens a month, by organisation
// and model; no resets. A month that is used up is a quota, not a rate. Source:
// mistralai/client-ts#169; the 10 seconds and the month are a community's word,
// the names "bysize" those of 2025.
var mistral = Dialect{
	Type:           "mistral",
	BaseURL:        "https://api.mistral.ai/v1",
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
		{dimension: Tokens, length: time.Minute,
			limit: "X-Ratelimit-Limit-Tokens-Minute", remaining: "X-Ratelimit-Remaining-Tokens-Minute"},
		{dimension: Requests, length: time.Minute,
			limit: "X-Ratelimit-Limit-Req-Minute", remaining: "X-Ratelimit-Remaining-Req-Minute"},
		{dimension: Requests, length: 10 * time.Second,
			limit: "X-Ratelimit-Limit-Req-10-Second", remaining: "X-Ratelimit-Remaining-Req-10-Second"},
		{dimension: Tokens, name: month, format: monthEnd, fixed: true, aside: true,
			limit: "X-Ratelimit-Limit-Tokens-Month", remaining: "X-Ratelimit-Remaining-Tokens-Month"},
		{dimension: Tokens, length: time.Minute, format: inSeconds,
			limit: "X-Ratelimitbysize-Limit-Minute", remaining: "X-Ratelimitbysize-Remaining-Minute", reset: "Ratelimitbysize-Reset"},
	},
	rules: []rule{
		{phrase: "service tier capacity exceeded", class: Overloaded, scope: ModelScope},
	},
}

// month names a limit that holds from one month to the next, longer than the
// engine counts.
const month = "month"
