package pool_test

// Who waits for whom: first come first served within a holder, fair between
// holders, the large not starved by the small, and nothing left unused.

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/testing/long"
	"github.com/keybroker/keybroker/pool"
)

func one(ls []pool.Limit) []pool.Key { return []pool.Key{{ID: "a", Limits: ls}} }

// until serves whoever can be until a moment, each at the moment that Next
// asked for, and calls f for each.
func (s *story) until(end pool.Time, f func(*pool.Waiter)) {
	s.Helper()
	idle := 0
	for range 1_000_000 {
		served, wake := s.Next(s.now)
		idle++
		for _, w := range served {
			f(w)
		}
		if len(served) > 0 {
			idle = 0
			continue // f may have called, so that the wake is another
		}
		if wake <= s.now && idle < 10 {
			continue // there is more to tidy up than is done at a time
		}
		if wake <= s.now {
			s.Fatalf("at %v it wants to be called at %v, and does nothing", s.now, wake)
		}
		if wake > end {
			s.now = end
			return
		}
		s.now, idle = max(s.now, wake), 0
	}
	s.Fatal("never done")
}

func TestServedAtExactlyTheMoment(t *testing.T) {
	for name, c := range map[string]struct {
		limits []pool.Limit
		before []func(*pool.Ask)
		ask    []func(*pool.Ask)
		at     pool.Time
	}{
		"requests":            {rpm(1), nil, nil, 60 * sec},
		"input":               {limits(plenty, 60, plenty), in(60), in(7), 7 * sec},
		"held output at last": {limits(plenty, plenty, 60), []func(*pool.Ask){output(60)}, []func(*pool.Ask){output(7)}, 37 * sec},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(c.limits)})
			s.lease("x", c.before...)
			s.waits("h", c.ask...)
			var at pool.Time
			s.until(c.at-1, func(*pool.Waiter) { at = s.now })
			require.Zero(t, at, "served too early")
			s.until(c.at, func(*pool.Waiter) { at = s.now })
			assert.Equal(t, c.at, at)
		})
	}
}

// Output that a report settles begins to refill then, not when its hold would
// have ended.
func TestSettledOutputRefillsAtOnce(t *testing.T) {
	for name, settle := range map[string]func(*story, pool.Grant){
		"by report": func(s *story, g pool.Grant) {
			s.ends(g, "x", fine, provider.Amounts{provider.Requests: 1, provider.OutputTokens: 60})
		},
		"by release": func(s *story, g pool.Grant) { require.NoError(s, s.Release(s.now, g.Lease, "x", false)) },
		"in part": func(s *story, g pool.Grant) {
			_, err := s.Report(s.now, g.Lease, "x", fine, provider.Amounts{provider.OutputTokens: 60}, false)
			require.NoError(s, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(limits(plenty, plenty, 60))})
			g := s.lease("x", output(60))
			s.now = sec
			s.waits("h", output(5))
			s.serves()
			settle(s, g)
			_, wake := s.serves()
			assert.Equal(t, 6*sec, wake)
			s.now = 6 * sec
			served, _ := s.serves()
			assert.Equal(t, []string{"h"}, served)
		})
	}
}

func TestOldestFirstWithinAHolder(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(60))})
	s.tally(60)
	first, second := s.waits("h"), s.waits("h")
	s.now = sec
	served, _ := s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{first}, served)
	s.now = 2 * sec
	served, _ = s.Next(s.now)
	assert.Equal(t, []*pool.Waiter{second}, served)
}

func TestHoldersTakeTurns(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(60))})
	s.tally(60)
	for range 4 {
		s.waits("many")
	}
	s.waits("few")
	s.waits("few")
	var order []string
	s.until(6*sec, func(w *pool.Waiter) { order = append(order, w.Ask.Holder) })
	require.Len(t, order, 6)
	assert.ElementsMatch(t, []string{"many", "few", "many", "few"}, order[:4])
}

// Holders are even in what they take of the limit, not in how often.
func TestLargeAndSmallAsksShareEvenly(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 6000, plenty))})
	s.lease("x", input(6000))
	got := map[string]int64{}
	s.waits("large", input(2000))
	for range 20 {
		s.waits("small", input(100))
	}
	s.until(10*minute, func(w *pool.Waiter) {
		n := w.Ask.Amounts[provider.InputTokens]
		got[w.Ask.Holder] += n
		s.waits(w.Ask.Holder, input(n))
	})
	assert.InDelta(t, 30_000, got["large"], 2000)
	assert.InDelta(t, 30_000, got["small"], 2000)
}

