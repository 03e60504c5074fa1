package provider

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// rule is an exception to what a status means. All that is set has to fit.
type rule struct {
	status int    // of the response, or of an event in a stream
	word   string // the error's type, code, status or reason
	phrase string // a part of its message, in lower case

	class Class
	scope Scope
	until func(time.Time) time.Time // when it is over, if the calendar says so
	ramp  bool                      // Signal.RampUp
}

// verdict is what the rules and the status come to.
type verdict struct {
	class Class
	scope Scope
	until func(time.Time) time.Time
	ramp  bool
}

// everywhere holds for all providers: the words are plain, and clones of an API
// copy them.
var everywhere = []rule{
	// OpenAI help center, article 5955604; OpenAI docs, "Error codes".
	{word: "insufficient_quota", class: QuotaExhausted, scope: GroupScope},
	{word: "credit_balance_exhausted", class: QuotaExhausted, scope: GroupScope},
	{word: "organization_spend_limit_exceeded", class: QuotaExhausted, scope: GroupScope},
	{word: "project_spend_limit_exceeded", class: QuotaExhausted, scope: GroupScope},
	{word: "organization_usage_limit_exceeded", class: QuotaExhausted, scope: GroupScope},
	{word: "billing_not_active", class: QuotaExhausted, scope: GroupScope}, // from memory
	// Claude docs, "Errors" and "Rate limits".
	{word: "billing_error", class: QuotaExhausted, scope: GroupScope},
	{word: "enforced_spend_limit_reached", class: QuotaExhausted, scope: GroupScope},
	{word: "request_too_large", class: RequestTooLarge},
	{word: "overloaded_error", class: Overloaded, scope: ModelScope},
	{phrase: "request too large", class: RequestTooLarge},
	{word: "server_is_overloaded", class: Overloaded, scope: ModelScope},
}

// streamStatus gives the statuses that an error would have had before the first
// byte. What is not known is the provider's trouble.
var streamStatus = map[string]int{
	"invalid_request_error": 400, "invalid_argument": 400, "invalid_prompt": 400, "failed_precondition": 400,
	"context_length_exceeded": 400, "validationexception": 400,
	"authentication_error": 401, "invalid_api_key": 401, "unauthenticated": 401,
	"permission_error": 403, "permission_denied": 403, "accessdeniedexception": 403,
	"not_found_error": 404, "not_found": 404,
	"rate_limit_error": 429, "rate_limit_exceeded": 429, "rate_limited": 429, "resource_exhausted": 429,
	"too_many_requests": 429, "throttlingexception": 429, "slow_down": 429, "tokens": 429, "requests": 429,
	"overloaded_error": 529, "server_is_overloaded": 503, "unavailable": 503,
}

// status is the response's, or that of the error which ended a stream; 0 if
// neither is known.
func (a *answer) status() int {
	if a.Status >= 400 || !a.said.found {
		return a.Status
	}
	if n, err := strconv.Atoi(a.said.code); err == nil && n >= 400 && n < 600 {
		return n
	}
	for _, word := range [...]string{a.said.code, a.said.status, a.said.kind} {
		if n := streamStatus[strings.ToLower(word)]; n > 0 {
			return n
		}
	}
	return http.StatusInternalServerError
}

// verdict decides what a response says. The order matters: a 429 may be about
// money or about a request that no wait makes fit, and a 402 or 403 about a rate.
func (a *answer) verdict() verdict {
	status := a.status()
	switch {
	case status < 200, status >= 300 && status < 400: // a redirection says nothing about the key
		return verdict{class: NoAnswer}
	case status < 300:
		return verdict{class: OK}
	case status == http.StatusUnauthorized:
		return verdict{class: AuthInvalid, scope: KeyScope}
	}
	v, ok := a.match(everywhere, status)
	if !ok && status == http.StatusTooManyRequests {
		v, ok = a.tooLarge()
	}
	if !ok {
		v, ok = a.match(a.dialect.rules, status)
	}
	if !ok {
		v = a.byStatus(status)
	}
	if a.dialect.judge != nil {
		a.dialect.judge(a, &v)
	}
	if v.class == RateLimited {
		a.longQuota(&v)
	}
	return v
}

func (a *answer) match(rules []rule, status int) (verdict, bool) {
	for i := range rules {
		r := &rules[i]
		if (r.status == 0 || r.status == status) &&
			(r.word == "" || a.says(r.word)) &&
			(r.phrase == "" || strings.Contains(a.message, r.phrase)) {
			return verdict{r.class, r.scope, r.until, r.ramp}, true
		}
	}
	return verdict{}, false
}

// says reports whether the error's type, code, status or reason is a word.
func (a *answer) says(word string) bool {
	f := &a.said
	for _, s := range [...]string{f.code, f.kind, f.status, f.reason, f.errorCode, f.source} {
		if strings.EqualFold(s, word) {
			return true
		}
	}
	// AWS: "ThrottlingException:http://internal.amazon.com/…".
	typ, _, _ := strings.Cut(a.first("X-Amzn-Errortype"), ":")
	return strings.EqualFold(typ, word)
}

// tooLarge finds the 429 that asks for more than there ever is. Groq states a
// time to try again all the same. Source: OpenAI and Groq messages as recorded.
func (a *answer) tooLarge() (verdict, bool) {
	r := limitIn(a.message)
	return verdict{class: RequestTooLarge}, r != nil && r.Limit >= 0 && r.Requested > r.Limit
}

// longQuota turns a rate limit that is really a month's or a day's quota into
// one: the wait is not the short one.
func (a *answer) longQuota(v *verdict) {
	for i := range a.windows {
		if w := &a.windows[i]; w.is(month) && spent(w) {
			*v = verdict{class: QuotaExhausted, scope: GroupScope, until: endOfMonth}
			return
		}
	}
	for _, x := range a.said.violations {
		if strings.Contains(x.id, "PerDay") {
			v.class, v.until = QuotaExhausted, midnightPacific
			return
		}
	}
}

func (a *answer) byStatus(status int) verdict {
	d := a.dialect
	switch {
	case status == http.StatusTooManyRequests:
		return verdict{class: RateLimited, scope: d.rateScope}
	case status == http.StatusPaymentRequired:
		return verdict{class: QuotaExhausted, scope: GroupScope}
	case status == http.StatusForbidden:
		return verdict{class: Forbidden, scope: d.forbiddenScope}
	case status == http.StatusRequestEntityTooLarge:
		return verdict{class: RequestTooLarge}
	case status == http.StatusRequestTimeout, status == http.StatusConflict: // passes by itself, and SDKs try again
		return verdict{class: Overloaded}
	case status >= 500: // 529 is Anthropic's own
		return verdict{class: Overloaded, scope: d.busyScope}
	}
	return verdict{class: InvalidRequest}
}
