package provider

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Class is what a response says about the key, its limits and the provider.
type Class uint8

// The classes, each with what rests because of it.
const (
	OK             Class = iota // nothing rests, and the key works
	RateLimited                 // the account that was charged
	QuotaExhausted              // the quota group, for long
	AuthInvalid                 // the key, once confirmed
	Forbidden                   // nothing yet: this key may not use this model
	Overloaded                  // nothing here: the provider is busy
	InvalidRequest              // nothing: the caller's own mistake
	NoAnswer                    // nothing: it says nothing of the key either
)

// LongestWait bounds what a provider may state: a wait beyond it is taken as
// this long.
const LongestWait = 40 * 24 * time.Hour

// Response is what a client reports of an answer.
type Response struct {
	Status int         // HTTP status; 0 if not known
	Header http.Header // canonical names
}

// Window is a limit as a response states it.
type Window struct {
	Dimension Dimension
	Length    time.Duration
	Limit     int64 // Unknown if not stated
	Remaining int64 // Unknown if not stated
	Rounding  int64 // Remaining is rounded to multiples of it; 1 if exact
}

// Signal is the meaning of a response.
type Signal struct {
	Class   Class
	Wait    time.Duration // stated by the provider; 0 if it stated none
	Windows []Window
}

// Read gives the meaning of a response. It accepts anything, and what it
// cannot read it leaves out.
func (d *Dialect) Read(r Response) Signal {
	s := Signal{Class: classify(r.Status), Windows: d.Windows(r)}
	if s.Class == RateLimited || s.Class == Overloaded || s.Class == QuotaExhausted {
		s.Wait = retryAfter(r.Header)
	}
	return s
}

func classify(status int) Class {
	switch {
	case status == 0:
		return NoAnswer
	case status < 400:
		return OK
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusUnauthorized:
		return AuthInvalid
	case status == http.StatusPaymentRequired:
		return QuotaExhausted
	case status == http.StatusForbidden:
		return Forbidden
	case status >= 500: // 529 is Anthropic's own
		return Overloaded
	}
	return InvalidRequest
}

// retryAfter reads the wait that a response states: milliseconds if given,
// else seconds or a date, which is anchored to the response's own Date.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(strings.TrimSpace(h.Get("Retry-After-Ms")), 64); err == nil && ms > 0 {
		return seconds(ms / 1000)
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		return seconds(s)
	}
	until, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(until.Sub(date), 0), LongestWait)
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
