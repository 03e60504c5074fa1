package sandbox

import (
	"time"

	"github.com/keybroker/keybroker/internal/sim"
)

// movement is how the window of a limit moves.
type movement int

const (
	refilling movement = iota // all the time, at limit/window
	sliding                   // the last window's length, at any moment
	onClock                   // from one full minute, hour or day of the clock to the next
	sinceUse                  // from one reset to the next, the first a window after the start
)

// bucket is the account of one limit.
type bucket struct {
	sim.Limiter
	limit  int64
	window time.Duration
}

// bucket makes an account of a limit, for a server that began at a time.
func (d *dialect) bucket(dim dimension, limit int64, began time.Time) *bucket {
	b := &bucket{limit: limit, window: dim.window()}
	if d.perSecond && b.window == time.Minute {
		b.limit, b.window = d.amount(dim, limit), time.Second
	}
	switch d.moves {
	case refilling:
		b.Limiter = sim.NewTokenBucket(b.limit, b.window)
	case sliding:
		b.Limiter = sim.NewSlidingWindow(b.limit, b.window)
	case onClock:
		offset := time.Duration(0)
		if d.zone != nil {
			_, seconds := began.In(d.zone).Zone()
			offset = time.Duration(seconds) * time.Second
		}
		local := began.Add(offset)
		b.Limiter = sim.NewFixedWindow(b.limit, b.window, local.Truncate(b.window).Add(b.window).Sub(local))
	case sinceUse:
		b.Limiter = sim.NewFixedWindow(b.limit, b.window, b.window)
	}
	return b
}

// amount is what a limit comes to in the window in which it is enforced.
func (d *dialect) amount(dim dimension, limit int64) int64 {
	if d.perSecond && dim.window() == time.Minute {
		return max(1, limit/60)
	}
	return limit
}

// reset is when a fixed window ends, or another is full.
func (b *bucket) reset(at time.Duration) time.Duration {
	if f, ok := b.Limiter.(*sim.FixedWindow); ok {
		return f.Reset(at)
	}
	return b.UntilFull(at)
}
