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

	requests    atomic.Uint64
	unknownKeys atomic.Int64

	mu      sync.Mutex
	keys    map[credential]*account // never changes
	revoked map[string]bool
	banned  map[ban]bool
}

// credential is a key on one surface.
type credential struct {
	surface surface
	key     string
}

// ban keeps a key from a model.
type ban struct{ key, model string }

// New returns a server for some accounts. Its limits start full.
func New(accounts []Account, o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		options: o,
		start:   o.Now(),
		keys:    map[credential]*account{},
		revoked: map[string]bool{},
		banned:  map[ban]bool{},
	}
	for _, declared := range accounts {
		a := newAccount(declared, s.start)
		s.accounts = append(s.accounts, a)
		for _, key := range declared.Keys {
			c := credential{a.dialect.surface, key}
			if key != "" && s.keys[c] == nil {
				s.keys[c] = a
			}
		}
	}
	return s
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

// Forbid makes the server answer 403 to a key that asks for a model, or stops
// that. The model is named without a magic suffix.
func (s *Server) Forbid(key, model string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.banned[ban{key, model}] = on
}

func (s *Server) forbids(key, model string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.banned[ban{key, model}]
}

// SetLimits changes the limits of a class, and makes the class if its account
// has none of that name. What is used stays used; a dimension that was not
// limited before starts full. It reports whether there is such an account.
func (s *Server) SetLimits(name, class string, l Limits) bool {
	return s.each(name, func(a *account) { a.class(class).setLimits(s.elapsed(), l) })
}

// Use lets somebody else use the limits of a class: as much as l says in each
// dimension that is limited, but no more than there is room for. Slots for
// requests at one time stay taken until a negative number gives them back. It
// reports whether there is such an account.
func (s *Server) Use(name, class string, l Limits) bool {
	return s.each(name, func(a *account) { a.class(class).use(s.elapsed(), l) })
}

// Overload makes an account's requests fail as if the provider were busy, or
// stops that. It reports whether there is such an account.
func (s *Server) Overload(name string, on bool) bool {
	return s.each(name, func(a *account) { a.overloaded = on })
}

// Exhaust makes an account's requests fail as if its money or its long quota
// were used up, or stops that. It reports whether there is such an account.
func (s *Server) Exhaust(name string, on bool) bool {
	return s.each(name, func(a *account) { a.exhausted = on })
}

// each does something to the accounts of a name, and reports whether there are
// any.
func (s *Server) each(name string, do func(*account)) (found bool) {
	for _, a := range s.accounts {
		if a.Name == name {
			found = true
			a.mu.Lock()
			do(a)
			a.mu.Unlock()
		}
	}
	return found
}

// authenticate finds the account of the request's credential, or answers 401.
func (s *Server) authenticate(x *exchange, r *http.Request) bool {
	key := x.surface.credential(r)
	s.mu.Lock()
	owner, revoked := s.keys[credential{x.surface, key}], s.revoked[key]
	s.mu.Unlock()
	if owner != nil {
		x.dialect = owner.dialect
	}

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
		x.account, x.key = owner, key
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
	models := x.dialect.models
	if models == nil {
		models = openAIModels
	}
	x.json(http.StatusOK, models(slices.Compact(names)))
}

// guess is the surface of a request whose path does not tell.
func guess(r *http.Request) surface {
	if r.Header.Get("x-api-key") != "" || r.Header.Get("anthropic-version") != "" {
		return anthropicSurface
	}
	return openAISurface
}

// elapsed is the virtual time of the limits.
func (s *Server) elapsed() time.Duration { return s.options.Now().Sub(s.start) }

// exchange begins an answer of its own identity.
func (s *Server) exchange(w http.ResponseWriter, on surface) *exchange {
	nth := s.requests.Add(1)
	return &exchange{
		server:  s,
		w:       w,
		surface: on,
		dialect: on.stranger(),
		nth:     nth,
		answer:  answer{id: fmt.Sprintf("sandbox%08d", nth), created: s.options.Now()},
	}
}
