package pool

// The life of a report. Each step may only rely on the steps before it:
//
//	settle     what the call used replaces what was reserved, so that every later
//	           step compares the answer with amounts that are known.
//	learn      limits and resets that the answer states come into force, since what
//	           is used can only be compared with the right limit.
//	reconcile  what the headers say is used corrects our figures.
//	rejudge    if the lease was a probe, or somebody's statement is disputed, the
//	           answer may decide that. It has to be before the answer's own refusal
//	           opens a dispute of its own.
//	blame      what a refusal is about cools down, and what a good answer is about
//	           comes back.
//	detect     what the answer tells people, which changes no figure.
//	conclude   the lease ends or is renewed, and those who may have room now are
//	           looked at.

import (
	"github.com/keybroker/keybroker/internal/provider"
)

// report is one report on a lease.
type report struct {
	lease  *lease
	signal provider.Signal
	used   provider.Amounts // since the grant; Unknown where the report does not say
	last   bool             // no more requests will be sent than it says
	final  bool             // it ends the lease
}

// Report takes in what the provider answered: what it means, and what was used since the
// grant, Unknown where that is not known. A final report ends the lease; any other one
// renews it, and expires is the new end. A lease whose time has run out takes reports
// for as long again, so that debt is never dropped. The errors are ErrLeaseEnded and
// ErrNotHolder, and then nothing has changed.
func (dom *Domain) Report(now Time, id LeaseID, holder string, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	return dom.report(now, id, holder, report{signal: s, used: used, final: final})
}

// ReportLast is a Report of a lease for several requests, of which no more will be sent
// than it says: what was reserved for the others comes back.
func (dom *Domain) ReportLast(now Time, id LeaseID, holder string, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	return dom.report(now, id, holder, report{signal: s, used: used, last: true, final: final})
}

func (dom *Domain) report(now Time, id LeaseID, holder string, r report) (expires Time, err error) {
	now = dom.tick(now)
	if r.lease, err = dom.find(id, holder); err != nil {
		return 0, err
	}
	l, s := r.lease, &r.signal
	dom.touch(l.account, l.key)
	freed := dom.settle(now, &r)
	known, loosened := dom.learn(now, l, s)
	freed = loosened || freed
	if s.Class == provider.OK || !l.account.probes(l) { // else it says again what keeps the account out of use
		freed = dom.reconcile(now, l, known) || freed
	}
	dom.rejudge(now, l, s)
	dom.blame(now, l, s, r.final)
	dom.detect(now, l.key, s)
	return dom.conclude(now, &r, freed), nil
}

// settle charges what was used in the place of what was reserved. It returns whether
// room came free.
func (dom *Domain) settle(now Time, r *report) (freed bool) {
	l := r.lease
	requests := r.used[provider.Requests]
	if requests >= 0 { // what was sent once was sent
		requests = max(requests, l.used[provider.Requests])
	}
	if r.last {
		freed = l.trim(now, requests)
	}
	for d, kept := range dom.cfg.Dialect.Kept {
		if kept && r.used[d] >= 0 {
			r.used[d] = max(r.used[d], l.reservedFor(d, requests))
		}
	}
	if r.final {
		dom.learnOutput(l, &r.signal, &r.used)
	}
	before := l.overuse()
	freed = l.settle(now, r.used, r.final, func(b *bucket, n int64) { dom.owe(now, l, b, n) }) || freed
	if more := l.overuse() - before; more > 0 {
		q := &l.choice.queue
		if q.turns.owes(l.by.holder.name, l.by.name, more, l.cost()) {
			q.due = true // another may be the first
		}
	}
	if !l.reserved.Covers(&l.used) { // debt has to be saved
		dom.noteCharged(l.key, l.account)
	}
	return freed
}

// conclude ends the lease or renews it. It returns when the lease ends.
func (dom *Domain) conclude(now Time, r *report, freed bool) (expires Time) {
	l := r.lease
	switch {
	case l.lapsed:
		if freed || r.final && l.account.slowStart.active() { // a good answer widens the window
			dom.freedBy(now, l)
		}
		if r.final {
			dom.forget(l)
		}
		return now
	case r.final:
		l.choice.pool.counters.Released++
		dom.end(now, l, freed)
		dom.forget(l)
		return now
	}
	l.heldFrom = now
	if !l.last {
		l.expires = max(l.expires, now.Add(l.ttl))
	}
	dom.due.update(l, int64(l.nextEvent()))
	if freed {
		dom.freedBy(now, l)
	}
	return l.expires
}
