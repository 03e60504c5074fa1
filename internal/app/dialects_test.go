package app_test

// Every provider type, over the whole broker, on virtual time: limits are
// learned and used up without a refusal; and whatever goes wrong at the provider
// keeps out of use what it is about, and nothing else, and not for longer than it
// must.

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sandbox"
	"github.com/keybroker/keybroker/internal/testing/long"
)

// dialect is what sets a provider type apart in the story.
type dialect struct {
	typ              string
	base, path, body string         // body: empty means GET
	limits           sandbox.Limits // of each account, for each model
	given            string         // the limits in the configuration, where nobody tells them
	learns           []learned      // from the headers of good answers
	taught           []learned      // from a refusal, where that is all
	share            float64        // of the capacity that must be used, at least
	startWithin      time.Duration
	flat             bool                         // limits are for all models together
	latency          time.Duration                // of answers; 0: a moment
	wait             func(*request) time.Duration // the wait that a rate limit states; nil: none
	busy             time.Duration                // others use the limits for so long
	wide             bool                         // a rate limit is the whole group's, and an overload the provider's
	regained         time.Duration                // when a used up quota comes back by its date, from the beginning; 0: nobody knows
}

type learned struct {
	dimension keybrokerv1.Dimension
	window    time.Duration
	limit     int64
}

func (d *dialect) answers() time.Duration { return cmp.Or(d.latency, 300*time.Millisecond) }

func (d *dialect) within() time.Duration {
	return cmp.Or(d.startWithin, 200*time.Millisecond)
}

const (
	requests = keybrokerv1.Dimension_DIMENSION_REQUESTS
	input    = keybrokerv1.Dimension_DIMENSION_INPUT_TOKENS
	output   = keybrokerv1.Dimension_DIMENSION_OUTPUT_TOKENS
	tokens   = keybrokerv1.Dimension_DIMENSION_TOKENS

	chatPath = "/chat/completions"
	chatBody = `{"model":"{model}","max_tokens":{max},"messages":[{"role":"user","content":"hello"}]}`
	google   = `{"contents":[{"parts":[{"text":"hello"}]}],"generationConfig":{"maxOutputTokens":{max}}}`

	refill, slide = 0.9, 0.75
)

