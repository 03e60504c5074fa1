package sandbox

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// gemini has no headers. A project's requests and input tokens count from one
// full minute to the next, and a day's until midnight in California. A refusal
// names the quota and the wait in its body; a wrong key is a 400.
var gemini = dialect{
	surface:  googleSurface,
	demand:   inputOnly,
	moves:    onClock,
	zone:     time.FixedZone("PST", -8*60*60),
	identify: silently,
	says: map[kind]wording{
		notFound: {404, "NOT_FOUND", "", "Requested entity was not found."},
		noKey:    {403, "PERMISSION_DENIED", "", "Method doesn't allow unregistered callers."},
		wrongKey: {400, "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid. Please pass a valid API key."},
		tooLarge: {400, "INVALID_ARGUMENT", "", "Request payload size exceeds the limit."},
		invalid:  {400, "INVALID_ARGUMENT", "", "{problem}"},
		limited: {429, "RESOURCE_EXHAUSTED", "", "You exceeded your current quota, please check your plan and billing details. " +
			"* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_{what}, limit: {limit}, model: {model}\n" +
			"Please retry in {wait}."},
		exhausted:  {429, "RESOURCE_EXHAUSTED", "", "You exceeded your current quota, please check your plan and billing details."},
		overloaded: {503, "UNAVAILABLE", "", "The model is overloaded. Please try again later."},
		forbidden:  {403, "PERMISSION_DENIED", "", "The project may not use {model}."},
	},
	shape: func(_ http.Header, w *wording, f *failure) any {
		switch f.kind {
		case limited:
			return googleError(w, violation(f.refusal.quotaID(), f.model, f.refusal.limit),
				obj{"@type": googleType + "RetryInfo", "retryDelay": wholeSeconds(f.now, f.refusal.stated()) + "s"})
		case exhausted: // the short wait beside the day's quota is misleading, and real
			return googleError(w, violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier", f.model, 250),
				obj{"@type": googleType + "RetryInfo", "retryDelay": "31s"})
		}
		if w.code != "" {
			return googleError(w, obj{"@type": googleType + "ErrorInfo", "reason": w.code, "domain": "googleapis.com"})
		}
		return googleError(w)
	},
}

// vertex is Gemini on Google Cloud: a 429 of the pool that all customers share
// names no quota; that of a customer's own throughput says so.
var vertex = dialect{
	surface:  googleSurface,
	demand:   inputOnly,
	moves:    sliding,
	identify: silently,
	says: map[kind]wording{
		notFound:  gemini.says[notFound],
		noKey:     {401, "UNAUTHENTICATED", "", "Request is missing required authentication credential."},
		wrongKey:  {401, "UNAUTHENTICATED", "", "Request had invalid authentication credentials."},
		tooLarge:  gemini.says[tooLarge],
		invalid:   gemini.says[invalid],
		limited:   {429, "RESOURCE_EXHAUSTED", "", "Exceeded the Provisioned Throughput."},
		exhausted: gemini.says[exhausted],
		overloaded: {429, "RESOURCE_EXHAUSTED", "", "Resource exhausted. Please try again later. Please refer to " +
			"https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."},
		forbidden: {403, "PERMISSION_DENIED", "", "Permission 'aiplatform.endpoints.predict' denied on resource {model}."},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		if f.kind == exhausted {
			return gemini.shape(h, w, f)
		}
		return googleError(w)
	},
}

const googleType = "type.googleapis.com/google.rpc."

func silently(http.Header, string, string, time.Duration) {}

// inputOnly counts the input, of tokens.
func inputOnly(r *request) demand { return reserved(r, r.input) }

func googleError(w *wording, details ...obj) any {
	inner := obj{"code": w.status, "message": w.message, "status": w.typ}
	if len(details) > 0 {
		inner["details"] = details
	}
	return obj{"error": inner}
}

func violation(id, model string, limit int64) obj {
	return obj{"@type": googleType + "QuotaFailure", "violations": []obj{{
		"quotaMetric":     "generativelanguage.googleapis.com/generate_content_requests",
		"quotaId":         id,
		"quotaDimensions": obj{"model": model, "location": "global"},
		"quotaValue":      decimal(limit),
	}}}
}

// quotaID names a limit as Google does.
func (r *refusal) quotaID() string {
	what, per := "Requests", "Minute"
	if r.dim.countsTokens() {
		what = "InputTokens"
	}
	if r.dim.window() > time.Hour {
		per = "Day"
	}
	return "Generate" + what + "Per" + per + "PerProjectPerModel-FreeTier"
}

// content is the format of generateContent.
type content struct{}

func parseContent(body []byte, model string) (*request, error) {
	var b struct {
		Contents          []json.RawMessage `json:"contents"`
		SystemInstruction json.RawMessage   `json:"systemInstruction"`
		GenerationConfig  struct {
			MaxOutputTokens *int64 `json:"maxOutputTokens"`
		} `json:"generationConfig"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if len(b.Contents) == 0 {
		return nil, &badRequest{"* GenerateContentRequest.contents: contents is not specified", "contents"}
	}
	limit, err := outputCap("maxOutputTokens", b.GenerationConfig.MaxOutputTokens)
	if err != nil {
		return nil, err
	}
	return &request{model: model, maxOutput: limit, input: estimate(append(b.Contents, b.SystemInstruction)...)}, nil
}

func (c content) whole(a *answer) any { return c.chunk(a, a.text.String(), c.finishReason(a)) }

func (content) begin(*answer) []event { return nil }

func (c content) delta(a *answer, text string) []event {
	return []event{{data: c.chunk(a, text, "")}}
}

func (c content) end(a *answer) []event { return []event{{data: c.chunk(a, "", c.finishReason(a))}} }

// chunk tells in every part of a stream what was used until then.
func (content) chunk(a *answer, text, finish string) obj {
	candidate := obj{"content": obj{"role": "model", "parts": []obj{{"text": text}}}, "index": 0}
	if finish != "" {
		candidate["finishReason"] = finish
	}
	return obj{
		"candidates": []obj{candidate},
		"usageMetadata": obj{
			"promptTokenCount": a.input, "candidatesTokenCount": a.produced, "totalTokenCount": a.input + a.produced,
		},
		"modelVersion": a.model,
		"responseId":   a.id,
	}
}

func (content) finishReason(a *answer) string {
	if a.maxed {
		return "MAX_TOKENS"
	}
	return "STOP"
}

// inArray puts the events of a stream into one JSON array.
type inArray struct{}

func (inArray) contentType() string { return "application/json" }

func (inArray) frame(_ *event, data []byte, nth int) []byte {
	return append([]byte(strings.Repeat("[", 1-min(nth, 1))+strings.Repeat(",\r\n", min(nth, 1))), data...)
}

func (inArray) last() []byte { return []byte("]") }
