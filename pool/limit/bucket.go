package limit

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Limit is a limit as it is configured or learned.
type Limit struct {
	Dimension provider.Dimension
	Name      string        // tells limits on the same thing apart; mostly empty
	Window    time.Duration // 0 for concurrency
	Amount    int64         // above 0
	Kind      provider.Kind // how the provider counts it
	Reset     Time          // the next reset of a Fixed window; 0 if it is not known
	Shared    bool          // of a group or key: one limit for all models, not one for each class
}

// Terms are what a bucket must know beside its limit.
type Terms struct {
	// Delta is the time that a request may take from its grant to the provider. What
	// is held needs no such margin, since it is charged when it is known.
	Delta time.Duration
	// Holds says that amounts are held from the grant until it is known what was used.
	Holds bool
	// Clamps says that an ask above the limit is for all there is.
	Clamps bool
	// Learned says that the limit comes from an answer and not from the configuration.
	Learned bool
	// ResetAge is how long ago the limit's Reset may have been stated.
	ResetAge time.Duration
}

// terms are what the counters need.
type terms struct {
	limit         int64 // in force
	window, delta time.Duration
}

// counter counts what was charged against one limit, in one of the ways in which
// providers do.
type counter interface {
	kind() provider.Kind
	// used is what is charged now; more than the limit is debt.
	used(now Time) int64
	// fitAt is the earliest moment at which n fits if nothing else is charged. An n
	// above the limit fits when nothing is charged at all.
	fitAt(now Time, n int64) Time
	// charge counts n, whether it fits or not.
	charge(now Time, n int64)
	// refund returns n of a charge made at since, as far as it still counts.
	refund(now, since Time, n int64)
	// rescale prepares for another limit; the amount used stays what it was.
	rescale(now Time, from, to int64)
	// unusedAt is when nothing will be charged any more.
	unusedAt(now Time) Time
	// load orders buckets by what is used of them, and held of them.
	load(now Time, held int64) Time
	// reconcile takes in a reading. It returns what others have used beside us, and
	// whether it returned room.
	reconcile(now Time, r *reading, h *history) (foreign int64, freed bool)
	// observeReset, observeDate and predecessorEnds are as those of Bucket. The first
	// two return the counter that takes over, nil if none does.
	observeReset(now, granted Time, in time.Duration, date time.Time, by Speaker) (next counter)
	observeDate(now, granted Time, date time.Time, by Speaker) (next counter, freed bool)
	predecessorEnds(now Time, wall time.Time) (at Time, ok bool)
	snapshot(now Time) Snapshot
	// restore begins with a snapshot of a limit that may have been another one, by an
	// owner that may have granted until a moment.
	restore(now, until Time, s *Snapshot, limit int64)
	// exhaust takes n for used, all of the limit or more, by grants until a moment.
	exhaust(until Time, n int64)
	// clear takes the limit for unused.
	clear(now Time)
	// fork returns a copy with terms of its own.
	fork(t *terms) counter
}

// Bucket is the books of one limit. It must not be copied.
type Bucket struct {
	// What every ask touches comes first, and lies together.
	counter
	terms
	dimension  provider.Dimension
	holds      bool
	clamps     bool
	ceiling    int64 // configured; 0 if the limit was learned
	held       int64
	headroom   headroom
	loosenedAt Time        // when a header last returned room: older leases get no refund any more
	history    *history    // nil until a header speaks of the limit
	kept       *kept       // of a limit that records say more of; nil while none are saved
	stated     *Bucket     // beside, as answers say; nil while they say nothing else
	tokens     tokenBucket // the most usual counter, in the same piece of memory

	name string
}

// Init makes the bucket that of a limit of which nothing is used.
func (b *Bucket) Init(now Time, l Limit, t Terms) {
	*b = Bucket{
		terms:     terms{limit: l.Amount, window: l.Window, delta: t.Delta},
		dimension: l.Dimension, name: l.Name, ceiling: l.Amount, holds: t.Holds, clamps: t.Clamps,
	}
	if t.Learned {
		b.ceiling = 0
	}
	if t.Holds {
		b.delta = 0
	}
	b.holds = b.holds || b.Slots()
	b.count(now, l, t.ResetAge)
}

