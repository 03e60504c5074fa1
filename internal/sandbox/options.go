package sandbox

import "time"

// Account is one quota group of one provider: its keys share its limits.
type Account struct {
	// Type is the provider: "anthropic", "openai", "azure", "gemini", "vertex",
	// "bedrock", "groq", "mistral", "cerebras", "fireworks", "together",
	// "openrouter", "deepseek", "xai", "cohere", "github" or "generic". It
	// decides what counts, and what headers and errors say. Any other type is
	// taken for "openai".
	Type string

	// Name is the organisation id shown in headers and messages.
	Name string

	// Keys are the credentials accepted. A key in two accounts of one surface
	// belongs to the first.
	Keys []string

	// Classes are the models that share a limit. A model in none of them gets
	// a class of its own, named after it, with the limits of Default (or joins
	// the declared class of that name).
	Classes []Class

	// Flat puts all models in one class, named "all", with the limits of
	// Default; Classes then only declares what GET /v1/models lists.
	Flat bool

	// Default limits the models that no class names.
	Default Limits
}

// Class is a set of models that share a limit.
type Class struct {
	Name   string
	Models []string
	Limits Limits
}

// Limits of one model class; 0 means not limited.
type Limits struct {
	RPM         int64 // requests per minute
	ITPM        int64 // input tokens per minute
	OTPM        int64 // output tokens per minute
	TPM         int64 // tokens per minute, input and output together
	RPD         int64 // requests per day
	TPD         int64 // tokens per day
	RPH         int64 // requests per hour
	Concurrency int64 // requests being answered at one time
}

// Options say how the simulated models behave. The zero value answers at
// once, with about 64 tokens.
type Options struct {
	// Latency is the time to the first byte of an answer; default none.
	Latency time.Duration

	// TokensPerSecond is the speed of an answer; default 0, at once.
	TokensPerSecond int

	// OutputTokens is the typical length of an answer, drawn between half and
	// one and a half of it and capped by the request; default 64.
	OutputTokens int

	// Seed makes the lengths repeatable: the nth request of a server draws the
	// same length under the same seed.
	Seed uint64

	// Now is the clock of the limits and of the Date header; default
	// [time.Now]. Latency and TokensPerSecond are waited for in real time all
	// the same.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.OutputTokens <= 0 {
		o.OutputTokens = 64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}
