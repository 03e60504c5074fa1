package fleet

import "fmt"

// Check says what of the scenario's expectations a result misses. They are about the
// broker.
func (s *Scenario) Check(r *Result) (missed []string) {
	miss := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	for _, e := range s.Expect {
		for _, a := range r.Accounts {
			if a.Share < e.Share {
				miss("%.2f %% of %s used by %s of %s, and not %.2f %%", 100*a.Share, a.Binding, a.Model, a.Group, 100*e.Share)
			}
		}
		if e.Overrun != nil && r.Overrun > *e.Overrun {
			miss("%.3f %% above a limit, and not %.3f %% at most", 100*r.Overrun, 100**e.Overrun)
		}
		if e.GivenUp != nil && r.GivenUpRate > *e.GivenUp {
			miss("%.2f %% of requests given up, and not %.2f %% at most", 100*r.GivenUpRate, 100**e.GivenUp)
		}
		if e.Refused != nil && r.RefusedRate > *e.Refused {
			miss("%.3f %% refused, and not %.3f %% at most", 100*r.RefusedRate, 100**e.Refused)
		}
		if e.Refusals != nil && r.Refused > *e.Refusals {
			miss("%d refused, and not %d at most", r.Refused, *e.Refusals)
		}
		if r.Fairness < e.Fairness {
			miss("a fairness of %.3f, and not %.3f", r.Fairness, e.Fairness)
		}
		if e.Everyone && r.Starved > 0 {
			miss("%d services got nothing", r.Starved)
		}
		if kept := r.leastKept(); kept < e.Kept {
			miss("%.2f %% kept by a service that no answers concern, and not %.2f %%", 100*kept, 100*e.Kept)
		}
		e.checkRecovery(r, miss)
	}
	return missed
}

// leastKept is 0 if it was not measured, so that it misses what is expected.
func (r *Result) leastKept() float64 {
	if r.Kept == nil {
		return 0
	}
	return *r.Kept
}

// checkRecovery is about events: how long the broker needs after each, and whether it
// blames good keys for it.
func (e *Expect) checkRecovery(r *Result, miss func(format string, args ...any)) {
	if e.Recovery == 0 {
		return
	}
	for _, x := range r.Recoveries {
		switch {
		case x.Seconds < 0:
			miss("%s: never used again, and not after %v", x.Event, e.Recovery)
		case x.Seconds > e.Recovery.Seconds():
			miss("%s: used again after %.0f s, and not %v", x.Event, x.Seconds, e.Recovery)
		}
	}
	if len(r.Blamed) > 0 {
		miss("keys were put out of use that are good: %v", r.Blamed)
	}
}