// kindFor returns how a limit is counted. In a window shorter than delta a token bucket has
// no room for a burst; as a sliding window it serves the limit in each window and delta.
func (b *Bucket) kindFor(l Limit) provider.Kind {
	if l.Kind == provider.Refilling && b.delta >= l.Window {
		return provider.Sliding
	}
	return l.Kind
}

// count makes the counter of a limit of which nothing is used.
func (b *Bucket) count(now Time, l Limit, resetAge time.Duration) {
	switch kind := b.kindFor(l); {
	case b.Slots():
		b.counter = &slots{terms: &b.terms}
	case kind == provider.Refilling:
		b.tokens = tokenBucket{terms: &b.terms, fullAt: now - Time(b.delta)}
		b.counter = &b.tokens
	case kind == provider.Fixed && l.Reset > 0:
		b.counter = &fixedWindow{terms: &b.terms, reset: l.Reset, early: resetAge}
	case kind == provider.Fixed:
		b.counter = &unphasedWindow{slidingWindow: newSlidingWindow(&b.terms)}
	default:
		w := newSlidingWindow(&b.terms)
		b.counter = &w
	}
}

// Reconfigure puts another configured limit in force, on the same thing, or other terms for a
// learned one. What is used stays used, and a limit that is lower than the configured one,
// because the provider says so, stays so. Of the terms, Holds must be the same.
func (b *Bucket) Reconfigure(now Time, l Limit, t Terms) {
	was := b.terms
	b.recount(now, l, t)
	b.ceiling, b.clamps = l.Amount, t.Clamps
	if t.Learned {
		b.ceiling = 0
	}
	b.SetLimit(now, l.Amount)
	if s := b.stated; s != nil {
		lower := s.limit < was.limit
		s.recount(now, l, t)
		if lower {
			l.Amount = min(s.limit, l.Amount)
		}
		s.SetLimit(now, l.Amount)
	}
}

// recount counts in another way, or with another delta.
func (b *Bucket) recount(now Time, l Limit, t Terms) {
	was := b.terms
	if !b.holds {
		b.delta = t.Delta
	}
	if b.Slots() || b.delta == was.delta && b.kind() == b.kindFor(l) {
		return
	}
	s, refills := b.counter.snapshot(now), b.Refills()
	b.count(now, l, 0)
	// With a shorter delta than theirs, the leases of before count as later ones.
	late := now.Add(max(0, was.delta-b.delta))
	b.counter.restore(late, late, &s, was.limit)
	if refills && !b.Refills() { // what has refilled counts again
		b.counter.exhaust(late, b.limit)
	}
	b.loosenedAt = now // no refund can tell where its charge is now
}

// Dimension returns what the limit counts.
func (b *Bucket) Dimension() provider.Dimension { return b.dimension }

// Name returns what tells the limit from others on the same thing; mostly empty.
func (b *Bucket) Name() string { return b.name }

// Window returns the limit's window, 0 for calls at one time.
func (b *Bucket) Window() time.Duration { return b.window }

// Limit returns the limit in force, as it has been stated.
func (b *Bucket) Limit() int64 { return b.front().limit }

// OwnLimit returns the limit, whatever has been stated.
func (b *Bucket) OwnLimit() int64 { return b.limit }

// Ceiling returns the configured limit, 0 if the limit was learned.
func (b *Bucket) Ceiling() int64 { return b.ceiling }

// Clamps reports whether an ask above the limit is for all there is.
func (b *Bucket) Clamps() bool { return b.clamps }

// Slots reports whether the limit is on calls at one time. Of those nothing is ever
// charged: they are held until they end.
func (b *Bucket) Slots() bool { return b.window == 0 }

// Kind returns how the limit is counted.
func (b *Bucket) Kind() provider.Kind { return b.kind() }

// UnusedAt returns when nothing will be charged any more.
func (b *Bucket) UnusedAt(now Time) Time { return max(b.unusedAt(now), b.front().unusedAt(now)) }

