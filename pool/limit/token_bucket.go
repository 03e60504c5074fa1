package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// tokenBucket counts as a token bucket does, with a single moment: when the bucket
// will be full again. A charge of n moves that moment by the time in which n
// refills. Debt is a moment further away than the window.
//
// Why grants fit: requests that arrive in [a, b] were granted in [a-delta, b], so
// grants must fit a bucket that is smaller by what refills in delta. Therefore the
// backlog after a charge stays within window-delta. An ask that exceeds this, but not
// the limit, waits until the bucket has been full for delta: then no earlier
// request can still be on its way, and for those that follow the rule for small asks
// holds with the full charge.
type tokenBucket struct {
	noResets
	terms  *terms
	fullAt Time
	busy   int64   // charged since the provider's bucket was certainly full
	claims *claims // how late the bucket will be full at most; nil while nobody says so
	lows   lows
}

func (*tokenBucket) kind() provider.Kind { return provider.Refilling }

// cost is the time in which n refills, rounded up.
func (b *tokenBucket) cost(n int64) time.Duration {
	return refillTime(n, b.terms.window, b.terms.limit)
}

func refillTime(n int64, window time.Duration, limit int64) time.Duration {
	return time.Duration(MulDivUp(n, int64(window), limit))
}

// backlog is the time until the bucket is full.
func (b *tokenBucket) backlog(now Time) time.Duration { return max(b.fullAt.Sub(now), 0) }

func (b *tokenBucket) used(now Time) int64 {
	return MulDivUp(int64(b.backlog(now)), b.terms.limit, int64(b.terms.window))
}

func (b *tokenBucket) fitAt(now Time, n int64) Time {
	c, room := b.cost(n), b.terms.window-b.terms.delta
	if c <= room {
		return max(now, b.fullAt.Add(c-room))
	}
	return max(now, b.fullAt.Add(b.terms.delta))
}

func (b *tokenBucket) charge(now Time, n int64) {
	b.lows.note(now, b.backlog(now))
	if b.fullAt.Add(b.terms.delta) <= now {
		b.busy = 0
	}
	b.busy = min(b.busy, Longest) + min(n, Longest)
	b.fullAt = b.after(now, b.fullAt, n)
	if b.claims != nil {
		b.claims.charge(func(most int64) int64 { return int64(b.after(now, Time(most), n)) })
	}
}

// after returns when a bucket that would be full at a moment will be after a charge.
func (b *tokenBucket) after(now, fullAt Time, n int64) Time {
	return min(max(fullAt, now).Add(b.cost(n)), now.Add(Longest))
}

// refund returns no more than is still there. Time has refilled part of the charge
// already, and all of it once the bucket was full; to return that again would grant
// it twice. Had n less been charged at since, the backlog now would be lower by n or
// by the lowest backlog since then, whichever is less: that much is returned.
func (b *tokenBucket) refund(now, since Time, n int64) {
	credit := time.Duration(MulDiv(n, int64(b.terms.window), b.terms.limit))
	credit = b.lows.take(since, min(credit, b.backlog(now)))
	b.fullAt -= Time(credit)
}

// rescale keeps the amount that is used, and so moves the moment. The provider may
// count up to delta's refill more as used than we do, since it may have counted that
// much later. At a lower rate this is worth more time than the delta by which later
// charges allow for it. It is never more than all that was charged.
func (b *tokenBucket) rescale(now Time, from, to int64) {
	scale := func(d time.Duration) time.Duration {
		return time.Duration(MulDivUp(int64(max(d, 0)), from, to))
	}
	delta := b.terms.delta
	since := b.fullAt.Sub(now)
	all := refillTime(b.busy, b.terms.window, to)
	b.fullAt = now.Add(max(scale(since), min(scale(since+delta)-delta, all)))
	b.lows.scale(from, to)
	if b.claims != nil {
		*b.claims = claims{}
	}
}

func (b *tokenBucket) unusedAt(now Time) Time { return max(b.fullAt, now) }

// load is exact for a window of a minute of which nothing is held: then the order of
// buckets does not change as long as nothing is charged.
func (b *tokenBucket) load(now Time, held int64) Time {
	if held == 0 && b.terms.window == time.Minute {
		return b.fullAt
	}
	return loadOf(now, b.used(now)+held, b.terms.limit)
}

// reconcile compares moments, since a moment tells more than a rounded amount.
func (b *tokenBucket) reconcile(now Time, r *reading, h *history) (foreign int64, freed bool) {
	var most Time
	delta := Time(r.delta)
	known := h.spans(r.since-delta, now-delta, func(s span) {
		most = max(most, min(s.end+delta, now).Add(b.cost(r.most+h.total-s.before)))
	})
	if !known { // whatever was granted since then is in our own figure
		most = now.Add(b.cost(r.most) + max(0, b.fullAt.Sub(r.since-delta)))
	}
	least := r.since.Add(b.cost(r.least))
	ours := max(b.fullAt, r.since).Add(b.cost(r.held))
	switch {
	case least > ours.Add(r.margin):
		foreign = MulDiv(int64(least.Sub(ours)), b.terms.limit, int64(b.terms.window))
		if r.tightens {
			b.fullAt, b.busy = max(b.fullAt, most), Longest // nobody knows how long others have used it
		}
	case known && r.loosens && b.fullAt > most:
		if !r.sole {
			b.claims = r.claims
		}
		if to, ok := r.claims.agreed(r, int64(most)); ok && b.fullAt > Time(to) {
			b.fullAt, freed = Time(to), true
		}
	}
	return foreign, freed
}

func (b *tokenBucket) snapshot(now Time) Snapshot {
	return Snapshot{Used: b.used(now), Backlog: b.backlog(now)}
}

// restore: what was charged just before the snapshot may not have arrived yet, so the
// bucket counts as full only since now, and not for delta already.
func (b *tokenBucket) restore(now, until Time, s *Snapshot, limit int64) {
	backlog := min(s.Backlog, Longest)
	if backlog <= 0 {
		backlog = refillTime(s.Used, b.terms.window, limit)
	}
	b.busy = Longest // nobody knows how much was charged
	b.fullAt = now.Add(backlog)
	b.rescale(now, limit, b.terms.limit)
	b.fullAt = max(b.fullAt, until)
}

func (b *tokenBucket) exhaust(until Time, n int64) {
	b.fullAt, b.busy = max(b.fullAt, until.Add(b.cost(n))), Longest
}

func (b *tokenBucket) clear(now Time) { b.fullAt = now }

func (b *tokenBucket) fork(t *terms) counter {
	c := *b
	c.terms, c.claims = t, nil
	return &c
}

// lows remembers how low the backlog fell, and when: a stack of moments with rising
// backlogs, each the lowest since the moment before it. Between charges the backlog
// only falls, so that moments just before a charge are enough. The stack is bounded.
// When it is full, two neighbours become one with the lower backlog and the later
// moment, which can only make a refund smaller.
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

// merge joins the two neighbours that are closest in time, so that the stack keeps
// its resolution where it has one.
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

// take bounds credit by the lowest backlog after since, lowers all later ones by it,
// as if it had never been charged, and returns it.
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
	keep := first // an earlier entry that is not lower is not a low any more
	for keep > 0 && s.at[keep-1].backlog >= s.at[first].backlog {
		keep--
	}
	s.n = keep + copy(s.at[keep:], s.at[first:s.n])
	return credit
}

func (s *lows) scale(from, to int64) {
	for i := range s.n {
		s.at[i].backlog = time.Duration(MulDiv(int64(s.at[i].backlog), from, to))
	}
}
