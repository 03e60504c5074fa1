package killtest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// What a provider would say: it counts what reaches it, and refuses what is more
// than its limit. It knows nothing of the broker but the clients' list.

// event is an amount that a provider counts at a moment.
type event struct {
	at    moment
	n     int64
	check bool
}

// meter is a bucket that refills all the time, in units so small that it is exact.
type meter struct {
	limit, window, level, lowest int64
	at                           moment
}

func newMeter(l *limit) *meter {
	full := l.amount * int64(l.window)
	return &meter{limit: l.amount, window: int64(l.window), level: full, lowest: full}
}

// count takes an event in. It reports whether there was room.
func (m *meter) count(e event) bool {
	m.level = min(m.limit*m.window, m.level+int64(e.at-m.at)*m.limit)
	m.at = e.at
	m.level -= e.n * m.window
	if e.check {
		m.lowest = min(m.lowest, m.level)
	}
	return m.level >= 0
}

// most is the largest part of the limit that was in use.
func (m *meter) most() int64 { return m.limit - floorDiv(m.lowest, m.window) }

func floorDiv(a, b int64) int64 {
	if a < 0 {
		return -((-a + b - 1) / b)
	}
	return a / b
}

// verdict is what a provider found about one limit.
type verdict struct {
	most int64 // in use at one time
	bad  []string
}

func (v *verdict) badf(format string, args ...any) {
	v.bad = append(v.bad, fmt.Sprintf(format, args...))
}

// judge counts a list against a limit.
func (l *limit) judge(all []*lease, killed map[int]saves) verdict {
	var mine []*lease
	for _, x := range all {
		if x.Pool == l.pool && x.Key == l.key {
			mine = append(mine, x)
		}
	}
	switch {
	case l.window == 0:
		return l.judgeCalls(mine)
	case !l.refills:
		return l.judgeSum(mine, killed)
	}
	return l.judgeRefilling(mine, killed)
}

// judgeCalls counts calls that are open at one time.
func (l *limit) judgeCalls(mine []*lease) (v verdict) {
	var events []event
	for _, x := range mine {
		if x.Used {
			events = append(events, event{at: x.Arrived, n: 1}, event{at: x.Ended, n: -1})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.n, b.n)) })
	open := int64(0)
	for _, e := range events {
		open += e.n
		if v.most = max(v.most, open); open > l.amount {
			v.badf("%v: %d calls at a time at %v", l, open, e.at)
		}
	}
	return v
}

// judgeSum counts a window in which nothing comes back, on the books too.
func (l *limit) judgeSum(mine []*lease, killed map[int]saves) (v verdict) {
	booked := int64(0)
	for _, x := range mine {
		booked += l.booked(x)
		if x.Used {
			v.most += l.used(x)
		}
	}
	if booked > l.amount || v.most > l.amount {
		v.badf("%v: %d used and %d on the books, of %d", l, v.most, booked, l.amount)
	}
	l.judgeDebt(mine, killed, &v)
	return v
}

// cuts is how many moments are tried up to which all requests arrive late, and from
// which on early: then as much as possible comes together.
const cuts = 200

func (l *limit) judgeRefilling(mine []*lease, killed map[int]saves) (v verdict) {
	end := moment(0)
	for _, x := range mine {
		end = max(end, x.Ended)
	}
	for i := range cuts + 1 {
		m := newMeter(l)
		for _, e := range l.arrivals(mine, end*moment(i-1)/cuts, i == 0) {
			if !m.count(e) {
				v.badf("%v: %d below zero at %v, cut %d", l, -floorDiv(m.level, m.window), e.at, i)
			}
		}
		v.most = max(v.most, m.most())
	}
	if l.window == day {
		booked := int64(0)
		for _, x := range mine {
			booked += l.booked(x)
		}
		if refilled := int64(end)*l.amount/int64(l.window) + 1; booked > l.amount+refilled {
			v.badf("%v: %d on the books, of %d and %d", l, booked, l.amount, refilled)
		}
	}
	l.judgeDebt(mine, killed, &v)
	return v
}

