package broker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/keybroker/keybroker/pool"
)

// at is a moment after the start of a test's virtual time.
func at(d time.Duration) pool.Time { return pool.Time(0).Add(time.Hour + d) }

func TestWhenARecordIsDue(t *testing.T) {
	heldAt := func(granted, startWithin time.Duration) []*call {
		return []*call{{grant: pool.Grant{Granted: at(granted), StartBy: at(granted + startWithin)}}}
	}
	for name, c := range map[string]struct {
		saves saves
		dirty bool
		want  pool.Time
	}{
		"nothing has changed":              {saves{refreshAt: pool.Never}, false, pool.Never},
		"a long window has less use":       {saves{refreshAt: at(time.Minute)}, false, at(time.Minute)},
		"something has changed":            {saves{refreshAt: pool.Never}, true, at(saveEvery)},
		"a refresh, just after a save":     {saves{refreshAt: at(time.Millisecond)}, false, at(saveEvery)},
		"a call is held":                   {saves{refreshAt: pool.Never, prompt: 1, held: heldAt(0, time.Minute)}, true, at(0)},
		"no prompt save is left":           {saves{refreshAt: pool.Never, held: heldAt(0, time.Minute)}, true, at(time.Second / promptRate)},
		"half of the time to start passes": {saves{refreshAt: pool.Never, held: heldAt(0, 200*time.Millisecond)}, true, at(100 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			c.saves.began, c.saves.promptAt = at(0), at(0)
			assert.Equal(t, c.want, c.saves.due(at(0), c.dirty))
		})
	}
}

// Held calls have promptSaves saves at once, and then promptRate a second.
func TestPromptSavesAreBounded(t *testing.T) {
	s := saves{refreshAt: pool.Never, prompt: promptSaves, promptAt: at(0)}
	const span = 30 * time.Second
	n := 0
	for now := at(0); now < at(span); n++ {
		s.held = []*call{{grant: pool.Grant{Granted: now, StartBy: now.Add(time.Minute)}}}
		for due := s.due(now, true); due > now; due = s.due(now, true) { // as upkeep does
			now = due
		}
		assert.Len(t, s.begin(now, pool.Never), 1)
	}
	assert.InDelta(t, promptSaves+promptRate*span.Seconds(), n, 1)
}

// A time to live that no record says makes a lease wait for the next record.
func TestLongerTimeToLiveIsRecordedFirst(t *testing.T) {
	s := saves{longest: time.Minute, recorded: time.Minute}
	g := &pool.Grant{Durable: true}
	assert.True(t, s.durable(g, time.Minute))
	assert.False(t, s.durable(g, time.Hour))
	assert.Equal(t, time.Hour, s.longest, "the next record says so")
	s.recorded = s.longest
	assert.True(t, s.durable(g, time.Hour))
	assert.False(t, s.durable(&pool.Grant{}, time.Minute), "what it charged is not on record")
}
