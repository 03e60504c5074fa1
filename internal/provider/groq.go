package provider

import "time"

// Groq: buckets by organisation and model that refill all the time; requests
// are always a day's in the headers and tokens a minute's, and the other limits
// stand in messages only. Cached tokens are free. When an answer's tokens count
// is not said. Source: console.groq.com, "Rate limits".
var groq = Dialect{
	Type:           "groq",
	BaseURL:        "https://api.groq.com/openai/v1",
	AuthHeader:     "authorization",
	AuthPrefix:     "Bearer ",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, Tokens},
	Kind:           Refilling,
	Held:           [NumDimensions]bool{OutputTokens: true, Tokens: true},
	Reserve:        separately,
	Count: func(u Usage) Amounts {
		input := u.Input
		if input >= 0 {
			input = max(0, input-max(u.CacheRead, 0))
		}
		return Amounts{Requests: 1, InputTokens: input, OutputTokens: u.Output,
			Tokens: either(input, u.Output), Concurrency: 1}
	},
	rateScope: ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	headers: openaiHeaders(goDuration, day, time.Minute),
}
