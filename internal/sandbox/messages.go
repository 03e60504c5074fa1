package sandbox

import "encoding/json"

// messages is the format of Anthropic's POST /v1/messages.
type messages struct{}

func parseMessages(body []byte, _ string) (*request, error) {
	var b struct {
		Model     string            `json:"model"`
		MaxTokens *int64            `json:"max_tokens"`
		Messages  []json.RawMessage `json:"messages"`
		System    json.RawMessage   `json:"system"`
		Stream    bool              `json:"stream"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	switch {
	case b.Model == "":
		return nil, &badRequest{"model: Field required", "model"}
	case b.MaxTokens == nil:
		return nil, &badRequest{"max_tokens: Field required", "max_tokens"}
	case *b.MaxTokens < 1:
		return nil, &badRequest{"max_tokens: must be greater than or equal to 1", "max_tokens"}
	case len(b.Messages) == 0:
		return nil, &badRequest{"messages: at least one message is required", "messages"}
	}
	return &request{
		model:     b.Model,
		stream:    b.Stream,
		maxOutput: *b.MaxTokens,
		input:     estimate(append(b.Messages, b.System)...),
	}, nil
}

func (m messages) whole(a *answer) any {
	message := m.message(a, a.produced)
	message["content"] = []obj{{"type": "text", "text": a.text.String()}}
	message["stop_reason"] = m.stopReason(a)
	return message
}

// begin announces one output token, as the real stream does before it has
// generated any: a usage that message_delta replaces.
func (m messages) begin(a *answer) []event {
	return []event{
		named("message_start", obj{"message": m.message(a, min(1, a.output))}),
		named("content_block_start", obj{"index": 0, "content_block": obj{"type": "text", "text": ""}}),
		named("ping", obj{}),
	}
}

func (messages) delta(_ *answer, text string) []event {
	return []event{named("content_block_delta", obj{"index": 0, "delta": obj{"type": "text_delta", "text": text}})}
}

func (m messages) end(a *answer) []event {
	return []event{
		named("content_block_stop", obj{"index": 0}),
		named("message_delta", obj{
			"delta": obj{"stop_reason": m.stopReason(a), "stop_sequence": nil},
			"usage": m.usage(a, a.produced),
		}),
		named("message_stop", obj{}),
	}
}

// message is the answer without its content.
func (m messages) message(a *answer, output int64) obj {
	usage := m.usage(a, output)
	usage["service_tier"] = "standard"
	return obj{
		"id":            "msg_" + a.id,
		"type":          "message",
		"role":          "assistant",
		"model":         a.model,
		"content":       []obj{},
		"stop_reason":   nil,
		"stop_sequence": nil,
		"usage":         usage,
	}
}

func (messages) usage(a *answer, output int64) obj {
	return obj{
		"input_tokens":                a.input,
		"cache_creation_input_tokens": 0,
		"cache_read_input_tokens":     0,
		"output_tokens":               output,
	}
}

func (messages) stopReason(a *answer) string {
	if a.maxed {
		return "max_tokens"
	}
	return "end_turn"
}

// named is an event whose data repeats its name, as both providers do it.
func named(name string, data obj) event {
	data["type"] = name
	return event{name: name, data: data}
}