var story = []dialect{
	{typ: "anthropic", path: "/v1/messages", body: chatBody, share: refill,
		limits: sandbox.Limits{RPM: 60, ITPM: 6000, OTPM: 6000}, wait: inHeader("Retry-After"), regained: month,
		learns: []learned{{requests, minute, 60}, {input, minute, 6000}, {output, minute, 6000}}},
	{typ: "azure", path: "/openai/deployments/{model}/chat/completions?api-version=2024-10-21", body: chatBody, share: slide,
		limits: both, wait: inHeader("Retry-After"), regained: 25 * time.Hour,
		learns: []learned{{requests, minute, 60}, {tokens, minute, 6000}}},
	{typ: "bedrock", path: "/model/{model}/converse", share: slide,
		body:   `{"messages":[{"role":"user","content":[{"text":"hello"}]}],"inferenceConfig":{"maxTokens":{max}}}`,
		limits: sandbox.Limits{RPM: 60, TPM: 30_000}, given: ", rpm_limit: 60, tpm_limit: 30000"},
	{typ: "cerebras", base: "/v1", path: chatPath, body: chatBody, share: slide,
		limits: sandbox.Limits{RPD: 14_400, TPM: 4200}, wait: inHeader("X-Ratelimit-Reset-Tokens-Minute"),
		learns: []learned{{requests, day, 14_400}, {tokens, minute, 4200}}},
	{typ: "cohere", path: "/v2/chat", body: chatBody, share: slide,
		limits: sandbox.Limits{RPM: 60}, given: ", rpm_limit: 60", taught: []learned{{requests, minute, 60}}, regained: month},
	{typ: "deepseek", path: chatPath, body: chatBody, share: slide,
		latency: 2 * time.Second, limits: sandbox.Limits{Concurrency: 4}, given: ", max_concurrency: 4"},
	{typ: "fireworks", base: "/inference/v1", path: chatPath, body: chatBody, share: slide,
		limits: sandbox.Limits{ITPM: 1800, OTPM: 1800},
		learns: []learned{{input, minute, 1800}, {output, minute, 1800}}},
	{typ: "gemini", path: "/v1beta/models/{model}:generateContent", body: google, share: slide,
		limits: both, given: bothGiven, taught: []learned{{requests, minute, 60}}, wait: inBody(`"retryDelay":"(\d+)s"`), regained: 8 * time.Hour},
	{typ: "generic", wide: true, path: "/v1/call", body: `{"model":"{model}","input":"hello","max_output_tokens":{max}}`, share: slide,
		limits: sandbox.Limits{RPM: 60}, learns: []learned{{requests, minute, 60}}, wait: inHeader("RateLimit", `t=(\d+)`)},
	{typ: "github", wide: true, path: "/repos/owner/name", flat: true, share: 0.95,
		limits: sandbox.Limits{RPH: 300}, learns: []learned{{requests, time.Hour, 300}}, wait: untilEpoch("X-Ratelimit-Reset"), regained: time.Hour},
	{typ: "groq", base: "/openai/v1", path: chatPath, body: chatBody, share: refill,
		limits: sandbox.Limits{RPD: 14_400, TPM: 3600}, wait: inHeader("Retry-After"), regained: 20 * minute,
		learns: []learned{{requests, day, 14_400}, {tokens, minute, 3600}}},
	{typ: "mistral", base: "/v1", path: chatPath, body: chatBody, share: slide,
		limits: both, wait: inHeader("Retry-After"), regained: month,
		learns: []learned{{requests, minute, 60}, {tokens, minute, 6000}}},
	{typ: "openai", base: "/v1", path: chatPath, body: chatBody, share: refill,
		limits: both, wait: inHeader("Retry-After"),
		learns: []learned{{requests, minute, 60}, {tokens, minute, 6000}}},
	{typ: "openrouter", wide: true, base: "/api/v1", path: chatPath, body: chatBody, share: slide,
		limits: sandbox.Limits{RPM: 60}, given: ", rpm_limit: 60", wait: untilMillis(`"X-RateLimit-Reset":"(\d+)"`)},
	{typ: "together", base: "/v1", path: chatPath, body: chatBody, share: slide, startWithin: 50 * time.Millisecond, busy: 10 * time.Second,
		limits: sandbox.Limits{RPM: 120, TPM: 30_000}, learns: []learned{{requests, time.Second, 2}, {tokens, time.Second, 500}}},
	{typ: "vertex", path: "/v1/projects/p/locations/global/publishers/google/models/{model}:generateContent", body: google, share: slide,
		limits: both, given: bothGiven, regained: 8 * time.Hour},
	{typ: "xai", base: "/v1", path: chatPath, body: chatBody, share: slide, limits: both, given: bothGiven},
}

var both = sandbox.Limits{RPM: 60, TPM: 6000}

const (
	bothGiven = ", rpm_limit: 60, tpm_limit: 6000"

	minute = time.Minute
	day    = 24 * time.Hour
	month  = 31 * day // from the beginning of a bubble's time
)

// brief are those that quick tests play: limits that headers tell, that a refusal
// teaches, of calls at a time, and by the hour.
var brief = []string{"anthropic", "cohere", "deepseek", "github"}

func TestDialects(t *testing.T) {
	for _, d := range story {
		if !long.Enabled && !slices.Contains(brief, d.typ) {
			continue
		}
		t.Run(d.typ, func(t *testing.T) {
			t.Parallel()
			play(t, "learn", d, "", (*scene).learn)
			play(t, "drain", d, d.given, (*scene).drain)
			play(t, "rate limit", d, d.given, (*scene).rateLimit)
			play(t, "overload", d, d.given, (*scene).overload)
			play(t, "quota", d, d.given, (*scene).exhausted)
			play(t, "revoked", d, d.given, (*scene).revoked)
			play(t, "forbidden", d, d.given, (*scene).forbidden)
		})
	}
}

