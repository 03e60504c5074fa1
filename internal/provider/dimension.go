package provider

import "math"

// Dimension is what a limit counts.
type Dimension uint8

// The dimensions, in the order in which Amounts holds them.
const (
	Requests     Dimension = iota // calls
	InputTokens                   // tokens sent, as far as the provider counts them
	OutputTokens                  // tokens answered
	Tokens                        // input and output in one account
	Concurrency                   // calls at one time
	NumDimensions
)

var dimensionNames = [NumDimensions]string{
	"requests", "input tokens", "output tokens", "tokens", "concurrency",
}

// String gives the name people read: "input tokens".
func (d Dimension) String() string {
	if d < NumDimensions {
		return dimensionNames[d]
	}
	return "unknown"
}

// Amounts is a quantity in every dimension: what an ask reserves, or what a
// call has used.
type Amounts [NumDimensions]int64

// Covers reports whether a is at least b in every dimension.
func (a *Amounts) Covers(b *Amounts) bool {
	for d, n := range b {
		if a[d] < n {
			return false
		}
	}
	return true
}

// Raise lifts a to b in every dimension in which b is larger.
func (a *Amounts) Raise(b *Amounts) {
	for d, n := range b {
		a[d] = max(a[d], n)
	}
}

// add sums token counts and stays at the largest number instead of wrapping:
// counts come from outside.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
