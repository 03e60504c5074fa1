package provider

import "time"

// Cohere: requests a minute by endpoint and model; trial keys have 1000 calls a
// month, too, and headers, but not with a 429. Source: Cohere docs as quoted, and
// elastic's CohereResponseHandler; headers of production keys are not known.
var cohere = Dialect{
	Type:           "cohere",
	BaseURL:        "https://api.cohere.com",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: []header{
		{dimension: Requests, length: time.Minute,
			limit: "X-Trial-Endpoint-Call-Limit", remaining: "X-Trial-Endpoint-Call-Remaining"},
		{dimension: Requests, name: month, aside: true, fixed: true, limit: "X-Endpoint-Monthly-Call-Limit"},
	},
	rules: []rule{
		{status: 429, phrase: "calls / month", class: QuotaExhausted, scope: GroupScope, until: endOfMonth},
		{status: 429, phrase: "token rate limit", class: RateLimited, scope: GroupScope},
	},
}
