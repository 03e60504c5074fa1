package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"net/http"
	"time"
)

// bedrock has no headers about limits, and states no waits. A request must fit
// with all the output that it may come to, of which a token counts five (Claude
// 4), and what it really used is charged: it is settled as the answer comes,
// which is not said to be so, but cannot be told from the outside. A wrong API
// key is a 403 (ai4s-research/open-science#53).
var bedrock = dialect{
	surface: bedrockSurface,
	demand:  func(r *request) demand { return burning(r, max(r.maxOutput, r.output), 5) },
	moves:   sliding,
	identify: func(h http.Header, _, id string, _ time.Duration) {
		h.Set("x-amzn-RequestId", id)
	},
	says: map[kind]wording{
		notFound:   {404, "UnknownOperationException", "", "Unknown operation."},
		noKey:      {403, "AccessDeniedException", "", "Missing Authentication Token"},
		wrongKey:   {403, "AccessDeniedException", "", "Authentication failed: Please make sure your API Key is valid."},
		tooLarge:   {413, "RequestEntityTooLargeException", "", "The request body is too large."},
		invalid:    {400, "ValidationException", "", "{problem}"},
		limited:    {429, "ThrottlingException", "", "Too many {what}, please wait before trying again."},
		exhausted:  {400, "ServiceQuotaExceededException", "", "Your request exceeds the service quota for your account."},
		overloaded: {503, "ServiceUnavailableException", "", "Bedrock is unable to process your request."},
		forbidden:  {403, "AccessDeniedException", "", "You don't have access to the model with the specified model ID."},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		h.Set("x-amzn-ErrorType", w.typ+":http://internal.amazon.com/coral/com.amazon.bedrock/")
		if f.kind == wrongKey { // it comes from another layer
			return obj{"Message": w.message}
		}
		return obj{"message": w.message}
	},
}

// converse is the format of Bedrock's Converse.
type converse struct{}

func parseConverse(body []byte, model string) (*request, error) {
	var b struct {
		Messages        []json.RawMessage `json:"messages"`
		System          json.RawMessage   `json:"system"`
		InferenceConfig struct {
			MaxTokens *int64 `json:"maxTokens"`
		} `json:"inferenceConfig"`
	}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if len(b.Messages) == 0 {
		return nil, &badRequest{"The value at messages is empty. Provide at least one message.", "messages"}
	}
	limit, err := outputCap("maxTokens", b.InferenceConfig.MaxTokens)
	if err != nil {
		return nil, err
	}
	return &request{model: model, maxOutput: limit, input: estimate(append(b.Messages, b.System)...)}, nil
}

func (c converse) whole(a *answer) any {
	return obj{
		"output":     obj{"message": obj{"role": "assistant", "content": []obj{{"text": a.text.String()}}}},
		"stopReason": c.stopReason(a),
		"usage":      c.usage(a),
		"metrics":    obj{"latencyMs": 0},
	}
}

func (converse) begin(*answer) []event {
	return []event{{name: "messageStart", data: obj{"role": "assistant"}}}
}

func (converse) delta(_ *answer, text string) []event {
	return []event{{name: "contentBlockDelta", data: obj{"contentBlockIndex": 0, "delta": obj{"text": text}}}}
}

func (c converse) end(a *answer) []event {
	return []event{
		{name: "contentBlockStop", data: obj{"contentBlockIndex": 0}},
		{name: "messageStop", data: obj{"stopReason": c.stopReason(a)}},
		{name: "metadata", data: obj{"usage": c.usage(a), "metrics": obj{"latencyMs": 0}}},
	}
}

func (converse) usage(a *answer) obj {
	return obj{"inputTokens": a.input, "outputTokens": a.produced, "totalTokens": a.input + a.produced}
}

func (converse) stopReason(a *answer) string {
	if a.maxed {
		return "max_tokens"
	}
	return "end_turn"
}

// inFrames is AWS's event stream: a prelude of two lengths and their checksum,
// headers, the data, and a checksum of all.
type inFrames struct{}

func (inFrames) contentType() string { return "application/vnd.amazon.eventstream" }

func (inFrames) frame(e *event, data []byte, _ int) []byte {
	const (
		prelude = 12 // bytes
		text    = 7  // the type of a header's value
	)
	var headers []byte
	for _, h := range [...][2]string{
		{":event-type", e.name}, {":content-type", "application/json"}, {":message-type", "event"},
	} {
		headers = append(headers, byte(len(h[0])))
		headers = append(headers, h[0]...)
		headers = append(headers, text)
		headers = binary.BigEndian.AppendUint16(headers, uint16(len(h[1])))
		headers = append(headers, h[1]...)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(prelude+len(headers)+len(data)+crc32.Size))
	out = binary.BigEndian.AppendUint32(out, uint32(len(headers)))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out))
	out = append(append(out, headers...), data...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out))
}

func (inFrames) last() []byte { return nil }
