package pool

// Figures that one holder has stated: a lower limit, what others use, a limit that nobody
// knew, use beyond what was reserved. They stand in books beside our own (limit.Bucket), and
// a dispute says whom they bind.

import (
	"slices"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

const (
	// indeed is the part of a limit by which a statement must differ from our own books to
	// be disputed. Less than that binds all.
	indeed = 16
	// otherwise is the part by which a header must differ from what is disputed to contradict it.
	otherwise = 4
	// owed is the part of a limit that one holder may use in a window beyond what it had
	// reserved, without anybody else having seen it.
	owed = 8
	// mostStated bounds the limits of an account that one holder alone has stated.
	mostStated = 4
)

// forever is longer than any dispute.
const forever = limit.Longest

// figureStated stands for a refusal in the dispute about a figure.
var figureStated = provider.Signal{Class: provider.OK, Wait: forever, Source: provider.ByDefault}

// believes reports whether the word of a lease's holder binds others, or there is nobody else.
func (dom *Domain) believes(now Time, l *lease) bool {
	e := l.eye()
	who := dom.speaker(now, e)
	if !dom.speakers.credible(now, who) {
		return false
	}
	return dom.speakers.trustLeft(now, who) >= leastTrust || !dom.others(now, &dispute{}, e)
}

// states takes note that a holder says what the stated books of a bucket say; founds, that
// there is such a limit.
func (dom *Domain) states(now Time, a *account, b *bucket, l *lease) {
	dom.adds(now, a, b, &b.word, l)
}

func (dom *Domain) founds(now Time, a *account, b *bucket, l *lease) {
	dom.adds(now, a, b, &b.origin, l)
}

// adds adds a voice to a dispute about a bucket.
func (dom *Domain) adds(now Time, a *account, b *bucket, of **dispute, l *lease) {
	switch d := *of; {
	case d == nil:
		*of = &dispute{kind: figure}
	case dom.voice(d, l.eye()) != nil: // it says nothing new
		return
	}
	dom.refused(now, *of, l, &figureStated)
	if _, lower := b.Excess(now); of == &b.word && !lower && b.word.verdict == confirmed {
		b.word.lateAt = Never // headers tell, or the time that a refusal states
		if b.word.opensAt > 0 {
			b.word.lateAt = b.word.opensAt
		}
	}
	if (*of).private { // what is not believed binds nobody
		a.drop(b, of)
		return
	}
	for _, o := range a.group.accounts {
		if o == a || slices.Contains(a.group.shared, b) {
			o.disputed = true
		}
	}
}

// overturned takes in an answer that contradicts a dispute. It returns whether that ends it.
func (dom *Domain) overturned(now Time, d *dispute, l *lease) bool {
	dom.answered(now, d, l)
	return d.returnAt > 0 || d.gone(now)
}

// contradicts takes note that a holder has seen that it is not as a dispute about a bucket
// says. It returns whether that is gone.
func (dom *Domain) contradicts(now Time, a *account, b *bucket, of **dispute, l *lease) (gone bool) {
	if !dom.overturned(now, *of, l) {
		return false
	}
	a.drop(b, of)
	a.findMissing(dom.cfg.Dialect) // a limit that is gone is not known any more
	dom.noteLimits(a)
	return true
}

// drop ends a dispute about a bucket, with what it is about.
func (a *account) drop(b *bucket, of **dispute) {
	if of == &b.origin {
		a.remove(b)
	}
	*of, b.raise = nil, nil
	b.Withdraw()
}

// probesFigures takes note of a lease that is granted in spite of what has been stated.
func (dom *Domain) probesFigures(now Time, l *lease) {
	for _, b := range l.account.buckets {
		n := l.reserved[b.Dimension()]
		if at, _ := b.FitAtOwn(now, n); b.origin != nil && at > now {
			dom.granted(now, b.origin, l)
			l.probe = true
		}
		if at, _ := b.FitAtStated(now, n); b.word != nil && at > now {
			dom.granted(now, b.word, l)
			l.probe = true
		}
	}
	if d := l.account.slowStart.narrow; d != nil && l.account.full() {
		dom.granted(now, d, l)
		l.probe = true
	}
}

// endProbes takes note of the end of a lease. It returns whether another may probe.
func (a *account) endProbes(l *lease) (freed bool) {
	end := func(d *dispute) {
		if d != nil && d.probe == l.id {
			d.probe, freed = 0, true
		}
	}
	for _, b := range a.buckets {
		end(b.origin)
		end(b.word)
	}
	end(a.slowStart.narrow)
	return freed
}

// rejudge takes in what an answer says about disputed figures: a good answer to a lease that
// was granted in spite of what others had stated contradicts them, and a refusal agrees.
func (dom *Domain) rejudge(now Time, l *lease, s *provider.Signal) {
	a := l.account
	if !a.disputed || s.Cached {
		return
	}
	a.disputed = false
	for _, b := range slices.Clone(a.buckets) {
		for _, of := range [...]**dispute{&b.origin, &b.word} {
			if *of != nil && (*of).probe == l.id {
				dom.judgeProbe(now, a, b, of, l, s)
			}
		}
		if used, lower := b.Excess(now); used <= b.OwnLimit()/indeed && !lower {
			b.word = nil // what is left of it binds all
		}
		a.disputed = a.disputed || b.origin != nil || b.word != nil
	}
	if d := a.slowStart.narrow; d != nil {
		if d.probe == l.id && s.Class == provider.OK && dom.answered(now, d, l) && d.returnAt > 0 {
			a.slowStart.widen()
		} else {
			a.disputed = true
		}
	}
	dom.freed(now, a)
}

// judgeProbe takes in the answer to a probe.
func (dom *Domain) judgeProbe(now Time, a *account, b *bucket, of **dispute, l *lease, s *provider.Signal) {
	switch s.Class {
	case provider.OK:
		_, lower := b.Excess(now)
		if d := *of; d.recorded || d.verdict == confirmed { // that one passed shows little room: the next may try at once
			d.probe, d.lateAt = 0, min(d.lateAt, now)
			d.passed++
			if d.recorded || of == &b.word && !lower || d.passed <= b.Limit()/indeed {
				return
			}
		}
		dom.contradicts(now, a, b, of, l)
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted:
		(*of).passed = 0
		dom.adds(now, a, b, of, l)
	}
}

// raise is a higher limit that one lease has reported.
type raise struct {
	limit  int64
	lease  LeaseID
	holder string
}

// limitStated takes in the limit that an answer states of a bucket. A lower one stands beside
// ours, and binds as its dispute says. A higher one takes it back, if a dispute about the lower
// one is open; if others have confirmed that, or there was none, it takes two leases, and two
// holders if there are. It returns whether anybody may have room that had none.
func (dom *Domain) limitStated(now Time, a *account, b *bucket, stated int64, l *lease) (freed bool) {
	stated = b.Capped(stated)
	holder := l.by.holder.name
	in := b.Limit()
	switch {
	case stated == in:
		b.raise = nil
		if _, lower := b.Excess(now); lower && b.word != nil {
			dom.states(now, a, b, l)
		}
		if stated == b.OwnLimit() && b.origin != nil {
			dom.founds(now, a, b, l)
			return dom.confirm(a, b)
		}
		return false
	case stated < in:
		if !dom.believes(now, l) {
			return false
		}
		if d := b.word; d != nil && (d.verdict != open || d.first.holder != holder) {
			b.word = nil // another one's figure is another dispute; the same one's postpones nobody's probe
		}
		b.StateLimit(now, stated)
		dom.states(now, a, b, l)
		b.raise = nil
		return true
	case b.word != nil && b.word.verdict != confirmed && stated == b.OwnLimit():
		if !dom.overturned(now, b.word, l) {
			return false
		}
		b.word, b.raise = nil, nil
		b.StateLimit(now, stated) // it may have been lower until now, and then less has refilled
		dom.noteLimits(a)
		return true
	case b.word != nil && l.granted < b.word.since, b.origin != nil && l.granted < b.origin.since:
		return false
	}
	for _, d := range [...]*dispute{b.origin, b.word} {
		if d != nil && d.probe == l.id { // it has told what it was to find out
			d.probe = 0
		}
	}
	if r := b.raise; r == nil || r.limit != stated || r.lease == l.id || r.holder == holder && !dom.sole(now, holder, b.Window()) {
		b.raise = &raise{stated, l.id, holder}
		return false
	}
	b.raise, b.word, b.origin = nil, nil, nil
	switch {
	case b.Ceiling() == 0:
		b.Withdraw()
		b.SetLimit(now, stated)
	case b.Stands():
		b.StateLimit(now, stated) // what is used by the lower one stays used
		if stated < b.OwnLimit() {
			b.word = settled(now)
		}
	}
	return true
}

// confirm ends the slow start for the sake of a limit that others have confirmed.
func (dom *Domain) confirm(a *account, b *bucket) (freed bool) {
	if b.origin == nil || b.origin.verdict == open || len(a.slowStart.missing) == 0 {
		return false
	}
	a.findMissing(dom.cfg.Dialect)
	return true
}

// opensAt lets one probe what is disputed of an account's limits at a moment of which the
// provider has said that there is room then.
func (a *account) opensAt(at Time) {
	for _, b := range a.buckets {
		if d := b.word; d != nil && !b.Refills() { // a bucket's books tell when there is room for more than the smallest ask
			d.opensAt = at
			if d.verdict == confirmed && d.lateAt == Never {
				d.lateAt = at
			}
		}
	}
}

// settled is a dispute that others have confirmed.
func settled(now Time) *dispute {
	return &dispute{kind: figure, since: now, said: now, until: now.Add(forever), verdict: confirmed, lateAt: Never, only: provider.NumDimensions}
}

// owe charges use beyond what was reserved. What one holder uses so much more than any
// other has seen is disputed.
func (dom *Domain) owe(now Time, l *lease, b *bucket, n int64) {
	holder := l.by.holder.name
	tolerated := n
	if !dom.alone(now, holder) {
		tolerated = min(n, b.tolerates(now, holder))
	}
	b.debtOf(now, holder).amount += tolerated
	b.Charge(now, tolerated)
	if n -= tolerated; n > 0 && dom.believes(now, l) {
		b.StateUse(now, n)
		dom.states(now, l.account, b, l)
	}
}

// known reports whether a limit is more than one holder's word, while there are others.
func (b *bucket) known() bool {
	return b.origin == nil || b.origin.verdict != open || b.origin.sole
}

// statedBy reports whether the bucket is as it is on the word of a holder alone.
func (b *bucket) statedBy(holder string) bool {
	by := func(d *dispute) bool { return d != nil && d.verdict == open && d.first.holder == holder }
	return by(b.origin) || by(b.word)
}

// forgetStatements forgets all that holders have stated of an account's limits.
func (a *account) forgetStatements() {
	for _, b := range slices.Clone(a.buckets) {
		b.debts = nil
		if b.Ceiling() == 0 {
			a.remove(b)
			continue
		}
		a.drop(b, &b.word)
	}
	a.slowStart.narrow, a.disputed, a.inferred = nil, false, nil
}

// debt is what a holder has lately used beyond what it had reserved.
type debt struct {
	amount    int64
	at        Time
	tightened Time // when its refusal has kept headroom; 0 if none has
}

// maxDebtors bounds the holders whose debts a bucket remembers.
const maxDebtors = 64

// debtOf returns the debt of a holder, of which a window pays off what is tolerated.
func (b *bucket) debtOf(now Time, holder string) *debt {
	d := b.debts[holder]
	if d == nil {
		if b.debts == nil || len(b.debts) >= maxDebtors {
			b.debts = map[string]*debt{}
		}
		d = &debt{at: now}
		b.debts[holder] = d
	}
	d.amount = max(0, d.amount-limit.MulDiv(b.OwnLimit()/owed, int64(now.Sub(d.at)), int64(b.Window())))
	d.at = now
	return d
}

// tolerates returns how much more a holder may owe before others are asked.
func (b *bucket) tolerates(now Time, holder string) int64 {
	return max(0, b.OwnLimit()/owed-b.debtOf(now, holder).amount)
}

// ownerBefore stands in place of a holder for a statement of the owner before us. No
// holder has this name.
const ownerBefore = "\x00"

// probeRecorded lets leases probe, one at a time, from when a fixed window of the
// predecessor should have ended by the wall clock; but not past a configured limit.
func (a *account) probeRecorded(now Time, b *bucket, wall time.Time) {
	if at, ok := b.PredecessorEnds(now, wall); ok && b.Ceiling() == 0 {
		e := eye{holder: ownerBefore}
		b.origin = &dispute{
			kind: figure, recorded: true, only: provider.NumDimensions, first: e, since: at.Add(-readSoon), said: at, until: Never,
			voices: []voice{{eye: e, until: Never, said: at, counts: true}},
		}
		a.disputed = true
	}
}
