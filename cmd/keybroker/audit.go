package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keybroker/keybroker/internal/audit"
)

const auditHelp = `keybroker audit FLAGS FILE… tells who held which key, from the files of an audit
log in any order; those that gzip has compressed are read as well. A key is said to
be held from its grant to the end of its lease; whoever held it may have kept it.

  keybroker audit --pool anthropic --key research-1 --since 2h audit.jsonl
  keybroker audit --holder svc-a --since 2026-01-31T08:00:00Z audit.jsonl*
  keybroker audit --lease LEASE-ID --leases audit.jsonl
  keybroker audit --since 24h -o json audit.jsonl | jq '.holdings[].holder'
`

func runAudit(_ context.Context, env *environment, args []string) error {
	f := newFlags(env, "audit", auditHelp)
	var q audit.Query
	now := time.Now()
	f.StringVar(&q.Pool, "pool", "", "only keys of this `pool`")
	f.StringVar(&q.Key, "key", "", "only the key with this `id`")
	f.StringVar(&q.Holder, "holder", "", "only this `identity`")
	f.StringVar(&q.Lease, "lease", "", "only this lease: its `id`, or its fingerprint in the log")
	f.Func("since", "held at or after this `time`: 2h (ago), or 2026-01-31T08:00:00Z", moment(&q.Since, now))
	f.Func("until", "held before this `time`", moment(&q.Until, now))
	leases := f.Bool("leases", false, "show every lease")
	output := f.String("o", "text", "output: text or json")
	if err := f.parseFlags(args); err != nil {
		return err
	}
	switch {
	case f.NArg() == 0:
		return &usageError{"no audit log: give its file, and older ones if they matter"}
	case *output != "text" && *output != "json":
		return &usageError{fmt.Sprintf("-o: %q is neither text nor json", *output)}
	case !q.Until.IsZero() && !q.Since.Before(q.Until):
		return &usageError{"--since must be before --until"}
	}
	for _, file := range f.Args() {
		if strings.HasPrefix(file, "-") {
			return &usageError{fmt.Sprintf("%s: flags stand before the files", file)}
		}
	}
	answer, problem := audit.Files(f.Args(), q, *leases)
	if answer.Unreadable > 0 {
		problem = errors.Join(problem, fmt.Errorf("%d lines could not be read", answer.Unreadable))
	}
	if problem != nil {
		problem = fmt.Errorf("the answer is not complete:\n%w", problem)
	}
	if err := printAnswer(env.stdout, answer, &q, *output, *leases); err != nil {
		return err
	}
	return problem
}

// moment reads a time, or how long before now it was.
func moment(t *time.Time, now time.Time) func(string) error {
	return func(s string) error {
		if d, err := time.ParseDuration(s); err == nil && d >= 0 {
			*t = now.Add(-d).UTC()
			return nil
		}
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return fmt.Errorf("neither a duration, as 2h, nor a time, as 2026-01-31T08:00:00Z")
		}
		*t = at.UTC()
		return nil
	}
}

func printAnswer(w io.Writer, a *audit.Answer, q *audit.Query, output string, leases bool) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(a)
	}
	var text strings.Builder
	switch {
	case len(a.Holdings) == 0:
		fmt.Fprintf(&text, "Nobody held %s%s, as far as the log goes.\n", asked(q), window(q))
	case leases:
		leaseTable(&text, a.Leases)
	default:
		holdingTable(&text, a.Holdings)
	}
	denials(&text, a)
	reach(&text, a, q)
	_, err := io.WriteString(w, text.String())
	return err
}

// openMark stands at a moment that is not in the log.
const openMark = "*"

func holdingTable(w io.Writer, holdings []audit.Holding) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tKEY\tHOLDER\tLEASES\tFIRST\tLAST\tPEERS")
	open := 0
	for _, h := range holdings {
		last := stamp(h.Last)
		if h.Open > 0 {
			last += openMark
			open += h.Open
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", plain(h.Pool), plain(h.Key), plain(h.Holder),
			h.Leases, stamp(h.First), last, plain(strings.Join(h.Peers, ",")))
	}
	_ = t.Flush()
	openNote(w, open)
}

func leaseTable(w io.Writer, leases []audit.Lease) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEASE\tPOOL\tKEY\tHOLDER\tGRANTED\tENDED\tPEER")
	open := 0
	for _, l := range leases {
		granted, ended := "before the log", stamp(l.Ended)
		if !l.Granted.IsZero() {
			granted = stamp(l.Granted)
		}
		if l.Ended.IsZero() {
			ended = stamp(l.Expires) + openMark
			open++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(l.Lease), plain(l.Pool), plain(l.Key),
			plain(l.Holder), granted, ended, plain(l.Peer))
	}
	_ = t.Flush()
	openNote(w, open)
}

func openNote(w io.Writer, open int) {
	if open > 0 {
		fmt.Fprintf(w, "%s The log has no end for %d of the leases; this is when the ttl ends, unless it was renewed.\n", openMark, open)
	}
}

// denials is who asked and was not allowed to. Nobody could read a thousand kinds.
func denials(w io.Writer, a *audit.Answer) {
	const shown = 20
	for i, d := range a.Denials {
		if i == shown {
			fmt.Fprintf(w, "Denied: %d more kinds; -o json has them\n", len(a.Denials)-shown)
			break
		}
		fmt.Fprintf(w, "Denied: %d × %s from %s: %s\n", d.Count, plain(d.Holder), plain(d.Peer), plain(d.Reason))
	}
	if a.Omitted > 0 {
		fmt.Fprintf(w, "%d refusals and denials were not written down, as there were too many.\n", a.Omitted)
	}
}

// reach warns of what the answer cannot know.
func reach(w io.Writer, a *audit.Answer, q *audit.Query) {
	if a.Begins.IsZero() {
		fmt.Fprintln(w, "There is no entry in the log.")
	} else if q.Since.Before(a.Begins) {
		fmt.Fprintf(w, "The log given begins at %s.\n", stamp(a.Begins))
	}
	if a.Unreadable > 0 {
		fmt.Fprintf(w, "%d lines could not be read.\n", a.Unreadable)
	}
}

func asked(q *audit.Query) string {
	what := "a key"
	if q.Key != "" {
		what = "key " + plain(q.Key)
	}
	if q.Pool != "" {
		what += " of pool " + plain(q.Pool)
	}
	if q.Lease != "" {
		what += " by that lease"
	}
	if q.Holder != "" {
		what += " as " + plain(q.Holder)
	}
	return what
}

func window(q *audit.Query) (text string) {
	if !q.Since.IsZero() {
		text = " from " + stamp(q.Since)
	}
	if !q.Until.IsZero() {
		text += " until " + stamp(q.Until)
	}
	return text
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// plain is text as it is if a terminal shows it as it is; callers choose some of it.
func plain(s string) string {
	if s == "" {
		return "-"
	}
	if quoted := strconv.Quote(s); quoted[1:len(quoted)-1] != s {
		return quoted
	}
	return s
}
