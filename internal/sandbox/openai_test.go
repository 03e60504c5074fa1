package sandbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/sandbox"
)

// hi is understood by both OpenAI endpoints.
const hi = `{"model":"gpt-x","messages":[{"role":"user","content":"Hello there"}],"input":"Hello there"}`

func openAIWorld(t *testing.T, l sandbox.Limits) *world {
	return open(t, sandbox.Options{}, sandbox.Account{Type: "openai", Name: "org-x", Keys: []string{"cnry7f3a-k"}, Default: l})
}

func (w *world) chat(more string, headers ...string) reply {
	body := strings.TrimSuffix(hi, "}") + more + "}"
	return w.post("/v1/chat/completions", body, append(headers, "Authorization", "Bearer cnry7f3a-k")...)
}

func TestChat(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{})
	got := w.chat("", "x-sandbox-output-tokens", "12")
	require.Equal(t, 200, got.status, got.body)
	assert.Equal(t, "org-x", got.header.Get("openai-organization"))
	assert.Equal(t, "0", got.header.Get("openai-processing-ms"))
	assert.NotEmpty(t, got.header.Get("x-request-id"))

	c := got.json(t)
	assert.Equal(t, "chat.completion", at(t, c, "object"))
	assert.Equal(t, "stop", at(t, c, "choices", 0, "finish_reason"))
	assert.Len(t, strings.Fields(at(t, c, "choices", 0, "message", "content").(string)), 12)
	assert.EqualValues(t, 3, at(t, c, "usage", "prompt_tokens"))
	assert.EqualValues(t, 12, at(t, c, "usage", "completion_tokens"))
	assert.EqualValues(t, 15, at(t, c, "usage", "total_tokens"))
}

func TestChatStream(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{})
	for _, usage := range []bool{false, true} {
		more := fmt.Sprintf(`,"stream":true,"max_tokens":10,"stream_options":{"include_usage":%v}`, usage)
		fs := w.chat(more, "x-sandbox-output-tokens", "12").frames(t)
		require.Equal(t, frame{data: "[DONE]"}, fs[len(fs)-1])
		fs = fs[:len(fs)-1]
		if usage {
			last := fs[len(fs)-1].json(t)
			fs = fs[:len(fs)-1]
			assert.Empty(t, at(t, last, "choices"))
			assert.EqualValues(t, 10, at(t, last, "usage", "completion_tokens"))
		}
		var text strings.Builder
		for _, f := range fs {
			assert.Empty(t, f.name)
			c := f.json(t)
			assert.Equal(t, "chat.completion.chunk", at(t, c, "object"))
			if usage {
				assert.Nil(t, at(t, c, "usage"))
			} else {
				assert.NotContains(t, c, "usage")
			}
			if content, ok := at(t, c, "choices", 0, "delta").(map[string]any)["content"]; ok {
				text.WriteString(content.(string))
			}
		}
		assert.Len(t, strings.Fields(text.String()), 10)
		assert.Equal(t, "assistant", at(t, fs[0].json(t), "choices", 0, "delta", "role"))
		assert.Equal(t, "length", at(t, fs[len(fs)-1].json(t), "choices", 0, "finish_reason"))
	}
}

func TestResponses(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{})
	post := func(more string) reply {
		return w.post("/v1/responses", strings.TrimSuffix(hi, "}")+more+"}",
			"Authorization", "Bearer cnry7f3a-k", "x-sandbox-output-tokens", "12")
	}
	r := post("").json(t)
	assert.Equal(t, "completed", at(t, r, "status"))
	assert.Len(t, strings.Fields(at(t, r, "output", 0, "content", 0, "text").(string)), 12)
	assert.EqualValues(t, 3, at(t, r, "usage", "input_tokens"))
	assert.EqualValues(t, 12, at(t, r, "usage", "output_tokens"))

	var names []string
	fs := post(`,"stream":true,"max_output_tokens":10`).frames(t)
	for i, f := range fs {
		names = append(names, f.name)
		assert.Equal(t, f.name, at(t, f.json(t), "type"))
		assert.EqualValues(t, i, at(t, f.json(t), "sequence_number"))
	}
	assert.Equal(t, []string{
		"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
		"response.output_text.delta", "response.output_text.delta",
		"response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
	}, names)
	last := fs[len(fs)-1].json(t)
	assert.EqualValues(t, 10, at(t, last, "response", "usage", "output_tokens"))
	assert.Equal(t, "max_output_tokens", at(t, last, "response", "incomplete_details", "reason"))
}

