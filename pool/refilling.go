package pool

import "time"

// refilling counts as a token bucket does, with a single moment: when the
// bucket will be full again. A charge of n moves it by the time that n takes to
// refill; debt is a moment further away than the window.
//
// A provider counts a request when it arrives, up to delta after the grant.
// Arrivals in [a, b] were granted in [a-delta, b], so what is granted must fit
// a bucket smaller by what refills in delta: the backlog after a charge stays
// within window-delta. An ask too large for that, but not for the limit, waits
// until the bucket has been full for delta. (Before it, then, nothing is still
// on its way; after it, the rule for small asks holds with the full charge. So
// both together stay within the provider's bucket.)
type refilling struct {
	limit         int64
	window, delta time.Duration
	fullAt        Time
	busy          int64 // charged since the provider's bucket was full for sure
	lows          lows
}

// cost is the time in which n refills, rounded up.
func (b *refilling) cost(n int64) time.Duration {
	return time.Duration(mulDivUp(n, int64(b.window), b.limit))
}

// backlog is the time until the bucket is full.
func (b *refilling) backlog(now Time) time.Duration { return max(b.fullAt.Sub(now), 0) }

func (b *refilling) used(now Time) int64 {
	return mulDivUp(int64(b.backlog(now)), b.limit, int64(b.window))
}

func (b *refilling) fitAt(now Time, n int64) Time {
	c, room := b.cost(n), b.window-b.delta
	if c <= room {
		return max(now, b.fullAt.Add(c-room))
	}
	return max(now, b.fullAt.Add(b.delta))
}

func (b *refilling) charge(now Time, n int64) {
	b.lows.note(now, b.backlog(now))
	if b.fullAt.Add(b.delta) <= now {
		b.busy = 0
	}
	b.busy = min(b.busy, int64(longest)) + min(n, int64(longest))
	b.fullAt = min(max(b.fullAt, now).Add(b.cost(n)), now.Add(longest))
}

// refund gives back n of what was charged at since, but no more than is still
// there. Time has refilled part of the charge already, all of it once the
// bucket was full; to give that back again would be to grant it twice. With
// n less charged at since, the backlog now would be lower by n or by the lowest
// backlog since, whichever is less: that much is returned.
func (b *refilling) refund(now, since Time, n int64) {
	credit := time.Duration(mulDiv(n, int64(b.window), b.limit))
	credit = b.lows.take(since, min(credit, b.backlog(now)))
	b.fullAt -= Time(credit)
}

// setLimit keeps the amount that is used, and so moves the moment. What the
// provider counts as used may be more than we do by what refills in delta, since
// it may have counted that much later; at a lower rate that is worth more time
// than the delta by which later charges allow for it. But it is never more than
// all that was charged.
func (b *refilling) setLimit(now Time, limit int64) {
	scale := func(d time.Duration) time.Duration {
		return time.Duration(mulDivUp(int64(max(d, 0)), b.limit, limit))
	}
	since := b.fullAt.Sub(now)
	all := time.Duration(mulDivUp(b.busy, int64(b.window), limit))
	b.fullAt = now.Add(max(scale(since), min(scale(since+b.delta)-b.delta, all)))
	b.lows.scale(b.limit, limit)
	b.limit = limit
}

func (b *refilling) resetAt(now Time) Time { return max(b.fullAt, now) }

// lows remembers how low the backlog fell and when: a stack of moments with
// rising backlogs, each the lowest since the moment before it. Only moments just
// before a charge matter, since between charges the backlog only falls. It is
// bounded; when it is full, two neighbours become one with the lower backlog
// and the later moment, which can only make a refund smaller.
type lows struct {
	n  int
	at [16]low
}

type low struct {
	when    Time
	backlog time.Duration
}

func (s *lows) note(now Time, backlog time.Duration) {
	for s.n > 0 && s.at[s.n-1].backlog >= backlog {
		s.n--
	}
	if s.n == len(s.at) {
		s.merge()
	}
	s.at[s.n] = low{now, backlog}
	s.n++
}

// merge joins the two neighbours that are closest in time, so that the stack
// stays fine where it was fine.
func (s *lows) merge() {
	best := 1
	for i := 2; i < s.n; i++ {
		if s.at[i].when-s.at[i-1].when < s.at[best].when-s.at[best-1].when {
			best = i
		}
	}
	s.at[best].backlog = s.at[best-1].backlog
	copy(s.at[best-1:], s.at[best:s.n])
	s.n--
}

// take bounds credit by the lowest backlog after since, lowers all later ones
// by it, as if it had never been charged, and returns it.
func (s *lows) take(since Time, credit time.Duration) time.Duration {
	first := s.n
	for first > 0 && s.at[first-1].when > since {
		first--
	}
	if first == s.n {
		return credit
	}
	credit = min(credit, s.at[first].backlog)
	for i := first; i < s.n; i++ {
		s.at[i].backlog -= credit
	}
	keep := first // what was noted earlier and is not lower is no low any more
	for keep > 0 && s.at[keep-1].backlog >= s.at[first].backlog {
		keep--
	}
	s.n = keep + copy(s.at[keep:], s.at[first:s.n])
	return credit
}

func (s *lows) scale(from, to int64) {
	for i := range s.n {
		s.at[i].backlog = time.Duration(mulDiv(int64(s.at[i].backlog), from, to))
	}
}
