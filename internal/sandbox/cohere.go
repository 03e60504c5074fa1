package sandbox

import (
	"encoding/json"
	"net/http"
)

// cohere counts requests by model, and a trial key's tokens; it tells nothing
// but the message of a refusal. A trial's month that is used up is a 429, too.
var cohere = dialect{
	surface: cohereSurface,
	demand:  asProduced,
	moves:   sliding,
	says: map[kind]wording{
		limited:    {429, "", "", "You are using a Trial key, which is limited to {limit} API calls / minute."},
		exhausted:  {429, "", "", "You are using a Trial key, which is limited to 1000 API calls / month."},
		overloaded: {503, "", "", "The service is currently unavailable."},
		wrongKey:   {401, "", "", "invalid api token"},
		forbidden:  {403, "", "", "model '{model}' is not available to this key."},
	},
	shape: func(_ http.Header, w *wording, f *failure) any {
		if f.kind == limited && f.refusal.dim.countsTokens() {
			return obj{"message": "trial token rate limit exceeded, limit is " + decimal(f.refusal.limit) + " tokens per minute"}
		}
		return obj{"message": w.message}
	},
}

// chatV2 is the format of Cohere's POST /v2/chat.
type chatV2 struct{}

func parseChatV2(body []byte, _ string) (*request, error) {
	var b struct {
		Model     string            `json:"model"`
		Messages  []json.RawMessage `json:"messages"`
		MaxTokens *int64            `json:"max_tokens"`
		Stream    bool              `json:"stream"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if b.Model == "" || len(b.Messages) == 0 {
		return nil, &badRequest{"invalid request: model and messages must be given", ""}
	}
	limit, err := outputCap("max_tokens", b.MaxTokens)
	if err != nil {
		return nil, err
	}
	return &request{model: b.Model, stream: b.Stream, maxOutput: limit, input: estimate(b.Messages...)}, nil
}

func (c chatV2) whole(a *answer) any {
	return obj{
		"id": a.id, "finish_reason": c.finishReason(a), "usage": c.usage(a),
		"message": obj{"role": "assistant", "content": []obj{{"type": "text", "text": a.text.String()}}},
	}
}

func (chatV2) begin(a *answer) []event {
	return []event{
		named("message-start", obj{"id": a.id, "delta": obj{"message": obj{"role": "assistant", "content": []obj{}}}}),
		named("content-start", obj{"index": 0, "delta": obj{"message": obj{"content": obj{"type": "text", "text": ""}}}}),
	}
}

func (chatV2) delta(_ *answer, text string) []event {
	return []event{named("content-delta", obj{"index": 0, "delta": obj{"message": obj{"content": obj{"text": text}}}})}
}

func (c chatV2) end(a *answer) []event {
	return []event{
		named("content-end", obj{"index": 0}),
		named("message-end", obj{"delta": obj{"finish_reason": c.finishReason(a), "usage": c.usage(a)}}),
	}
}

func (chatV2) usage(a *answer) obj {
	return obj{
		"billed_units": obj{"input_tokens": a.input, "output_tokens": a.produced},
		"tokens":       obj{"input_tokens": a.input, "output_tokens": a.produced},
	}
}

func (chatV2) finishReason(a *answer) string {
	if a.maxed {
		return "MAX_TOKENS"
	}
	return "COMPLETE"
}
