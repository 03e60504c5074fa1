package pool_test

import (
	"math"
	"time"

	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// What a hostile holder may state: everything that a Signal can say, whatever is true.

// subjects are what the statements of one world are about. Each alone is a world in which no
// other lie hides what comes of it.
type subjects struct {
	remaining bool // what is left of configured limits
	limit     bool // how large they are, and how they are counted
	invented  bool // limits that nobody has configured
	resets    bool
	refusals  bool // what was refused, by what, and until when
	dates     bool
	use       bool // what was used, sent or not sent
}

func drawSubjects(t *rapid.T) subjects {
	everything := rapid.Bool().Draw(t, "everything")
	about := func(topic string) bool { return everything || rapid.IntRange(0, 2).Draw(t, topic) == 0 }
	return subjects{
		remaining: about("remaining"), limit: about("limits"), invented: about("invented"), resets: about("resets"),
		refusals: about("refusals"), dates: about("dates"), use: about("use"),
	}
}

var (
	anyClass = rapid.SampledFrom([]provider.Class{
		provider.OK, provider.OK, provider.OK, provider.OK, provider.OK, provider.OK, provider.RateLimited, provider.RateLimited,
		provider.ConcurrencyLimited, provider.QuotaExhausted, provider.AuthInvalid, provider.Forbidden, provider.Overloaded,
		provider.RequestTooLarge, provider.InvalidRequest, provider.NoAnswer,
	})
	anyScope  = rapid.SampledFrom([]provider.Scope{provider.NoScope, provider.KeyScope, provider.KeyModelScope, provider.GroupScope, provider.ClassScope, provider.ClassScope, provider.ModelScope, provider.ProviderScope})
	anyKind   = rapid.SampledFrom([]provider.Kind{provider.Refilling, provider.Sliding, provider.Fixed})
	anyWait   = rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour, provider.LongestWait})
	anySource = rapid.SampledFrom([]provider.Source{provider.RetryAfter, provider.RetryInfo, provider.InMessage, provider.WindowReset, provider.InMessageDate, provider.Calendar, provider.ByDefault})
	anyReset  = rapid.SampledFrom([]time.Duration{provider.Unknown, provider.Unknown, 0, 1, time.Second, 10 * time.Second, 30 * time.Second, time.Minute - time.Second, time.Minute, time.Hour, day, provider.LongestWait})
	anyLength = rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour, day, 30 * day})
	anyName   = rapid.SampledFrom([]string{"", "", "burst", "fast", "project"})
	rounding  = rapid.SampledFrom([]int64{1, 1, 1, 10, 1000, plenty})
	dateError = rapid.SampledFrom([]time.Duration{0, 0, time.Minute, -time.Minute, time.Hour, -time.Hour, day, 2 * day, -day, 40 * day, 40 * day, -40 * day})
	anyAmount = rapid.SampledFrom([]int64{provider.Unknown, 0, 1, 5, 20, 100, plenty, math.MaxInt64 / 2})
)

// signal is any statement about the limits of a lease. Most are answers that are fine.
func (w *hostileWorld) signal(c *claim) (s provider.Signal) {
	if c.grant.Probe { // nothing is said unless it is a lie
		s.Class = provider.NoAnswer
	}
	if w.about.refusals {
		s.Class = anyClass.Draw(w.T, "class")
	}
	if w.about.refusals && s.Class != provider.OK {
		s.Scope = anyScope.Draw(w.T, "scope")
		s.Wait = anyWait.Draw(w.T, "wait")
		if s.Wait > 0 {
			s.Source = anySource.Draw(w.T, "source")
		}
		s.Operator = rapid.IntRange(0, 3).Draw(w.T, "operator") == 3
		s.RampUp = rapid.IntRange(0, 7).Draw(w.T, "ramp up") == 7
		if rapid.Bool().Draw(w.T, "names a limit") {
			s.Refused = w.refusal()
			if c.holder != "h1" { // two who say that little is used are believed
				s.Refused.Used = provider.Unknown
			}
		}
	}
	if w.about.remaining || w.about.limit || w.about.invented || w.about.resets {
		for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 4}).Draw(w.T, "windows") {
			s.Windows = append(s.Windows, w.window(c))
		}
	}
	if w.about.dates && rapid.IntRange(0, 2).Draw(w.T, "dated") == 0 {
		s.Date = w.date(w.now)
		if c.holder == "h1" { // a date that two state may show that a recorded window has ended
			s.Date = s.Date.Add(dateError.Draw(w.T, "date error"))
		}
	}
	s.Cached = rapid.IntRange(0, 7).Draw(w.T, "cached") == 7
	return s
}

