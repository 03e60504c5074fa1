// Package report shows what simulated fleets got: as a table, and as a page with plots.
package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/keybroker/keybroker/internal/fleet"
)

// Scenario is one scenario and what came of it, by strategy.
type Scenario struct {
	*fleet.Scenario
	Results []*fleet.Result // the broker's first
}

// Table writes a table for each scenario, for people.
func Table(w io.Writer, all []Scenario) error {
	for i, s := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s: %s\n\n", s.Name, s.About)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "strategy\tused\t429s\tof sent\toverrun\tserved\tgiven up\twait p50\tp95\tp99\tfairness\tstarved\t")
		for _, r := range s.Results {
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%.3f\t%d\t\n",
				r.Strategy, Percent(r.Share), r.Refused, Percent(r.RefusedRate), Percent(r.Overrun), r.Served, r.Failed,
				Seconds(r.Wait.P50), Seconds(r.Wait.P95), Seconds(r.Wait.P99), r.Fairness, r.Starved)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, r := range s.Results {
			for _, x := range r.Recoveries {
				fmt.Fprintf(w, "  %s, %s: %s\n", r.Strategy, x.Event, recovered(x.Seconds))
			}
			if r.Kept != nil {
				fmt.Fprintf(w, "  %s: %s\n", r.Strategy, kept(*r.Kept))
			}
			for _, k := range r.Blamed {
				fmt.Fprintf(w, "  %s put %s out of use, which was good\n", r.Strategy, k)
			}
			for _, miss := range r.Missed {
				fmt.Fprintf(w, "  MISSED by %s: %s\n", r.Strategy, miss)
			}
		}
	}
	return nil
}

// Percent writes a part of one, with the digits that matter near all and nothing.
func Percent(x float64) string {
	switch {
	case x == 0:
		return "0 %"
	case x < 0.001:
		return fmt.Sprintf("%.3f %%", 100*x)
	}
	return fmt.Sprintf("%.1f %%", 100*x)
}

// Seconds writes a time that somebody waited.
func Seconds(x float64) string { return fmt.Sprintf("%.2f s", x) }

func kept(part float64) string {
	return "each service that hears the provider's words kept " + Percent(part) + " at least"
}

func recovered(s float64) string {
	if s < 0 {
		return "what is allowed was not used again"
	}
	return fmt.Sprintf("what is allowed was used again after %.0f s", s)
}
