package provider

import "time"

// Anthropic: token buckets by organisation and class of models. Input is
// counted on arrival without what the cache read, output as it is produced.
// Headers are on every response. Source: Claude docs, "Rate limits", 2026-08.
var anthropic = Dialect{
	Type:       "anthropic",
	BaseURL:    "https://api.anthropic.com",
	AuthHeader: "x-api-key",
	Limited:    []Dimension{Requests, InputTokens, OutputTokens},
	Kind:       Refilling,
	Held:       [NumDimensions]bool{OutputTokens: true, Tokens: true},
	Reserve:    separately,
	Count: func(u Usage) Amounts {
		input := known(u.Input, u.CacheWrite)
		return Amounts{Requests: 1, InputTokens: input, OutputTokens: u.Output,
			Tokens: either(input, u.Output), Concurrency: 1}
	},
	Windows: anthropicWindows,
}

// Token counts are rounded to the nearest thousand; requests are exact.
var anthropicHeaders = []struct {
	dimension        Dimension
	limit, remaining string
	rounding         int64
}{
	{Requests, "Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", 1},
	{InputTokens, "Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", 1000},
	{OutputTokens, "Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", 1000},
}

func anthropicWindows(r Response) []Window {
	var ws []Window
	for _, h := range anthropicHeaders {
		w := Window{
			Dimension: h.dimension, Length: time.Minute, Kind: Refilling, Rounding: h.rounding, Reset: Unknown, Utilization: Unknown,
			Limit: count(r.Header.Get(h.limit)), Remaining: count(r.Header.Get(h.remaining)),
		}
		if w.Limit > 0 {
			ws = append(ws, w)
		}
	}
	return ws
}
