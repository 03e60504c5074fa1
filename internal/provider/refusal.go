package provider

import "strings"

// refusal finds the one limit that refused. It is nil if none is named, or more
// than one may be meant.
func (a *answer) refusal(c Class) *Refusal {
	switch c {
	case RateLimited, QuotaExhausted, RequestTooLarge:
	default:
		return nil
	}
	r := limitIn(a.message)
	if r == nil {
		r = a.named()
	}
	w := a.binding(r)
	if w == nil {
		return r
	}
	if r == nil {
		r = &Refusal{Dimension: w.Dimension, Limit: Unknown, Used: Unknown, Requested: Unknown}
	}
	r.Name = w.Name
	if r.Length == 0 {
		r.Length = w.Length
	}
	if r.Limit < 0 {
		r.Limit = w.Limit
	}
	return r
}

// names reports whether the refusal may be that of a window.
func (r *Refusal) names(w *Window) bool {
	if r.Name != "" && r.Name != w.Name {
		return false
	}
	return r.Dimension == w.Dimension && (r.Length == 0 || w.Length == 0 || r.Length == w.Length)
}

// named reads the limit that a refusal names in a word.
func (a *answer) named() *Refusal {
	r := Refusal{Dimension: NumDimensions, Limit: Unknown, Used: Unknown, Requested: Unknown}
	if len(a.said.violated) == 1 { // a policy of IETF's RateLimit-Policy
		r.Name = a.said.violated[0]
		for i := range a.windows {
			if w := &a.windows[i]; w.Name == r.Name {
				r.Dimension, r.Length, r.Limit = w.Dimension, w.Length, w.Limit
			}
		}
		return &r
	}
	policy := a.first("Policy-Id") // Azure
	switch {
	case a.says("tokens"), a.says("dynamic_token_limited"), strings.HasSuffix(policy, "-Token"):
		r.Dimension = Tokens
	case a.says("requests"), a.says("dynamic_request_limited"), strings.HasSuffix(policy, "-Request"):
		r.Dimension = Requests
	default:
		return nil
	}
	return &r
}

// binding finds the one window with nothing left that fits what is named.
func (a *answer) binding(r *Refusal) (found *Window) {
	aside := a.onlyAside()
	for i := range a.windows {
		w := &a.windows[i]
		switch {
		case !spent(w) || w.Aside != aside || r != nil && !r.names(w):
		case found != nil:
			return nil
		default:
			found = w
		}
	}
	return found
}

// spent reports whether nothing is left of a limit. Where the limit is 0, the
// provider counts nothing. Priority tokens that are used up let a request
// through as an ordinary one. Source: Claude docs, "Service tiers", 2026-08.
func spent(w *Window) bool {
	return w.Remaining == 0 && w.Limit != 0 && !w.is(priority)
}

// is reports whether a window is the one beside the ordinary ones that has such a
// name here. Others are named by providers, as they like.
func (w *Window) is(name string) bool { return w.Aside && w.Name == name }

// onlyAside reports whether nothing but windows beside the ordinary ones is
// spent.
func (a *answer) onlyAside() bool {
	return a.any(spent) && !a.any(func(w *Window) bool { return !w.Aside && spent(w) })
}

// any reports whether some window is such.
func (a *answer) any(such func(*Window) bool) bool {
	for i := range a.windows {
		if such(&a.windows[i]) {
			return true
		}
	}
	return false
}

// organization is the owner of the limits, where a response names it.
func (a *answer) organization() string {
	if h := a.dialect.organization; h != "" {
		if id := strings.TrimSpace(a.first(h)); id != "" {
			return id
		}
	}
	return organizationIn(beginning(a.said.message))
}
