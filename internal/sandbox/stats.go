package sandbox

import (
	"cmp"
	"slices"
	"time"
)

// Stats is what a server has counted since its start.
type Stats struct {
	// UnknownKeys counts the 401s for a missing credential, or one that no
	// account of the surface has.
	UnknownKeys int64

	// Accounts are in the order given to New.
	Accounts []AccountStats
}

// AccountStats is what was counted for one account.
type AccountStats struct {
	Type, Name string

	// Unauthorized counts the 401s for a revoked key. The key is checked
	// before the model is known, so there is no count by class.
	Unauthorized int64

	// Classes are the classes used or declared, by name.
	Classes []ClassStats
}

// ClassStats is what was counted for one model class of an account.
type ClassStats struct {
	Name string

	Admitted     int64 // requests let through
	Limited      int64 // 429s because of a limit
	Failed       int64 // failures asked for by a model's name, or by Overload, Exhaust or Forbid
	InFlight     int64 // requests being answered now
	InputTokens  int64 // estimated input of the admitted requests
	OutputTokens int64 // output generated
	OverLimit    int64 // charges of output that left a bucket below zero

	Limits []LimitStats // those the class has
}

// LimitStats is what was counted against one limit.
type LimitStats struct {
	Name    string // "rpm", "itpm", "otpm", "tpm", "rpd", "tpd" or "rph"
	Window  time.Duration
	Limit   int64
	Charged int64 // in all
}

// Stats returns what was counted so far.
func (s *Server) Stats() Stats {
	out := Stats{UnknownKeys: s.unknownKeys.Load()}
	for _, a := range s.accounts {
		out.Accounts = append(out.Accounts, a.snapshot())
	}
	return out
}

func (a *account) snapshot() AccountStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := AccountStats{Type: a.Type, Name: a.Name, Unauthorized: a.unauthorized}
	for _, c := range a.classes {
		stats := c.stats
		stats.Name, stats.InFlight = c.name, c.inFlight
		for d := range dimensions {
			if b := c.buckets[d]; b != nil {
				stats.Limits = append(stats.Limits, LimitStats{d.String(), b.window, b.limit, c.charged[d]})
			}
		}
		out.Classes = append(out.Classes, stats)
	}
	slices.SortFunc(out.Classes, func(a, b ClassStats) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
