package provider

import (
	"strings"
	"time"
)

// waitPhrases come before the wait in a message, in lower case: OpenAI's "Please
// try again in 8.64s", Azure's "Please retry after 37 seconds", Google's
// "Please retry in 58.2s".
var waitPhrases = [...]string{"again in ", "retry in ", "retry after ", "again after "}

// waitIn reads the wait that a message in lower case states.
func waitIn(message string) (time.Duration, bool) {
	for _, p := range waitPhrases {
		if _, rest, ok := strings.Cut(message, p); ok {
			if d, ok := span(rest); ok {
				return bounded(d), true
			}
		}
	}
	return 0, false
}

// span reads "9m38.016s." and "37 seconds" from the beginning of s.
func span(s string) (sum time.Duration, found bool) {
	for {
		s = strings.TrimPrefix(s, " ")
		digits := prefix(s, "0123456789.")
		n, ok := decimal(digits)
		if digits == "" || !ok {
			return sum, found
		}
		s = strings.TrimPrefix(s[len(digits):], " ")
		word := prefix(s, "abcdefghijklmnopqrstuvwxyz")
		u, ok := units[word]
		if !ok {
			return sum, found
		}
		s = s[len(word):]
		sum, found = bounded(sum+bounded(seconds(n*u.Seconds()))), true
	}
}

// prefix is the longest beginning of s that is of these characters.
func prefix(s, chars string) string {
	return s[:len(s)-len(strings.TrimLeft(s, chars))]
}

var units = map[string]time.Duration{
	"ms": time.Millisecond, "millisecond": time.Millisecond, "milliseconds": time.Millisecond,
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
}

// regained reads the date of "You will regain access on 2026-09-01 at 00:00 UTC"
// from a message in lower case. Source: Claude docs, "Rate limits", 2026-08.
func regained(message string) (time.Time, bool) {
	_, s, ok := strings.Cut(message, "regain access on ")
	if !ok || len(s) < len(time.DateOnly) {
		return time.Time{}, false
	}
	t, err := time.Parse(time.DateOnly, s[:len(time.DateOnly)])
	if err != nil {
		return time.Time{}, false
	}
	if s, ok = strings.CutPrefix(s[len(time.DateOnly):], " at "); ok && len(s) >= len("15:04") {
		if at, err := time.Parse("15:04", s[:len("15:04")]); err == nil {
			t = t.Add(time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute)
		}
	}
	return t, true
}

// limitIn reads the limit that a message in lower case names: OpenAI's and Groq's
// "on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619",
// Anthropic's "of 20,000 input tokens per minute", Cohere's "limited to 40 API
// calls / minute", Azure's "have exceeded token rate limit". It is nil if there
// is none.
func limitIn(message string) *Refusal {
	r := Refusal{
		Dimension: NumDimensions,
		Limit:     numberAfter(message, "limit"),
		Used:      numberAfter(message, "used"),
		Requested: numberAfter(message, "requested"),
	}
	found := perUnit(message, &r)
	switch {
	case found:
	case strings.Contains(message, "token rate limit"):
		r.Dimension = Tokens
	case strings.Contains(message, "call rate limit"), strings.Contains(message, "requests rate limit"):
		r.Dimension = Requests
	default:
		return nil
	}
	return &r
}

// perUnit reads "[40] [api] calls per|/ minute".
func perUnit(message string, r *Refusal) bool {
	words := strings.Fields(message)
	for i := 1; i+1 < len(words); i++ {
		if words[i] != "per" && words[i] != "/" {
			continue
		}
		length, ok := units[strings.Trim(words[i+1], ".,:;()")]
		if !ok {
			continue
		}
		what, before := words[i-1], ""
		if i > 1 {
			before = words[i-2]
		}
		switch what {
		case "requests", "request", "calls", "call":
			r.Dimension = Requests
		case "tokens", "token":
			r.Dimension = Tokens
			switch before {
			case "input", "prompt":
				r.Dimension = InputTokens
			case "output", "completion":
				r.Dimension = OutputTokens
			}
		case "images", "audio": // nobody here counts them
		default:
			continue
		}
		r.Length = length
		for j := i - 2; j >= max(0, i-3) && r.Limit < 0; j-- {
			if n, ok := whole(words[j]); ok && n >= 0 {
				r.Limit = n
			}
		}
		return true
	}
	return false
}

// numberAfter reads the number behind the first such word that has one: "limit
// 30000", "limit is 100000" or "limit: 30,000".
func numberAfter(message, word string) int64 {
	for {
		_, rest, ok := strings.Cut(message, word)
		if !ok {
			return Unknown
		}
		message = rest
		rest = strings.TrimPrefix(rest, ":")
		rest = strings.TrimPrefix(rest, " is")
		digits := strings.TrimRight(prefix(strings.TrimPrefix(rest, " "), "0123456789,"), ",")
		if n, ok := whole(digits); ok {
			return n
		}
	}
}

// organizationIn reads the id of "in organization org-x on tokens".
func organizationIn(message string) string {
	for {
		_, rest, ok := strings.Cut(message, "rganization ")
		if !ok {
			return ""
		}
		message = rest
		rest = strings.TrimLeft(rest, "`'\"")
		if strings.HasPrefix(rest, "org-") || strings.HasPrefix(rest, "org_") {
			return prefix(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
		}
	}
}
