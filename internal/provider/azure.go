package provider

import "time"

// Azure OpenAI: tokens and requests a minute by deployment, from an estimate that
// includes max_tokens. Requests are also counted over 1 s or 10 s, so it is not
// said how a window moves. Resets are whole seconds; -1 stands for no limit, and
// one reset was seen misspelt. Source: learn.microsoft.com, "Quotas", and
// responses recorded in SDK issues.
var azure = Dialect{
	Type:           "azure",
	Hosts:          []string{"*.openai.azure.com", "*.services.ai.azure.com", "*.cognitiveservices.azure.com"},
	AuthHeader:     "api-key",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kept:           [NumDimensions]bool{Tokens: true},
	Kind:           Sliding,
	Unstated:       time.Minute, // quota is assigned in tokens a minute, requests in proportion
	Reserve:        separately,
	Count:          everyToken,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: append(openaiHeaders(inSeconds, 0, 0), header{
		dimension: Tokens, format: inSeconds, reset: "X-Rate-Limit-Reset-Tokens",
	}),
}
