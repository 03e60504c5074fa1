package sandbox

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/internal/sim"
)

// dialect is one provider: how it counts, and how it speaks, whatever the
// endpoint. It is data, and functions where the data differs in shape.
type dialect struct {
	surface surface

	// demand is what a request asks of the limits.
	demand func(*request) demand
	// moves is how the windows of its limits do.
	moves movement
	// zone is where its clock hangs; nil is UTC.
	zone *time.Location
	// perSecond says that a minute's limit is enforced second by second.
	perSecond bool

	// identify sets the headers that name the answer, and the organisation if
	// it is known; nil: x-request-id.
	identify func(h http.Header, organization, id string, took time.Duration)
	// headers sets what every answer tells of the limits; nil: nothing.
	headers func(h http.Header, now time.Time, ls *levels)

	// says is what its failures are called; OpenAI's words are those of whoever
	// has none for one.
	says map[kind]wording
	// shape gives the body of a failure, and sets headers that it has beside those
	// of the limits.
	shape func(h http.Header, w *wording, f *failure) any
	// retryAfter and retryAfterMs say in which headers a refusal states its wait.
	retryAfter, retryAfterMs bool

	// models is the body of GET /v1/models; nil: as OpenAI's.
	models func(names []string) any
}

// dialects are those of the accounts' types.
var dialects = map[string]*dialect{
	"anthropic": &anthropic, "openai": &openAI, "azure": &azure, "gemini": &gemini, "vertex": &vertex,
	"bedrock": &bedrock, "groq": &groq, "mistral": &mistral, "cerebras": &cerebras, "fireworks": &fireworks,
	"together": &together, "openrouter": &openRouter, "deepseek": &deepSeek, "xai": &xai, "cohere": &cohere,
	"github": &github, "generic": &generic,
}

func dialectOf(typ string) *dialect {
	if d := dialects[typ]; d != nil {
		return d
	}
	return &openAI
}

// wording is what a dialect calls a failure. In all of its texts a name in
// braces stands for what failure.fill puts there.
type wording struct {
	status             int
	typ, code, message string
}

// fail sets the headers of a failure, and gives its status and body.
func (d *dialect) fail(h http.Header, f *failure) (status int, body any) {
	w, fill := d.words(f), f.fill()
	w.typ, w.code, w.message = fill.Replace(w.typ), fill.Replace(w.code), fill.Replace(w.message)
	if _, hasWord := d.says[oversized]; f.kind == limited && (f.refusal.wait != sim.Never || !hasWord) {
		d.stateWait(h, f.refusal.stated())
	}
	return w.status, d.shape(h, &w, f)
}

// stateWait says how long to wait, one second at least where it is in seconds.
func (d *dialect) stateWait(h http.Header, wait time.Duration) {
	if d.retryAfter {
		h.Set("retry-after", strconv.FormatInt(max(1, ceil(wait, time.Second)), 10))
	}
	if d.retryAfterMs {
		h.Set("retry-after-ms", strconv.FormatInt(ceil(wait, time.Millisecond), 10))
	}
}

func (d *dialect) words(f *failure) wording {
	kinds := []kind{f.kind}
	switch {
	case f.kind != limited:
	case f.refusal.wait == sim.Never:
		kinds = []kind{oversized, limited}
	case f.refusal.concurrency:
		kinds = []kind{crowded, limited}
	}
	for _, own := range [...]*dialect{d, &openAI} {
		for _, k := range kinds {
			if w, ok := own.says[k]; ok {
				return w
			}
		}
	}
	panic("sandbox: a failure that OpenAI has no words for")
}

// stated is the wait that is told. One that is larger than the limit is sent
// away for the time of its window.
func (r *refusal) stated() time.Duration {
	if r.wait == sim.Never {
		return r.dim.window()
	}
	return r.wait
}