// Refills reports whether the limit is a token bucket.
func (b *Bucket) Refills() bool { return b.kind() == provider.Refilling }

// Holds reports whether amounts are held until it is known what was used.
func (b *Bucket) Holds() bool { return b.holds }

// Held returns what is held.
func (b *Bucket) Held() int64 { return b.held }

// Used returns what is charged; more than the limit is debt.
func (b *Bucket) Used(now Time) int64 { return b.front().used(now) }

// Foreign returns what others have used, as far as headers have shown.
func (b *Bucket) Foreign() int64 { return b.seen().foreign }

// Is reports whether this is the bucket of a limit, whatever its amount.
func (b *Bucket) Is(d provider.Dimension, name string, window time.Duration) bool {
	return b.dimension == d && b.name == name && b.window == window
}

// FitAt returns the earliest moment at which n fits. With more held than leaves room
// for n, time alone brings none: then byEvent is true, and the moment is when the holds
// will have ended at the latest, Never for open calls.
func (b *Bucket) FitAt(now Time, n int64) (at Time, byEvent bool) {
	at, byEvent = b.fitAlone(now, n)
	if b.stated != nil {
		if later, event := b.stated.fitAlone(now, n); later > at {
			at, byEvent = later, event
		}
	}
	return at, byEvent
}

func (b *Bucket) fitAlone(now Time, n int64) (at Time, byEvent bool) {
	if b.held > b.limit-n && b.held > 0 {
		if b.Slots() {
			return Never, true
		}
		return b.counter.fitAt(now, min(n, b.limit)).Add(b.HoldFor()), true
	}
	at = b.counter.fitAt(now, b.withHeadroom(now, b.held+n))
	if b.headroom.amount > 0 && at > now { // by then less may be kept unused
		at = max(b.counter.fitAt(now, b.held+n), min(at, b.headroom.at.Add(headroomWear)))
	}
	return at, false
}

// Fits reports whether n fits now.
func (b *Bucket) Fits(now Time, n int64) bool {
	return b.fitsAlone(now, n) && (b.stated == nil || b.stated.fitsAlone(now, n))
}

func (b *Bucket) fitsAlone(now Time, n int64) bool {
	return (b.held == 0 || b.held <= b.limit-n) && b.counter.fitAt(now, b.withHeadroom(now, b.held+n)) == now
}

// NeverFits reports whether n is impossible, however long one waits. Only a configured
// limit that does not clamp makes an amount impossible.
func (b *Bucket) NeverFits(n int64) bool { return b.ceiling > 0 && n > b.ceiling && !b.clamps }

// Take counts n for a lease: it is held if the limit holds, else charged.
func (b *Bucket) Take(now Time, n int64) {
	if b.holds {
		b.Hold(n)
	} else {
		b.Charge(now, n)
	}
}

// Charge counts n, whether it fits or not.
func (b *Bucket) Charge(now Time, n int64) {
	if b.history != nil && n > 0 {
		b.history.note(now, n)
	}
	b.counter.charge(now, n)
	if b.stated != nil {
		b.stated.counter.charge(now, n)
	}
	b.spend(n)
}

// Hold sets n aside; below 0, it ends the hold of that much.
func (b *Bucket) Hold(n int64) {
	b.hold(n)
	b.spend(n)
	b.notePeak()
}

func (b *Bucket) hold(n int64) {
	b.held += n
	if b.stated != nil {
		b.stated.held += n
	}
}

// HoldFor returns how long an amount is held at most before it is charged. From then on
// the provider may count what is not held any more; its headers will tell.
func (b *Bucket) HoldFor() time.Duration { return b.window / 2 }

// HeldAtMost returns how long a lease of a given time to live holds an amount without a
// report.
func (b *Bucket) HeldAtMost(ttl time.Duration) time.Duration {
	if b.Slots() {
		return ttl
	}
	return min(ttl, b.HoldFor())
}

