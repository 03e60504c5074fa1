package pool_test

// What the first in line reserves. Whoever comes between, by polling, by
// being many or by being new, must not make it wait longer than if it were alone;
// and nobody is to be hidden behind those who cannot be served.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

func requests(n int64) func(*pool.Ask) {
	return func(a *pool.Ask) { a.Amounts[provider.Requests] = n }
}

// polled gives the moment at which a waiter is served while somebody else asks
// again and again, and how often that somebody got what it asked for before.
func (s *story) polled(w *pool.Waiter, end pool.Time, poll ...func(*pool.Ask)) (at pool.Time, got int) {
	s.Helper()
	for s.now < end {
		served, _ := s.Next(s.now)
		for _, v := range served {
			if v == w {
				return s.now, got
			}
		}
		s.now += sec
		if _, err := s.Acquire(s.now, ask("poller", poll...)); err == nil {
			got++
		}
	}
	s.Fatalf("not served by %v, and the poller got %d", end, got)
	return 0, 0
}

// A poll comes just before the timer that would have served the waiter.
func TestPollDoesNotTakeTheReservation(t *testing.T) {
	for _, single := range []bool{false, true} {
		for _, n := range []int64{1, 20, 60} {
			t.Run(fmt.Sprintf("single %v, poll for %d", single, n), func(t *testing.T) {
				s := begin(t, setup{Single: single, Keys: one(limits(plenty, 60, plenty))})
				s.lease("x", input(60))
				s.waits("a", input(20))
				s.until(20*sec, func(*pool.Waiter) {}) // a is served, and so behind everybody new
				w := s.waits("a", input(20))
				s.serves()
				at, got := s.polled(w, 5*minute, input(n))
				assert.Equal(t, 40*sec, at)
				assert.Zero(t, got)
			})
		}
	}
}

func TestReservationCoversTheLimitsOfASingleKey(t *testing.T) {
	for name, cfg := range map[string]setup{
		"of the key": {
			Groups: []pool.Group{{Name: "g", Limits: rpm(plenty)}},
			Keys:   []pool.Key{{ID: "k", Group: "g", Limits: limits(plenty, 100, plenty)}},
		},
		"of the group": {
			Groups: []pool.Group{{Name: "g", Limits: limits(plenty, 100, plenty)}},
			Keys:   []pool.Key{{ID: "k", Group: "g"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, cfg)
			s.lease("x", input(100))
			w := s.waits("large", input(90))
			s.serves()
			at, got := s.polled(w, 20*minute, input(1))
			assert.Equal(t, 54*sec, at, "as if it were alone")
			assert.Zero(t, got)
		})
	}
}

// The holder of the first is given something else, which moves it back. From
// then on it is the next whose reservation counts.
func TestReservationGoesToWhoeverIsFirstNow(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "x", Limits: limits(10, 60, plenty)}, {ID: "y", Limits: limits(60, 10, plenty)}, {ID: "z", Limits: limits(30, 30, plenty)},
	}})
	require.Equal(t, "x", s.key("h", input(60)))
	require.Equal(t, "y", s.key("h", requests(48)))
	s.waits("f", input(40)) // fits x only
	s.waits("f", input(20)) // fits z now
	w := s.waits("g", requests(40))
	served, _ := s.serves()
	require.Equal(t, []string{"f"}, served)
	s.refused("poller", requests(12), without("z"))
	at, got := s.polled(w, 5*minute, requests(12), without("z"))
	assert.Equal(t, 28*sec, at)
	assert.Zero(t, got)
}

// A poll by a holder who also waits moves it back in line like any other grant,
// and whoever is first then may fit.
func TestGrantToTheFirstLetsTheNextBeLookedAt(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: limits(plenty, 60, plenty)}, {ID: "b", Limits: rpm(10)}}})
	s.lease("x", input(40), without("b"))
	s.waits("f", input(60), without("b")) // at 40 s
	w := s.waits("g", input(20), without("b"))
	served, wake := s.serves()
	require.Empty(t, served, "the first reserves all")
	require.Equal(t, 40*sec, wake)
	s.lease("f", without("a"))
	got, _ := s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{w}, got)
}

// Who excludes every key waits for nothing, and so reserves nothing.
func TestWaiterWithoutAKeyReservesNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.waits("f", input(60), without("a"))
	s.waits("g", input(60))
	served, _ := s.serves()
	assert.Equal(t, []string{"g"}, served)
}

// Those who wait for the large key are many, but the small key goes on serving
// those whom it fits: twice a minute.
func TestMisfitsDoNotHideTheOthers(t *testing.T) {
	for name, misfit := range map[string]func(i int) string{
		"200 of one holder": func(int) string { return "greedy" },
		"of 150 holders":    func(i int) string { return fmt.Sprint("greedy ", i%150) },
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: []pool.Key{
				{ID: "large", Limits: limits(plenty, 1000, plenty)}, {ID: "small", Limits: limits(plenty, 100, plenty)},
			}})
			s.lease("x", input(1000))
			s.lease("x", input(100))
			for i := range 200 {
				s.waits(misfit(i), input(900))
			}
			for range 1000 {
				s.waits("modest", input(50))
			}
			modest := 0
			s.until(20*minute, func(w *pool.Waiter) {
				if w.Ask.Holder == "modest" {
					modest++
				}
			})
			assert.GreaterOrEqual(t, modest, 38)
		})
	}
}