// learn: nothing is configured. After a minute of light traffic the broker knows
// what headers tell, and feels its way where they tell nothing.
func (s *scene) learn() {
	s.traffic(minute, 8*time.Second)
	for _, group := range []string{"a", "b"} {
		q := s.quota(group, "m")
		var got []learned
		for _, l := range q.GetLimits() {
			got = append(got, learned{l.GetDimension(), l.GetWindow().AsDuration(), l.GetLimit()})
			assert.Zero(s, l.GetConfigured())
		}
		assert.ElementsMatch(s, s.learns, got, group)
		if len(s.learns) == 0 {
			assert.Positive(s, q.GetInFlightWindow(), "it feels its way")
		}
	}
	assert.Zero(s, s.refused())
	if s.taught == nil {
		return
	}
	s.provider.Use("org-a", s.class(), s.limits)
	s.traffic(10*time.Second, 2*time.Second)
	var got []learned
	for _, l := range s.quota("a", "m").GetLimits() {
		got = append(got, learned{l.GetDimension(), l.GetWindow().AsDuration(), l.GetLimit()})
	}
	assert.ElementsMatch(s, s.taught, got, "by a refusal")
}

// drain: there is more demand than room. Nothing is refused, and what there is
// is used.
func (s *scene) drain() {
	s.traffic(15*time.Second, 10*time.Second) // to learn; what comes before the first answer may be too much
	known, unknown := time.Now(), s.refused()
	s.traffic(minute, 0)
	before := s.used()
	s.traffic(2*minute, 0)
	share := (s.used() - before) / 2
	if s.limits.RPH > 0 { // all of it at once, and then nothing until the reset
		share = s.used() / 60
	}
	s.Logf("%s: %.1f %% of the capacity", s.typ, 100*share)
	assert.Equal(s, unknown, s.refused(), "refusals")
	assert.Zero(s, count(s.since(known, ""), failed))
	assert.GreaterOrEqual(s, share, s.share)
	assert.LessOrEqual(s, share, 1.05, "nobody gets more; but windows do not end as we look")
}

// rateLimit: somebody else uses up a group's limits.
func (s *scene) rateLimit() {
	s.traffic(15*time.Second, 10*time.Second)
	used, others := time.Now(), s.limits
	others.RPD = 0
	for time.Since(used) <= s.busy || !s.closed("a", "m") && time.Since(used) < 5*time.Second {
		if time.Since(used) <= s.busy {
			require.True(s, s.provider.Use("org-a", s.class(), others))
		}
		s.traffic(100*time.Millisecond, 0)
	}
	if s.limits.Concurrency == 0 { // else fewer calls are made at one time
		assert.True(s, s.closed("a", "m"))
	}
	assert.Equal(s, s.wide, s.rests("a", "n"))
	assert.False(s, s.rests("b", "m"))
	s.traffic(10*time.Second, 0)
	s.provider.Use("org-a", s.class(), sandbox.Limits{Concurrency: -s.limits.Concurrency})
	s.traffic(70*time.Second, time.Second)
	if s.limits.RPH > 0 {
		time.Sleep(time.Hour - time.Since(s.began) - time.Second)
		s.traffic(30*time.Second, 0)
	}

	refusal := first(s.since(used, "a"), failed)
	require.NotNil(s, refusal, "nobody noticed")
	assert.Zero(s, count(s.since(used, "b"), failed))
	assert.Positive(s, count(s.since(refusal.ended, "b"), (*request).ok))
	wait, slack := time.Duration(0), 90*time.Second
	if s.wait != nil {
		wait, slack = s.wait(refusal), 20*time.Second // with a sixteenth of the minute that is kept unused then
	}
	after := s.since(refusal.ended, "a")
	until := refusal.ended.Add(wait)
	early := count(after, func(r *request) bool { return failed(r) && r.granted.Before(until) })
	back := first(after, (*request).ok)
	require.NotNil(s, back, "it never comes back; %d refused", count(after, failed))
	s.Logf("%s: waited %v as told, tried %d times before, back %v after, %d refused in all",
		s.typ, wait, early, back.granted.Sub(until), count(s.since(used, "a"), failed))
	assert.LessOrEqual(s, early, 1)
	assert.LessOrEqual(s, count(s.since(used, "a"), failed), 20)
	assert.LessOrEqual(s, back.granted.Sub(until), slack)
}

