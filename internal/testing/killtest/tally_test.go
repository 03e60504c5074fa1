package killtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/assert"
)

// judge has each provider count, and the daily limits be used up but for what the
// kills may cost: one part in a hundred, and what was on its way to clients.
func (r *round) judge() {
	for i := range limits {
		v := limits[i].judge(r.fleet.list.leases, r.killed)
		assert.Empty(r.t, v.bad[:min(len(v.bad), 3)], "%v: over-granted, %d times", &limits[i], len(v.bad))
		r.verdicts = append(r.verdicts, v)
	}
	assert.LessOrEqual(r.t, r.wasted, r.mayWaste(), "daily: lost in %d kills", len(r.killed))
}

func (r *round) mayWaste() (most int64) {
	for _, l := range of(daily) {
		most += int64(len(r.killed)) * (l.amount/100 + 1)
	}
	for n := range r.killed {
		most += r.onTheWay(n)
	}
	return most
}

// onTheWay is how many calls a child took with it beside the one that is allowed
// for: each may have been granted a lease that nobody has received.
func (r *round) onTheWay(child int) int64 {
	if n, ok := r.fleet.lost.Load(child); ok {
		return max(0, n.(*atomic.Int64).Load()-1)
	}
	return 0
}

// String sums a round up.
func (r *round) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "round %d: %d kills, %d leases, %d reports on leases of predecessors, %d came too late to be used\n",
		r.number, len(r.killed), len(r.fleet.list.leases), r.old, r.fleet.late.Load())
	for i, v := range r.verdicts {
		fmt.Fprintf(&b, "  %-24v at most %d of %d in use\n", &limits[i], v.most, limits[i].amount)
	}
	fmt.Fprintf(&b, "  daily: %d lost, %d allowed\n", r.wasted, r.mayWaste())
	return b.String()
}

// tally sums rounds up.
type tally struct {
	mu                     sync.Mutex
	rounds, leases, old    int
	kills                  int
	at                     map[string]int
	most                   []int64
	wasted, allowed, worst int64
	recovered              []time.Duration
}

func (s *tally) add(r *round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at, s.most = map[string]int{}, make([]int64, len(limits))
	}
	s.rounds++
	s.kills += len(r.killed)
	s.leases += len(r.fleet.list.leases)
	s.old += r.old
	for k, n := range r.at {
		s.at[k] += n
	}
	for i, v := range r.verdicts {
		s.most[i] = max(s.most[i], v.most)
	}
	s.wasted += r.wasted
	s.allowed += r.mayWaste()
	s.worst = max(s.worst, r.wasted)
	s.recovered = append(s.recovered, r.recovered...)
}

func (s *tally) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds, %d kills, %d leases, %d reports on leases of predecessors\n", s.rounds, s.kills, s.leases, s.old)
	for k, n := range s.at {
		fmt.Fprintf(&b, "  %4d × %s\n", n, k)
	}
	for i, n := range s.most {
		fmt.Fprintf(&b, "  %-24v at most %d of %d in use\n", &limits[i], n, limits[i].amount)
	}
	fmt.Fprintf(&b, "  daily: %d lost in all, %d allowed; %.1f a kill\n", s.wasted, s.allowed, float64(s.wasted)/float64(max(s.kills, 1)))
	slices.Sort(s.recovered)
	if n := len(s.recovered); n > 0 {
		fmt.Fprintf(&b, "  from the start to the first answer: median %v, at most %v\n",
			s.recovered[n/2].Round(time.Millisecond), s.recovered[n-1].Round(time.Millisecond))
	}
	return b.String()
}
