package provider

// What the body of an answer says of usage, errors and its end, however it
// arrives, and that nothing in it can make a number up.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func reading(body string) *Body {
	b := new(Body)
	n, err := b.Write([]byte(body))
	if n != len(body) || err != nil {
		panic("a body takes everything")
	}
	return b
}

// sse makes a stream of events: data, or "name|data".
func sse(events ...string) string {
	var b strings.Builder
	for _, e := range events {
		if name, data, ok := strings.Cut(e, "|"); ok {
			fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", name, data)
		} else {
			fmt.Fprintf(&b, "data: %s\n\n", e)
		}
	}
	return b.String()
}

// frame makes a message of Amazon's event stream; headers are names and values.
func frame(payload string, headers ...string) string {
	var h []byte
	for i := 0; i < len(headers); i += 2 {
		h = append(h, byte(len(headers[i])))
		h = append(h, headers[i]...)
		h = append(h, 7)
		h = binary.BigEndian.AppendUint16(h, uint16(len(headers[i+1])))
		h = append(h, headers[i+1]...)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(12+len(h)+len(payload)+4))
	b = binary.BigEndian.AppendUint32(b, uint32(len(h)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	b = append(append(b, h...), payload...)
	return string(binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)))
}

func used(input, write, read, output, reasoning, total int64) Usage {
	return Usage{Input: input, CacheWrite: write, CacheRead: read, Output: output, Reasoning: reasoning, Total: total}
}

const u = Unknown

const (
	anthropicBody = `{"type":"message","id":"msg_1","content":[{"type":"text","text":"Hi \"there\""}],"usage":{"input_tokens":2095,"cache_creation_input_tokens":10,"cache_read_input_tokens":900,"output_tokens":503,"service_tier":"standard"}}`
	openaiBody    = `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":13,"completion_tokens":5,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":2,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3}},"system_fingerprint":"fp"}`
	responsesBody = `{"id":"resp_1","object":"response","status":"completed","error":null,"incomplete_details":null,"output":[],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":20},"total_tokens":123},"user":null,"metadata":{}}`
	geminiBody    = `{"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":100,"candidatesTokenCount":20,"totalTokenCount":167,"cachedContentTokenCount":50,"thoughtsTokenCount":40,"toolUsePromptTokenCount":7,"promptTokensDetails":[{"modality":"TEXT","tokenCount":100}]},"modelVersion":"gemini-3-flash"}`
	converseBody  = `{"metrics":{"latencyMs":1168},"output":{"message":{"content":[{"text":"Hi"}],"role":"assistant"}},"stopReason":"end_turn","usage":{"inputTokens":30,"outputTokens":628,"totalTokens":658,"cacheReadInputTokens":3,"cacheWriteInputTokens":2}}`
	geminiError   = `{"error":{"code":429,"message":"You exceeded your quota.\nPlease retry in 58.2s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"g/requests","quotaId":"PerDay","quotaDimensions":{"model":"gemini-3-flash","location":"global"},"quotaValue":"5"},{"quotaId":"PerMinute","quotaValue":7}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"58s"},{"reason":"RATE_LIMIT_EXCEEDED"}]}}`
)

var anthropicStream = sse(
	`message_start|{"type":"message_start","message":{"id":"msg_1","type":"message","content":[],"usage":{"input_tokens":2679,"cache_creation_input_tokens":10,"cache_read_input_tokens":900,"output_tokens":3}}}`,
	`ping|{"type": "ping"}`,
	`content_block_delta|{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}`,
	`message_delta|{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":10682,"output_tokens":510}}`,
	`message_stop|{"type":"message_stop"}`,
)

var openaiStream = sse(
	`{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}`,
	`{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}`,
	`{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":13,"completion_tokens":5,"total_tokens":18}}`,
	`[DONE]`,
)