// overload: the provider is busy for half a minute, whoever asks.
func (s *scene) overload() {
	s.traffic(15*time.Second, 10*time.Second)
	s.provider.Overload("org-a", true)
	s.provider.Overload("org-b", true)
	busy := time.Now()
	s.traffic(25*time.Second, 5*time.Second)
	resting, wide := false, false // but for the moments in which somebody tries
	for range 50 {
		s.traffic(100*time.Millisecond, 0)
		if s.rests("a", "m") && s.rests("b", "m") {
			resting, wide = true, s.rests("a", "n")
		}
	}
	assert.True(s, resting)
	assert.Equal(s, s.wide && s.typ != "openrouter", wide)
	for _, k := range s.look().GetKeys() {
		assert.Equal(s, keybrokerv1.Health_HEALTH_HEALTHY, k.GetHealth())
	}
	s.provider.Overload("org-a", false)
	s.provider.Overload("org-b", false)
	over := time.Now()
	s.traffic(20*time.Second, 5*time.Second)
	wasted := count(s.since(busy, ""), failed)
	back := first(s.since(over, ""), (*request).ok)
	require.NotNil(s, back)
	s.Logf("%s: %d wasted, back after %v", s.typ, wasted, back.granted.Sub(over))
	assert.LessOrEqual(s, wasted, 20, "a few at first, and one in two seconds")
	assert.LessOrEqual(s, back.granted.Sub(over), 10*time.Second)
}

// exhausted: a group's money is used up.
func (s *scene) exhausted() {
	s.traffic(15*time.Second, 10*time.Second)
	s.provider.Exhaust("org-a", true)
	out := time.Now()
	s.traffic(5*minute, 2*minute)
	assert.True(s, s.rests("a", "m"))
	assert.False(s, s.rests("b", "m"))
	s.traffic(5*minute, 2*minute)
	tries := count(s.since(out, "a"), failed)
	assert.Positive(s, tries)
	assert.LessOrEqual(s, tries, 6)
	assert.Zero(s, count(s.since(out, "b"), failed))
	s.provider.Exhaust("org-a", false)
	paid := time.Now()
	if s.regained > 0 {
		time.Sleep(s.regained - time.Since(s.began))
		paid = time.Now()
		s.traffic(minute, 10*time.Second)
	} else {
		s.traffic(25*minute, 3*minute)
	}
	back := first(s.since(paid, "a"), (*request).ok)
	require.NotNil(s, back, "it does not come back by itself: %d a %d b %v", len(s.since(paid, "a")), len(s.since(paid, "b")), s.look().GetQuotas())
	s.Logf("%s: %d tries, back by itself after %v", s.typ, tries, back.granted.Sub(paid))

	s.provider.Exhaust("org-a", true)
	s.traffic(minute, 10*time.Second)
	require.True(s, s.rests("a", "m"))
	s.provider.Exhaust("org-a", false)
	_, err := s.operator.RestoreKey(s.Context(), &keybrokerv1.RestoreKeyRequest{Pool: "p", KeyId: "a1"})
	require.NoError(s, err)
	restored := time.Now()
	s.traffic(10*time.Second, 3*time.Second)
	assert.Positive(s, count(s.since(restored, "a"), (*request).ok), "an operator has paid")
}

