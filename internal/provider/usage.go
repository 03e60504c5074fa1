package provider

import (
	"math"
	"strconv"
)

// The counts that a body may state.
const (
	promptCount = nothing + 1 + iota
	toolCount   // beside promptCount
	completionCount
	candidateCount
	thoughtCount // beside candidateCount
	inputCount
	outputCount
	billedInput
	billedOutput
	writeCount
	readCount
	reasoningCount
	totalCount
	numCounts
)

// usagePaths are where the providers state usage.
var usagePaths = []path{
	// Anthropic, and OpenAI's Responses
	{"usage.input_tokens", inputCount},
	{"usage.input_tokens_details.cached_tokens", readCount},
	{"usage.cache_read_input_tokens", readCount},
	{"usage.cache_creation_input_tokens", writeCount},
	{"usage.output_tokens", outputCount},
	{"usage.output_tokens_details.reasoning_tokens", reasoningCount},
	// OpenAI's chat, and all who copy it
	{"usage.prompt_tokens", promptCount},
	{"usage.prompt_tokens_details.cached_tokens", readCount},
	{"usage.prompt_tokens_details.cache_write_tokens", writeCount},
	{"usage.completion_tokens", completionCount},
	{"usage.completion_tokens_details.reasoning_tokens", reasoningCount},
	{"usage.total_tokens", totalCount},
	// DeepSeek
	{"usage.prompt_cache_hit_tokens", readCount},
	// Gemini
	{"usageMetadata.promptTokenCount", promptCount},
	{"usageMetadata.toolUsePromptTokenCount", toolCount},
	{"usageMetadata.cachedContentTokenCount", readCount},
	{"usageMetadata.candidatesTokenCount", candidateCount},
	{"usageMetadata.thoughtsTokenCount", thoughtCount},
	{"usageMetadata.totalTokenCount", totalCount},
	// Bedrock
	{"usage.inputTokens", inputCount},
	{"usage.cacheReadInputTokens", readCount},
	{"usage.cacheWriteInputTokens", writeCount},
	{"usage.outputTokens", outputCount},
	{"usage.totalTokens", totalCount},
	// Cohere
	{"usage.tokens.input_tokens", inputCount},
	{"usage.tokens.output_tokens", outputCount},
	{"usage.billed_units.input_tokens", billedInput},
	{"usage.billed_units.output_tokens", billedOutput},
}

// counts holds the last count that was stated of each kind, and one more, so
// that zero is none. Streams restate their counts: nothing is added up.
type counts [numCounts]int64

// set takes a number as it is written, if it is a sane count.
func (c *counts) set(l leaf, number []byte) {
	if n, ok := tokenCount(number); ok {
		c[l] = n + 1
	}
}

// usage prefers the names that are the more exact where several are given. xAI
// does not count reasoning among what it completed, which only its total shows.
func (c *counts) usage() Usage {
	u := Usage{
		Input:      firstStated(c.sum(promptCount, toolCount), c.of(inputCount), c.of(billedInput)),
		CacheWrite: c.of(writeCount),
		CacheRead:  c.of(readCount),
		Output:     firstStated(c.of(completionCount), c.sum(candidateCount, thoughtCount), c.of(outputCount), c.of(billedOutput)),
		Reasoning:  firstStated(c.of(reasoningCount), c.of(thoughtCount)),
		Total:      c.of(totalCount),
	}
	if u.Reasoning > 0 && u.Input >= 0 && u.Output >= 0 && u.Total == u.Input+u.Output+u.Reasoning {
		u.Output += u.Reasoning
	}
	return u
}

func (c *counts) of(l leaf) int64 { return c[l] - 1 }

// sum adds two counts of which either may be missing.
func (c *counts) sum(a, b leaf) int64 {
	if c[a] == 0 && c[b] == 0 {
		return Unknown
	}
	return max(c.of(a), 0) + max(c.of(b), 0)
}

func firstStated(counts ...int64) int64 {
	for _, n := range counts {
		if n != Unknown {
			return n
		}
	}
	return Unknown
}

// mostTokens is more than any answer can have used.
const mostTokens = 1e15

// tokenCount reads a JSON number that is a count: whole, and neither negative nor
// absurd.
func tokenCount(number []byte) (int64, bool) {
	for i, c := range number {
		if (c < '0' || c > '9') && (i == 0 || c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-') {
			return 0, false
		}
	}
	if n, err := strconv.ParseInt(string(number), 10, 64); err == nil {
		return n, n <= mostTokens
	}
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil || f < 0 || f > mostTokens || f != math.Trunc(f) {
		return 0, false
	}
	return int64(f), true
}