var bedrockStream = frame(`{"role":"assistant","p":"abc"}`, ":event-type", "messageStart", ":content-type", "application/json", ":message-type", "event") +
	frame(`{"contentBlockIndex":0,"delta":{"text":"Hi"}}`, ":event-type", "contentBlockDelta", ":message-type", "event") +
	frame(`{"stopReason":"end_turn"}`, ":event-type", "messageStop", ":message-type", "event") +
	frame(`{"metrics":{"latencyMs":5},"usage":{"inputTokens":30,"outputTokens":628,"totalTokens":658}}`, ":event-type", "metadata", ":message-type", "event")

// bodies are answers of every shape, and what they say.
var bodies = map[string]struct {
	body  string
	usage Usage
	ended bool
	error string
}{
	"anthropic": {anthropicBody, used(2095, 10, 900, 503, u, u), true, ""},
	"openai":    {openaiBody, used(13, 2, 4, 5, 3, 18), true, ""},
	"responses": {responsesBody, used(36, u, 4, 87, 20, 123), true, ""},
	"gemini":    {geminiBody, used(107, u, 50, 60, 40, 167), true, ""},
	"converse":  {converseBody, used(30, 2, 3, 628, u, 658), true, ""},
	"deepseek": {"\n\n\n" + `{"usage":{"prompt_tokens":20,"completion_tokens":9,"total_tokens":29,"prompt_cache_hit_tokens":16,"prompt_cache_miss_tokens":4}}`,
		used(20, u, 16, 9, u, 29), true, ""},
	"cohere": {`{"id":"x","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hi"}]},"usage":{"billed_units":{"input_tokens":5,"output_tokens":418},"tokens":{"input_tokens":71,"output_tokens":419}}}`,
		used(71, u, u, 419, u, u), true, ""},
	"cohere, only what is billed": {`{"usage":{"billed_units":{"input_tokens":5,"output_tokens":418}}}`, used(5, u, u, 418, u, u), true, ""},
	"gemini, still thinking":      {`{"usageMetadata":{"promptTokenCount":8,"thoughtsTokenCount":61,"totalTokenCount":69}}`, used(8, u, u, 61, 61, 69), true, ""},
	"gemini, array":               {"[" + `{"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":8}}` + "\n,\r\n" + geminiBody + "\n]", used(107, u, 50, 60, 40, 167), true, ""},
	"two names, one of them 0":    {`{"usage":{"prompt_tokens":13,"completion_tokens":5,"input_tokens":0,"output_tokens":0,"input_tokens_details":null}}`, used(13, u, u, 5, u, u), true, ""},
	"a byte order mark":           {"\ufeff " + openaiBody, used(13, 2, 4, 5, 3, 18), true, ""},
	"documents one by one":        {`{"usage":{"prompt_tokens":1}}` + "\n" + `{"usage":{"prompt_tokens":2}}` + "\n", used(2, u, u, u, u, u), true, ""},
	"no usage":                    {`{"object":"list","data":[1,2,{"a":"b"}]}`, NoUsage, true, ""},
	"a page":                      {"<html><body>\"usage\":{\"input_tokens\":5}</body></html>", NoUsage, false, ""},
	"gzip":                        {"\x1f\x8b\x08\x00{\"usage\":{\"input_tokens\":5}}", NoUsage, false, ""},
	"nothing":                     {"", NoUsage, false, ""},
	"blank lines":                 {"\n\n \r\n\t", NoUsage, false, ""},
	"words":                       {"Internal Server Error", NoUsage, false, ""},

	"anthropic stream": {anthropicStream, used(10682, 10, 900, 510, u, u), true, ""},
	"openai stream":    {openaiStream, used(13, u, u, 5, u, 18), true, ""},
	"responses stream": {sse(
		`response.created|{"type":"response.created","response":{"error":null,"usage":null}}`,
		`response.output_text.delta|{"type":"response.output_text.delta","delta":"usage error"}`,
		`response.completed|{"type":"response.completed","response":{"error":null,"output":[{"content":[{"text":"`+strings.Repeat("long ", 5000)+`"}]}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":4},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":20},"total_tokens":123}}}`),
		used(36, u, 4, 87, 20, 123), true, ""},
	"responses stream, incomplete": {sse(`response.incomplete|{"type":"response.incomplete","response":{"error":null,"usage":{"input_tokens":36}}}`), used(36, u, u, u, u, u), true, ""},
	"gemini stream": {strings.ReplaceAll(sse(
		`{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"usageMetadata":{"promptTokenCount":100,"totalTokenCount":100}}`, geminiBody), "\n", "\r\n"),
		used(107, u, 50, 60, 40, 167), true, ""},
	"gemini stream, cut off": {sse(`{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"usageMetadata":{"promptTokenCount":100,"totalTokenCount":100}}`), used(100, u, u, u, u, 100), false, ""},
	"gemini stream, blocked": {sse(`{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}`), used(9, u, u, u, u, 9), true, ""},
	"bedrock stream":         {bedrockStream, used(30, u, u, 628, u, 658), true, ""},
	"groq stream":            {sse(`{"choices":[],"x_groq":{"id":"req","usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}}`, "[DONE]"), used(7, u, u, 2, u, 9), true, ""},
	"deepseek stream, kept alive": {": keep-alive\n\n: keep-alive\n\n" + sse(`{"choices":[]}`, `{"usage":{"prompt_tokens":1,"completion_tokens":2}}`, "[DONE]"),
		used(1, u, u, 2, u, u), true, ""},
	"xai counts reasoning apart": {`{"usage":{"prompt_tokens":32,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":94},"total_tokens":135}}`,
		used(32, u, u, 103, 94, 135), true, ""},
	"xai stream, cumulative": {sse(`{"usage":{"prompt_tokens":7,"completion_tokens":1}}`, `{"usage":{"prompt_tokens":7,"completion_tokens":2}}`, `{"choices":[]}`), used(7, u, u, 2, u, u), false, ""},
	"cohere stream": {sse(`message-start|{"id":"1","type":"message-start","delta":{"message":{"role":"assistant"}}}`,
		`message-end|{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":5},"tokens":{"input_tokens":71,"output_tokens":419}}}}`),
		used(71, u, u, 419, u, u), true, ""},
	"no space, no end":            {"data:{\"usage\":{\"prompt_tokens\":7}}", used(7, u, u, u, u, u), false, ""},
	"one document in many lines":  {"event: x\ndata: {\"choices\":[],\ndata: \"usage\":\ndata:{\"prompt_tokens\":\r\ndata:7}}\n\n", used(7, u, u, u, u, u), false, ""},
	"a line that is not JSON":     {sse("hello \"{", `{"usage":{"prompt_tokens":7}}`), used(7, u, u, u, u, u), false, ""},
	"a document that breaks off":  {sse(`{"usage":{"prompt_tokens":7,"com`, `{"usage":{"completion_tokens":2}}`), used(7, u, u, 2, u, u), false, ""},
	"done with a stray character": {sse("[DONE"), NoUsage, false, ""},

	"anthropic stream, overloaded": {sse(`message_start|{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`,
		`error|{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}`),
		used(25, u, u, 1, u, u), false, `{"error":{"type":"overloaded_error","message":"Overloaded","details":[{}],"metadata":{}}}`},
	"an error without a name": {sse(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, "[DONE]"),
		NoUsage, false, `{"error":{"type":"overloaded_error","message":"Overloaded","details":[{}],"metadata":{}}}`},
	"responses stream, failed": {sse(`response.failed|{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Try again in 2.502s."},"usage":null}}`),
		NoUsage, false, `{"error":{"type":"response.failed","code":"rate_limit_exceeded","message":"Try again in 2.502s.","details":[{}],"metadata":{}}}`},
	"responses stream, error": {sse(`error|{"type":"error","code":"rate_limit_exceeded","message":"Slow down","param":null}`),
		NoUsage, false, `{"error":{"type":"error","code":"rate_limit_exceeded","message":"Slow down","details":[{}],"metadata":{}}}`},
	"openrouter stream, 429": {": OPENROUTER PROCESSING\n\n" + sse(`{"id":"c","error":{"code":429,"message":"Rate limit exceeded"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}`, "[DONE]"),
		NoUsage, false, `{"error":{"code":"429","message":"Rate limit exceeded","details":[{}],"metadata":{}}}`},
	"the name comes last":  {"data: {\"message\":\"late\"}\nevent: error\n\n" + sse(`{"error":"another"}`), NoUsage, false, `{"error":{"message":"late","details":[{}],"metadata":{}}}`},
	"an error of no words": {sse(`{"message":"old"}`) + "event: error\n\n", NoUsage, false, `{"error":true}`},
	"bedrock stream, throttled": {frame(`{"message":"Too many tokens"}`, ":exception-type", "throttlingException", ":content-type", "application/json", ":message-type", "exception"),
		NoUsage, false, `{"error":{"type":"throttlingException","message":"Too many tokens","details":[{}],"metadata":{}}}`},
	"bedrock stream, error": {bedrockStream + frame("", ":message-type", "error", ":error-code", "InternalError", ":error-message", "Oops"),
		used(30, u, u, 628, u, 658), false, `{"error":{"code":"InternalError","message":"Oops","details":[{}],"metadata":{}}}`},
	"an error beside usage": {`{"usage":{"prompt_tokens":7},"error":"no"}`, used(7, u, u, u, u, u), false, `{"error":{"message":"no","details":[{}],"metadata":{}}}`},
}

