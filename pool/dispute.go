package pool

// Statements of one holder that nobody else has confirmed: how far they bind others,
// and how others find out.

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const (
	// secondOpinion is how long the statement of one holder alone keeps others out:
	// then one of them may probe.
	secondOpinion = 30 * time.Second
	// patience is how long the answer to a probe is waited for.
	patience = 5 * time.Second
)

// dispute is about a figure that stands as it does on the statement of one holder. While
// it is open, other holders may probe what the figure denies them.
type dispute struct {
	by           string // the holder; empty if nothing is disputed
	since        Time
	contradicted bool // another holder says otherwise: others may probe at once
}

// with reports whether a holder may dispute the figure: it is another one's statement.
func (d *dispute) with(holder string) bool { return d.by != "" && d.by != holder }

// contradict takes note that another holder says otherwise: others may probe at once. It
// returns false if they could already.
func (d *dispute) contradict(now Time, holder string) bool {
	if !d.with(holder) || d.contradicted || d.since.Add(secondOpinion) <= now {
		return false
	}
	d.contradicted = true
	return true
}

// settle ends the dispute if a lease of another holder, granted since it began, has
// shown how things are.
func (d *dispute) settle(l *lease) {
	if d.with(l.by.holder.name) && l.granted >= d.since {
		*d = dispute{}
	}
}

// disputes calls f for everything about an account that may be disputed.
func (a *account) disputes(f func(*dispute)) {
	f(&a.slowStart.narrow)
	for _, b := range a.buckets {
		f(&b.unsure)
		f(&b.unseen)
	}
}

// dispute opens a dispute about what a holder has just stated. More statements of the
// same holder do not postpone the moment at which others may probe.
func (a *account) dispute(now Time, d *dispute, holder string) {
	a.disputes(func(o *dispute) {
		if o.by == holder {
			now = min(now, o.since)
		}
	})
	*d = dispute{by: holder, since: now, contradicted: d.contradicted && d.by == holder}
	a.disputed = true
}

// mayProbe returns when a holder may probe in spite of a disputed figure.
func (a *account) mayProbe(now Time, d *dispute, holder string) Time {
	switch {
	case !d.with(holder):
		return Never
	case a.probe != 0:
		now = max(now, a.probedAt.Add(patience))
	}
	if d.contradicted {
		return now
	}
	return max(now, d.since.Add(secondOpinion))
}

// rejudge takes in what an answer says about disputed figures. Afterwards others may
// probe what is still disputed.
func (dom *Domain) rejudge(now Time, l *lease, s *provider.Signal) {
	a := l.account
	if !a.disputed || s.Cached {
		return
	}
	if l.probe {
		a.judgeProbe(now, l, s)
		dom.noteLimits(a)
	}
	a.disputed = false
	a.disputes(func(d *dispute) { a.disputed = a.disputed || d.by != "" })
	dom.freed(now, a)
}

// judgeProbe takes in the answer to a lease that was granted in spite of what others
// had stated: a refusal agrees with them, and a good answer refutes them.
func (a *account) judgeProbe(now Time, l *lease, s *provider.Signal) {
	switch s.Class {
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted:
		a.disputes(func(d *dispute) { d.settle(l) })
	case provider.OK: // if the answer says no more than that, the next may probe at once
		for _, b := range a.buckets {
			b.refuted(now, l)
		}
		a.probe = 0
	}
}

// lowered is a limit below what it was.
type lowered struct {
	at     Time   // when it was lowered last: an answer to an older lease says nothing of a higher limit
	from   int64  // the limit before, if it is lower on the statement of one holder; else 0
	by     string // that holder
	saidAt Time   // its lease was granted then
}

// raise is a higher limit that one lease has reported, 0 if there is none.
type raise struct {
	limit  int64
	lease  LeaseID
	holder string
}

// claimed is what one holder says that others use, and nobody else has spoken of since.
type claimed struct {
	amount int64
	by     string
}

// state takes in the limit that an answer states. A lower one binds at once. A higher
// one, which a late, mistaken or lying report must not bring about, binds when a second
// lease of another holder states it too, if both were granted since the limit was last
// lowered, and never above what is configured. A sole holder confirms itself. What one
// holder alone has lowered, any other can put back to what it was; one whose lease is
// newer than the statement, but older than its report, can have it probed at once. state
// returns whether the limit has changed or may be probed.
func (b *bucket) state(now Time, stated int64, l *lease, sole bool) bool {
	stated = b.Capped(stated)
	holder := l.by.holder.name
	switch {
	case stated == b.Limit():
		b.raise = raise{}
		if holder != b.lowered.by {
			b.lowered.from = 0
		}
		return false
	case stated < b.Limit():
		if b.lowered.from == 0 || holder != b.lowered.by {
			b.lowered.from, b.lowered.by = b.Limit(), holder
		}
		b.lowered.at, b.lowered.saidAt = now, l.granted
	case l.granted < b.lowered.at:
		return stated == b.lowered.from && l.granted > b.lowered.saidAt && b.unsure.contradict(now, holder)
	case stated == b.lowered.from && holder != b.lowered.by:
		b.lowered.from = 0
	case b.raise.limit != stated || b.raise.lease == l.id || b.raise.holder == holder && !sole:
		b.raise = raise{stated, l.id, holder}
		return false
	default:
		b.lowered.from = 0
	}
	b.raise = raise{}
	b.SetLimit(now, stated)
	return true
}

// claims adds up what a holder says that others use, since another one last spoke.
func (b *bucket) claims(holder string, n int64) int64 {
	if b.claimed.by != holder {
		b.claimed = claimed{by: holder}
	}
	b.claimed.amount += n
	return b.claimed.amount
}

// statedBy reports whether the bucket is as it is on the statement of that holder alone.
func (b *bucket) statedBy(holder string) bool {
	return holder != "" && (b.unsure.by == holder || b.unseen.by == holder)
}

// refuted takes note that a probe passed where another holder had said that it would not.
func (b *bucket) refuted(now Time, l *lease) {
	if b.unsure.with(l.by.holder.name) && b.lowered.from > 0 && b.lowered.by == b.unsure.by {
		b.SetLimit(now, b.Capped(b.lowered.from))
		b.lowered.from = 0
	}
}

// ownerBefore stands in place of a holder for a statement of the owner before us. No
// holder has this name.
const ownerBefore = "\x00"

// probeRecorded lets leases probe, one at a time, from when a fixed window of the
// predecessor should have ended by the wall clock.
func (a *account) probeRecorded(now Time, b *bucket, wall time.Time) {
	if at, ok := b.PredecessorEnds(now, wall); ok {
		b.unseen = dispute{by: ownerBefore, since: at.Add(-secondOpinion)}
		a.disputed = true
	}
}
