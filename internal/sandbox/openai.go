package sandbox

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/internal/sim"
)

// openAI is the dialect of api.openai.com and of the many that copy it.
type openAI struct{}

func (openAI) credential(r *http.Request) string { return bearer(r) }

func (openAI) demand(req *request) demand {
	return reservedDemand(req.input, req.output, max(req.maxOutput, req.input))
}

func (openAI) identify(h http.Header, organization, id string, took time.Duration) {
	h.Set("x-request-id", "req_"+id)
	h.Set("openai-processing-ms", strconv.FormatInt(took.Milliseconds(), 10))
	if organization != "" {
		h.Set("openai-organization", organization)
	}
}

// limits has one set of headers for requests and one for tokens: of the
// minute's limit, or of the day's if there is no other.
func (openAI) limits(h http.Header, _ time.Time, ls [dimensions]*level) {
	set := func(name string, l *level) {
		if l == nil {
			return
		}
		h.Set("x-ratelimit-limit-"+name, strconv.FormatInt(l.limit, 10))
		h.Set("x-ratelimit-remaining-"+name, strconv.FormatInt(l.remaining, 10))
		h.Set("x-ratelimit-reset-"+name, millis(l.untilFull))
	}
	set("requests", first(ls[rpm], ls[rpd]))
	set("tokens", first(ls[tpm], ls[tpd]))
}

// millis writes a duration as Go does, in whole milliseconds, rounded up.
func millis(d time.Duration) string {
	return (time.Duration(ceil(d, time.Millisecond)) * time.Millisecond).String()
}

func (d openAI) fail(h http.Header, f failure) (int, any) {
	status, typ, code, message := d.put(f)
	inner := obj{"message": message, "type": typ, "param": nil, "code": nil}
	if f.param != "" {
		inner["param"] = f.param
	}
	if code != "" {
		inner["code"] = code
	}
	if f.kind == limited && f.refusal.wait != sim.Never {
		wait := f.refusal.wait
		h.Set("retry-after", strconv.FormatInt(ceil(wait, time.Second), 10))
		h.Set("retry-after-ms", strconv.FormatInt(ceil(wait, time.Millisecond), 10))
	}
	return status, obj{"error": inner}
}

// put says a failure in OpenAI's words.
func (d openAI) put(f failure) (status int, typ, code, message string) {
	switch f.kind {
	case notFound:
		return http.StatusNotFound, "invalid_request_error", "not_found", "Invalid URL"
	case noKey:
		return http.StatusUnauthorized, "invalid_request_error", "",
			"You didn't provide an API key. You need to provide it in an Authorization header using Bearer auth."
	case wrongKey:
		return http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."
	case tooLarge:
		return http.StatusRequestEntityTooLarge, "invalid_request_error", "", "The request body is too large."
	case overloaded:
		return http.StatusServiceUnavailable, "server_error", "server_is_overloaded",
			"The server is currently overloaded. Please try again later."
	case exhausted:
		return http.StatusTooManyRequests, "insufficient_quota", "insufficient_quota",
			"You exceeded your current quota, please check your plan and billing details."
	case limited:
		typ = "tokens"
		if r := f.refusal; r.concurrency || r.dim == rpm || r.dim == rpd {
			typ = "requests"
		}
		return http.StatusTooManyRequests, typ, "rate_limit_exceeded", d.refused(f)
	default:
		return http.StatusBadRequest, "invalid_request_error", "", f.message
	}
}

func (openAI) refused(f failure) string {
	r := f.refusal
	unit := [dimensions]string{
		rpm:  "requests per min (RPM)",
		itpm: "input tokens per min (ITPM)",
		otpm: "output tokens per min (OTPM)",
		tpm:  "tokens per min (TPM)",
		rpd:  "requests per day (RPD)",
		tpd:  "tokens per day (TPD)",
	}[r.dim]
	if r.concurrency {
		unit = "concurrent requests"
	}
	if r.wait == sim.Never {
		return fmt.Sprintf("Request too large for %s in organization %s on %s: Limit %d, Requested %d. "+
			"The input or output tokens must be reduced in order to run successfully.",
			f.model, f.organization, unit, r.limit, r.requested)
	}
	return fmt.Sprintf("Rate limit reached for %s in organization %s on %s: Limit %d, Used %d, Requested %d. "+
		"Please try again in %s.", f.model, f.organization, unit, r.limit, r.used, r.requested, millis(r.wait))
}

func (openAI) models(names []string) any {
	data := []obj{}
	for _, name := range names {
		data = append(data, obj{"id": name, "object": "model", "created": 1767225600, "owned_by": "sandbox"})
	}
	return obj{"object": "list", "data": data}
}