// arrivals are the moments at which a provider counts: as they were, or with what
// was granted before a cut as late as may be, and the rest at once. Output counts
// until the call is over.
func (l *limit) arrivals(mine []*lease, cut moment, asTheyWere bool) (events []event) {
	for _, x := range mine {
		if !x.Used {
			continue
		}
		early, late := x.Received, min(x.StartBy, x.Ended)
		if l.counts == "output" {
			late = x.Ended
		}
		at := early
		switch {
		case asTheyWere:
			at = x.Arrived
		case early < cut:
			at = max(early, min(late, cut))
		}
		events = append(events, event{at, l.used(x), true})
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return events
}

// judgeDebt counts what was used beyond reservations too. It may exceed the limit;
// but what was granted after that must have waited for it. A debt that a killed process
// had not saved is lost: its client was told what it might use.
func (l *limit) judgeDebt(mine []*lease, killed map[int]saves, v *verdict) {
	var debts []*lease
	events := []event{}
	for _, x := range mine {
		if n := l.over(x); n > 0 && x.Over.Acked > 0 {
			if s, lost := killed[x.Over.Child]; lost && !s.has(x.Pool, x.Over.Acked) {
				continue
			}
			debts = append(debts, x)
			events = append(events, event{x.Over.Sent, n, false})
		}
	}
	for _, x := range mine {
		if x.Used {
			granted := x.Sent + x.Waited // or later
			unsure := slices.ContainsFunc(debts, func(d *lease) bool { return d.Over.Sent <= x.Received && d.Over.Acked >= granted })
			events = append(events, event{x.Received, l.used(x), !unsure})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	m := newMeter(l)
	for _, e := range events {
		if !m.count(e) && e.check {
			v.badf("%v: granted at %v in spite of a debt", l, e.at)
		}
	}
}

// TestProvider plants mistakes, and expects that they are seen.
func TestProvider(t *testing.T) {
	at := func(received moment, n int) (all []*lease) {
		for range n {
			all = append(all, &lease{Pool: "p", Key: "k", In: 1, UsedIn: 1, Used: true, Sent: received, Received: received,
				Arrived: received, StartBy: received + startWithin, Ended: received + time.Second})
		}
		return all
	}
	sixty := limit{"p", "k", "requests", "rpm_limit", 60, time.Minute, true}
	once := limit{"p", "k", "input", "tpd_limit", 60, day, false}
	calls := limit{"p", "k", "calls", "max_concurrency", 60, 0, false}
	spite := at(0, 30)
	spite[0].UsedIn, spite[0].Over = 40, debt{Sent: 1, Acked: 2, Child: 1}
	spite = append(spite, at(time.Second, 1)...)
	for _, c := range []struct {
		name   string
		l      limit
		all    []*lease
		killed map[int]saves
		good   bool
	}{
		{"as many as fit", sixty, at(0, 60), nil, true},
		{"one too many", sixty, at(0, 61), nil, false},
		{"refilled", sixty, append(at(0, 60), at(10*time.Second+startWithin, 10)...), nil, true},
		{"not refilled", sixty, append(at(0, 60), at(10*time.Second+startWithin, 11)...), nil, false},
		{"late and early together", sixty, append(append(at(0, 57), at(3*time.Second, 3)...), at(3*time.Second+startWithin, 4)...), nil, false},
		{"all of a day", once, at(0, 60), nil, true},
		{"more than a day", once, append(at(0, 60), at(time.Hour, 1)...), nil, false},
		{"calls", calls, append(at(0, 60), at(time.Second, 60)...), nil, true},
		{"too many calls", calls, append(at(0, 60), at(time.Second-1, 1)...), nil, false},
		{"in spite of a debt", once, spite, nil, false},
		{"in spite of a debt that was saved", once, spite, map[int]saves{1: {"p": {1, 3, 4}}}, false},
		{"in spite of a debt that was perhaps saved", once, spite, map[int]saves{1: {"p": {1, 3}, "q": {3, 4}}}, true},
		{"in spite of a debt of a process that lives", once, spite, map[int]saves{2: {}}, false},
		{"given back by an old lease", once, func() []*lease {
			all := at(0, 61)
			all[0].Used = false
			return all
		}(), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.l.judge(c.all, c.killed)
			assert.Equal(t, c.good, len(v.bad) == 0, v.bad)
		})
	}
}