func TestBody(t *testing.T) {
	for name, c := range bodies {
		t.Run(name, func(t *testing.T) {
			b := reading(c.body)
			assert.Equal(t, c.usage, b.Usage())
			assert.Equal(t, c.ended, b.Ended())
			assert.Equal(t, c.error, string(b.Error()))
		})
	}
}

func TestZeroBody(t *testing.T) {
	var b Body
	assert.Equal(t, NoUsage, b.Usage())
	assert.False(t, b.Ended())
	assert.Nil(t, b.Error())
}

// A body may come in any pieces.
func TestPieces(t *testing.T) {
	for name, c := range bodies {
		t.Run(name, func(t *testing.T) {
			for _, most := range []int{1, 2, 7, 100} {
				assertSame(t, reading(c.body), pieces(c.body, most, rand.New(rand.NewPCG(1, 2))))
			}
		})
	}
}

// pieces writes a body in pieces of random lengths, in a buffer that is used
// for something else afterwards.
func pieces(body string, most int, r *rand.Rand) *Body {
	b := new(Body)
	buf := make([]byte, most)
	for len(body) > 0 {
		n := copy(buf[:1+r.IntN(most)], body)
		_, _ = b.Write(buf[:n])
		for i := range buf {
			buf[i] = '"'
		}
		body = body[n:]
	}
	return b
}

