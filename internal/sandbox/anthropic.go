package sandbox

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/internal/sim"
)

// anthropic is the dialect of api.anthropic.com.
type anthropic struct{}

func (anthropic) credential(r *http.Request) string {
	if key := r.Header.Get("x-api-key"); key != "" {
		return key
	}
	return bearer(r)
}

func (anthropic) demand(req *request) demand {
	return splitDemand(req.input, req.output)
}

func (anthropic) identify(h http.Header, organization, id string, _ time.Duration) {
	h.Set("request-id", "req_"+id)
	if organization != "" {
		h.Set("anthropic-organization-id", organization)
	}
}

func (anthropic) limits(h http.Header, now time.Time, ls [dimensions]*level) {
	set := func(name string, l *level, round func(*level) int64) {
		if l == nil {
			return
		}
		name = "anthropic-ratelimit-" + name
		h.Set(name+"-limit", strconv.FormatInt(l.limit, 10))
		h.Set(name+"-remaining", strconv.FormatInt(round(l), 10))
		h.Set(name+"-reset", wholeSecond(now.Add(l.untilFull)).Format(time.RFC3339))
	}
	set("requests", first(ls[rpm], ls[rpd]), func(l *level) int64 { return l.remaining })
	set("input-tokens", ls[itpm], nearestThousand)
	set("output-tokens", ls[otpm], nearestThousand)
	set("tokens", first(ls[tpm], ls[tpd], sum(ls[itpm], ls[otpm])), nearestThousand)
}

// nearestThousand is how Anthropic blurs what remains of tokens. A limit below
// a thousand is not exceeded by it.
func nearestThousand(l *level) int64 {
	return min((l.remaining+500)/1000*1000, l.limit)
}

// wholeSecond rounds up: a reset is not announced before it is due.
func wholeSecond(t time.Time) time.Time {
	whole := t.UTC().Truncate(time.Second)
	if whole.Before(t) {
		whole = whole.Add(time.Second)
	}
	return whole
}

// sum is the total of input and output, if both are limited.
func sum(a, b *level) *level {
	if a == nil || b == nil {
		return first(a, b)
	}
	return &level{a.limit + b.limit, a.remaining + b.remaining, max(a.untilFull, b.untilFull)}
}

func (d anthropic) fail(h http.Header, f failure) (int, any) {
	status, typ, message := d.put(f)
	inner := obj{"type": typ, "message": message}
	switch f.kind {
	case limited:
		h.Set("retry-after", strconv.FormatInt(d.retryAfter(f.refusal), 10))
	case exhausted: // no retry-after: waiting as long as that is no client's business
		inner["details"] = obj{"error_code": "enforced_spend_limit_reached"}
	}
	return status, obj{"type": "error", "error": inner, "request_id": "req_" + f.id}
}

// retryAfter is a whole number of seconds, one at least. The surface has no
// word for a request larger than the limit; such a one is sent away for the
// time of the window.
func (anthropic) retryAfter(r *refusal) int64 {
	wait := r.wait
	if wait == sim.Never {
		wait = r.dim.window()
	}
	return max(1, ceil(wait, time.Second))
}

// put says a failure in Anthropic's words.
func (d anthropic) put(f failure) (status int, typ, message string) {
	switch f.kind {
	case notFound:
		return http.StatusNotFound, "not_found_error", "Not Found"
	case noKey:
		return http.StatusUnauthorized, "authentication_error", "x-api-key header is required"
	case wrongKey:
		return http.StatusUnauthorized, "authentication_error", "invalid x-api-key"
	case tooLarge:
		return http.StatusRequestEntityTooLarge, "request_too_large", "Request exceeds the maximum allowed number of bytes."
	case overloaded:
		return 529, "overloaded_error", "Overloaded"
	case limited:
		return http.StatusTooManyRequests, "rate_limit_error", d.refused(f.refusal)
	case exhausted:
		now := f.now.UTC()
		next := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		return http.StatusTooManyRequests, "rate_limit_error", "You have reached your API usage limits: your organization has " +
			"crossed its monthly API usage threshold, set based on your organization's API tier. " +
			"You will regain access on " + next.Format("2006-01-02 at 15:04 UTC") + "."
	default:
		return http.StatusBadRequest, "invalid_request_error", f.message
	}
}

func (anthropic) refused(r *refusal) string {
	if r.concurrency {
		return "Number of concurrent connections has exceeded your rate limit. Please try again later."
	}
	unit := [dimensions]string{
		rpm:  "requests per minute",
		itpm: "input tokens per minute",
		otpm: "output tokens per minute",
		tpm:  "tokens per minute",
		rpd:  "requests per day",
		tpd:  "tokens per day",
	}[r.dim]
	return fmt.Sprintf("This request would exceed the rate limit for your organization of %s %s. "+
		"For details, refer to: https://docs.anthropic.com/en/api/rate-limits.", thousands(r.limit), unit)
}

// thousands writes 20000 as 20,000. n is not negative.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (anthropic) models(names []string) any {
	data := []obj{}
	for _, name := range names {
		data = append(data, obj{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"})
	}
	list := obj{"data": data, "has_more": false, "first_id": nil, "last_id": nil}
	if len(names) > 0 {
		list["first_id"], list["last_id"] = names[0], names[len(names)-1]
	}
	return list
}
