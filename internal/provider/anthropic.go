package provider

import (
	"time"
)

// Anthropic: token buckets by organisation and class of models. Input is
// counted on arrival without what the cache read, output as it is produced.
// Headers are on every response, and a reset is the time until full. Source:
// Claude docs, "Rate limits", 2026-08. A few old models (Haiku 3.5) count what
// the cache read, too; the headers tell, the usage does not.
var anthropic = Dialect{
	Type:       "anthropic",
	BaseURL:    "https://api.anthropic.com",
	AuthHeader: "x-api-key",
	Limited:    []Dimension{Requests, InputTokens, OutputTokens},
	Kind:       Refilling,
	Held:       [NumDimensions]bool{OutputTokens: true, Tokens: true},
	Counts:     true,
	Reserve:    separately,
	Count: func(u Usage) Amounts {
		input := known(u.Input, u.CacheWrite)
		return Amounts{Requests: 1, InputTokens: input, OutputTokens: u.Output,
			Tokens: either(input, u.Output), Concurrency: 1}
	},
	rateScope: ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	organization: "Anthropic-Organization-Id",
	headers: []header{
		anthropicHeader(Requests, "", "Ratelimit-Requests"),
		anthropicHeader(InputTokens, "", "Ratelimit-Input-Tokens"),
		anthropicHeader(OutputTokens, "", "Ratelimit-Output-Tokens"),
		anthropicHeader(Tokens, "", "Ratelimit-Tokens"),
		anthropicHeader(InputTokens, priority, "Priority-Input-Tokens"),
		anthropicHeader(OutputTokens, priority, "Priority-Output-Tokens"),
		anthropicHeader(InputTokens, fast, "Fast-Input-Tokens"),
		anthropicHeader(OutputTokens, fast, "Fast-Output-Tokens"),
	},
	rules: []rule{
		// With a 400 where the customer has set the limit, with a 429 where it is the tier's.
		{phrase: "you have reached your api usage limits", class: QuotaExhausted, scope: GroupScope},
		{phrase: "you have reached your specified api usage limits", class: QuotaExhausted, scope: GroupScope},
		{phrase: "you have reached your specified workspace api usage limits", class: QuotaExhausted, scope: GroupScope},
		{phrase: "you have reached your workspace api usage limits", class: QuotaExhausted, scope: GroupScope},
	},
	more:  anthropicMore,
	judge: anthropicJudge,
}

const (
	priority = "priority" // the Priority Tier; what it lacks, the standard one gives
	fast     = "fast"     // requests with speed: "fast"
	unified  = "unified-" // subscriptions
)

// What remains of tokens is rounded to the nearest thousand; requests are exact,
// and so are the samples of the Priority Tier.
func anthropicHeader(d Dimension, name, prefix string) header {
	prefix = "Anthropic-" + prefix
	h := header{dimension: d, name: name, length: time.Minute, format: rfc3339, aside: name != "",
		limit: prefix + "-Limit", remaining: prefix + "-Remaining", reset: prefix + "-Reset"}
	if d != Requests && name != priority {
		h.rounding = 1000
	}
	return h
}

// anthropicMore sets aside the limit on tokens where it is no limit of its own but
// the sum of the others, or does not say. Otherwise it is the tightest one in
// effect, such as a workspace's.
func anthropicMore(a *answer) {
	var sum int64
	for i := range a.windows {
		w := &a.windows[i]
		switch {
		case w.Aside:
		case w.Dimension == Tokens:
			w.Aside = w.Limit < 0 || w.Limit == sum
		case w.Dimension != Requests:
			sum = add(sum, max(w.Limit, 0))
		}
	}
	a.subscription()
}

var unifiedHeaders = []struct {
	name, status, reset string
	length              time.Duration
}{
	{unified + "5h", "Anthropic-Ratelimit-Unified-5h-Status", "Anthropic-Ratelimit-Unified-5h-Reset", 5 * time.Hour},
	{unified + "7d", "Anthropic-Ratelimit-Unified-7d-Status", "Anthropic-Ratelimit-Unified-7d-Reset", 7 * day},
	{unified + "7d_oi", "Anthropic-Ratelimit-Unified-7d_oi-Status", "Anthropic-Ratelimit-Unified-7d_oi-Reset", 7 * day}, // of one model
}

// subscription reads the limits of a subscription's OAuth token. They state a part
// used and no amounts, so that all they tell is whether one is spent, and until when.
// Undocumented; source: recorded responses, 2026-03.
func (a *answer) subscription() {
	for i := range unifiedHeaders {
		h := &unifiedHeaders[i]
		status := a.first(h.status)
		if status == "" {
			continue
		}
		w := a.stated(NumDimensions)
		w.Name, w.Length, w.Aside, w.Kind = h.name, h.length, true, Fixed
		w.Reset = a.reset(anyFormat, a.first(h.reset)) // seconds since 1970, but ISO was seen
		if status == "rejected" {
			w.Remaining = 0
		}
		a.windows = append(a.windows, w)
	}
}

// anthropicJudge keeps a refusal of fast requests from the ordinary ones, and
// widens that of a subscription to everything it pays for.
func anthropicJudge(a *answer, v *verdict) {
	limited := v.class == RateLimited && !a.any(func(w *Window) bool { return !w.Aside && spent(w) })
	switch {
	case limited && a.any(func(w *Window) bool { return w.Name == fast && w.Remaining == 0 }), // 0 of 0 is "not granted"
		v.class == Overloaded && a.any(func(w *Window) bool { return w.Name == fast }):
		v.scope = NoScope
	case limited && a.any(func(w *Window) bool { return (w.Name == unified+"5h" || w.Name == unified+"7d") && spent(w) }):
		v.scope = GroupScope
	}
}