// Several groups, each of which fits a small ask long before it fits a large one:
// whoever wants large ones gets its part like everybody else.
func TestLargeAsksAreNotStarvedBetweenGroups(t *testing.T) {
	var keys []pool.Key
	for i := range 4 {
		keys = append(keys, pool.Key{ID: fmt.Sprint(i), Limits: limits(plenty, 6000, plenty)})
	}
	for name, c := range map[string]struct {
		large  int64
		greedy int // holders
	}{
		"two thirds of a limit":  {4000, 1},
		"as many large as small": {4000, 10},
	} {
		t.Run(name, func(t *testing.T) {
			const modest = 10
			s := begin(t, setup{Keys: keys})
			for i := range c.greedy {
				s.waits(fmt.Sprint("large ", i), input(c.large+int64(i)))
			}
			for i := range 10 * modest {
				s.waits(fmt.Sprint("modest ", i%modest), input(int64(100+i%7)))
			}
			small, all := int64(0), int64(0)
			s.until(60*minute, func(w *pool.Waiter) {
				n := w.Ask.Amounts[provider.InputTokens]
				if all += n; n < 1000 {
					small += n
				}
				s.waits(w.Ask.Holder, func(a *pool.Ask) { a.Amounts = w.Ask.Amounts })
			})
			assert.Greater(t, all, int64(60*24_000*98/100), "and nothing is wasted")
			assert.InEpsilon(t, float64(modest)/float64(modest+c.greedy), float64(small)/float64(all), 0.1)
		})
	}
}

// One holder that wants all of each of several groups shuts one of them.
func TestOneHolderHasOneReservation(t *testing.T) {
	var keys []pool.Key
	for i := range 4 {
		keys = append(keys, pool.Key{ID: fmt.Sprint(i), Limits: limits(plenty, 600, plenty)})
	}
	s := begin(t, setup{Keys: keys})
	for range keys {
		s.lease("x", input(500))
	}
	for range 8 {
		s.waits("greedy", input(600))
	}
	for range 20 {
		s.waits("modest", input(50))
	}
	served, _ := s.serves()
	assert.Len(t, served, 6, "two in each of the others")
}

// But a holder whose oldest call waits for a cooldown has its other calls protected, too.
func TestALongWaitCostsNotTheHoldersOtherCalls(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "x", Limits: limits(plenty, 600, plenty)}, {ID: "y", Limits: limits(plenty, 600, plenty)},
	}})
	for _, g := range []pool.Grant{s.lease("a", without("y")), s.lease("h", without("y"))} {
		s.ends(g, map[pool.LeaseID]string{1: "a", 2: "h"}[g.Lease], limited(10*time.Minute), provider.Amounts{provider.Requests: 1})
	}
	s.lease("a", input(600), without("x"))
	s.waits("h", input(10), without("y"))
	w := s.waits("h", input(500))
	s.serves()
	at, _ := s.polled(w, 9*minute, input(10))
	assert.Equal(t, 50*sec, at, "as if it were alone")
}

// The only group that is large enough stands at the end of a long list.
func TestReservationOfAGroupFarDownTheList(t *testing.T) {
	var keys []pool.Key
	for i := range 100 {
		keys = append(keys, pool.Key{ID: fmt.Sprint(i), Limits: limits(plenty, 10, plenty)})
	}
	s := begin(t, setup{Keys: append(keys, pool.Key{ID: "large", Limits: limits(plenty, 60, plenty)})})
	s.lease("x", input(60))
	w := s.waits("a", input(40))
	s.serves()
	at, got := s.polled(w, 5*minute, input(11))
	assert.Equal(t, 40*sec, at)
	assert.Zero(t, got)
}

// A reservation ends with whoever has it.
func TestNobodyKeepsAReservation(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.lease("x", input(60))
	w := s.waits("a", input(60))
	s.serves()
	s.now += 30 * sec
	s.refused("poller", input(10))
	s.Cancel(w)
	s.lease("poller", input(10))
}

// There is always somebody who has had nothing yet.
func TestNewcomersDoNotStarveWhoReturns(t *testing.T) {
	for n := range 4 {
		t.Run(fmt.Sprintf("%d newcomers a second", n), func(t *testing.T) {
			s := begin(t, setup{Keys: one(rpm(60))})
			s.tally(60)
			s.waits("regular")
			s.until(2*sec, func(*pool.Waiter) {})
			w := s.waits("regular")
			start, at := s.now, pool.Time(0)
			for i := 0; i < 1000 && at == 0; i++ {
				for j := range n {
					s.waits(fmt.Sprintf("newcomer %d.%d", i, j))
				}
				s.until(s.now+sec, func(v *pool.Waiter) {
					if v == w {
						at = s.now
					}
				})
			}
			require.NotZero(t, at, "never served")
			assert.LessOrEqual(t, at-start, 20*sec)
		})
	}
}

// Who is first in line, and is kept out by what it has said itself, keeps nothing free.
func TestTheBoundReserveNothing(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(60))})
	s.answers(s.lease("bound"), "bound", limited(10*time.Second))
	s.now = sec
	s.well("honest") // which contradicts
	s.now = 8600 * sec / 1000
	s.takes("honest")
	s.now = 9700 * sec / 1000
	s.waits("bound")
	s.waits("honest")
	holders, _ := s.serves()
	assert.Equal(t, []string{"honest"}, holders)
}
