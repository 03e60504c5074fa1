package provider

import (
	"strings"
	"time"
)

// GitHub's REST API: 5000 or so requests an hour by user, from one reset to the
// next, and such windows beside it for other resources; 100 calls at one time;
// and secondary limits that show in a message only. A 403 may be any of them, or
// may be plain. Source: docs.github.com, "Rate limits for the REST API".
var github = Dialect{
	Type:        "github",
	BaseURL:     "https://api.github.com",
	AuthHeader:  "authorization",
	AuthPrefix:  "Bearer ",
	Limited:     []Dimension{Requests},
	Kind:        Fixed,
	Held:        allTokens,
	Reserve:     separately,
	Count:       everyToken,
	rateScope:   GroupScope,
	busyScope:   ProviderScope,
	defaultWait: time.Minute,
	headers: []header{
		{dimension: Requests, length: time.Hour, format: epochSeconds,
			limit: "X-Ratelimit-Limit", remaining: "X-Ratelimit-Remaining", reset: "X-Ratelimit-Reset"},
	},
	rules: []rule{
		{status: 403, phrase: "concurrent", class: ConcurrencyLimited, scope: GroupScope},
		{status: 429, phrase: "concurrent", class: ConcurrencyLimited, scope: GroupScope},
		{status: 403, phrase: "rate limit", class: RateLimited, scope: GroupScope},
	},
	more:  githubMore,
	judge: githubJudge,
}

// githubMore names the window of a resource that is not the ordinary one. Its
// points are not calls, or its calls not ordinary.
func githubMore(a *answer) {
	resource := strings.TrimSpace(a.first("X-Ratelimit-Resource"))
	if resource == "" || resource == "core" || len(a.windows) == 0 {
		return
	}
	w := &a.windows[0]
	w.Name, w.Aside = resource, true
	if resource == "search" || resource == "code_search" {
		w.Length = time.Minute
	}
}

// githubJudge finds the mark of a rate limit on a 403 that does not speak of it.
func githubJudge(a *answer, v *verdict) {
	if v.class != Forbidden {
		return
	}
	_, stated := a.longest("Retry-After", anyFormat)
	if stated || len(a.windows) > 0 && spent(&a.windows[0]) {
		*v = verdict{class: RateLimited, scope: GroupScope}
	}
}