// revoked: one key is not accepted any more.
func (s *scene) revoked() {
	s.traffic(15*time.Second, 10*time.Second)
	s.provider.Revoke("sk-cnry7f3a-dialects-a1")
	gone := time.Now()
	s.traffic(minute, 10*time.Second)
	assert.Equal(s, keybrokerv1.Health_HEALTH_QUARANTINED, s.key("a1").GetHealth())
	for _, id := range []string{"a2", "b1"} {
		assert.Equal(s, keybrokerv1.Health_HEALTH_HEALTHY, s.key(id).GetHealth())
		assert.Zero(s, count(s.since(gone, ""), func(r *request) bool { return r.key == id && !r.ok() }))
		assert.Positive(s, count(s.since(gone, ""), func(r *request) bool { return r.key == id && r.ok() }))
	}
	tries := count(s.since(gone, ""), failed)
	s.provider.Restore("sk-cnry7f3a-dialects-a1")
	restored := time.Now()
	s.traffic(25*minute, 3*minute) // 10 min, or 20 if another service confirms it
	back := first(s.since(restored, ""), func(r *request) bool { return r.key == "a1" && r.ok() })
	require.NotNil(s, back, "it does not come back by itself: %v", s.look().GetKeys())
	s.Logf("%s: %d tries, back by itself after %v", s.typ, tries, back.granted.Sub(restored))
	assert.LessOrEqual(s, tries, 6)

	s.provider.Revoke("sk-cnry7f3a-dialects-a1")
	s.traffic(minute, 10*time.Second)
	require.Equal(s, keybrokerv1.Health_HEALTH_QUARANTINED, s.key("a1").GetHealth())
	s.provider.Restore("sk-cnry7f3a-dialects-a1")
	_, err := s.operator.RestoreKey(s.Context(), &keybrokerv1.RestoreKeyRequest{Pool: "p", KeyId: "a1"})
	require.NoError(s, err)
	assert.Equal(s, keybrokerv1.Health_HEALTH_HEALTHY, s.key("a1").GetHealth())
	now := time.Now()
	s.traffic(10*time.Second, 5*time.Second)
	assert.Positive(s, count(s.since(now, ""), func(r *request) bool { return r.key == "a1" && r.ok() }))
}

// forbidden: one key may not use one model.
func (s *scene) forbidden() {
	s.traffic(15*time.Second, 10*time.Second)
	s.provider.Forbid("sk-cnry7f3a-dialects-a1", "m", true)
	at := time.Now()
	s.traffic(minute, 10*time.Second)
	wrong := count(s.since(at, ""), failed)
	s.calls("n", 20*time.Second, 5*time.Second)
	if s.typ == "github" { // any 403 may be about one thing only: nothing is out
		assert.Empty(s, s.key("a1").GetForbiddenClasses())
		return
	}
	assert.Equal(s, []string{"m"}, s.key("a1").GetForbiddenClasses())
	assert.Empty(s, s.key("a2").GetForbiddenClasses())
	assert.Positive(s, count(s.since(at, ""), func(r *request) bool { return r.key == "a1" && r.model == "n" && r.ok() }))
	assert.Positive(s, count(s.since(at, ""), func(r *request) bool { return r.key == "a2" && r.model == "m" && r.ok() }))
	s.Logf("%s: %d tries", s.typ, wrong)
	assert.LessOrEqual(s, wrong, 6)
}

func TestDialectsAreAll(t *testing.T) {
	var types []string
	for _, d := range story {
		types = append(types, d.typ)
	}
	assert.ElementsMatch(t, provider.Types(), types)
}

// inHeader finds the seconds to wait in a header: its value, or what a pattern
// finds in it.
func inHeader(name string, pattern ...string) func(*request) time.Duration {
	return func(r *request) time.Duration {
		return time.Duration(match(append(pattern, `(.+)`)[0], r.header.Get(name)) * float64(time.Second))
	}
}

// inBody finds the seconds to wait in the body.
func inBody(pattern string) func(*request) time.Duration {
	return func(r *request) time.Duration { return time.Duration(match(pattern, r.body) * float64(time.Second)) }
}

// untilEpoch finds a moment in a header, untilMillis one in the body.
func untilEpoch(name string) func(*request) time.Duration {
	return func(r *request) time.Duration {
		return time.Unix(int64(match(`(.+)`, r.header.Get(name))), 0).Sub(r.ended)
	}
}

func untilMillis(pattern string) func(*request) time.Duration {
	return func(r *request) time.Duration { return time.UnixMilli(int64(match(pattern, r.body))).Sub(r.ended) }
}

func match(pattern, text string) float64 {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseFloat(m[1], 64)
	return n
}
