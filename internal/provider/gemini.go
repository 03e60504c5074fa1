package provider

import (
	"strings"
	"time"
)

// Gemini: requests and input tokens a minute, and requests a day, by project and
// model; no headers. The body of a 429 names the quota. Source: ai.google.dev,
// "Rate limits", and recorded responses. How the minute moves is not said.
var gemini = Dialect{
	Type:           "gemini",
	BaseURL:        "https://generativelanguage.googleapis.com",
	AuthHeader:     "x-goog-api-key",
	CombinedTokens: true,
	Limited:        []Dimension{Requests, InputTokens},
	Kind:           Sliding,
	Reserve:        onlyInput,
	Count:          countInput,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	rules: []rule{
		{word: "API_KEY_INVALID", class: AuthInvalid, scope: KeyScope},                  // with a 400
		{status: 400, phrase: "api key not valid", class: AuthInvalid, scope: KeyScope}, // its message, which may come without details
		{status: 429, phrase: "resource exhausted. please try again later", class: Overloaded, scope: ClassScope},
	},
	more:  googleMore,
	judge: googleJudge,
}

// Vertex: Gemini's models on Google Cloud. Pay-as-you-go shares one pool, so that
// a 429 says that the pool is busy, unless it names a quota or provisioned
// throughput. Its OAuth tokens do not last; a key of express mode does. Source:
// cloud.google.com, "Error code 429".
var vertex = Dialect{
	Type: "vertex",
	Hosts: []string{
		"aiplatform.googleapis.com", "*-aiplatform.googleapis.com", "aiplatform.*.rep.googleapis.com",
	},
	AuthHeader:     "x-goog-api-key",
	CombinedTokens: true,
	Limited:        []Dimension{Requests},
	Kind:           Sliding,
	Reserve:        onlyInput,
	Count:          countInput,
	rateScope:      ClassScope, busyScope: ModelScope, forbiddenScope: KeyModelScope,
	rules: []rule{
		{word: "API_KEY_INVALID", class: AuthInvalid, scope: KeyScope},
		{status: 429, phrase: "provisioned throughput", class: RateLimited, scope: ClassScope},
		{status: 429, phrase: "quota exceeded", class: RateLimited, scope: ClassScope},
		{status: 429, class: Overloaded, scope: ModelScope},
	},
	more:  googleMore,
	judge: googleJudge,
}

// onlyInput and countInput are for limits on tokens that mean those of the input,
// cached or not.
func onlyInput(d Demand) Amounts {
	a := separately(d)
	a[Tokens] = d.InputTokens
	return a
}

func countInput(u Usage) Amounts {
	a := everyToken(u)
	a[Tokens] = u.Input
	return a
}

// googleMore reads google.rpc.QuotaFailure: what a quota counts and for how long
// stands in its id, "GenerateRequestsPerMinutePerProjectPerModel-FreeTier".
func googleMore(a *answer) {
	for _, v := range a.said.violations {
		w := a.stated(quotaDimension(v))
		w.Remaining, w.Aside = 0, w.Dimension == NumDimensions
		w.Limit, _ = amounts(v.value, "")
		d, ok := time.Duration(0), false
		switch {
		case strings.Contains(v.id, "PerMinute"):
			w.Length = time.Minute
			d, ok = a.delay()
		case strings.Contains(v.id, "PerDay"):
			w.Length, w.Kind = day, Fixed
			d, ok = a.until(midnightPacific)
		}
		if ok {
			w.Reset = d
		}
		a.windows = append(a.windows, w)
	}
}

// googleJudge takes a quota that is named for the project's own, at Vertex too,
// and for all models where its id says nothing of them.
func googleJudge(a *answer, v *verdict) {
	if len(a.said.violations) == 0 || v.class != RateLimited && v.class != Overloaded || a.status() != 429 {
		return
	}
	v.class, v.scope = RateLimited, ClassScope
	for _, x := range a.said.violations {
		if x.id != "" && x.model == "" && !strings.Contains(x.id, "PerModel") && !strings.Contains(x.id, "PerBaseModel") {
			v.scope = GroupScope
		}
	}
}

func quotaDimension(v violation) Dimension {
	s := v.id
	if s == "" {
		s = v.metric
	}
	s = strings.ToLower(strings.ReplaceAll(s, "_", ""))
	switch {
	case strings.Contains(s, "inputtoken"):
		return InputTokens
	case strings.Contains(s, "outputtoken"):
		return OutputTokens
	case strings.Contains(s, "token"):
		return Tokens
	case strings.Contains(s, "request"):
		return Requests
	}
	return NumDimensions
}
