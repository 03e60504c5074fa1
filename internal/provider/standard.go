package provider

import (
	"cmp"
	"strconv"
	"strings"
	"time"
)

// standard reads the headers that the IETF's drafts "RateLimit header fields for
// HTTP" define, from 03 to 10 (2025-09), and the X-RateLimit-* ones that came
// before. The first family of which something can be read is the one that counts:
// what is malformed is as good as missing.
func standard(a *answer) {
	policy, limit, known := a.joined("Ratelimit-Policy"), a.joined("Ratelimit"), len(a.windows)
	if strings.HasPrefix(policy, `"`) || strings.HasPrefix(limit, `"`) {
		a.policies(policy, limit)
	} else {
		a.dictionary(policy, limit)
	}
	if len(a.windows) > known {
		return
	}
	for _, f := range [...]struct{ limit, remaining, reset string }{
		{"Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset"},
		{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
		{"X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset"},
	} {
		if a.threeFields(policy, a.joined(f.limit), a.first(f.remaining), a.first(f.reset)) {
			return
		}
	}
}

// joined gives a header that may be split over several lines.
func (a *answer) joined(name string) string {
	v := a.values(name)
	if len(v) == 1 {
		return strings.TrimSpace(v[0])
	}
	return strings.TrimSpace(strings.Join(v, ", "))
}

// stated is a window of unknown kind, of which nothing is known yet.
func (a *answer) stated(d Dimension) Window {
	return Window{Dimension: d, Kind: a.dialect.Kind, Rounding: 1,
		Limit: Unknown, Remaining: Unknown, Reset: Unknown}
}

// policies reads drafts 08 to 10: `"burst";q=100;w=60` and `"burst";r=50;t=30`.
// A member without what it must have is as good as missing. Of two that say what
// remains of one policy, such as for two partitions, the worse holds.
func (a *answer) policies(policy, limit string) {
	find := func(name string) *Window {
		for i := range a.windows {
			if a.windows[i].Name == name {
				return &a.windows[i]
			}
		}
		w := a.stated(Requests)
		w.Name = name
		a.windows = append(a.windows, w)
		return &a.windows[len(a.windows)-1]
	}
	for _, m := range few(parseField(policy, false)) {
		q, ok := m.param("q")
		if length, fine := m.param("w"); fine && ok && q >= 0 && m.names() {
			w := find(m.value.text)
			w.Limit, w.Length = q, window(length)
			w.counts(unitOf(&m))
		}
	}
	for _, m := range few(parseField(limit, false)) {
		r, ok := m.param("r")
		if t, fine := m.param("t"); fine && ok && r >= 0 && m.names() {
			w := find(m.value.text)
			if w.Limit >= 0 {
				r = min(r, w.Limit)
			}
			if w.Remaining < 0 || r < w.Remaining || r == w.Remaining && reset(t) > w.Reset {
				w.Remaining, w.Reset = r, reset(t)
			}
		}
	}
}

// What is read of policies: names are kept, and every one is looked for among the
// others.
const (
	maxPolicies   = 32
	maxPolicyName = 64 // bytes
)

func few(ms []member) []member { return ms[:min(len(ms), maxPolicies)] }

// names reports whether a member is the name of a policy.
func (m *member) names() bool { return m.value.kind == '"' && len(m.value.text) <= maxPolicyName }

// unitOf is what a policy counts, "requests" unless it says otherwise.
func unitOf(m *member) string {
	for _, p := range m.params {
		if p.key == "qu" {
			return p.value.text
		}
	}
	return "requests"
}

// counts sets what a window counts. Nobody here counts bytes, and calls at one
// time have no window.
func (w *Window) counts(unit string) {
	switch unit {
	case "requests":
	case "concurrent-requests":
		w.Dimension, w.Length, w.Aside = Concurrency, 0, true
	default:
		w.Dimension, w.Aside = NumDimensions, true
	}
}

// dictionary reads draft 07: `limit=10, remaining=9, reset=50`.
func (a *answer) dictionary(policy, limit string) {
	w := a.stated(Requests)
	for _, m := range parseField(limit, true) {
		if m.value.kind != '1' {
			continue
		}
		switch n := m.value.number; m.key {
		case "limit":
			w.Limit = max(n, Unknown)
		case "remaining":
			w.Remaining = max(n, Unknown)
		case "reset":
			w.Reset = reset(n)
		}
	}
	if w.Limit < 0 && w.Remaining < 0 {
		return
	}
	if w.Limit >= 0 {
		w.Remaining = min(w.Remaining, w.Limit)
	}
	w.Length = lengthOf(parseField(policy, false), w.Limit)
	a.windows = append(a.windows, w)
}

// threeFields reads drafts up to 06 and what they standardised. It reports
// whether they are there.
func (a *answer) threeFields(policy, limit, remaining, reset string) bool {
	policies := parseField(policy, false)
	if _, ok := whole(limit); !ok && strings.ContainsAny(limit, ",;") {
		listed := parseField(limit, false)
		limit = firstLimit(listed)
		policies = append(policies, listed...)
	}
	w := a.stated(Requests)
	w.Limit, w.Remaining = amounts(limit, remaining)
	if w.Limit < 0 && w.Remaining < 0 {
		return false
	}
	w.Reset = a.reset(anyFormat, reset)
	w.Length = lengthOf(policies, w.Limit)
	a.windows = append(a.windows, w)
	return true
}

// firstLimit finds the limit that the other headers speak of in a list such as
// `100, 100;w=60, 1000;w=3600`: the first bare number, else the first.
func firstLimit(listed []member) (limit string) {
	for i := range listed {
		m := &listed[i]
		if m.value.kind != '1' {
			continue
		}
		n := strconv.FormatInt(m.value.number, 10)
		if len(m.params) == 0 {
			return n
		}
		limit = cmp.Or(limit, n)
	}
	return limit
}

// lengthOf finds the window of a limit among policies, unless two fit.
func lengthOf(policies []member, limit int64) (found time.Duration) {
	if limit < 0 {
		return 0
	}
	for i := range policies {
		m := &policies[i]
		n, ok := m.param("w", "window")
		if m.value.kind != '1' || m.value.number != limit || !ok || n < 0 {
			continue
		}
		if found > 0 && found != window(n) {
			return 0
		}
		found = window(n)
	}
	return found
}

// window makes a length of seconds; 0 of none or of too many.
func window(s int64) time.Duration {
	if s <= 0 || s > int64(LongestWait/time.Second) {
		return 0
	}
	return time.Duration(s) * time.Second
}

// reset makes the time to a reset of seconds; Unknown of none or of too many.
func reset(s int64) time.Duration {
	if s < 0 || s > int64(LongestWait/time.Second) {
		return Unknown
	}
	return time.Duration(s) * time.Second
}
