package pool

import "time"

// uncertainty is how far the provider's clock may be from ours: a fixed window
// is taken to have reset only when that much has passed.
const uncertainty = time.Second

// fixed counts from one reset to the next, where the reset is known; a dialect
// that reads it from headers makes use of it. What is granted so close to a reset
// that it may arrive on either side counts on both.
type fixed struct {
	limit         int64
	window, delta time.Duration
	reset         Time          // the provider's next reset
	count         int64         // in this window
	carry         int64         // of it, what may count in the next one
	early         time.Duration // so much sooner it may reset, and no later
}

// advance opens the windows whose reset has surely passed.
func (b *fixed) advance(now Time) {
	if now < b.reset.Add(uncertainty) {
		return
	}
	b.count, b.carry = b.carry, 0
	b.reset = b.reset.Add(b.window)
	if late := now.Sub(b.reset) - uncertainty; late >= 0 {
		b.count = 0
		b.reset = b.reset.Add((late/b.window + 1) * b.window)
	}
}

func (b *fixed) used(now Time) int64 {
	b.advance(now)
	return b.count
}

func (b *fixed) fitAt(now Time, n int64) Time {
	b.advance(now)
	room := max(b.limit-n, 0)
	switch {
	case b.count <= room:
		return now
	case b.carry <= room:
		return b.reset.Add(uncertainty)
	}
	return b.reset.Add(b.window + uncertainty)
}

func (b *fixed) charge(now Time, n int64) {
	b.advance(now)
	n = min(n, int64(longest)-b.count)
	b.count += n
	if now.Add(b.delta+uncertainty+b.early) >= b.reset {
		b.carry += n
	}
}

// refund gives back what was charged in this window; what may count in the next
// one as well stays there.
func (b *fixed) refund(now, since Time, n int64) {
	b.advance(now)
	if since >= b.reset-Time(b.window)+Time(uncertainty) {
		b.count = max(b.count-n, b.carry)
	}
}

func (b *fixed) setLimit(_ Time, limit int64) { b.limit = limit }

func (b *fixed) resetAt(now Time) Time {
	b.advance(now)
	return b.reset.Add(uncertainty)
}