func TestOpenAIHeaders(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{RPM: 5000, TPM: 160000, RPD: 9})
	got := w.chat(`,"max_tokens":24`)
	for name, want := range map[string]string{
		"x-ratelimit-limit-requests":     "5000",
		"x-ratelimit-remaining-requests": "4999",
		"x-ratelimit-reset-requests":     "12ms",
		"x-ratelimit-limit-tokens":       "160000",
		"x-ratelimit-remaining-tokens":   "159976",
		"x-ratelimit-reset-tokens":       "9ms",
	} {
		assert.Equal(t, want, got.header.Get(name), name)
	}

	w = openAIWorld(t, sandbox.Limits{RPD: 10000})
	got = w.chat("")
	assert.Equal(t, "8.64s", got.header.Get("x-ratelimit-reset-requests"))
	assert.Empty(t, got.header.Get("x-ratelimit-limit-tokens"))
}

// The numbers are those of a recorded answer.
func TestOpenAIRefusal(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{TPM: 30000})
	require.Equal(t, 200, w.chat(`,"max_tokens":29937`).status)
	got := w.chat(`,"max_completion_tokens":385`)
	require.Equal(t, 429, got.status)
	assert.Equal(t, "1", got.header.Get("retry-after"))
	assert.Equal(t, "644", got.header.Get("retry-after-ms"))
	assert.Equal(t, "63", got.header.Get("x-ratelimit-remaining-tokens"))
	assert.Equal(t, map[string]any{
		"message": "Rate limit reached for gpt-x in organization org-x on tokens per min (TPM): " +
			"Limit 30000, Used 29937, Requested 385. Please try again in 644ms.",
		"type": "tokens", "param": nil, "code": "rate_limit_exceeded",
	}, at(t, got.json(t), "error"))

	w.clock.advance(643 * time.Millisecond)
	assert.Equal(t, 429, w.chat(`,"max_completion_tokens":385`).status)
	w.clock.advance(time.Millisecond)
	assert.Equal(t, 200, w.chat(`,"max_completion_tokens":385`).status)
}

func TestOpenAIReservationIsKept(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{TPM: 1000})
	require.Equal(t, 200, w.chat(`,"max_tokens":600`, "x-sandbox-output-tokens", "1").status)
	assert.Equal(t, 429, w.chat(`,"max_tokens":401`, "x-sandbox-output-tokens", "1").status)
	assert.Equal(t, 429, w.chat(`,"max_tokens":1`, "x-sandbox-input-tokens", "401").status, "the larger counts")
	assert.Equal(t, 200, w.chat(`,"max_tokens":400`, "x-sandbox-output-tokens", "1").status)
}

func TestOpenAIRequestsPerDay(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{RPM: 100, RPD: 1})
	require.Equal(t, 200, w.chat("").status)
	got := w.chat("")
	assert.Equal(t, 429, got.status)
	assert.Equal(t, "requests", at(t, got.json(t), "error", "type"))
	assert.Contains(t, got.body, "on requests per day (RPD): Limit 1, Used 1, Requested 1. Please try again in 24h0m0s.")
}

func TestOpenAIRequestTooLarge(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{TPM: 30000})
	got := w.chat(`,"max_tokens":36278`)
	assert.Equal(t, 429, got.status)
	assert.Empty(t, got.header.Get("retry-after"))
	assert.Contains(t, got.body,
		"Request too large for gpt-x in organization org-x on tokens per min (TPM): Limit 30000, Requested 36278.")
	assert.Equal(t, 200, w.chat(`,"max_tokens":30000`).status)
}

func TestOpenAIMagicModels(t *testing.T) {
	w := openAIWorld(t, sandbox.Limits{RPM: 10})
	fail := func(suffix string) reply {
		return w.post("/v1/responses", strings.Replace(hi, "gpt-x", "gpt-x-"+suffix, 1), "Authorization", "Bearer cnry7f3a-k")
	}
	got := fail("overloaded")
	assert.Equal(t, 503, got.status)
	assert.Equal(t, "server_is_overloaded", at(t, got.json(t), "error", "code"))
	got = fail("exhausted")
	assert.Equal(t, 429, got.status)
	assert.Equal(t, "insufficient_quota", at(t, got.json(t), "error", "type"))
	assert.Equal(t, "insufficient_quota", at(t, got.json(t), "error", "code"))
	assert.EqualValues(t, 2, w.class("org-x", "gpt-x").Failed)
}