// Jain's index is 1 when all get the same, and 1/n when one gets everything.
func TestAHundredHoldersShareFiftyAMinute(t *testing.T) {
	s := begin(t, setup{StartWithin: 2 * time.Second, Keys: one(rpm(50))})
	got := map[string]float64{}
	for i := range 100 {
		for range 1 + 5*(i%3) { // some press harder
			s.waits(fmt.Sprint(i))
		}
	}
	s.until(10*minute, func(w *pool.Waiter) {
		got[w.Ask.Holder]++
		s.waits(w.Ask.Holder)
	})
	sum, squares := 0.0, 0.0
	for _, n := range got {
		sum += n
		squares += n * n
	}
	assert.GreaterOrEqual(t, sum, 500.0, "nothing is lost")
	assert.GreaterOrEqual(t, sum*sum/(100*squares), 0.98)
}

func TestLargeAskIsNotStarved(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.lease("x", input(60))
	large := s.waits("large", input(60))
	for i := range 50 {
		s.waits(fmt.Sprintf("small %d", i), input(1))
	}
	var at pool.Time
	s.until(2*minute, func(w *pool.Waiter) {
		if w == large {
			at = s.now
		}
	})
	assert.Equal(t, minute, at, "as if it were alone")
}

// What the first does not need goes to those behind it, at its own key and at
// all others.
func TestThoseBehindAreServedElsewhere(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "large", Limits: limits(plenty, 60, plenty)}, {ID: "small", Limits: limits(plenty, 10, plenty)},
	}})
	s.lease("x", input(60))
	s.waits("first", input(30))
	s.waits("second", input(5))
	s.waits("third", output(5))
	s.waits("fourth", input(20))
	got := map[string]string{}
	s.until(30*sec-1, func(w *pool.Waiter) { got[w.Ask.Holder] = w.Grant().Key })
	assert.Equal(t, "small", got["second"])
	assert.Contains(t, got, "third", "it takes nothing that the first needs")
	assert.NotContains(t, got, "fourth", "it would delay the first")
	s.until(50*sec, func(w *pool.Waiter) { got[w.Ask.Holder] = w.Grant().Key })
	assert.Equal(t, "large", got["first"])
	assert.Equal(t, "large", got["fourth"])
}

func TestNewAskDoesNotPassAWaiter(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.lease("x", input(60))
	s.waits("waiter", input(30))
	s.serves()
	s.now = 10 * sec
	e := s.refused("new", input(5))
	assert.GreaterOrEqual(t, e.RetryAt, 30*sec, "what has refilled is the waiter's")
	assert.Less(t, e.RetryAt, pool.Never)
	s.lease("other", output(5))
	s.now = 30 * sec
	served, _ := s.serves()
	assert.Equal(t, []string{"waiter"}, served)
	s.now = 35 * sec
	s.lease("new", input(5))
}

// An ask that is refused only for the sake of those who wait is not too large,
// though the other key's limit is too small for it.
func TestBehindAWaiterIsNotTooLarge(t *testing.T) {
	s := begin(t, setup{Keys: []pool.Key{
		{ID: "large", Limits: limits(plenty, 60, plenty)}, {ID: "small", Limits: limits(plenty, 10, plenty)},
	}})
	s.lease("x", input(60))
	s.waits("waiter", input(50))
	s.serves()
	s.now = 30 * sec
	s.refused("new", input(20))
}

// Who asks for what never fits is told, and keeps nobody waiting.
func TestTooLargeDoesNotWait(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.lease("x", input(60))
	s.refused("h", input(1))
	_, err := s.Wait(s.now, ask("h", input(61)))
	require.ErrorIs(t, err, pool.ErrTooLarge)
	s.waits("h2", input(1))
	s.now = sec
	served, _ := s.serves()
	assert.Equal(t, []string{"h2"}, served)
}

func TestCancelInTheMiddle(t *testing.T) {
	for name, gone := range map[string]int{"first": 0, "middle": 1, "last": 2} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
			s.lease("x", input(60))
			all := []*pool.Waiter{s.waits("h", input(30)), s.waits("h", input(20)), s.waits("h", input(10))}
			s.serves()
			assert.True(t, s.Cancel(all[gone]))
			assert.True(t, s.Cancel(all[gone]), "twice is once")
			assert.Equal(t, 2, s.Summary(s.now, "").Waiters)
			var got []*pool.Waiter
			s.until(minute, func(w *pool.Waiter) { got = append(got, w) })
			assert.ElementsMatch(t, append(all[:gone:gone], all[gone+1:]...), got)
			assert.False(t, s.Cancel(got[0]), "it was served")
			assert.Empty(t, s.Inspect(s.now, "").Queues)
		})
	}
}

