package provider

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// format is how a header writes a time. Providers differ, and a guess would be
// wrong by decades or by a factor of a thousand, so each has its own.
type format uint8

const (
	anyFormat    format = iota // whatever it looks like
	goDuration                 // 6m0s
	inSeconds                  // 11.38
	inMillis                   // 644
	rfc3339                    // 2026-01-15T12:00:01Z
	epochSeconds               // 1768480200
	epochMillis                // 1768480200000
	monthEnd                   // no header: the end of the month, UTC
)

// reset reads how long a window has to go. It is never negative, and Unknown if
// it cannot be read or is beyond belief.
func (a *answer) reset(f format, v string) time.Duration {
	d, ok := a.duration(f, v)
	if !ok || d > LongestWait {
		return Unknown
	}
	return max(d, 0)
}

// duration reads a time as seen from the response. A moment gone by is negative;
// a number below 0 says nothing.
func (a *answer) duration(f format, v string) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if f == monthEnd {
		return a.until(endOfMonth)
	}
	if v == "" {
		return 0, false
	}
	if f == goDuration {
		d, err := time.ParseDuration(v)
		return d, err == nil && d >= 0
	}
	if f == rfc3339 {
		return a.moment(time.Parse(time.RFC3339, v))
	}
	n, ok := decimal(v)
	switch {
	case f == inMillis:
		return seconds(n / 1000), ok
	case f == inSeconds || f == anyFormat && ok && n < 1e9:
		return seconds(n), ok
	case f == epochSeconds || f == anyFormat && ok && n < 1e12:
		return a.epoch(n, ok)
	case f == epochMillis || ok:
		return a.epoch(n/1000, ok)
	}
	if d, err := time.ParseDuration(v); err == nil {
		return d, d >= 0
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return a.moment(t, nil)
	}
	return a.moment(http.ParseTime(v))
}

// moment gives the time from the response until t.
func (a *answer) moment(t time.Time, err error) (time.Duration, bool) {
	now, ok := a.clock()
	return t.Sub(now), ok && err == nil
}

func (a *answer) epoch(s float64, ok bool) (time.Duration, bool) {
	if !ok {
		return 0, false
	}
	if s > 1e11 { // the year 5138
		s = 1e11
	}
	return a.moment(time.UnixMicro(int64(math.Round(s*1e6))), nil)
}

// until gives the time from the response to a moment that follows from it.
func (a *answer) until(next func(time.Time) time.Time) (time.Duration, bool) {
	now, ok := a.clock()
	if !ok {
		return 0, false
	}
	return next(now).Sub(now), true
}

// clock is the provider's time at the response: absolute times are measured from
// it, so that nobody else's clock need be right.
func (a *answer) clock() (time.Time, bool) {
	if !a.dated {
		a.dated = true
		t, err := http.ParseTime(a.first("Date"))
		if err != nil {
			t = a.At
		}
		a.now = t
	}
	return a.now, !a.now.IsZero()
}

// decimal reads a number of 0 or more in digits: neither hexadecimal nor infinite.
func decimal(v string) (float64, bool) {
	if v == "" {
		return 0, false
	}
	for i := range len(v) {
		if c := v[i]; (c < '0' || c > '9') && c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-' {
			return 0, false
		}
	}
	n, err := strconv.ParseFloat(v, 64)
	if n < 0 {
		return 0, false
	}
	return n, err == nil || n > 0 // beyond all numbers is still a long time
}

// seconds makes a duration of s, which is 0 or more. What is longer than any wait
// may be is longer by an hour.
func seconds(s float64) time.Duration {
	if s > LongestWait.Seconds() {
		return LongestWait + time.Hour
	}
	return time.Duration(math.Round(s * float64(time.Second)))
}

// endOfMonth is when a monthly quota returns.
func endOfMonth(t time.Time) time.Time {
	y, m, _ := t.UTC().Date()
	return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
}

// midnightPacific is when Gemini's daily quotas return. Source: ai.google.dev,
// "Rate limits". The rule of the United States since 2007 stands here because
// the machine may have no time zones and 450 KB for one of them is too much;
// should it ever change, this is wrong by an hour.
func midnightPacific(t time.Time) time.Time {
	t = t.UTC()
	local := t.Add(-8 * time.Hour)
	if pacificSummer(t) {
		local = t.Add(-7 * time.Hour)
	}
	y, m, d := local.Date()
	midnight := time.Date(y, m, d+1, 7, 0, 0, 0, time.UTC)
	if !pacificSummer(midnight) {
		midnight = midnight.Add(time.Hour)
	}
	return midnight
}

// pacificSummer reports whether clocks on the Pacific coast are forward: from 2:00 on
// March's second Sunday to 2:00 on November's first.
func pacificSummer(t time.Time) bool {
	start := sunday(t.Year(), time.March, 8).Add(10 * time.Hour)
	end := sunday(t.Year(), time.November, 1).Add(9 * time.Hour)
	return !t.Before(start) && t.Before(end)
}

// sunday is the first one on or after a day.
func sunday(y int, m time.Month, d int) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	return t.AddDate(0, 0, (7-int(t.Weekday()))%7)
}
