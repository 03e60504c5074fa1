// Package pool is the engine: it decides who gets which key, who waits, and until when.
// It is this module's engine and no API for others: its exported names may change with
// any commit.
//
// It holds no lock, reads no clock, does no I/O and knows no secret. Every call is given
// its moment, and one owner makes the calls, one at a time.
//
// # Nouns
//
//	domain         the whole engine: quota groups with their keys, and the pools over them
//	pool           what holders ask: models, times, and rules of choice over some groups
//	quota group    what the provider counts limits for: an organisation, a project
//	class          models that share one limit
//	account        what one group may use of one class: a list of buckets
//	bucket         the books of one limit (package limit)
//	key            a credential, by name; it belongs to one group
//	holder         an identity that asks a pool for leases
//	instance       one process of a holder
//	ask            one holder's wish for a lease; it is granted, refused, or waits
//	lease          one key in a holder's hands, with amounts set aside for it
//	report         what a holder says of the provider's answer to a lease
//	choice         what one pool chooses from for one class, and the line of those who wait
//	tier           a choice's candidates of one priority
//	candidate      an account with the group's keys of one priority: what a strategy chooses
//	ledger         the buckets that a lease is charged to: those of its account and of its key
//
// # What the owner must do
//
//  1. New, then Recover with the last State of the owner before, if there is one.
//  2. Call one verb at a time, each with the present moment: Acquire, Wait, Cancel,
//     Report, Release, Reconfigure and the others.
//  3. After each verb call Next. It returns the waiters that are served now, and when to
//     call it again if nothing happens before.
//  4. Give a lease out only if its Grant is Durable. Otherwise save a State, call Saved,
//     then MarkDurable for the lease, and give it out then; or Release it as unused.
//  5. While Dirty is true, and when State says so, take a State, save it, call Saved.
//     One is saved after the other. If a save fails, or nobody knows, the next State has
//     what it had.
//  6. On an orderly stop, take the last State with stopped true and call nothing
//     afterwards.
//
// # The life of an ask
//
//	Acquire → admit: its choice, what its answer will likely use, the holder's caps
//	        → knownFull: is it known already that nothing has room?
//	        → serve: those who wait go first
//	        → search.run: each tier from the top → the strategy's choice
//	            → search.try: reserved? room in the account (fit.go)? → seat.pick: a key
//	              no, for anybody: the candidate is set aside until it may have room
//	              no, for this caller: it is skipped, and nothing is remembered
//	        → grant: charge, hold, move back in line
//	Wait    → the same admission → turn.append; Next → pass: along the line in the order of
//	          virtual time; the first that do not fit reserve
//
// A rule that refuses an ask for good, or bounds a holder wherever it asks, belongs to admit; a
// rule about a group or key to search.try or seat.pick, and then reserve must know it, too.
// Whatever frees room calls freed, which makes the lines look again.
//
// # The life of a report
//
//	settle → learn → reconcile → rejudge → blame → detect → conclude; see report.go
//
// # Invariants
//
// Whatever anybody reports, in any order:
//   - What is charged and held, up to what each lease reserved, fits every configured
//     limit, unless two holders, or one that was alone for the whole window, have stated that
//     less is used. Only a probe may exceed a learned or lowered limit, one at a time.
//   - A lease is charged to the buckets that existed at its grant, each exactly once. After
//     a Reconfigure it also holds what it may still use in every limit that holds amounts
//     and that it would be charged to then.
//     Its charge ends by a report, its release, or its time, and never without one.
//   - Use beyond the reservation is debt. It is dropped only as far as it is one holder's word,
//     more than an eighth of a limit in a window, and contradicted by another.
//   - An ask that fits is served, unless an ask before it in line has reserved what it needs.
//   - A refusal that nobody else has met keeps others out for at most the trust of its speaker:
//     10 s in all, whatever its refusals are about, and a second more each minute. A sole
//     speaker is believed until somebody else is about, who may probe.
//   - One lease at a time probes what is in dispute. Whoever has a good answer to its own lease
//     is free, until it is refused itself.
//   - What a crash can lose is bounded by what is written ahead.
//   - Whatever is kept for a holder, a class or a lease goes again when they do.
//
// # Map
//
//	config.go       what a domain is told             reconfigure.go  how that comes into force
//	                                                  reconfigure_groups.go, _classes.go, _unknown.go
//	domain.go       pools, choices, classes           class.go     what is freed wakes whom
//	acquire.go      Ask, Acquire, the grant          release.go   ends of leases, what is due
//	queue.go        Wait, Next, one pass             turn.go      virtual time
//	search.go       the search for room              tier.go      what is known without one
//	preference.go   what an ask prefers or demands   heap.go      a heap whose elements can move
//	seat.go         keys of one group in turns       selector.go  strategies
//	reservation.go  what the first in line keep      fit.go       when an ask fits
//	account.go      group × class                    bucket.go    limits as the engine makes them
//	lease.go        charge, hold, settle             expect.go    what answers will likely use
//	report.go       the pipeline of a report         learn.go     limits that answers state
//	blame.go        what a refusal is about          detect.go    what answers reveal to people
//	cooldown.go     what is out of use, for whom     key.go       health of a credential
//	dispute.go      what one speaker was refused, until others have seen it
//	standing.go     how far a speaker is believed    figure.go    figures that one holder states
//	slow_start.go   few leases while limits are unknown
//	holder.go       holders, instances, caps         event.go     what people should hear of
//	state.go        what outlives the owner          recover.go   how a successor begins
//	changes.go      what has changed since a save    age.go       parts of different times
//	forget.go       classes that nobody uses
//	predecessor.go  reports on its leases            orphan.go    what those may still hold
//	inspect.go      for people to look at            page.go      keys and quotas by pages
//	view.go         one key, one quota of a page     mark.go      what has changed since a look
//	errors.go       every error, and when
//
// Tests tell stories in the words of story_test.go.
//
// # Glossary
//
//	durable      saved, or within what was written ahead, so that a crash does not forget it
//	held         set aside until it is known what was used
//	debt         used beyond the limit; it delays the next grants
//	headroom     kept unused after a refusal that we cannot explain
//	probe        one lease that finds out whether something is still so
//	speaker      an identity, or an instance while no other identity is about
//	dispute      what one speaker states, until others have seen it; then it is confirmed, or
//	             contradicted
//	cooldown     the disputes about one thing that was refused
//	suspect      of a key: refused once; quarantined: another speaker agrees, or nobody else could
//	trust        how long a speaker's unconfirmed refusals may keep others out
//	reservation  what an ask in line keeps free of those behind it
//	orphan       amounts that leases of a predecessor may still hold
//	slow start   few leases at once while a limit is unknown
//	negative     a cache entry: an ask at least this large has no room before that moment
package pool
