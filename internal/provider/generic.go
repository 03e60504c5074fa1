package provider

// Generic: a provider of which nothing is known. Everything is taken at its
// worst: any window may be sliding, tokens may count until the answer ends, every
// token counts, and a refusal is about all that the key's owner has.
var generic = Dialect{
	Type:           "generic",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests},
	Kind:           Sliding,
	Held:           allTokens,
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      GroupScope, busyScope: ProviderScope, forbiddenScope: KeyModelScope,
	headers: openaiHeaders(anyFormat, 0, 0),
	rules: []rule{
		{word: "https://iana.org/assignments/http-problem-types#quota-exceeded", class: RateLimited, scope: GroupScope},
	},
	more: standard,
}

// allTokens is for providers of which it is not said when tokens count.
var allTokens = [NumDimensions]bool{InputTokens: true, OutputTokens: true, Tokens: true}

// separately reserves input and output as such, and their sum as tokens.
func separately(d Demand) Amounts {
	return Amounts{Requests: 1, InputTokens: d.InputTokens, OutputTokens: d.MaxOutputTokens,
		Tokens: add(d.InputTokens, d.MaxOutputTokens), Concurrency: 1}
}

// everyToken counts input, cached or not, and output.
func everyToken(u Usage) Amounts {
	return Amounts{Requests: 1, InputTokens: u.Input, OutputTokens: u.Output,
		Tokens: either(u.Input, u.Output), Concurrency: 1}
}
