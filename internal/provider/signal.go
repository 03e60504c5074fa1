package provider

import (
	"net/http"
	"time"
)

// Class is what a response says about the key, its limits and the provider.
type Class uint8

// The classes. The Scope says what cools down because of one.
const (
	OK                 Class = iota // the key works
	RateLimited                     // too much in too short a time
	ConcurrencyLimited              // too many calls at one time
	QuotaExhausted                  // money or a long quota is used up
	AuthInvalid                     // the key is not accepted
	Forbidden                       // the key is accepted, but not for this
	Overloaded                      // the provider is busy, whoever asks
	RequestTooLarge                 // larger than a limit: waiting does not help
	InvalidRequest                  // the caller's own mistake
	NoAnswer                        // nothing is known of an answer
)

var classNames = [...]string{
	"ok", "rate_limited", "concurrency_limited", "quota_exhausted", "auth_invalid", "forbidden", "overloaded",
	"request_too_large", "invalid_request", "no_answer",
}

// String gives a stable name, such as "rate_limited".
func (c Class) String() string { return name(classNames[:], c) }

// Scope is what a refusal is about, and so what cools down.
type Scope uint8

// The scopes.
const (
	NoScope       Scope = iota // nothing cools down
	KeyScope                   // the key, for all models
	KeyModelScope              // the key, for one class of models
	GroupScope                 // the key's quota group, for all models
	ClassScope                 // the quota group, for one class of models
	ModelScope                 // the provider's model, whoever calls it
	ProviderScope              // the provider, for all models
)

var scopeNames = [...]string{"nothing", "key", "key for model", "group", "group for model", "model", "provider"}

// String gives the name people read: "group for model".
func (s Scope) String() string { return name(scopeNames[:], s) }

// Source is where a response states how long to wait.
type Source uint8

// The sources, in the order of their precedence, except that a date on which a
// quota returns outranks them all.
const (
	NotStated     Source = iota
	RetryAfterMs         // header Retry-After-Ms
	RetryAfter           // header Retry-After
	RetryInfo            // google.rpc.RetryInfo in the body
	InMessage            // "try again in 8.64s"
	WindowReset          // the reset of a window with nothing left
	InMessageDate        // "you will regain access on …"
	Calendar             // the end of the day or month in which the quota counts
	ByDefault            // what the provider's documentation says
)

var sourceNames = [...]string{
	"not stated", "retry-after-ms", "retry-after", "body-retryinfo", "body", "window-reset", "body-date", "calendar", "default",
}

// String gives a stable name, such as "retry-after".
func (s Source) String() string { return name(sourceNames[:], s) }

func name[T ~uint8](names []string, i T) string {
	if int(i) < len(names) {
		return names[i]
	}
	return "unknown"
}

// LongestWait bounds what a provider may state: a wait beyond it is taken as
// this long.
const LongestWait = 40 * 24 * time.Hour

// Response is what a client reports of an answer.
type Response struct {
	Status int         // HTTP status; 0 if not known
	Header http.Header // canonical names
	// Body is that of an error, or its beginning, or the event that ended a
	// stream with an error. Other bodies mean nothing here.
	Body []byte
	// At is when the client saw the response. It stands in for a missing Date
	// header, and zero is not known.
	At time.Time
}

// Window is a limit as a response states it.
type Window struct {
	Dimension Dimension     // NumDimensions, and then Aside, if it counts something else
	Name      string        // tells limits on the same thing apart: "project", "fast", "burst"; mostly empty
	Length    time.Duration // 0 if neither stated nor to be inferred
	Inferred  bool          // Length is inferred from the other figures: one answer may mislead
	Kind      Kind          // how it is counted
	Limit     int64         // Unknown if not stated
	Remaining int64         // Unknown if not stated; 0 or more
	Rounding  int64         // Remaining is rounded to multiples of it; 1 if exact
	Reset     time.Duration // until it is full again, or ends if Fixed; Unknown if not stated
	// Aside marks a limit that ordinary calls do not count against, such as that
	// of a faster tier, or that cannot be counted from here. It is there to be
	// seen.
	Aside bool
}

// Refusal is the limit that a refusal names.
type Refusal struct {
	Dimension              Dimension     // NumDimensions if it is named otherwise
	Name                   string        // as of a Window
	Length                 time.Duration // 0 if not known
	Limit, Used, Requested int64         // Unknown if not stated
}

// Signal is the meaning of a response.
type Signal struct {
	Class   Class
	Scope   Scope
	Wait    time.Duration // at least so long, as the provider states it
	Source  Source        // where it does
	Windows []Window
	Refused *Refusal // nil if none is named
	// Operator is true if waiting does not help, unless Wait says so: somebody
	// has to pay, or to replace the key.
	Operator bool
	// RampUp is true if the rate has risen too fast, though no limit is reached.
	RampUp bool
	// Organization is the owner of the limits, as the response names it.
	Organization string
	// Date is the provider's time at the response; zero if it is not stated.
	Date time.Time
	// Cached is true if a cache has answered: what it says of limits is old.
	Cached bool
}
