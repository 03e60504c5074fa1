package provider

// OpenAI: token buckets by organisation, project and model. A request costs the
// larger of max_tokens and the estimate of its input, cached or not, counted on
// arrival and kept whatever the answer uses. One header speaks for RPM or RPD,
// and a reset is the time until full: the window is inferred. Source: OpenAI
// docs, "Rate limits", 2026-06; that the buckets refill all the time follows
// from recorded messages.
var openai = Dialect{
	Type:           "openai",
	BaseURL:        "https://api.openai.com/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kept:           [NumDimensions]bool{Tokens: true},
	Kind:           Refilling,
	Reserve: func(d Demand) Amounts {
		a := separately(d)
		a[Tokens] = max(d.InputTokens, d.MaxOutputTokens)
		return a
	},
	Count:     everyToken,
	rateScope: ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	organization: "Openai-Organization",
	headers: append(openaiHeaders(goDuration, 0, 0), header{
		dimension: Tokens, name: "project", format: goDuration, infer: true,
		limit: "X-Ratelimit-Limit-Project-Tokens", remaining: "X-Ratelimit-Remaining-Project-Tokens",
		reset: "X-Ratelimit-Reset-Project-Tokens",
	}),
	rules: []rule{
		{status: 429, word: "slow_down", class: RateLimited, scope: ClassScope, ramp: true},
	},
}