func assertSame(t *testing.T, want, got *Body) {
	t.Helper()
	require.Equal(t, want.Usage(), got.Usage())
	require.Equal(t, want.Ended(), got.Ended())
	require.Equal(t, string(want.Error()), string(got.Error()))
}

// Wherever a connection breaks, the body has said no number that is not in it:
// 12 of 12345 is none. Gemini's and xAI's are sums.
func TestTruncated(t *testing.T) {
	for name, c := range bodies {
		t.Run(name, func(t *testing.T) {
			var b Body
			for i := range min(len(c.body), 5000) {
				_, _ = b.Write([]byte(c.body[i : i+1]))
				u, sums := b.Usage(), strings.HasPrefix(name, "gemini") || strings.HasPrefix(name, "xai")
				for _, n := range []int64{u.Input, u.Output, u.CacheWrite, u.CacheRead, u.Reasoning, u.Total} {
					require.True(t, n == Unknown || sums || strings.Contains(c.body, fmt.Sprintf(":%d,", n)) ||
						strings.Contains(c.body, fmt.Sprintf(":%d}", n)), "%d at byte %d", n, i)
				}
				require.True(t, b.Error() == nil || json.Valid(b.Error()))
			}
		})
	}
}

func TestCutNumber(t *testing.T) {
	assert.Equal(t, NoUsage, reading(`{"usage":{"input_tokens":12`).Usage())
	assert.Equal(t, int64(12), reading(`{"usage":{"input_tokens":12,`).Usage().Input)
	assert.Equal(t, NoUsage, reading(`data: {"usage":{"input_tokens":12`).Usage())
}

