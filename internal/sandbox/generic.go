package sandbox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// generic is a provider as the IETF would have it: the fields RateLimit and
// RateLimit-Policy of draft 10 on every answer, and problem details (RFC 9457)
// for errors.
var generic = dialect{
	surface: genericSurface,
	demand:  asProduced,
	moves:   sliding,
	headers: func(h http.Header, _ time.Time, ls *levels) {
		var policies, limits []string
		for _, p := range policyNames {
			if l := ls[p.of]; l != nil {
				policies = append(policies, fmt.Sprintf("%q;q=%d;w=%d", p.name, l.limit, int64(p.of.window()/time.Second)))
				limits = append(limits, fmt.Sprintf("%q;r=%d;t=%d", p.name, l.remaining, ceil(l.reset, time.Second)))
			}
		}
		if policies != nil {
			h.Set("RateLimit-Policy", strings.Join(policies, ", "))
			h.Set("RateLimit", strings.Join(limits, ", "))
		}
	},
	says: map[kind]wording{
		limited:    {429, "https://iana.org/assignments/http-problem-types#quota-exceeded", "", "Request cannot be satisfied as assigned quota has been exceeded"},
		exhausted:  {402, "about:blank", "", "Payment Required"},
		overloaded: {503, "about:blank", "", "Service Unavailable"},
		wrongKey:   {401, "about:blank", "", "Unauthorized"},
		forbidden:  {403, "about:blank", "", "Forbidden"},
	},
	shape: func(_ http.Header, w *wording, f *failure) any {
		body := obj{"type": w.typ, "title": w.message, "status": w.status}
		if f.kind == limited {
			for _, p := range policyNames {
				if f.refusal.dim == p.of && !f.refusal.concurrency {
					body["violated-policies"] = []string{p.name}
				}
			}
		}
		return body
	},
}

// policyNames are the limits that the fields have a unit for.
var policyNames = [...]struct {
	of   dimension
	name string
}{{rpm, "minute"}, {rph, "hour"}, {rpd, "day"}}

// call is the format of POST /v1/call.
type call struct{}

func parseCall(body []byte, _ string) (*request, error) {
	var b struct {
		Model           string          `json:"model"`
		Input           json.RawMessage `json:"input"`
		MaxOutputTokens *int64          `json:"max_output_tokens"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	limit, err := outputCap("max_output_tokens", b.MaxOutputTokens)
	if err != nil {
		return nil, err
	}
	return &request{model: b.Model, maxOutput: limit, input: estimate(b.Input)}, nil
}

func (call) whole(a *answer) any {
	return obj{"id": a.id, "text": a.text.String(), "usage": obj{"input_tokens": a.input, "output_tokens": a.produced}}
}

func (call) begin(*answer) []event         { return nil }
func (call) delta(*answer, string) []event { return nil }
func (call) end(*answer) []event           { return nil }
