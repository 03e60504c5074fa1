package sandbox

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a simulated provider, an [http.Handler]. It is safe for
// concurrent use.
type Server struct {
	options  Options
	start    time.Time
	accounts []*account
	mux      *http.ServeMux

	requests    atomic.Uint64
	unknownKeys atomic.Int64

	mu      sync.Mutex
	keys    map[credential]*account // never changes
	revoked map[string]bool
}

// credential is a key on one surface.
type credential struct {
	anthropic bool
	key       string
}

// New returns a server for some accounts. Its limits start full.
func New(accounts []Account, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		options: o,
		start:   o.Now(),
		mux:     http.NewServeMux(),
		keys:    map[credential]*account{},
		revoked: map[string]bool{},
	}
	for _, declared := range accounts {
		a := newAccount(declared)
		s.accounts = append(s.accounts, a)
		for _, key := range declared.Keys {
			c := credential{a.Type == "anthropic", key}
			if key != "" && s.keys[c] == nil {
				s.keys[c] = a
			}
		}
	}
	s.mux.Handle("POST /v1/messages", s.serve(endpoint{anthropic{}, messages{}, parseMessages}))
	s.mux.Handle("POST /v1/chat/completions", s.serve(endpoint{openAI{}, chat{}, parseChat}))
	s.mux.Handle("POST /v1/responses", s.serve(endpoint{openAI{}, responses{}, parseResponses}))
	s.mux.HandleFunc("GET /v1/models", s.serveModels)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.exchange(w, guess(r)).fail(failure{kind: notFound})
	})
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mux.ServeHTTP(w, r)
}

// Revoke makes the server answer 401 to a key from now on. Answers under way
// are finished.
func (s *Server) Revoke(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked[key] = true
}

// Restore undoes Revoke.
func (s *Server) Restore(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.revoked, key)
}

// SetLimits changes the limits of a class, and makes the class if its account
// has none of that name. What is used stays used; a dimension that was not
// limited before starts full. It reports whether there is such an account.
func (s *Server) SetLimits(account, class string, l Limits) bool {
	found := false
	for _, a := range s.accounts {
		if a.Name != account {
			continue
		}
		found = true
		a.mu.Lock()
		a.class(class).setLimits(s.elapsed(), l)
		a.mu.Unlock()
	}
	return found
}

// authenticate finds the account of the request's credential, or answers 401.
func (s *Server) authenticate(x *exchange, r *http.Request) bool {
	key := x.dialect.credential(r)
	_, isAnthropic := x.dialect.(anthropic)
	s.mu.Lock()
	owner, revoked := s.keys[credential{isAnthropic, key}], s.revoked[key]
	s.mu.Unlock()

	switch {
	case key == "":
		s.unknownKeys.Add(1)
		x.fail(failure{kind: noKey})
	case owner == nil:
		s.unknownKeys.Add(1)
		x.fail(failure{kind: wrongKey})
	case revoked:
		owner.mu.Lock()
		owner.unauthorized++
		owner.mu.Unlock()
		x.fail(failure{kind: wrongKey})
	default:
		x.account = owner
		return true
	}
	return false
}

// serveModels lists the declared models of the caller's account.
func (s *Server) serveModels(w http.ResponseWriter, r *http.Request) {
	x := s.exchange(w, guess(r))
	if !s.authenticate(x, r) {
		return
	}
	names := []string{}
	for _, c := range x.account.Classes {
		names = append(names, c.Models...)
	}
	slices.Sort(names)
	x.json(http.StatusOK, x.dialect.models(slices.Compact(names)))
}

// guess is the dialect of a request whose path does not tell.
func guess(r *http.Request) dialect {
	if r.Header.Get("x-api-key") != "" || r.Header.Get("anthropic-version") != "" {
		return anthropic{}
	}
	return openAI{}
}

// elapsed is the virtual time of the limits.
func (s *Server) elapsed() time.Duration { return s.options.Now().Sub(s.start) }

// exchange begins an answer of its own identity.
func (s *Server) exchange(w http.ResponseWriter, d dialect) *exchange {
	nth := s.requests.Add(1)
	return &exchange{
		server:  s,
		w:       w,
		dialect: d,
		nth:     nth,
		answer:  answer{id: fmt.Sprintf("sandbox%08d", nth), created: s.options.Now()},
	}
}
