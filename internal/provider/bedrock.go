package provider

// Bedrock: tokens a minute and a day, and requests a minute for some models, by
// account, region and model; no headers. A call takes its input and maxTokens at
// the start and is settled later, when what the cache read is given back. On
// Claude 4 an answer's token counts five (community source, quoting AWS); the
// model is not known here, and one too many harms less than one too few. Only
// API keys work: a signature is made before a transport sees the request.
// Source: aws/agent-toolkit, "quota-health".
var bedrock = Dialect{
	Type: "bedrock",
	Hosts: []string{
		"bedrock-runtime.*.amazonaws.com", "bedrock-runtime-fips.*.amazonaws.com", "bedrock-mantle.*.api.aws",
	},
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kind:           Sliding,
	Held:           [NumDimensions]bool{InputTokens: true, OutputTokens: true, Tokens: true},
	Reserve: func(d Demand) Amounts {
		a := separately(d)
		a[Tokens] = add(d.InputTokens, times(d.MaxOutputTokens, bedrockBurn))
		return a
	},
	Count: func(u Usage) Amounts {
		input := known(u.Input, u.CacheWrite)
		return Amounts{Requests: 1, InputTokens: input, OutputTokens: u.Output,
			Tokens: either(input, times(u.Output, bedrockBurn)), Concurrency: 1}
	},
	rateScope: ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	rules: []rule{
		{status: 403, phrase: "authentication failed", class: AuthInvalid, scope: KeyScope}, // recorded: ai4s-research/open-science#53
		{word: "ModelNotReadyException", class: Overloaded, scope: ModelScope},
		{word: "ServiceUnavailableException", class: Overloaded, scope: ModelScope},
		{word: "ServiceQuotaExceededException", class: QuotaExhausted, scope: GroupScope},
		{word: "ThrottlingException", class: RateLimited, scope: ClassScope},
	},
}

const bedrockBurn = 5
