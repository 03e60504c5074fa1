// Package provider knows what a provider's answers mean: how its limits are
// counted, what its headers, statuses and bodies say, and how a key is sent. It
// turns a raw response into a Signal and holds no state.
package provider

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Kind is the way in which a provider counts a limit with a window.
type Kind uint8

// The kinds. What is not known is treated as Sliding, which is safe for any.
const (
	Sliding   Kind = iota // the last window's length, at any moment
	Refilling             // refills all the time, at limit/window
	Fixed                 // from one reset to the next
)

// NoModel stands for a model in calls that use none, such as lists of files.
const NoModel = "-"

// Demand is what a caller says of the call it is going to make.
type Demand struct {
	InputTokens     int64 // estimated
	MaxOutputTokens int64 // the provider's max_tokens
}

// Unknown marks a count that a response did not give.
const Unknown = -1

// Usage is a call's use in the provider's own terms. A field may be Unknown.
type Usage struct {
	Input      int64 // input tokens; whether it includes the cache is the dialect's business
	CacheWrite int64 // input tokens written to the cache
	CacheRead  int64 // input tokens read from the cache
	Output     int64 // output tokens, with those of reasoning
	Reasoning  int64 // of them, those of reasoning
	Total      int64 // as the provider adds it up
}

// NoUsage is what a response without usage says.
var NoUsage = Usage{Unknown, Unknown, Unknown, Unknown, Unknown, Unknown}

// NoOutput reports whether a status means that the provider wrote no answer: an
// error, or a redirection. A gateway in between does not know.
func NoOutput(status int) bool {
	return status >= 300 && status != http.StatusBadGateway && status != http.StatusGatewayTimeout
}

// Dialect is one provider type. Everything in it is data or a pure function.
type Dialect struct {
	// Type is the name used in the configuration.
	Type string
	// BaseURL is where the provider is reached unless configured otherwise;
	// empty if that differs from customer to customer.
	BaseURL string
	// Hosts are those that a key may be sent to beside the base URL's own. A
	// "*" stands for one or more letters, digits and hyphens, and so for one
	// label or a part of it. Every owner of such a name is the provider's
	// customer at most, and sees no headers.
	Hosts []string
	// AuthHeader carries the key, after AuthPrefix.
	AuthHeader, AuthPrefix string
	// CombinedTokens says that a limit on tokens is one account of input and
	// output together, so that the legacy tpm_limit is not split.
	CombinedTokens bool
	// Limited lists the dimensions that the provider limits. Where one of them
	// has no limit yet, the engine feels its way.
	Limited []Dimension
	// Kind is how its windows are counted.
	Kind Kind
	// Unstated is the window of a limit that is stated without one; 0 if that may
	// be any.
	Unstated time.Duration
	// Held marks the dimensions that are counted while the provider answers,
	// and not when the request arrives.
	Held [NumDimensions]bool
	// Counts says that of output it is what is really used that counts, and nothing else
	// is asked for: not whether max_tokens would fit.
	Counts bool
	// Kept marks the dimensions in which the reservation counts in full,
	// however little the answer uses.
	Kept [NumDimensions]bool
	// Reserve gives what a call may come to count, before it is made.
	Reserve func(Demand) Amounts
	// Count gives what a call did count; Unknown where the usage does not say.
	Count func(Usage) Amounts

	// rateScope is what a rate limit is about, busyScope what an overload is,
	// and forbiddenScope what a 403 is.
	rateScope, busyScope, forbiddenScope Scope
	// defaultWait is how long to wait after a rate limit that states nothing.
	defaultWait time.Duration
	// organization is the header that names the owner of the limits.
	organization string
	// headers are the limits that a response states in its headers.
	headers []header
	// rules are the exceptions to what statuses mean; the first that fits holds.
	rules []rule
	// more reads what the table of headers cannot say, and judge mends what the
	// rules cannot.
	more  func(*answer)
	judge func(*answer, *verdict)
}

var dialects = []*Dialect{
	&anthropic, &azure, &bedrock, &cerebras, &cohere, &deepseek, &fireworks, &gemini, &generic, &github,
	&groq, &mistral, &openai, &openrouter, &together, &vertex, &xai,
}

// Lookup finds a dialect by its type.
func Lookup(typ string) (*Dialect, bool) {
	i, ok := slices.BinarySearchFunc(dialects, typ, func(d *Dialect, t string) int {
		return strings.Compare(d.Type, t)
	})
	if !ok {
		return nil, false
	}
	return dialects[i], true
}

// Types lists the types that Lookup knows, sorted.
func Types() []string {
	names := make([]string, len(dialects))
	for i, d := range dialects {
		names[i] = d.Type
	}
	return names
}

// known adds counts, taking an unknown part as nothing, and is Unknown only if
// the first, which the others merely refine, is.
func known(first int64, more ...int64) int64 {
	if first < 0 {
		return Unknown
	}
	for _, n := range more {
		first = add(first, max(n, 0))
	}
	return first
}

// either adds two counts of which both are needed.
func either(a, b int64) int64 {
	if a < 0 || b < 0 {
		return Unknown
	}
	return add(a, b)
}
