package provider

// DeepSeek: calls at one time, by account and model, and nothing else; no
// headers. Source: api-docs.deepseek.com, "Rate limit".
var deepseek = Dialect{
	Type:           "deepseek",
	BaseURL:        "https://api.deepseek.com",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Concurrency},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	rules: []rule{
		{status: 429, class: ConcurrencyLimited, scope: ClassScope},
	},
}
