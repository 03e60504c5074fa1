package provider

import "slices"

// HeaderNames lists every header that some dialect reads.
func HeaderNames() []string {
	names := []string{
		"Retry-After", "Retry-After-Ms", "Age", "Policy-Id", "X-Amzn-Errortype", "X-Ratelimit-Resource",
		"Ratelimit", "Ratelimit-Policy", "Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset",
		"X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset",
		"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
	}
	for _, d := range dialects {
		names = append(names, d.organization)
		for _, h := range d.headers {
			names = append(names, h.limit, h.remaining, h.reset)
		}
	}
	for _, h := range unifiedHeaders {
		names = append(names, h.status, h.reset)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(s string) bool { return s == "" })
}
