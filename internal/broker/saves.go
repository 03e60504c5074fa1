package broker

import (
	"time"

	"github.com/keybroker/keybroker/pool"
)

const (
	// saveEvery is how often a record is saved while something changes and no call is
	// held.
	saveEvery = time.Second
	// A held call has a record saved at once. There may be promptSaves such saves in a
	// row, and promptRate a second in the long run.
	promptSaves = 20
	promptRate  = 2
)

// saves decides when a record is due, and which leases need one before they are given
// out.
type saves struct {
	held      []*call   // calls whose leases become durable with the next save
	began     pool.Time // when the last save began
	refreshAt pool.Time // a record is due then even if nothing has changed; see pool.Domain.State
	dirty     bool      // upkeep knows that something has changed since the last save

	prompt   float64   // how many prompt saves are allowed now
	promptAt pool.Time // when prompt was computed

	// longest is the longest time to live of any lease that may be open, and recorded
	// is what the store's record says of it. After a crash a successor waits that long.
	longest, recorded time.Duration
}

// durable reports whether a lease may be given out before the next save. A time to live
// longer than the record says has to be saved first. Either way the next record has it.
func (s *saves) durable(g *pool.Grant, ttl time.Duration) bool {
	s.longest = max(s.longest, ttl)
	return g.Durable && ttl <= s.recorded
}

// changed takes note of whether anything has changed since the last save, and reports
// whether upkeep is to hear of it.
func (s *saves) changed(dirty bool) (tell bool) {
	tell = dirty && !s.dirty
	s.dirty = dirty
	return tell
}

// due is when the next record is due.
func (s *saves) due(now pool.Time, dirty bool) pool.Time {
	at := s.began.Add(saveEvery)
	if !dirty {
		at = max(at, s.refreshAt)
	}
	if len(s.held) > 0 {
		at = min(at, s.promptDue(now))
	}
	return at
}

// promptDue is when the record is due that calls are held for: when the next prompt save is
// allowed, but no later than half of the time in which the first lease must be used.
func (s *saves) promptDue(now pool.Time) pool.Time {
	s.prompt = min(promptSaves, s.prompt+promptRate*now.Sub(s.promptAt).Seconds())
	s.promptAt = now
	wait := time.Duration(max(0, 1-s.prompt) / promptRate * float64(time.Second))
	first := &s.held[0].grant
	return min(now.Add(wait), first.Granted.Add(first.StartBy.Sub(first.Granted)/2))
}

// begin starts a save, and returns the calls that are held for it.
func (s *saves) begin(now, refreshAt pool.Time) (held []*call) {
	if len(s.held) > 0 {
		s.prompt = max(s.prompt-1, 0)
	}
	held, s.held = s.held, nil
	s.began, s.refreshAt, s.dirty = now, refreshAt, false
	return held
}
