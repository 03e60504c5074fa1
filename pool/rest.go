package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

const (
	// secondOpinion is how long the word of one holder alone keeps the others
	// out: then one of them may see for itself.
	secondOpinion = 30 * time.Second
	// patience is how long the answer to a trial is waited for.
	patience = 5 * time.Second
	// A return is slow: so many leases in the first second, twice as many by the
	// end of the next, and after so many seconds as many as there is room for.
	slowLeases  = 4
	slowSeconds = 8
)

// Waits that we guess grow with each refusal in a row.
type guess struct{ first, most time.Duration }

var (
	briefly = guess{time.Second, time.Minute}
	busily  = guess{time.Second, 2 * time.Second} // an overload ends for all at once, and one try costs nobody anything
	rarely  = guess{10 * time.Minute, time.Hour}  // where somebody has to act
)

// rest keeps something out of use after a refusal: an account, a quota group, a
// model, a key for one class of models. When its time is over, one lease tries,
// and the return after a good answer is slow.
type rest struct {
	on     bool
	until  Time   // out of use before
	by     string // the holder on whose word alone it is so long; empty if it is not one's alone
	alone  Time   // since when it is; more of the same holder's words do not put off the others
	agreed Time   // so long by the word of another, too
	said   Time   // when the last refusal came in: leases older than it say nothing new

	only     provider.Dimension // asks for nothing of it may pass; NumDimensions: none may
	class    provider.Class     // of the refusal that is why it is so long
	operator bool               // that refusal does not end by itself
	backoff  time.Duration

	trial  LeaseID // the lease that tries, 0 if none is out
	tried  Time    // when it was granted
	back   Time    // when a trial was answered; 0 before
	served int64   // leases since
}

// refuse starts or extends it. A stated wait is never shortened; where none is
// stated, ours grows with each refusal of a lease granted after the last one. It
// reports whether that ended a trial, or a slow start.
func (r *rest) refuse(now Time, l *lease, s *provider.Signal, g guess) (tried bool) {
	if !r.on || l.granted >= r.said {
		r.backoff = min(max(2*r.backoff, g.first), g.most)
		tried = r.trial != 0 || r.back > 0
		r.said, r.trial, r.back, r.served = now, 0, 0, 0
	}
	only := provider.NumDimensions
	if w := s.Refused; w != nil && w.Dimension < only && l.reserved[w.Dimension] > 0 { // else it asked for none, and was refused
		only = w.Dimension
	}
	if !r.on {
		r.on, r.by, r.alone, r.agreed, r.until, r.only = true, l.holder.name, now, 0, -1, only
	} else if r.only != only {
		r.only = provider.NumDimensions
	}
	wait := s.Wait
	if s.Source == provider.NotStated {
		wait = r.backoff
	}
	switch until := now.Add(wait); {
	case until > r.until:
		if l.holder.name != r.by { // who spoke before agrees as far as that went
			r.alone, r.agreed = now, max(r.agreed, r.until)
		}
		r.until, r.by, r.class, r.operator = until, l.holder.name, s.Class, s.Operator && s.Wait == 0
	case l.holder.name != r.by:
		r.agreed = max(r.agreed, until)
	}
	return tried
}

// answered takes note of an answer that is no refusal. It reports whether that
// ends the rest.
func (r *rest) answered(now Time, l *lease) bool {
	if !r.concerns(&l.reserved) || r.back > 0 || l.granted < r.said {
		return false
	}
	r.until, r.by, r.agreed, r.trial, r.backoff, r.operator = now, "", 0, 0, 0, false
	r.back = max(now, 1)
	return true
}

// opens is when an ask may pass: of a holder, or with "" of whoever may first.
// With byEvent, an answer that is waited for may bring it sooner.
func (r *rest) opens(now Time, holder string) (at Time, byEvent bool) {
	if !r.on {
		return now, false
	}
	if r.back > 0 {
		n := now.Sub(r.back) / time.Second
		if n >= slowSeconds {
			r.on = false
		}
		if n >= slowSeconds || r.served < slowLeases<<n {
			return now, false
		}
		return r.back.Add((n + 1) * time.Second), false
	}
	at = r.until
	if r.by != "" && r.by != holder {
		at = min(at, max(r.agreed, r.alone.Add(secondOpinion)))
	}
	if r.trial != 0 {
		return max(now, at, r.tried.Add(patience)), true
	}
	return max(now, at), false
}

// concerns reports whether an ask has to wait for it.
func (r *rest) concerns(ask *provider.Amounts) bool {
	return r.on && (r.only >= provider.NumDimensions || ask[r.only] > 0)
}

// taken takes note of a lease that was granted: it is the trial, or one of the
// slow start.
func (r *rest) taken(now Time, l *lease) {
	switch {
	case !r.concerns(&l.reserved):
	case r.back > 0:
		r.served++
	default:
		r.trial, r.tried = l.id, now
	}
}

// ended takes note of the end of a lease. It reports whether another may try.
func (r *rest) ended(l *lease) bool {
	if !r.on || r.trial != l.id {
		return false
	}
	r.trial = 0
	return true
}

// blocked reports whether it lasts for a holder until an operator acts. One who
// has it on another's word alone may see for itself.
func (r *rest) blocked(now Time, holder string) bool {
	if !r.on || !r.operator || now >= r.until {
		return false
	}
	at, _ := r.opens(now, holder)
	return at >= r.until
}

// doubt is cast on a limit that is as it is on the word of one holder alone: then
// others may see for themselves.
type doubt struct {
	by    string // that holder; empty if there is no doubt
	since Time
	open  bool // another one says otherwise: others may try at once
}

func (d *doubt) of(holder string) bool { return d.by != "" && d.by != holder }

// contradicted takes note that another holder says otherwise: the others may try
// at once. It reports whether they may not already.
func (d *doubt) contradicted(now Time, holder string) bool {
	if !d.of(holder) || d.open || d.since.Add(secondOpinion) <= now {
		return false
	}
	d.open = true
	return true
}

// settled takes note that a lease has shown how it is: another's, and new.
func (d *doubt) settled(l *lease) {
	if d.of(l.holder.name) && l.granted >= d.since {
		*d = doubt{}
	}
}

// doubts gives all that may be in doubt: the window, and the buckets.
func (a *account) doubts(f func(*doubt)) {
	f(&a.narrow)
	for _, b := range a.buckets {
		f(&b.unsure)
		f(&b.unseen)
	}
}

// cast casts doubt on what a holder has said. More of the same holder's words do
// not put off when others may try.
func (a *account) cast(now Time, d *doubt, holder string) {
	a.doubts(func(o *doubt) {
		if o.by == holder {
			now = min(now, o.since)
		}
	})
	*d = doubt{by: holder, since: now, open: d.open && d.by == holder}
	a.doubted = true
}

// opens is when a holder may try in spite of what is in doubt.
func (a *account) opens(now Time, d *doubt, holder string) Time {
	switch {
	case !d.of(holder):
		return Never
	case a.trial != 0:
		now = max(now, a.tried.Add(patience))
	}
	if d.open {
		return now
	}
	return max(now, d.since.Add(secondOpinion))
}

// witness takes note of an answer to a lease that was granted in spite of
// what others had said: it was so, or it was not.
func (a *account) witness(now Time, l *lease, s *provider.Signal) {
	switch s.Class {
	case provider.RateLimited, provider.ConcurrencyLimited, provider.QuotaExhausted:
		a.doubts(func(d *doubt) { d.settled(l) })
	case provider.OK: // where it says no more, the next may try at once
		for _, b := range a.buckets {
			b.refuted(now, l)
		}
		a.trial = 0
	}
}
