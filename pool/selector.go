package pool

import (
	"fmt"

	"github.com/keybroker/keybroker/internal/provider"
)

// The strategies that choose among the candidates of one priority.
const (
	LeastLoaded = "least_loaded" // most room left in the tightest limit
	RoundRobin  = "round_robin"  // each in its turn
	Random      = "random"       // any, evenly
	Weighted    = "weighted"     // in proportion to the weights of the keys
)

// Candidate is what a strategy chooses among: a quota group's account for one class of
// models, together with the group's keys of one priority. Keys of one group share its
// limits, so it does not matter to capacity which of them is taken; they take turns.
type Candidate struct {
	account *account
	seat    *seat
	tier    *tier
	index   int32 // in the selector's heap, or in that of full candidates

	// A full candidate had no room when it was last asked.
	full    bool
	blocked provider.Amounts // for this ask
	why     fit              // because of this

	pass       int64 // weighted: how much it was served, for its weight
	prev, next *Candidate
}

func (c *Candidate) place() *int32 { return &c.index }

// KeySelector is a pluggable strategy over the candidates that may have room. All methods
// cost O(log n) at most.
type KeySelector interface {
	// Add and Remove keep the set.
	Add(now Time, c *Candidate)
	Remove(c *Candidate)
	// Select returns the next choice, nil if there is none.
	Select() *Candidate
	// Served tells that a lease was granted from c, which is in the set.
	Served(now Time, c *Candidate)
	// Changed tells that the load of c, which is in the set, is another.
	Changed(now Time, c *Candidate)
}

// NewSelector makes the selector of a strategy; the empty name is LeastLoaded.
// random gives random numbers to the strategy that wants them.
func NewSelector(strategy string, random func() uint64) (KeySelector, error) {
	switch strategy {
	case "", LeastLoaded:
		return &LeastLoadedSelector{}, nil
	case RoundRobin:
		s := &RoundRobinSelector{}
		s.ring.prev, s.ring.next = &s.ring, &s.ring
		return s, nil
	case Random:
		return &RandomSelector{random: random}, nil
	case Weighted:
		return &WeightedSelector{}, nil
	}
	return nil, fmt.Errorf("unknown strategy %q", strategy)
}

// LeastLoadedSelector takes the candidate whose tightest limit by the minute is
// used least. For refilling limits the order does not change while nothing is
// charged, so it is exact; for others it is as of the last change.
type LeastLoadedSelector struct{ heap heap[*Candidate] }

// Add implements KeySelector.
func (s *LeastLoadedSelector) Add(now Time, c *Candidate) { s.heap.push(c, c.account.rank(now)) }

// Remove implements KeySelector.
func (s *LeastLoadedSelector) Remove(c *Candidate) { s.heap.remove(c) }

// Select implements KeySelector.
func (s *LeastLoadedSelector) Select() *Candidate { return first(&s.heap) }

// Served implements KeySelector.
func (s *LeastLoadedSelector) Served(now Time, c *Candidate) { s.Changed(now, c) }

// Changed implements KeySelector.
func (s *LeastLoadedSelector) Changed(now Time, c *Candidate) {
	s.heap.update(c, c.account.rank(now))
}

// RoundRobinSelector takes the candidate that was served longest ago.
type RoundRobinSelector struct{ ring Candidate }

// Add implements KeySelector.
func (s *RoundRobinSelector) Add(_ Time, c *Candidate) {
	c.prev, c.next = s.ring.prev, &s.ring
	c.prev.next, c.next.prev = c, c
}

// Remove implements KeySelector.
func (s *RoundRobinSelector) Remove(c *Candidate) {
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
}

// Select implements KeySelector.
func (s *RoundRobinSelector) Select() *Candidate {
	if s.ring.next == &s.ring {
		return nil
	}
	return s.ring.next
}

// Served implements KeySelector.
func (s *RoundRobinSelector) Served(now Time, c *Candidate) {
	s.Remove(c)
	s.Add(now, c)
}

// Changed implements KeySelector.
func (s *RoundRobinSelector) Changed(Time, *Candidate) {}

// RandomSelector takes any candidate with the same chance.
type RandomSelector struct {
	items  []*Candidate
	random func() uint64
}

// Add implements KeySelector.
func (s *RandomSelector) Add(_ Time, c *Candidate) {
	c.index = int32(len(s.items))
	s.items = append(s.items, c)
}

// Remove implements KeySelector.
func (s *RandomSelector) Remove(c *Candidate) {
	last := s.items[len(s.items)-1]
	s.items[c.index], last.index = last, c.index
	s.items = s.items[:len(s.items)-1]
	c.index = -1
}

// Select implements KeySelector.
func (s *RandomSelector) Select() *Candidate {
	if len(s.items) == 0 {
		return nil
	}
	return s.items[s.random()%uint64(len(s.items))]
}

// Served implements KeySelector.
func (s *RandomSelector) Served(Time, *Candidate) {}

// Changed implements KeySelector.
func (s *RandomSelector) Changed(Time, *Candidate) {}

// WeightedSelector serves candidates in proportion to the summed weights of their usable
// keys. Keys of one group share its limits and take even turns. Each service advances a
// candidate's pass by the inverse of its weight, and the lowest pass is next.
type WeightedSelector struct {
	heap heap[*Candidate]
	pass int64 // of whoever was served last; nobody starts behind it
}

const stride = 1 << 40

// Add implements KeySelector.
func (s *WeightedSelector) Add(_ Time, c *Candidate) {
	c.pass = max(c.pass, s.pass)
	s.heap.push(c, c.pass)
}

// Remove implements KeySelector.
func (s *WeightedSelector) Remove(c *Candidate) { s.heap.remove(c) }

// Select implements KeySelector.
func (s *WeightedSelector) Select() *Candidate { return first(&s.heap) }

// Served implements KeySelector.
func (s *WeightedSelector) Served(_ Time, c *Candidate) {
	s.pass = c.pass
	c.pass += max(1, stride/max(c.seat.weight, 1))
	s.heap.update(c, c.pass)
}

// Changed implements KeySelector.
func (s *WeightedSelector) Changed(Time, *Candidate) {}

func first(h *heap[*Candidate]) *Candidate {
	if h.len() == 0 {
		return nil
	}
	c, _ := h.min()
	return c
}
