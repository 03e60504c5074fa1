package pool_test

// The provider of the worlds of trust, with its exact accounts and what it truly refuses,
// and the audit of what the engine grants.

import (
	"fmt"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/internal/sim"
	"github.com/keybroker/keybroker/pool"
)

// trustAudit judges what was granted of one configured limit. The provider may receive a
// request at any moment from its grant to trustStartWithin later. Three placements are
// judged: all at their grants; all as late as possible; and, at each grant, all those
// that may still be on their way at that very moment, which for a limit that refills is
// the least favourable one.
type trustAudit struct {
	group      string
	limit      pool.Limit
	soon, late sim.Limiter
	onTheWay   []trustAmount // not charged to late yet
	sum        int64         // of onTheWay
	over       int64         // by how much a placement exceeded the limit, at most
}

type trustAmount struct {
	at pool.Time
	n  int64
}

func newTrustAudit(group string, l pool.Limit) *trustAudit {
	return &trustAudit{group: group, limit: l, soon: newTrustLimiter(l), late: newTrustLimiter(l)}
}

// newTrustLimiter is the provider's own account of a limit. Fixed windows end at whole
// minutes, whether that is configured or not.
func newTrustLimiter(l pool.Limit) sim.Limiter {
	switch l.Kind {
	case provider.Refilling:
		return sim.NewTokenBucket(l.Amount, l.Window)
	case provider.Fixed:
		return sim.NewFixedWindow(l.Amount, l.Window, l.Window)
	}
	return sim.NewSlidingWindow(l.Amount, l.Window)
}

// grant takes in an amount that is granted now.
func (a *trustAudit) grant(now pool.Time, n int64) {
	a.soon.Charge(time.Duration(now), n)
	for len(a.onTheWay) > 0 && a.onTheWay[0].at.Add(trustStartWithin) <= now {
		first, at := a.onTheWay[0], time.Duration(a.onTheWay[0].at)+trustStartWithin
		a.late.Charge(at, first.n)
		a.over = max(a.over, -a.late.Remaining(at))
		a.sum -= first.n
		a.onTheWay = a.onTheWay[1:]
	}
	a.onTheWay = append(a.onTheWay, trustAmount{now, n})
	a.sum += n
	a.over = max(a.over, -a.soon.Remaining(time.Duration(now)), a.sum-a.late.Remaining(time.Duration(now)))
}

// truth is what the provider refuses, for a time, and how it says so.
type truth struct {
	from, until pool.Time
	group, key  string // empty: all of them
	status      int
	states      bool  // the time until it ends
	cut         int64 // the group's new limit, instead of a refusal

	begun bool // a cut is in force
	first pool.Time
	// What the honest services and the others got of it after its first report.
	honest, others truthTally
}

// truthTally counts refusals of leases that were granted after a truth was first
// reported: within beliefWithin of it, later, and probes as late as probesAfter.
type truthTally struct{ soon, later, probes int }

const (
	beliefWithin = 10 * time.Second
	probesAfter  = 25 * time.Second
)

// wasted are those that count.
func (t *truthTally) wasted() int { return t.soon + t.later }

func (t *truth) applies(now pool.Time, key string) bool {
	return t.from <= now && now < t.until && (t.group == "" || t.group == groupOf(key)) && (t.key == "" || t.key == key)
}

// refused takes note of a refusal by reason of a truth.
func (t *truth) refused(c *trustCall) {
	c.tells = t
	if t.first == 0 || c.grant.Granted <= t.first {
		return
	}
	tally := &t.honest
	if c.job.service.speaker != nil {
		tally = &t.others
	}
	switch since := c.grant.Granted.Sub(t.first); {
	case since <= beliefWithin:
		tally.soon++
	case since < probesAfter:
		tally.later++
	default:
		tally.probes++
	}
}

// trustProvider serves by its own exact accounts.
type trustProvider struct {
	w        *trustWorld
	accounts map[string]sim.Limiter // of requests, by group
	limits   map[string]int64
	truths   []*truth
	refusals int // for want of room, though no truth says so
}

func newTrustProvider(w *trustWorld) *trustProvider {
	p := &trustProvider{w: w, accounts: map[string]sim.Limiter{}, limits: map[string]int64{}, truths: truthsNamed(&w.trustSetting)}
	for i := range w.Groups {
		g := fmt.Sprintf("g%d", i)
		p.limits[g] = w.PerGroup
		p.accounts[g] = newTrustLimiter(pool.Limit{Kind: w.Kind, Window: time.Minute, Amount: w.PerGroup})
	}
	return p
}

// answer serves a request that arrives now, or refuses it.
func (p *trustProvider) answer(c *trustCall) provider.Signal {
	now, group := p.w.now, groupOf(c.grant.Key)
	account := p.accounts[group]
	var cut *truth
	for _, t := range p.truths {
		if !t.applies(now, c.grant.Key) {
			continue
		}
		if t.cut > 0 {
			if cut = t; !t.begun {
				t.begun = true
				p.limits[group] = t.cut
				account.SetLimit(time.Duration(now), t.cut)
			}
			continue
		}
		t.refused(c)
		account.Charge(time.Duration(now), 1) // what is refused counts, too
		wait := time.Duration(0)
		if t.states {
			wait = t.until.Sub(now)
		}
		return answerOf(p.w.dialect, t.status, wait)
	}
	at := time.Duration(now)
	c.good = account.Take(at, 1)
	var s provider.Signal
	if !c.good {
		wait := time.Duration(0)
		if p.w.Headers {
			wait = account.Until(at, 1)
		}
		s = answerOf(p.w.dialect, 429, wait)
		if cut != nil {
			cut.refused(c)
		} else {
			p.refusals++
		}
	}
	if p.w.Headers {
		s.Windows = p.windows(group)
		if cut != nil {
			c.tells = cut
		}
	}
	return s
}

// windows are what the headers state.
func (p *trustProvider) windows(group string) []provider.Window {
	at, account := time.Duration(p.w.now), p.accounts[group]
	reset := account.UntilFull(at)
	if f, ok := account.(*sim.FixedWindow); ok {
		reset = f.Reset(at)
	}
	return []provider.Window{{
		Dimension: provider.Requests, Length: time.Minute, Kind: p.w.Kind, Limit: p.limits[group],
		Remaining: max(0, account.Remaining(at)), Rounding: 1, Reset: reset,
	}}
}
