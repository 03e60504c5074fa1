package sandbox

import "encoding/json"

// responses is the format of OpenAI's POST /v1/responses: one message with
// one text, and nothing stored.
type responses struct{}

func parseResponses(body []byte, _ string) (*request, error) {
	var b struct {
		Model           string          `json:"model"`
		MaxOutputTokens *int64          `json:"max_output_tokens"`
		Input           json.RawMessage `json:"input"`
		Instructions    json.RawMessage `json:"instructions"`
		Stream          bool            `json:"stream"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if b.Model == "" {
		return nil, &badRequest{"Missing required parameter: 'model'.", "model"}
	}
	limit, err := outputCap("max_output_tokens", b.MaxOutputTokens)
	if err != nil {
		return nil, err
	}
	return &request{
		model:     b.Model,
		stream:    b.Stream,
		maxOutput: limit,
		input:     estimate(b.Input, b.Instructions),
	}, nil
}

func (r responses) whole(a *answer) any {
	status := r.status(a)
	response := r.response(a, status)
	response["output"] = []obj{r.message(a, status, r.part(a.text.String()))}
	response["usage"] = obj{
		"input_tokens":          a.input,
		"input_tokens_details":  obj{"cached_tokens": 0},
		"output_tokens":         a.produced,
		"output_tokens_details": obj{"reasoning_tokens": 0},
		"total_tokens":          a.input + a.produced,
	}
	return response
}

func (r responses) begin(a *answer) []event {
	return []event{
		r.event(a, "response.created", obj{"response": r.response(a, "in_progress")}),
		r.event(a, "response.in_progress", obj{"response": r.response(a, "in_progress")}),
		r.event(a, "response.output_item.added", obj{"output_index": 0, "item": r.message(a, "in_progress")}),
		r.event(a, "response.content_part.added", r.where(a, obj{"part": r.part("")})),
	}
}

func (r responses) delta(a *answer, text string) []event {
	return []event{r.event(a, "response.output_text.delta", r.where(a, obj{"delta": text, "logprobs": []obj{}}))}
}

func (r responses) end(a *answer) []event {
	status, text := r.status(a), a.text.String()
	return []event{
		r.event(a, "response.output_text.done", r.where(a, obj{"text": text, "logprobs": []obj{}})),
		r.event(a, "response.content_part.done", r.where(a, obj{"part": r.part(text)})),
		r.event(a, "response.output_item.done", obj{"output_index": 0, "item": r.message(a, status, r.part(text))}),
		r.event(a, "response."+status, obj{"response": r.whole(a)}),
	}
}

// event numbers the events of an answer.
func (responses) event(a *answer, name string, data obj) event {
	data["sequence_number"] = a.sequence
	a.sequence++
	return named(name, data)
}

// where adds what every event about the text says of its place.
func (r responses) where(a *answer, data obj) obj {
	data["item_id"], data["output_index"], data["content_index"] = "msg_"+a.id, 0, 0
	return data
}

func (responses) response(a *answer, status string) obj {
	response := obj{
		"id":                  "resp_" + a.id,
		"object":              "response",
		"created_at":          a.created.Unix(),
		"status":              status,
		"model":               a.model,
		"output":              []obj{},
		"error":               nil,
		"incomplete_details":  nil,
		"instructions":        nil,
		"metadata":            obj{},
		"parallel_tool_calls": true,
		"temperature":         1,
		"tool_choice":         "auto",
		"tools":               []obj{},
		"top_p":               1,
		"usage":               nil,
	}
	if status == "incomplete" {
		response["incomplete_details"] = obj{"reason": "max_output_tokens"}
	}
	return response
}

func (responses) message(a *answer, status string, parts ...obj) obj {
	if parts == nil {
		parts = []obj{}
	}
	return obj{"id": "msg_" + a.id, "type": "message", "role": "assistant", "status": status, "content": parts}
}

func (responses) part(text string) obj {
	return obj{"type": "output_text", "text": text, "annotations": []obj{}}
}

func (responses) status(a *answer) string {
	if a.maxed {
		return "incomplete"
	}
	return "completed"
}
