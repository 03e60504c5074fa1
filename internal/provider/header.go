package provider

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// header is a limit as a provider's headers state it. Names are canonical; one
// that is empty is not sent.
type header struct {
	dimension               Dimension
	name                    string        // Window.Name
	length                  time.Duration // 0 if not documented
	limit, remaining, reset string
	format                  format // of reset
	rounding                int64  // 0 if exact
	times                   int64  // the values are multiplied by it; 0 stands for 1
	infer                   bool   // the length may be inferred: reset is the time until full
	fixed                   bool   // counted from one reset to the next, whatever the dialect's kind
	aside                   bool   // Window.Aside
}

// openaiHeaders are the names that OpenAI began and others took over.
func openaiHeaders(f format, requests, tokens time.Duration) []header {
	return []header{
		{dimension: Requests, length: requests, format: f, infer: f == goDuration,
			limit: "X-Ratelimit-Limit-Requests", remaining: "X-Ratelimit-Remaining-Requests", reset: "X-Ratelimit-Reset-Requests"},
		{dimension: Tokens, length: tokens, format: f, infer: f == goDuration,
			limit: "X-Ratelimit-Limit-Tokens", remaining: "X-Ratelimit-Remaining-Tokens", reset: "X-Ratelimit-Reset-Tokens"},
	}
}

// window reads one limit. It is not there if nothing about it can be read.
func (a *answer) window(h *header) (Window, bool) {
	w := Window{
		Dimension: h.dimension, Name: h.name, Length: h.length, Kind: a.dialect.Kind,
		Rounding: max(h.rounding, 1), Aside: h.aside, Reset: Unknown,
	}
	w.Limit, w.Remaining = amounts(a.first(h.limit), a.first(h.remaining))
	if w.Limit < 0 && w.Remaining < 0 && h.limit+h.remaining != "" {
		return w, false
	}
	w.Reset = a.reset(h.format, a.first(h.reset))
	if w.Limit < 0 && w.Remaining < 0 && w.Reset < 0 {
		return w, false
	}
	if h.times > 1 {
		w.Limit, w.Remaining = times(w.Limit, h.times), times(w.Remaining, h.times)
	}
	if h.fixed {
		w.Kind = Fixed
	}
	if h.infer && w.Length == 0 {
		w.Length = inferred(w.Reset, w.Limit, w.Remaining)
		w.Inferred = w.Length > 0
	}
	return w, true
}

// amounts reads a limit and what remains of it. Less than nothing remaining is
// nothing, if the limit is known: -1 of -1 is how Azure says that there is none.
func amounts(limit, remaining string) (l, r int64) {
	l, r = Unknown, Unknown
	if n, ok := whole(limit); ok && n >= 0 {
		l = n
	}
	n, ok := whole(remaining)
	switch {
	case !ok:
	case n >= 0 && l >= 0:
		r = min(n, l)
	case n >= 0:
		r = n
	case l >= 0:
		r = 0
	}
	return l, r
}

// inferred finds the window of a limit that refills steadily: what has been used
// takes its share of the window to come back. Documented samples do not fit it,
// recorded ones do to the millisecond; so anything else than about a minute, an
// hour or a day is not believed.
func inferred(reset time.Duration, limit, remaining int64) time.Duration {
	if reset <= 0 || remaining < 0 || limit <= remaining {
		return 0
	}
	length := float64(reset) * float64(limit) / float64(limit-remaining)
	for _, l := range [...]time.Duration{time.Minute, time.Hour, day} {
		if math.Abs(length-float64(l)) <= 0.2*float64(l) {
			return l
		}
	}
	return 0
}

// whole reads a whole number, in which commas may set off thousands. It does not
// read one that is larger than int64.
func whole(v string) (int64, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if i := strings.IndexByte(v, ','); i >= 0 {
		if !thousands(v, i) {
			return 0, false
		}
		v = strings.ReplaceAll(v, ",", "")
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return n, err == nil
}

// thousands reports whether every comma of v, the first of which is at i, has
// three digits behind it: 1,000,000 is a number, and 100, 60 two.
func thousands(v string, i int) bool {
	if i == 0 || i > 3 {
		return false
	}
	for ; i < len(v); i += 4 {
		if v[i] != ',' || i+4 > len(v) || strings.ContainsAny(v[i+1:i+4], ", +-") {
			return false
		}
	}
	return true
}

// times multiplies a count that may be Unknown, and stays at the largest number.
func times(n, by int64) int64 {
	switch {
	case n < 0:
		return Unknown
	case n > math.MaxInt64/by:
		return math.MaxInt64
	}
	return n * by
}
