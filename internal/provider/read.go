package provider

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Read gives the meaning of a response. It accepts anything, and what it
// cannot read it leaves out.
func (d *Dialect) Read(r Response) Signal {
	s := Signal{Windows: d.Windows(r)}
	s.Class, s.Scope = classify(r.Status)
	if s.Class == RateLimited || s.Class == Overloaded || s.Class == QuotaExhausted {
		s.Wait, s.Source = retryAfter(r.Header)
	}
	return s
}

func classify(status int) (Class, Scope) {
	switch {
	case status == 0:
		return NoAnswer, NoScope
	case status < 400:
		return OK, NoScope
	case status == http.StatusTooManyRequests:
		return RateLimited, ClassScope
	case status == http.StatusUnauthorized:
		return AuthInvalid, KeyScope
	case status == http.StatusPaymentRequired:
		return QuotaExhausted, GroupScope
	case status == http.StatusForbidden:
		return Forbidden, KeyModelScope
	case status >= 500: // 529 is Anthropic's own
		return Overloaded, ModelScope
	}
	return InvalidRequest, NoScope
}

// retryAfter reads the wait that a response states: milliseconds if given,
// else seconds or a date, which is anchored to the response's own Date.
func retryAfter(h http.Header) (time.Duration, Source) {
	if ms, err := strconv.ParseFloat(strings.TrimSpace(h.Get("Retry-After-Ms")), 64); err == nil && ms > 0 {
		return seconds(ms / 1000), RetryAfterMs
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		return seconds(s), RetryAfter
	}
	until, err := http.ParseTime(v)
	if err != nil {
		return 0, NotStated
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0, NotStated
	}
	return min(max(until.Sub(date), 0), LongestWait), RetryAfter
}

func seconds(s float64) time.Duration {
	if math.IsNaN(s) || s <= 0 {
		return 0
	}
	if s >= LongestWait.Seconds() {
		return LongestWait
	}
	return time.Duration(s * float64(time.Second))
}

// count reads a whole number of 0 or more; thousands may be set off by commas.
// Anything else is Unknown.
func count(v string) int64 {
	v = strings.TrimSpace(v)
	if strings.Contains(v, ",") {
		v = strings.ReplaceAll(v, ",", "")
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return Unknown
	}
	return n
}
