package pool_test

// Turns inside a holder: its instances are served one after the other, however many calls
// each has in line, and together they have no more than the holder's turn.

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/pool"
)

func instance(name string) func(*pool.Ask) { return func(a *pool.Ask) { a.Instance = name } }

// served runs a saturated pool of 60 a minute for so many seconds and counts grants by holder
// and instance.
func (s *story) served(seconds int) map[string]int {
	count := map[string]int{}
	for range seconds {
		s.now += sec
		served, _ := s.Next(s.now)
		for _, w := range served {
			count[w.Ask.Holder+w.Ask.Instance]++
		}
	}
	return count
}

func saturated(t *testing.T) *story {
	s := begin(t, setup{Keys: []pool.Key{{ID: "a", Limits: rpm(60)}}})
	for range 60 {
		s.lease("first")
	}
	return s
}

func TestInstancesOfAHolderTakeTurns(t *testing.T) {
	s := saturated(t)
	for range 100 {
		s.waits("h", instance("/1"))
	}
	for range 10 {
		s.waits("h", instance("/2"))
		s.waits("h", instance("/3"))
	}
	assert.Equal(t, map[string]int{"h/1": 10, "h/2": 10, "h/3": 10}, s.served(30))
	assert.Equal(t, map[string]int{"h/1": 20}, s.served(20), "what the others leave")
}

func TestManyInstancesAreOneHolder(t *testing.T) {
	s := saturated(t)
	for i := range 50 {
		s.waits("many", instance(fmt.Sprint("/", i)))
	}
	for range 50 {
		s.waits("one")
	}
	count := s.served(40)
	assert.InDelta(t, 20, count["one"], 1)
}

func TestAnInstanceThatLeavesTakesNothingAlong(t *testing.T) {
	s := saturated(t)
	gone := s.waits("h", instance("/1"))
	for range 3 {
		s.waits("h", instance("/2"))
	}
	stays := s.waits("h", instance("/1"))
	assert.True(t, s.Cancel(gone))
	assert.True(t, s.Cancel(gone), "again")
	assert.Equal(t, map[string]int{"h/1": 1, "h/2": 3}, s.served(10))
	assert.NotZero(t, stays.Grant().Lease)
	assert.Zero(t, s.Summary(s.now, "").Waiters)
}
