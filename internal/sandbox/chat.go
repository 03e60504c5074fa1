package sandbox

import "encoding/json"

// chat is the format of OpenAI's POST /v1/chat/completions, with one choice.
type chat struct{}

func parseChat(body []byte, model string) (*request, error) {
	var b struct {
		Model               string            `json:"model"`
		MaxTokens           *int64            `json:"max_tokens"`
		MaxCompletionTokens *int64            `json:"max_completion_tokens"`
		Messages            []json.RawMessage `json:"messages"`
		Stream              bool              `json:"stream"`
		StreamOptions       struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if model != "" { // Azure's deployment
		b.Model = model
	}
	switch {
	case b.Model == "":
		return nil, &badRequest{"you must provide a model parameter", "model"}
	case len(b.Messages) == 0:
		return nil, &badRequest{"Missing required parameter: 'messages'.", "messages"}
	}
	limit, err := outputCap("max_completion_tokens", b.MaxCompletionTokens)
	if limit == 0 && err == nil {
		limit, err = outputCap("max_tokens", b.MaxTokens)
	}
	if err != nil {
		return nil, err
	}
	return &request{
		model:        b.Model,
		stream:       b.Stream,
		includeUsage: b.StreamOptions.IncludeUsage,
		maxOutput:    limit,
		input:        estimate(b.Messages...),
	}, nil
}

// outputCap is the value of an optional cap; 0 if it is absent.
func outputCap(name string, v *int64) (int64, error) {
	switch {
	case v == nil:
		return 0, nil
	case *v < 1:
		return 0, &badRequest{"Invalid '" + name + "': integer below minimum value. Expected a value >= 1.", name}
	}
	return *v, nil
}

func (c chat) whole(a *answer) any {
	completion := c.envelope(a, "chat.completion")
	completion["choices"] = []obj{{
		"index":         0,
		"message":       obj{"role": "assistant", "content": a.text.String(), "refusal": nil},
		"logprobs":      nil,
		"finish_reason": c.finishReason(a),
	}}
	completion["usage"] = c.usage(a)
	return completion
}

func (c chat) begin(a *answer) []event {
	return []event{c.chunk(a, obj{"role": "assistant", "content": "", "refusal": nil}, nil)}
}

func (c chat) delta(a *answer, text string) []event {
	return []event{c.chunk(a, obj{"content": text}, nil)}
}

func (c chat) end(a *answer) []event {
	events := []event{c.chunk(a, obj{}, c.finishReason(a))}
	if a.includeUsage {
		last := c.envelope(a, "chat.completion.chunk")
		last["choices"], last["usage"] = []obj{}, c.usage(a)
		events = append(events, event{data: last})
	}
	return append(events, event{raw: "[DONE]"})
}

func (c chat) chunk(a *answer, delta obj, finish any) event {
	chunk := c.envelope(a, "chat.completion.chunk")
	chunk["choices"] = []obj{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}
	if a.includeUsage {
		chunk["usage"] = nil
	}
	return event{data: chunk}
}

func (chat) envelope(a *answer, object string) obj {
	return obj{"id": "chatcmpl-" + a.id, "object": object, "created": a.created.Unix(), "model": a.model}
}

func (chat) usage(a *answer) obj {
	return obj{
		"prompt_tokens":             a.input,
		"completion_tokens":         a.produced,
		"total_tokens":              a.input + a.produced,
		"prompt_tokens_details":     obj{"cached_tokens": 0},
		"completion_tokens_details": obj{"reasoning_tokens": 0},
	}
}

func (chat) finishReason(a *answer) string {
	if a.maxed {
		return "length"
	}
	return "stop"
}