func (w *hostileWorld) refusal() *provider.Refusal {
	r := &provider.Refusal{
		Dimension: provider.Dimension(rapid.IntRange(0, int(provider.NumDimensions)).Draw(w.T, "dimension")), Name: anyName.Draw(w.T, "name"),
		Length: anyLength.Draw(w.T, "length"), Limit: anyAmount.Draw(w.T, "limit"), Used: anyAmount.Draw(w.T, "used"), Requested: anyAmount.Draw(w.T, "requested"),
	}
	if l, ok := w.someLimit(); ok {
		r.Dimension, r.Length, r.Name, r.Limit = l.Dimension, l.Window, "", w.near(l.Amount, "limit")
	}
	return r
}

// window states something of a configured limit, or of one that is invented.
func (w *hostileWorld) window(c *claim) provider.Window {
	x := provider.Window{Rounding: 1, Reset: provider.Unknown, Remaining: provider.Unknown}
	if l, ok := w.someLimit(); ok {
		x.Dimension, x.Length, x.Limit, x.Kind = l.Dimension, l.Window, l.Amount, l.Kind
		if w.about.limit && rapid.Bool().Draw(w.T, "wrong limit") {
			x.Limit, x.Kind = w.near(l.Amount, "limit"), anyKind.Draw(w.T, "kind")
			if rapid.IntRange(0, 3).Draw(w.T, "no length") == 0 {
				x.Length = 0
			}
		}
		if w.about.remaining {
			x.Remaining, x.Rounding = w.near(l.Amount, "remaining"), rounding.Draw(w.T, "rounding")
		}
	} else {
		x.Dimension, x.Name = provider.Dimension(rapid.IntRange(0, int(provider.Concurrency)).Draw(w.T, "dimension")), anyName.Draw(w.T, "name")
		x.Length, x.Limit, x.Remaining, x.Kind = anyLength.Draw(w.T, "length"), anyAmount.Draw(w.T, "limit"), anyAmount.Draw(w.T, "remaining"), anyKind.Draw(w.T, "kind")
	}
	if c.holder != "h1" && x.Remaining > 0 { // two who say that much is left are believed
		x.Remaining = provider.Unknown
	}
	// Two who state any resets would soon agree on one, which makes it true.
	if w.about.resets && (w.colluding || c.holder == "h1") {
		x.Reset = anyReset.Draw(w.T, "reset")
	}
	x.Aside = rapid.IntRange(0, 15).Draw(w.T, "aside") == 15
	return x
}

// someLimit is a configured limit, mostly.
func (w *hostileWorld) someLimit() (pool.Limit, bool) {
	if len(w.limits) == 0 || w.about.invented && rapid.IntRange(0, 3).Draw(w.T, "invented") == 3 {
		return pool.Limit{}, false
	}
	return w.limits[rapid.IntRange(0, len(w.limits)-1).Draw(w.T, "which limit")].limit, true
}

// near is an amount that a statement about a limit may name.
func (w *hostileWorld) near(limit int64, what string) int64 {
	switch rapid.IntRange(0, 7).Draw(w.T, what+" about") {
	case 0:
		return provider.Unknown
	case 1:
		return rapid.SampledFrom([]int64{0, 1, 2 * limit, plenty, math.MaxInt64 / 2}).Draw(w.T, what)
	case 2:
		return limit - 1
	case 3:
		return rapid.Int64Range(0, limit).Draw(w.T, what)
	}
	return limit
}

// used is what a report says was used: what was reserved, nothing, less, more, or nothing
// that anybody could mean.
func (w *hostileWorld) used(c *claim) (used provider.Amounts) {
	use := rapid.IntRange(0, 7).Draw(w.T, "use")
	if !w.about.use {
		use %= 2
	}
	switch use {
	case 0:
		return c.grant.Reserved
	case 1:
		return unknown
	case 2, 3:
		return provider.Amounts{}
	case 4: // so many were sent, and nobody knows what they used
		used = unknown
		used[provider.Requests] = rapid.Int64Range(0, int64(c.grant.Count)).Draw(w.T, "sent")
		return used
	}
	for d := range used {
		n := c.grant.Reserved[d]
		used[d] = rapid.SampledFrom([]int64{n, 0, n / 2, n - 1, n + 1, provider.Unknown, -plenty, plenty, math.MaxInt64}).Draw(w.T, "used")
	}
	return used
}
