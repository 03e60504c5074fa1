package killtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/store/bolt"
	"github.com/keybroker/keybroker/internal/testing/storetest"
)

// step is one child and how it ends.
type step struct {
	failpoint string        // name:n; or
	after     time.Duration // by SIGKILL from without, or
	stop      bool          // by SIGTERM
}

// The places at which a child kills itself. Up to the fifth save it does not serve
// yet: those are of its pools' beginnings.
var places = []string{
	"before-save:2", "after-save:3", "compact-copied:1", "compact-renamed:1",
	"before-answer:1", "before-save:7", "after-save:7", "chunks-written:7", "before-answer:12", "before-save:8", "after-save:9",
	"chunks-written:4",
}

// plan gives the steps of a round: of five kills three are at places, from one on. The
// rest are at any moment; some of them leave the limits of a minute and the slots the
// time that they need to come back. In the middle the broker is stopped in order.
func plan(r *rand.Rand, kills, place int) (steps []step) {
	for i := range kills {
		if i == kills/2 {
			steps = append(steps, step{stop: true, after: 4 * time.Second})
		}
		switch {
		case i == 0: // all limits are full
			steps = append(steps, step{after: 2 * time.Second})
		case i%5 == 0:
			steps = append(steps, step{after: time.Duration(r.IntN(1200)) * time.Millisecond})
		case i%5 == 2:
			steps = append(steps, step{after: 3500*time.Millisecond + time.Duration(r.IntN(2000))*time.Millisecond})
		default:
			steps = append(steps, step{failpoint: places[place%len(places)]})
			place++
		}
	}
	return steps
}

// notReached begins what a round notes of a child that did not come to its failpoint.
const notReached = "not reached: "

// perRound is the kills that one state file lives through.
const perRound = 20

// TestKill kills a broker that 30 clients use, as often as KILLS says or else five
// times, and counts what they were granted as their providers would.
func TestKill(t *testing.T) {
	t.Parallel()
	total := 5
	if s := os.Getenv("KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		total = n
	}
	var sum tally
	t.Run("rounds", func(t *testing.T) {
		for i := 0; i*perRound < total; i++ {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				n := min(perRound, total-i*perRound)
				r := newRound(t, uint64(i))
				r.run(plan(r.rand, n, i*perRound*3/5))
				sum.add(r)
				t.Log(r)
			})
		}
	})
	t.Log(&sum)
	if !t.Failed() {
		for what := range sum.at {
			if p, missed := strings.CutPrefix(what, notReached); missed {
				assert.Positive(t, sum.at[p], "nobody died at %s", p)
			}
		}
	}
}

// round is one state file, from its beginning, and all that happens to it.
type round struct {
	t                      *testing.T
	number                 uint64
	rand                   *rand.Rand
	address, config, state string
	fleet                  *fleet
	child                  *child
	children               int
	killed                 map[int]saves  // children that did not save their last state, and what they saved
	at                     map[string]int // deaths, by place
	recovered              []time.Duration
	old                    int // calls with leases of before
	verdicts               []verdict
	wasted                 int64 // of the daily limits
}

func newRound(t *testing.T, number uint64) *round {
	f, err := os.Create(filepath.Join(t.TempDir(), "grants.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	r := &round{
		t: t, number: number, rand: rand.New(rand.NewPCG(number, 1)), address: freeAddress(t),
		killed: map[int]saves{}, at: map[string]int{},
		fleet: &fleet{t: t, list: newList(f), changed: make(chan struct{})},
	}
	r.config, r.state = configure(t, r.address, limits)
	return r
}

func (r *round) run(steps []step) {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for i, pool := range []string{daily, daily, daily, tokens, tokens, minute, minute, claude, slots, slots} {
		for j := range 3 {
			c := &client{r.fleet, rand.New(rand.NewPCG(r.number, uint64(100+10*i+j))), pool, fmt.Sprint("holder ", (i+j)%5), 0}
			clients.Go(func() { c.run(ctx) })
		}
	}
	for i, s := range steps {
		r.step(s)
		if r.t.Failed() {
			break
		}
		progress("round %d: %d of %d ends, %d leases", r.number, i+1, len(steps), r.fleet.list.size())
	}
	r.begin("")
	cancel()
	clients.Wait()
	r.wasted = r.exhaust()
	r.end(syscall.SIGTERM)
	r.judge()
}

// step lives one child.
func (r *round) step(s step) {
	if s.failpoint == "compact-copied:1" || s.failpoint == "compact-renamed:1" {
		r.inflate()
	}
	r.begin(s.failpoint)
	wait := s.after
	if s.failpoint != "" {
		wait = patience
	}
	select {
	case <-r.child.exited:
		if assert.NotEmpty(r.t, s.failpoint, "it ended by itself") {
			r.at[s.failpoint]++
		}
		r.end(syscall.SIGKILL)
	case <-time.After(wait):
		switch {
		case s.stop:
			r.at["SIGTERM"]++
			r.end(syscall.SIGTERM)
		case s.failpoint != "":
			r.at[notReached+s.failpoint]++
			r.end(syscall.SIGKILL)
		default:
			r.at["SIGKILL"]++
			r.end(syscall.SIGKILL)
		}
	}
}

// begin starts a child, and lets the clients have it if it comes to serve.
func (r *round) begin(failpoint string) {
	r.children++
	c := start(r.t, r.config, r.address, failpoint)
	c.number = r.children
	r.child = c
	if c.client == nil {
		if failpoint == "" {
			assert.Fail(r.t, "it does not serve", c.log)
		}
		return
	}
	old := r.fleet.takeKept()
	r.fleet.serve(c)
	if failpoint != "" {
		r.fleet.mu.Lock()
		r.fleet.kept = append(r.fleet.kept, old...)
		r.fleet.mu.Unlock()
		return
	}
	r.recovered = append(r.recovered, r.probe())
	r.oldLeases(old)
}

// end waits for a child's end, and looks at what it leaves.
func (r *round) end(s syscall.Signal) {
	r.fleet.serve(nil)
	saved := false
	if s == syscall.SIGTERM {
		saved = r.child.stop(r.t)
	} else {
		r.child.end(s)
		assert.True(r.t, r.child.killed(), r.child.log)
	}
	if !saved {
		r.killed[r.child.number] = r.child.saves(r.fleet.list.begun)
	}
	assert.Empty(r.t, r.child.complaints())
}

// inflate makes the state file so large, with so little in it, that it is compacted
// at the next start.
func (r *round) inflate() {
	s, err := bolt.Open(r.state)
	require.NoError(r.t, err)
	for _, size := range []int{1 << 20, 1} {
		var all sync.WaitGroup
		for i := range 18 {
			all.Go(func() {
				name := fmt.Sprint("ballast ", i)
				epoch, err := s.Claim(r.t.Context(), name)
				if assert.NoError(r.t, err) {
					assert.NoError(r.t, storetest.Put(r.t.Context(), s, name, epoch, make([]byte, size)))
				}
			})
		}
		all.Wait()
	}
	require.NoError(r.t, s.Close())
}

func progress(format string, args ...any) {
	if os.Getenv("KILLS") != "" {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
}
