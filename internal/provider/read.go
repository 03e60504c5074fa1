package provider

import (
	"net/http"
	"strings"
	"time"
)

// answer is a response while it is being read.
type answer struct {
	*Response
	dialect *Dialect
	said    failure
	message string // said.message in lower case
	windows []Window

	now   time.Time
	dated bool // now is settled, though perhaps not known
}

// Read gives the meaning of a response. It accepts anything, and what it
// cannot read it leaves out.
func (d *Dialect) Read(r Response) Signal {
	a := answer{Response: &r, dialect: d}
	if len(r.Body) > 0 {
		a.said = failureOf(r.Body)
		a.message = strings.ToLower(beginning(a.said.message))
	}
	var s Signal
	if age, ok := decimal(strings.TrimSpace(a.first("Age"))); ok && age > 0 {
		s.Cached = true // and its limits are those of another moment
	} else {
		a.limits()
	}
	v := a.verdict()
	s.Class, s.Scope = v.class, v.scope
	s.Windows = a.windows
	s.Organization = a.organization()
	if date := a.first("Date"); date != "" && !s.Cached {
		s.Date, _ = http.ParseTime(date)
	}
	if s.Class == OK {
		return s
	}
	s.Refused = a.refusal(s.Class)
	s.Wait, s.Source = a.wait(v, s.Refused)
	s.Operator = s.Class == AuthInvalid || s.Class == QuotaExhausted && v.until == nil
	s.RampUp = v.ramp
	return s
}

// limits reads the windows.
func (a *answer) limits() {
	for i := range a.dialect.headers {
		if w, ok := a.window(&a.dialect.headers[i]); ok {
			if a.windows == nil {
				a.windows = make([]Window, 0, 4) // as many as Anthropic has
			}
			a.windows = append(a.windows, w)
		}
	}
	if a.dialect.more != nil {
		a.dialect.more(a)
	}
}

// first is a header's first value. What a provider passes on in the body of an
// error counts as its headers.
func (a *answer) first(name string) string {
	if v := a.Header[name]; len(v) > 0 {
		return v[0]
	}
	if v := a.said.header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// values are all of a header's.
func (a *answer) values(name string) []string {
	if v := a.Header[name]; len(v) > 0 {
		return v
	}
	return a.said.header[name]
}

// wait finds how long a refusal tells to wait, at least. A quota comes back on a
// date or not at all: what is stated beside it is about the rate.
func (a *answer) wait(v verdict, named *Refusal) (time.Duration, Source) {
	switch v.class {
	case QuotaExhausted:
		if t, ok := regained(a.message); ok {
			if d, ok := a.moment(t, nil); ok {
				return bounded(d), InMessageDate
			}
		}
		if v.until != nil {
			if d, ok := a.until(v.until); ok {
				return bounded(d), Calendar
			}
		}
		return 0, NotStated
	case RateLimited, ConcurrencyLimited, Overloaded:
	default:
		return 0, NotStated
	}
	if d, ok := a.longest("Retry-After-Ms", inMillis); ok {
		return d, RetryAfterMs
	}
	if d, ok := a.longest("Retry-After", anyFormat); ok {
		return d, RetryAfter
	}
	if d, ok := a.delay(); ok {
		return d, RetryInfo
	}
	if d, ok := waitIn(a.message); ok {
		return d, InMessage
	}
	if v.class == Overloaded {
		return 0, NotStated
	}
	if d := a.reopens(named); d > 0 {
		return d, WindowReset
	}
	if a.dialect.defaultWait > 0 {
		return a.dialect.defaultWait, ByDefault
	}
	return 0, NotStated
}

// longest reads the longest wait that a header states. Sent twice, it was
// added on the way, and the longer one satisfies both. Reports and proxies join
// lines by a comma.
func (a *answer) longest(name string, f format) (longest time.Duration, found bool) {
	take := func(v string) bool {
		d, ok := a.duration(f, v)
		if ok {
			longest, found = max(longest, bounded(d)), true
		}
		return ok
	}
	for _, v := range a.values(name) {
		if take(v) || !strings.Contains(v, ", ") {
			continue
		}
		for part := range strings.SplitSeq(v, ", ") {
			take(part)
		}
	}
	return longest, found
}

// delay is google.rpc.RetryInfo's.
func (a *answer) delay() (time.Duration, bool) {
	d, err := time.ParseDuration(a.said.delay)
	return bounded(d), err == nil && d >= 0
}

// reopens is when all windows that refuse have room: those with nothing left, and
// one that the refusal names without saying what is left.
func (a *answer) reopens(named *Refusal) (longest time.Duration) {
	aside := a.onlyAside()
	for i := range a.windows {
		w := &a.windows[i]
		if spent(w) && w.Aside == aside || w.Remaining < 0 && named != nil && named.names(w) {
			longest = max(longest, w.Reset)
		}
	}
	return longest
}

func bounded(d time.Duration) time.Duration { return min(max(d, 0), LongestWait) }

// beginning bounds what is searched of a message.
func beginning(s string) string { return s[:min(len(s), 4096)] }
