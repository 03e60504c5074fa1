package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Amounts are what is charged to a limit, as its kind counts.
type Amounts struct {
	Used    int64         `json:"used,omitempty"`
	Backlog time.Duration `json:"backlog,omitempty"` // of a refilling one
	Slices  []int64       `json:"slices,omitempty"`  // of a sliding one, newest first
	Slice   time.Duration `json:"slice,omitempty"`   // how long each is
	Past    int64         `json:"past,omitempty"`    // of a fixed one: what ends with its window
	Reset   time.Duration `json:"reset,omitempty"`   // of a fixed one: until that has surely ended
	Ends    time.Time     `json:"ends,omitzero"`     // the same by the provider's clock, if it has told
}

// What each kind of meter tells of itself, and how a new one begins with what
// another has told. What does not fit, because the limit is counted otherwise now,
// is charged anew.

func (b *refilling) kind() provider.Kind { return provider.Refilling }
func (b *sliding) kind() provider.Kind   { return provider.Sliding }
func (b *fixed) kind() provider.Kind     { return provider.Fixed }
func (*slots) kind() provider.Kind       { return provider.Sliding }

func (b *refilling) amounts(now Time) Amounts {
	return Amounts{Used: b.used(now), Backlog: b.backlog(now)}
}

func (b *sliding) amounts(now Time) Amounts {
	a := Amounts{Used: b.used(now)}
	if b.total == 0 {
		return a
	}
	a.Slice = b.slice
	for i := b.last; i >= b.oldest(); i-- {
		a.Slices = append(a.Slices, *b.at(i))
	}
	for a.Slices[len(a.Slices)-1] == 0 {
		a.Slices = a.Slices[:len(a.Slices)-1]
	}
	return a
}

func (b *fixed) amounts(now Time) Amounts {
	b.advance(now)
	return Amounts{Used: b.count, Past: b.count - b.carry, Reset: b.reset.Add(uncertainty).Sub(now)}
}

func (*slots) amounts(Time) Amounts { return Amounts{} }

// restore in a refilling bucket: what was charged just before may not have
// arrived yet, so that it counts as full only now, and not for delta already.
func (b *refilling) restore(now Time, a *Amounts, limit int64) {
	ours := b.limit
	b.limit, b.busy = limit, int64(longest) // as far as we know
	backlog := min(a.Backlog, longest)
	if backlog <= 0 {
		backlog = b.cost(a.Used)
	}
	b.fullAt = now.Add(backlog)
	b.setLimit(now, ours)
}

// restore in a sliding window: our slices begin at other moments than theirs, so
// that each must last for one more.
func (b *sliding) restore(now Time, a *Amounts, _ int64) {
	b.advance(now)
	left := a.Used
	if a.Slice == b.slice {
		for i, n := range a.Slices {
			n = min(max(n, 0), left)
			*b.at(max(b.last-max(int64(i)-1, 0), b.oldest())) += n
			b.total += n
			left -= n
		}
	}
	b.charge(now, left)
}

// restore in a fixed window whose reset is known: it may be a later one than
// that of before.
func (b *fixed) restore(now Time, a *Amounts, _ int64) {
	b.charge(now, a.Used)
	b.carry = max(b.carry, a.Used-a.Past)
}

func (*slots) restore(Time, *Amounts, int64) {}

// empty takes all of the limit for used, by grants until a moment.
func (b *refilling) empty(until Time) {
	b.fullAt, b.busy = max(b.fullAt, until.Add(b.window)), int64(longest)
}

func (b *sliding) empty(until Time) {
	n := max(b.limit, b.used(until))
	b.sums, b.total = [sliceCount + 1]int64{}, 0
	b.charge(until, n)
}

func (b *fixed) empty(until Time) { b.charge(until, max(0, b.limit-b.used(until))) }

func (*slots) empty(Time) {}

// amounts are what is charged. A fixed window that we know nothing of since is told
// as we were told.
func (b *bucket) amounts(now Time) Amounts {
	a := b.meter.amounts(now)
	switch b.meter.(type) {
	case *fixed:
		if !b.clock.IsZero() {
			a.Ends = b.clock.Add(now.Add(a.Reset - uncertainty).Sub(0))
		}
	case *sliding:
		if o := b.old; o != nil && o.until > now {
			a = Amounts{Used: a.Used, Past: min(o.n, a.Used), Reset: o.until.Sub(now), Ends: o.ends}
		}
	}
	return a
}

// restore begins with what was charged to a limit that may have been another one,
// and what was granted ahead of that, until a moment.
func (b *bucket) restore(now, until Time, a *Amounts, limit, ahead int64) {
	rest := *a
	if m, ok := b.meter.(*sliding); ok && a.Past > 0 && a.Past <= a.Used && a.Reset > 0 {
		// Without knowing when it resets, a fixed window is safe as a sliding one,
		// from which this goes when that one has surely ended.
		at := max(0, now.Add(a.Reset-b.window))
		m.charge(at, a.Past)
		b.old = &oldWindow{at: at, n: a.Past, sure: until, until: max(until, now.Add(a.Reset)), ends: a.Ends}
		rest.Used -= a.Past
	}
	b.meter.restore(now, &rest, limit)
	if m, ok := b.meter.(*refilling); ok {
		m.fullAt = max(m.fullAt, until)
	}
	b.meter.charge(until, ahead)
}
