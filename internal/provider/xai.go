package provider

// xAI: requests a second and tokens a minute, by team and model; every token
// counts, cached ones too. It documents no headers; the community saw OpenAI's
// names, whose windows are not known. Source: docs.x.ai, "Rate limits".
var xai = Dialect{
	Type:           "xai",
	BaseURL:        "https://api.x.ai/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: openaiHeaders(anyFormat, 0, 0),
	rules: []rule{
		{phrase: "used all available credits", class: QuotaExhausted, scope: GroupScope}, // 429 or 403
		{status: 400, phrase: "incorrect api key", class: AuthInvalid, scope: KeyScope},  // recorded: continue#10778
	},
}