// What a model or a caller has written is data, whatever it looks like.
func TestSpoof(t *testing.T) {
	for name, body := range map[string]string{
		"the arguments of a tool":    `{"type":"message","content":[{"type":"tool_use","input":{"usage":{"input_tokens":1},"error":{"type":"x"}}}]}`,
		"nested deeper":              `{"choices":[{"message":{"tool_calls":[{"function":{"arguments":{"usage":{"input_tokens":1}}}}]}}]}`,
		"a text":                     `{"content":"\"usage\":{\"input_tokens\":1}"}`,
		"a text with escapes":        `{"content":"\\\"}],\"usage\":{\"input_tokens\":1}"}`,
		"a text that is a stream":    sse(`{"delta":{"text":"\n\nevent: error\ndata: {\"usage\":{\"input_tokens\":1}}\n\ndata: [DONE]\n\n"}}`),
		"an escaped name":            `{"us\u0061ge":{"input_tokens":1}}`,
		"a longer name":              `{"` + strings.Repeat("usage", 50) + `":{"input_tokens":1},"usagee":{"input_tokens":1}}`,
		"a path too deep":            `{"x":{"usage":{"input_tokens":1}},"metadata":{"metadata":{"usage":{"input_tokens":1}}}}`,
		"an array":                   `{"usage":[{"input_tokens":1}],"response":[{"usage":{"input_tokens":1}}]}`,
		"an array in an array":       `[[{"usage":{"input_tokens":1}}]]`,
		"a string":                   `{"usage":{"input_tokens":"1"}}`,
		"negative":                   `{"usage":{"input_tokens":-1,"output_tokens":-0,"total_tokens":-1e3}}`,
		"broken":                     `{"usage":{"input_tokens":1.5,"output_tokens":0x10,"total_tokens":+1}}`,
		"absurd":                     `{"usage":{"input_tokens":1e16,"output_tokens":99999999999999999999,"total_tokens":1e999}}`,
		"very long":                  `{"usage":{"input_tokens":` + strings.Repeat("0", 100) + `1}}`,
		"words":                      `{"usage":{"input_tokens":null,"output_tokens":true,"total_tokens":NaN}}`,
		"an object":                  `{"usage":{"input_tokens":{"a":1},"output_tokens":[1]}}`,
		"no error: null":             `{"error":null}`,
		"no error: false":            `{"error":false}`,
		"no error: empty":            `{"error":""}`,
		"no error: empty object":     `{"error":{}}`,
		"no error: nothing in it":    `{"error":{"code":null,"message":""}}`,
		"no error: a model's output": `{"output":[{"error":"x"}],"type":"message","message":{"error":"x","type":"error"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, b := range []*Body{reading(body), reading("data: " + body + "\n\n")} {
				assert.Equal(t, NoUsage, b.Usage())
				assert.Nil(t, b.Error())
			}
		})
	}
}

func TestCounts(t *testing.T) {
	for number, want := range map[string]int64{"0": 0, "7": 7, "12.0": 12, "1e3": 1000, "1E+3": 1000, "1000000000000000": 1e15, "1.5": u, "01": 1, "1_0": u, "0x1p4": u, "inf": u} {
		assert.Equal(t, want, reading(`{"usage":{"total_tokens":`+number+`}}`).Usage().Total, number)
	}
	b := reading(`{"usage":{"total_tokens":5}}{"usage":{"total_tokens":null}}{"usage":{"total_tokens":-3}}`)
	assert.Equal(t, int64(5), b.Usage().Total, "nothing does not replace something")
}

// Bodies without an end, in one piece or not, are passed over in little memory.
func TestHuge(t *testing.T) {
	const mega = 1 << 20
	tail := `,"usage":{"prompt_tokens":7}}`
	for name, body := range map[string]string{
		"a text":             `{"content":"` + strings.Repeat("x", 10*mega) + `"` + tail,
		"escapes":            `{"content":"` + strings.Repeat(`\\\"\n`, 2*mega) + `"` + tail,
		"a key":              `{"` + strings.Repeat("x", 2*mega) + `":1` + tail,
		"a number":           `{"code":` + strings.Repeat("1", 2*mega) + tail,
		"blank":              strings.Repeat("\n", 2*mega) + `{"a":1` + tail,
		"arrays":             `{"a":` + strings.Repeat("[", mega) + strings.Repeat("]", mega) + tail,
		"objects":            `{"a":` + strings.Repeat(`{"usage":`, mega) + "1" + strings.Repeat("}", mega) + tail,
		"wanted objects":     `{"a":` + strings.Repeat(`{"error":`, mega) + "1" + strings.Repeat("}", mega) + tail,
		"an unwanted member": `{"error":{"x":` + strings.Repeat(`{"error":`, mega) + "1" + strings.Repeat("}", mega+1) + tail,
		"a message":          `{"error":{"message":"` + strings.Repeat("x ", 2*mega) + `"}` + tail,
		"many messages":      `{"a":1` + strings.Repeat(`,"message":"`+strings.Repeat("x", 1000)+`"`, 2000) + tail,
		"many violations":    `{"error":{"details":[` + strings.Repeat(`{"violations":[{"quotaId":"x"},{"quotaValue":"y"}]},`, 20000) + `{}]}` + tail,
		"many headers":       `{"error":{"metadata":{"headers":{` + strings.Repeat(`"x":["1","2"],`, 20000) + `"y":"z"}}}` + tail,
		"many policies":      `{"violated-policies":[` + strings.Repeat(`"x",`, 20000) + `"y"]` + tail,
		"many documents":     strings.Repeat(`{"type":"x","message":"y","error":null}`, 20000) + `{"a":1` + tail,
	} {
		t.Run(name, func(t *testing.T) {
			whole := reading(body)
			assert.Equal(t, int64(7), whole.Usage().Input)
			split := new(Body)
			for p := []byte(body); len(p) > 0; {
				n := min(len(p), 4093)
				_, _ = split.Write(p[:n])
				p = p[n:]
			}
			assertSame(t, whole, split)
			assert.LessOrEqual(t, memory(split), 20<<10)
			assert.LessOrEqual(t, len(split.Error()), 8<<10)
			line := reading("data: " + strings.TrimSpace(body) + "\n\n")
			assert.Equal(t, int64(7), line.Usage().Input)
		})
	}
}

// memory is what a body holds beside itself.
func memory(b *Body) int {
	n := cap(b.scan.raw) + cap(b.events.name) + cap(b.frames.part)
	f := b.facts.failure()
	for _, s := range b.facts.texts {
		n += len(s)
	}
	for _, v := range f.violations {
		n += 64 + len(v.metric+v.id+v.model+v.value)
	}
	for _, s := range f.violated {
		n += 16 + len(s)
	}
	for k, vs := range f.header {
		n += len(k) + 16*len(vs) + len(strings.Join(vs, ""))
	}
	return n
}

func TestFrames(t *testing.T) {
	good := frame(`{"usage":{"inputTokens":7}}`, ":event-type", "metadata")
	many := good + frame(`{"a":1}`) + frame("") + frame("not JSON {") + strings.Replace(good, "7", "8", 1)
	assert.Equal(t, int64(8), reading(many).Usage().Input)

	for name, bad := range map[string]string{
		"shorter than itself":     "\x00\x00\x00\x05\x00\x00\x00\x00",
		"headers beyond the end":  "\x00\x00\x00\x20\x00\x00\x00\x20",
		"endless":                 "\xff\xff\xff\xff\x00\x00\x00\x00",
		"a wrong sum of 8 bytes":  "\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00\x00",
		"headers of many billion": "\x00\x00\x00\x40\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			if len(bad) == 8 {
				bad += string(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(bad))))
			}
			b := reading(frame("{}") + bad + good)
			assert.Equal(t, foreign, b.format)
			assert.Equal(t, NoUsage, b.Usage())
		})
	}

	headers := "\x01a\x00\x01b\x01\x01c\x02.\x01d\x03..\x01e\x04....\x01f\x05........\x01g\x06\x00\x02..\x01h\x08........\x01i\x09................\x0b:event-type\x07\x00\x0bmessageStop"
	var f facts
	readHeaders([]byte(headers), &f)
	assert.True(t, f.said, "headers of all types are passed over")
	for i := range headers {
		var f facts
		readHeaders([]byte(headers[:i]), &f)
		assert.False(t, f.said)
	}
	readHeaders([]byte("\x01a\x0a\x0b:event-type\x07\x00\x0bmessageStop"), new(facts))

	long := frame(`{"usage":{"inputTokens":7}}`, "x", strings.Repeat("y", 5000), ":message-type", "exception")
	assert.Equal(t, int64(7), reading(long).Usage().Input)
	assert.Nil(t, reading(long).Error(), "headers that are too long are not read")
}

func TestFailureOf(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want failure
	}{
		"anthropic": {`{"type":"error","error":{"type":"rate_limit_error","message":"You have reached","details":{"error_code":"enforced_spend_limit_reached"}},"request_id":"r"}`,
			failure{found: true, kind: "rate_limit_error", message: "You have reached", errorCode: "enforced_spend_limit_reached"}},
		"openai": {`{"error":{"message":"Rate limit","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`,
			failure{found: true, kind: "tokens", code: "rate_limit_exceeded", message: "Rate limit"}},
		"azure": {`{"error":{"code":"429","message":"Please retry after 6 seconds."}}`, failure{found: true, code: "429", message: "Please retry after 6 seconds."}},
		"gemini": {geminiError, failure{found: true, code: "429", status: "RESOURCE_EXHAUSTED", message: "You exceeded your quota.\nPlease retry in 58.2s.",
			reason: "RATE_LIMIT_EXCEEDED", delay: "58s", violations: []violation{{"g/requests", "PerDay", "gemini-3-flash", "5"}, {"", "PerMinute", "", "7"}}}},
		"gemini, array": {"[" + `{"error":{"code":429,"message":"Exhausted","status":"RESOURCE_EXHAUSTED"}}` + "]",
			failure{found: true, code: "429", status: "RESOURCE_EXHAUSTED", message: "Exhausted"}},
		"vertex": {`{"error":{"code":429,"message":"m","errors":[{"message":"n","domain":"global","reason":"rateLimitExceeded"},{"reason":"other"}],"status":"S"}}`,
			failure{found: true, code: "429", status: "S", message: "m", reason: "rateLimitExceeded"}},
		"mistral": {`{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300","raw_status_code":429}`,
			failure{found: true, kind: "rate_limited", code: "1300", message: "Rate limit exceeded"}},
		"message only": {`{"message":"Too many tokens"}`, failure{message: "Too many tokens"}},
		"detail":       {`{"detail":"Unauthorized"}`, failure{message: "Unauthorized"}},
		"fireworks":    {`{"error":"Too Many Requests","message":"You have exceeded"}`, failure{found: true, message: "Too Many Requests"}},
		"together":     {`{"error":{"message":"m"},"error_type":"dynamic_request_limited","type":"x"}`, failure{found: true, kind: "dynamic_request_limited", message: "m"}},
		"xai":          {`{"code":"exhausted","error":"Your team"}`, failure{found: true, code: "exhausted", message: "Your team"}},
		"openrouter": {`{"error":{"code":402,"message":"m","metadata":{"reason":"weight_exceeds_budget","limit_source":"openrouter_credits","headers":{"X-RateLimit-Limit":"20","x-ratelimit-reset":1790812800000,"x y":"z"}}},"user_id":"u"}`,
			failure{found: true, code: "402", message: "m", reason: "weight_exceeds_budget", source: "openrouter_credits",
				header: http.Header{"X-Ratelimit-Limit": {"20"}, "X-Ratelimit-Reset": {"1790812800000"}}}},
		"problem": {`{"type":"https://iana.org/x#quota-exceeded","title":"Quota","violated-policies":["permin","perhr"]}`,
			failure{kind: "https://iana.org/x#quota-exceeded", message: "Quota", violated: []string{"permin", "perhr"}}},
		"stream":          {bodies["responses stream, failed"].body, failure{found: true, kind: "response.failed", code: "rate_limit_exceeded", message: "Try again in 2.502s."}},
		"stream, no name": {sse(`{"message":"Slow down","code":7}`), failure{code: "7", message: "Slow down"}},
		"bedrock":         {bodies["bedrock stream, throttled"].body, failure{found: true, kind: "throttlingException", message: "Too many tokens"}},
		"the first error": {sse(`{"error":{"code":"first"}}`, `{"error":{"code":"second"}}`), failure{found: true, code: "first"}},
		"escapes":         {`{"error":"\"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83d\u0041\udc00\uzzzz\x` + "\xff" + `"}`, failure{found: true, message: "\"a\"\\/\b\f\n\r\té😀\uFFFDA\uFFFD\uFFFD\uFFFD\uFFFD"}},
		"cut off":         {`{"error":{"code":"rate_limit_exceeded","message":"Limit 30000, Used 299`, failure{found: true, code: "rate_limit_exceeded"}},
		"true":            {`{"error":true}`, failure{found: true}},
		"a number":        {`{"error":17}`, failure{found: true}},
		"a list":          {`{"error":["x"]}`, failure{found: true}},
		"of its own kind": {`{"error":{"oops":{}}}`, failure{found: true}},
		"html":            {"<!DOCTYPE html><title>502</title>", failure{}},
		"gzip":            {"\x1f\x8b\x08\x00\x00\x00\x00\x00", failure{}},
		"nothing":         {"", failure{}},
		"null":            {"null", failure{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := failureOf([]byte(c.body))
			assert.Equal(t, c.want, f)
			if f.found {
				assert.Equal(t, f, failureOf(reading(c.body).Error()))
			}
		})
	}
}

// Long texts do not grow the report: a message is cut between two words, and
// what only makes sense in full is left out.
func TestLongTexts(t *testing.T) {
	f := failureOf([]byte(`{"error":{"message":"` + strings.Repeat("123456 ", 2000) + `","code":"` + strings.Repeat("x", 2000) + `","type":"t"}}`))
	assert.Equal(t, "t", f.kind)
	assert.Empty(t, f.code)
	assert.LessOrEqual(t, len(f.message), 4<<10)
	assert.True(t, strings.HasSuffix(f.message, "123456 "))

	control := reading(`{"error":{"message":"` + strings.Repeat(`\u0001 `, 2000) + `"},"message":"` + strings.Repeat("é", 3000) + `","detail":"` + strings.Repeat("\xff", 3000) + `"}`)
	assert.LessOrEqual(t, len(control.Error()), 8<<10)
	assert.Equal(t, control.facts.failure(), failureOf(control.Error()))
	assert.True(t, bytes.Contains(control.Error(), []byte(`\u0001`)))
}
