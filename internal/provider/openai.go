package provider

// OpenAI: token buckets by project and model. A request costs the larger of
// max_tokens and the estimate of its input, counted on arrival and kept
// whatever the answer uses. Source: OpenAI docs, "Rate limits", 2026-06.
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
	Count: func(u Usage) Amounts {
		return Amounts{Requests: 1, InputTokens: u.Input, OutputTokens: u.Output,
			Tokens: either(u.Input, u.Output), Concurrency: 1}
	},
	Windows: noWindows,
}
