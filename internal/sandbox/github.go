package sandbox

import (
	"net/http"
	"time"
)

// github counts requests only, from one reset to the next an hour later, and
// tells of it always. An hour that is used up is a 403.
var github = dialect{
	surface: githubSurface,
	demand:  callOnly,
	moves:   sinceUse,
	identify: func(h http.Header, _, id string, _ time.Duration) {
		h.Set("x-github-request-id", id)
	},
	headers: func(h http.Header, now time.Time, ls *levels) {
		rates{{of: either(rph), limit: "x-ratelimit-limit", remaining: "x-ratelimit-remaining",
			reset: "x-ratelimit-reset", format: epochSeconds}}.set(h, now, ls)
		if l := ls[rph]; l != nil {
			h.Set("x-ratelimit-used", decimal(l.limit-l.remaining))
			h.Set("x-ratelimit-resource", "core")
		}
	},
	says: map[kind]wording{
		notFound:   {404, "", "", "Not Found"},
		noKey:      {401, "", "", "Requires authentication"},
		wrongKey:   {401, "", "", "Bad credentials"},
		limited:    {403, "", "", "API rate limit exceeded for user ID 1."},
		exhausted:  {403, "", "", "API rate limit exceeded for user ID 1."},
		overloaded: {503, "", "", "No server is currently available to service your request."},
		forbidden:  {403, "", "", "Resource not accessible by personal access token"},
	},
	shape: func(h http.Header, w *wording, f *failure) any {
		if f.kind == exhausted {
			h.Set("x-ratelimit-remaining", "0")
		}
		return obj{"message": w.message, "documentation_url": "https://docs.github.com/rest", "status": decimal(int64(w.status))}
	},
}

// resource is the format of whatever GitHub has, without tokens.
type resource struct{}

func parseResource(_ []byte, path string) (*request, error) {
	return &request{model: "core", silent: true, path: path}, nil
}

func (resource) whole(a *answer) any           { return obj{"id": a.id, "url": a.path} }
func (resource) begin(*answer) []event         { return nil }
func (resource) delta(*answer, string) []event { return nil }
func (resource) end(*answer) []event           { return nil }
