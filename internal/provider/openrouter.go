package provider

// OpenRouter: its own limits are an account's, and more keys do not help. It
// states them with its own 429 only, often inside the body; any other 429 is
// that of the provider behind it. Money is checked before a call, so that a 402
// may be about a call that is too large, or about those still open. Source:
// OpenRouter docs, "Limits"; "free-models-per-day" and moderation from memory.
var openrouter = Dialect{
	Type:           "openrouter",
	BaseURL:        "https://openrouter.ai/api/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ModelScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: []header{
		{dimension: Requests, format: epochMillis, fixed: true,
			limit: "X-Ratelimit-Limit", remaining: "X-Ratelimit-Remaining", reset: "X-Ratelimit-Reset"},
	},
	rules: []rule{
		{word: "weight_exceeds_budget", class: RequestTooLarge},
		{word: "in_flight_budget_exhausted", class: RateLimited, scope: GroupScope},
		{word: "openrouter_key_limit", class: QuotaExhausted, scope: KeyScope},
		{word: "openrouter_credits", class: QuotaExhausted, scope: GroupScope},
		{status: 429, phrase: "free-models-per-", class: RateLimited, scope: GroupScope},
		{status: 403, phrase: "moderation", class: InvalidRequest}, // the input was flagged, which is not the key's fault
	},
	judge: func(a *answer, v *verdict) {
		if v.class == RateLimited && len(a.windows) > 0 {
			v.scope = GroupScope
		}
	},
}
