package provider

// Generic: a provider of which nothing is known. Everything is taken at its
// worst: any window may be sliding, tokens may count until the answer ends,
// and every token counts.
var generic = Dialect{
	Type:           "generic",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests},
	Kind:           Sliding,
	Held:           [NumDimensions]bool{InputTokens: true, OutputTokens: true, Tokens: true},
	Reserve:        separately,
	Count: func(u Usage) Amounts {
		return Amounts{Requests: 1, InputTokens: u.Input, OutputTokens: u.Output,
			Tokens: either(u.Input, u.Output), Concurrency: 1}
	},
	Windows: noWindows,
}

// separately reserves input and output as such, and their sum as tokens.
func separately(d Demand) Amounts {
	return Amounts{Requests: 1, InputTokens: d.InputTokens, OutputTokens: d.MaxOutputTokens,
		Tokens: add(d.InputTokens, d.MaxOutputTokens), Concurrency: 1}
}

func noWindows(Response) []Window { return nil }
