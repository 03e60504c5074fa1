package fleet

import "fmt"

// Check says what of the scenario's expectations a result misses. They are about the
// broker.
func (s *Scenario) Check(r *Result) (missed []string) {
	miss := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	for _, e := range s.Expect {
		if r.Share < e.Share {
			miss("%.2f %% used, and not %.2f %%", 100*r.Share, 100*e.Share)
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
		for _, x := range r.Recoveries {
			if e.Recovery > 0 && (x.Seconds < 0 || x.Seconds > e.Recovery.Seconds()) {
				miss("%s: used again after %.0f s, and not %v", x.Event, x.Seconds, e.Recovery)
			}
		}
		if e.Recovery > 0 && len(r.Blamed) > 0 {
			miss("keys were put out of use that are good: %v", r.Blamed)
		}
	}
	return missed
}