// fill puts the facts of a failure into its words.
func (f *failure) fill() *strings.Replacer {
	now := f.now.UTC()
	month := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
	pairs := []string{
		"{problem}", f.message, "{model}", f.model, "{organization}", f.organization,
		"{month}", month.Format("2006-01-02 at 15:04 UTC"),
	}
	if r := f.refusal; r != nil {
		what := "requests"
		if r.dim.countsTokens() && !r.concurrency {
			what = "tokens"
		}
		pairs = append(pairs,
			"{limit}", fmt.Sprint(r.limit), "{limit,}", thousands(r.limit), "{used}", fmt.Sprint(r.used),
			"{requested}", fmt.Sprint(r.requested), "{what}", what, "{per}", r.per(), "{PER}", r.abbreviated(),
			"{wait}", goDuration(time.Time{}, r.stated()), "{seconds}", wholeSeconds(time.Time{}, r.stated()))
	}
	return strings.NewReplacer(pairs...)
}

// per is what a limit counts: "input tokens per minute".
func (r *refusal) per() string {
	if r.concurrency {
		return "concurrent requests"
	}
	return [dimensions]string{"requests per minute", "input tokens per minute", "output tokens per minute",
		"tokens per minute", "requests per day", "tokens per day", "requests per hour"}[r.dim]
}

// abbreviated is the same as OpenAI writes it.
func (r *refusal) abbreviated() string {
	if r.concurrency {
		return r.per()
	}
	return strings.Replace(r.per(), " minute", " min", 1) + " (" + strings.ToUpper(r.dim.String()) + ")"
}

// thousands writes 20000 as 20,000. n is not negative.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rate is one set of headers about one limit. A name that is empty is not sent.
type rate struct {
	of                      func(*levels) *level
	limit, remaining, reset string
	format                  func(now time.Time, d time.Duration) string // of reset
	blur                    func(*level) int64                          // what remains, as it is told; nil: exactly
	perSecond               bool                                        // a minute's amounts, divided by 60
}

type rates []rate

func (rs rates) set(h http.Header, now time.Time, ls *levels) {
	for _, r := range rs {
		l := r.of(ls)
		if l == nil {
			continue
		}
		limit, remaining := l.limit, l.remaining
		if r.blur != nil {
			remaining = r.blur(l)
		}
		if r.perSecond {
			limit, remaining = limit/60, remaining/60
		}
		put := func(name, value string) {
			if name != "" {
				h.Set(name, value)
			}
		}
		put(r.limit, strconv.FormatInt(limit, 10))
		put(r.remaining, strconv.FormatInt(remaining, 10))
		if r.reset != "" {
			h.Set(r.reset, r.format(now, l.reset))
		}
	}
}

// either is the first of some limits that is set.
func either(dims ...dimension) func(*levels) *level {
	return func(ls *levels) *level {
		for _, d := range dims {
			if ls[d] != nil {
				return ls[d]
			}
		}
		return nil
	}
}

// The ways to write when a limit is full, or a refusal over. All round up: a
// reset is not announced before it is due.

// goDuration is a duration as Go writes it, in whole milliseconds: 6m0s.
func goDuration(_ time.Time, d time.Duration) string {
	return (time.Duration(ceil(d, time.Millisecond)) * time.Millisecond).String()
}

func wholeSeconds(_ time.Time, d time.Duration) string {
	return strconv.FormatInt(ceil(d, time.Second), 10)
}

func floatSeconds(_ time.Time, d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
}

func rfc3339(now time.Time, d time.Duration) string {
	return wholeSecond(now.Add(d)).Format(time.RFC3339)
}

func epochSeconds(now time.Time, d time.Duration) string {
	return strconv.FormatInt(wholeSecond(now.Add(d)).Unix(), 10)
}

func epochMillis(now time.Time, d time.Duration) string {
	return strconv.FormatInt(now.Add(d+time.Millisecond-1).UnixMilli(), 10)
}

func wholeSecond(t time.Time) time.Time {
	whole := t.UTC().Truncate(time.Second)
	if whole.Before(t) {
		whole = whole.Add(time.Second)
	}
	return whole
}
