package sandbox

import (
	"net/http"
	"strings"
)

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ep, model, found := route(r)
	switch {
	case found && s.serves(ep, r):
		s.serve(w, r, ep, model)
	case r.Method == http.MethodGet && r.URL.Path == "/v1/models":
		s.serveModels(w, r)
	default:
		s.exchange(w, guess(r)).fail(failure{kind: notFound})
	}
}

// route finds the endpoint of a request, and the model or thing that its path
// names. OpenAI's endpoints may have any prefix: its clones have their own.
func route(r *http.Request) (ep endpoint, named string, found bool) {
	path := r.URL.Path
	if r.Method == http.MethodGet {
		return endpoint{githubSurface, resource{}, parseResource, false, inEvents{}}, path, true
	}
	if r.Method != http.MethodPost {
		return ep, "", false
	}
	switch path {
	case "/v1/messages":
		return endpoint{anthropicSurface, messages{}, parseMessages, false, inEvents{}}, "", true
	case "/v2/chat":
		return endpoint{cohereSurface, chatV2{}, parseChatV2, false, inEvents{}}, "", true
	case "/v1/call":
		return endpoint{genericSurface, call{}, parseCall, false, inEvents{}}, "", true
	}
	if before, ok := strings.CutSuffix(path, "/chat/completions"); ok {
		_, deployment, _ := strings.Cut(before, "/openai/deployments/")
		return endpoint{openAISurface, chat{}, parseChat, false, inEvents{}}, deployment, true
	}
	if strings.HasSuffix(path, "/v1/responses") {
		return endpoint{openAISurface, responses{}, parseResponses, false, inEvents{}}, "", true
	}
	if i := strings.LastIndex(path, "/models/"); i >= 0 {
		return routeContent(r, path[i+len("/models/"):])
	}
	if rest, ok := strings.CutPrefix(path, "/model/"); ok {
		return routeConverse(rest)
	}
	return ep, "", false
}

// routeContent reads {model}:generateContent.
func routeContent(r *http.Request, rest string) (ep endpoint, model string, found bool) {
	ep = endpoint{googleSurface, content{}, parseContent, false, inEvents{}}
	model, verb, _ := strings.Cut(rest, ":")
	switch verb {
	case "generateContent":
	case "streamGenerateContent":
		ep.stream = true
		if r.URL.Query().Get("alt") != "sse" {
			ep.framing = inArray{}
		}
	default:
		return ep, "", false
	}
	return ep, model, true
}

// routeConverse reads {model}/converse; a model's name may have slashes.
func routeConverse(rest string) (ep endpoint, model string, found bool) {
	ep = endpoint{bedrockSurface, converse{}, parseConverse, false, inFrames{}}
	if model, found = strings.CutSuffix(rest, "/converse"); !found {
		model, found = strings.CutSuffix(rest, "/converse-stream")
		ep.stream = true
	}
	return ep, model, found
}

// serves tells GitHub's paths, which are any that one may GET, from those that
// do not exist: they are there for its accounts, and beneath /repos for all.
func (s *Server) serves(ep endpoint, r *http.Request) bool {
	if ep.surface != githubSurface || strings.HasPrefix(r.URL.Path, "/repos/") {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[credential{githubSurface, githubSurface.credential(r)}] != nil
}
