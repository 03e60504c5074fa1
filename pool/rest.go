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
	rarely  = guess{10 * time.Minute, time.Hour} // where somebody has to act
)

// rest keeps something out of use after a refusal: an account, a quota group, a
// model, a key for one class of models. When its time is over, one lease tries,
// and the return after a good answer is slow.
type rest struct {
	on     bool
	until  Time   // out of use before
	by     string // the holder on whose word alone it is so long; empty if it is not one's alone
	agreed Time   // so long by the word of another, too
	said   Time   // when the last refusal came in: leases older than it say nothing new

	only     provider.Dimension // asks for nothing of it may pass; NumDimensions: none may
	class    provider.Class     // of the refusal
	operator bool               // it does not end by itself
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
	if s.Refused != nil {
		only = s.Refused.Dimension
	}
	if !r.on {
		r.by, r.agreed, r.until, r.only = l.holder.name, 0, 0, only
	} else if r.only != only {
		r.only = provider.NumDimensions
	}
	r.on, r.class, r.operator = true, s.Class, s.Operator && s.Wait == 0
	wait := s.Wait
	if s.Source == provider.NotStated {
		wait = r.backoff
	}
	switch until := now.Add(wait); {
	case until > r.until:
		if l.holder.name != r.by { // who spoke before agrees as far as that went
			r.agreed = max(r.agreed, r.until)
		}
		r.until, r.by = until, l.holder.name
	case l.holder.name != r.by:
		r.agreed = max(r.agreed, until)
	}
	return tried
}

// answered takes note of an answer that is no refusal. It reports whether that
// ends the rest.
func (r *rest) answered(now Time, l *lease) bool {
	if !r.on || r.back > 0 || l.granted < r.said {
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
		at = min(at, max(r.agreed, r.said.Add(secondOpinion)))
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

// blocked reports whether it lasts until an operator acts.
func (r *rest) blocked(now Time) bool { return r.on && r.operator && now < r.until }

// doubt is cast on an account by what one holder alone has said of its limits,
// where that may have closed it: then others may see for themselves, too.
type doubt struct {
	by    string
	since Time
	trial LeaseID
}

func (d *doubt) cast(now Time, holder string) {
	if d.by == "" || d.by == holder {
		*d = doubt{by: holder, since: now}
	}
}

// opens is when somebody else may try.
func (d *doubt) opens(holder string) Time {
	if d.by == "" || d.by == holder {
		return Never
	}
	if d.trial != 0 {
		return d.since.Add(patience)
	}
	return d.since.Add(secondOpinion)
}
