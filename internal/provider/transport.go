package provider

import (
	"net/url"
	"strings"
)

// CredentialHeaders are the headers that carry a key, or say whose it is. All of
// them go before a leased key is set, so that no two of them meet. Not to be
// changed.
var CredentialHeaders = [...]string{
	"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "X-Amz-Security-Token",
	"Openai-Organization", "Openai-Project", "X-Goog-User-Project", "Proxy-Authorization", "Cookie",
}

// CredentialQuery are the parameters of a URL that carry a key: Gemini takes
// "?key=". They go as well. Not to be changed.
var CredentialQuery = [...]string{"key", "api_key", "api-key", "access_token"}

// Forward reports whether a header of a response is worth a report, and safe in
// one: limits, waits, the provider's time, owners and request ids. Nothing that
// grants access passes, whatever else is in its name.
func Forward(name string) bool {
	name = strings.ToLower(name)
	for _, part := range [...]string{"cookie", "auth", "api-key", "secret"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	switch name {
	case "x-should-retry", "anthropic-organization-id", "anthropic-workspace-id", "openai-organization",
		"date", "age", "policy-id", "x-amzn-errortype", "x-endpoint-monthly-call-limit":
		return true
	}
	for _, part := range [...]string{"ratelimit", "rate-limit", "tokenlimit"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	for _, start := range [...]string{"retry-after", "anthropic-fast-", "anthropic-priority-", "x-trial-endpoint-call-"} {
		if strings.HasPrefix(name, start) {
			return true
		}
	}
	return strings.HasSuffix(name, "request-id") || strings.HasSuffix(name, "requestid")
}

// Allows reports whether a key of a provider at base may be sent to a URL: to
// base's own scheme, host and port, and by https to the dialect's Hosts. An
// empty base stands for the dialect's own. Redirects are asked about again, so
// it decides in doubt against: a host is compared whole.
func (d *Dialect) Allows(to *url.URL, base string) bool {
	if base == "" {
		base = d.BaseURL
	}
	host := strings.ToLower(to.Hostname())
	if host == "" || to.Opaque != "" {
		return false
	}
	if b, err := url.Parse(base); err == nil && host == strings.ToLower(b.Hostname()) &&
		strings.EqualFold(to.Scheme, b.Scheme) && port(to) == port(b) && port(b) != "" {
		return true
	}
	if !strings.EqualFold(to.Scheme, "https") || port(to) != "443" {
		return false
	}
	for _, h := range d.Hosts {
		if matches(h, host) {
			return true
		}
	}
	return false
}

// port is a URL's, or that of its scheme; empty if it has neither.
func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case strings.HasSuffix(u.Host, ":"): // "host:" is written by nobody honest
		return ""
	case strings.EqualFold(u.Scheme, "https"):
		return "443"
	case strings.EqualFold(u.Scheme, "http"):
		return "80"
	}
	return ""
}

// matches compares a host with a pattern that has one "*" at most, which stands
// for one or more letters, digits and hyphens.
func matches(pattern, host string) bool {
	before, after, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == host
	}
	if len(host) <= len(before)+len(after) || !strings.HasPrefix(host, before) || !strings.HasSuffix(host, after) {
		return false
	}
	star := host[len(before) : len(host)-len(after)]
	return strings.Trim(star, lower+digits+"-") == ""
}