// Refund returns n of what a lease granted at a moment was charged, as far as it still
// counts, unless a header has returned it already.
func (b *Bucket) Refund(now, granted Time, n int64) {
	if s := b.stated; s != nil && granted >= s.loosenedAt {
		s.counter.refund(now, granted, n)
	}
	if granted < b.loosenedAt {
		return
	}
	if !b.writesAhead() {
		b.counter.refund(now, granted, n)
		return
	}
	used := b.counter.used(now)
	b.counter.refund(now, granted, n)
	b.spend(b.counter.used(now) - used)
}

// Bound returns the most that the provider can have let through of one lease since a
// moment, beside what was reserved: the whole limit, and what has refilled. A report
// beyond that is mistaken or a lie, and would put others in debt for ever.
func (b *Bucket) Bound(now, granted Time) int64 {
	return b.limit + MulDiv(b.limit, int64(now.Sub(granted)), int64(b.window))
}

// Remaining returns what is neither charged nor held.
func (b *Bucket) Remaining(now Time) int64 {
	n := b.limit - b.used(now)
	if s := b.stated; s != nil {
		n = min(n, s.limit-s.used(now))
	}
	return max(0, n-b.held)
}

// Load returns a moment that orders buckets by load: the more is used or held of the
// limit, the later it is. For a window of a minute it is when the limit will be unused.
func (b *Bucket) Load(now Time) Time {
	at := b.counter.load(now, b.held)
	if b.stated != nil {
		at = max(at, b.stated.counter.load(now, b.held))
	}
	return at
}

// loadOf returns the load of a limit of which n are used or held.
func loadOf(now Time, n, limit int64) Time {
	return now.Add(time.Duration(min(float64(n)/float64(limit), 1000) * float64(time.Minute)))
}

// Capped returns a limit that an answer states, as far as it is within the configured
// one.
func (b *Bucket) Capped(limit int64) int64 {
	if b.ceiling > 0 {
		limit = min(limit, b.ceiling)
	}
	return limit
}

// SetLimit puts another limit in force. The amount used stays what it was.
func (b *Bucket) SetLimit(now Time, limit int64) {
	if limit == b.limit {
		return // else a full bucket would count as full only since now
	}
	b.counter.rescale(now, b.limit, limit)
	b.limit = limit
}

// Learn begins a limit that an answer was the first to state, with the given amount
// used.
func (b *Bucket) Learn(now Time, used int64) {
	b.Charge(now, used)
	b.remember(now)
}

// Status is a bucket at one moment, for people to look at.
type Status struct {
	Dimension  provider.Dimension
	Name       string
	Window     time.Duration // 0 for concurrency
	Kind       provider.Kind
	Limit      int64 // in force
	Configured int64 // 0 if the limit was learned
	Used       int64 // above Limit: debt
	Held       int64
	Remaining  int64
	ResetAt    Time  // when all that is used will have refilled
	Headroom   int64 // of Remaining, what is kept unused since the provider refused where we saw room
	// Drift is what the provider's last header said is used, less what we thought.
	// ReadAt is when that was, 0 if never. Foreign is what others seem to have used in
	// all.
	Drift, Foreign int64
	ReadAt         Time
}

// Status returns the bucket at a moment.
func (b *Bucket) Status(now Time) Status {
	seen := b.seen()
	return Status{
		Dimension: b.dimension, Name: b.name, Window: b.window, Kind: b.kind(), Limit: b.Limit(), Configured: b.ceiling,
		Used: b.Used(now), Held: b.held, Remaining: b.Remaining(now), ResetAt: b.UnusedAt(now),
		Headroom: b.Headroom(now), Drift: seen.drift, Foreign: seen.foreign, ReadAt: seen.readAt,
	}
}

// noResets is embedded by the counters whose windows have no end of their own.
type noResets struct{}

func (noResets) observeReset(Time, Time, time.Duration, time.Time, Speaker) counter { return nil }
func (noResets) observeDate(Time, Time, time.Time, Speaker) (counter, bool)         { return nil, false }
func (noResets) predecessorEnds(Time, time.Time) (Time, bool)                       { return 0, false }
