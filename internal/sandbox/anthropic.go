package sandbox

import (
	"net/http"
	"time"
)

// anthropic is api.anthropic.com: token buckets by class of models; input
// counts on arrival, output as it is real; headers on every answer, in which
// what remains of tokens is rounded.
var anthropic = dialect{
	surface:    anthropicSurface,
	demand:     asProduced,
	moves:      refilling,
	retryAfter: true,
	identify: func(h http.Header, organization, id string, _ time.Duration) {
		h.Set("request-id", "req_"+id)
		if organization != "" {
			h.Set("anthropic-organization-id", organization)
		}
	},
	headers: rates{
		anthropicRate("requests", nil, either(rpm, rpd)),
		anthropicRate("input-tokens", nearestThousand, either(itpm)),
		anthropicRate("output-tokens", nearestThousand, either(otpm)),
		anthropicRate("tokens", nearestThousand, func(ls *levels) *level {
			if l := either(tpm, tpd)(ls); l != nil {
				return l
			}
			return sum(ls[itpm], ls[otpm])
		}),
	}.set,
	says: map[kind]wording{
		notFound: {404, "not_found_error", "", "Not Found"},
		noKey:    {401, "authentication_error", "", "x-api-key header is required"},
		wrongKey: {401, "authentication_error", "", "invalid x-api-key"},
		tooLarge: {413, "request_too_large", "", "Request exceeds the maximum allowed number of bytes."},
		invalid:  {400, "invalid_request_error", "", "{problem}"},
		limited: {429, "rate_limit_error", "", "This request would exceed the rate limit for your organization of {limit,} {per}. " +
			"For details, refer to: https://docs.anthropic.com/en/api/rate-limits."},
		crowded:    {429, "rate_limit_error", "", "Number of concurrent connections has exceeded your rate limit. Please try again later."},
		overloaded: {529, "overloaded_error", "", "Overloaded"},
		// No retry-after: waiting as long as that is no client's business.
		exhausted: {429, "rate_limit_error", "enforced_spend_limit_reached", "You have reached your API usage limits: your organization has " +
			"crossed its monthly API usage threshold, set based on your organization's API tier. You will regain access on {month}."},
		forbidden: {403, "permission_error", "", "Your API key does not have permission to use the specified resource."},
	},
	shape: func(_ http.Header, w *wording, f *failure) any {
		inner := obj{"type": w.typ, "message": w.message}
		if w.code != "" {
			inner["details"] = obj{"error_code": w.code}
		}
		return obj{"type": "error", "error": inner, "request_id": "req_" + f.id}
	},
	models: func(names []string) any {
		data := []obj{}
		for _, name := range names {
			data = append(data, obj{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"})
		}
		list := obj{"data": data, "has_more": false, "first_id": nil, "last_id": nil}
		if len(names) > 0 {
			list["first_id"], list["last_id"] = names[0], names[len(names)-1]
		}
		return list
	},
}

func anthropicRate(name string, blur func(*level) int64, of func(*levels) *level) rate {
	name = "anthropic-ratelimit-" + name
	return rate{of: of, limit: name + "-limit", remaining: name + "-remaining", reset: name + "-reset", format: rfc3339, blur: blur}
}

// nearestThousand is how Anthropic blurs what remains of tokens. A limit below
// a thousand is not exceeded by it.
func nearestThousand(l *level) int64 {
	return min((l.remaining+500)/1000*1000, l.limit)
}

// sum is the total of input and output, if both are limited.
func sum(a, b *level) *level {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return &level{a.limit + b.limit, a.remaining + b.remaining, max(a.reset, b.reset)}
}