// With the first gone, who waited behind it need not wait for its moment.
func TestCancelOfTheFirstLetsOthersPass(t *testing.T) {
	s := begin(t, setup{Keys: one(limits(plenty, 60, plenty))})
	s.lease("x", input(60))
	w := s.waits("first", input(60))
	s.waits("second", input(5))
	s.serves()
	s.now = 20 * sec
	served, _ := s.serves()
	require.Empty(t, served)
	s.Cancel(w)
	served, _ = s.serves()
	assert.Equal(t, []string{"second"}, served)
}

// A release, a cooldown that ends and a key that is proven each wake a waiter.
func TestWhatWakesAWaiter(t *testing.T) {
	t.Run("release", func(t *testing.T) {
		s := begin(t, setup{Keys: one(append(rpm(plenty), slots(1)))})
		g := s.lease("x")
		s.waits("h")
		_, wake := s.serves()
		assert.LessOrEqual(t, wake, g.Expires, "nothing else is sure to come")
		require.NoError(t, s.Release(s.now, g.Lease, "x", false))
		served, _ := s.serves()
		assert.Equal(t, []string{"h"}, served)
	})
	t.Run("cooldown of an account", func(t *testing.T) {
		s := begin(t, setup{Keys: one(rpm(plenty))})
		s.ends(s.lease("h"), "h", limited(7*time.Second), unknown)
		s.waits("h")
		_, wake := s.serves()
		require.Equal(t, 7*sec, wake)
		s.now = wake
		served, _ := s.serves()
		assert.Equal(t, []string{"h"}, served)
	})
	t.Run("proof of a key", func(t *testing.T) {
		s := begin(t, setup{Keys: one(rpm(plenty))})
		s.ends(s.lease("x"), "x", invalid, unknown)
		s.waits("h1")
		s.waits("h2")
		_, wake := s.serves()
		require.Equal(t, sec, wake)
		s.now = wake
		served, _ := s.Next(s.now)
		require.Len(t, served, 1, "one tries it")
		s.answers(served[0].Grant(), "h1", fine)
		again, _ := s.serves()
		assert.Equal(t, []string{"h2"}, again)
	})
	t.Run("expiry", func(t *testing.T) {
		s := begin(t, setup{Keys: one(append(rpm(plenty), slots(1)))})
		g := s.lease("x")
		s.waits("h")
		s.now = g.Expires
		served, _ := s.serves()
		assert.Equal(t, []string{"h"}, served)
	})
}

// The second promise: with somebody always waiting, what refills is granted.
func TestNothingIdles(t *testing.T) {
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			cfg := setup{Strategy: strategy, StartWithin: 2 * time.Second}
			for i := range 4 {
				cfg.Groups = append(cfg.Groups, pool.Group{Name: fmt.Sprint("g", i), Limits: limits(600, 60_000, plenty)})
			}
			for i := range 8 {
				cfg.Keys = append(cfg.Keys, pool.Key{ID: fmt.Sprint(i), Group: fmt.Sprint("g", i%4), Priority: i % 2})
			}
			s := begin(t, cfg)
			wait := func(holder string) { // 50 and 250 input tokens: input binds, at 400 a minute
				n := int64(50)
				if len(holder)%2 == 0 {
					n = 250
				}
				_, err := s.Wait(s.now, pool.Ask{Holder: holder, TTL: time.Minute, Amounts: provider.Amounts{1, n, 10, n, 1}})
				require.NoError(t, err)
			}
			for i := range 20 {
				for range 10 {
					wait(fmt.Sprintf("holder %d", i))
				}
			}
			granted := int64(0)
			count := func(w *pool.Waiter) {
				granted += w.Ask.Amounts[provider.InputTokens]
				wait(w.Ask.Holder)
			}
			s.until(minute, count)
			granted = 0 // the first minute had the burst
			minutes := int64(2)
			if long.Enabled {
				minutes = 10
			}
			s.until((1+pool.Time(minutes))*minute, count)
			assert.InEpsilon(t, 4*60_000*minutes, granted, 0.01)
		})
	}
}
