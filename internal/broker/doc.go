// Package broker leases keys from pools that it owns. It gives package pool what that
// engine does without: a lock, a clock, timers, callers that wait, and a memory that
// outlives the process. It knows keys by their ids only and never sees a secret.
//
// # Nouns
//
//   - A Broker has one owner for each domain, and finds the owner that a call is for.
//   - An owner has the right to grant the keys of its domain, from its claim until a
//     successor claims the domain. Its epoch numbers that claim.
//   - The engine (pool.Domain) decides who gets which key. It neither locks nor waits.
//   - A call is an Acquire that cannot be answered at once. It stands in the queue, or
//     it is held because its lease is not durable.
//   - A lease is durable when a successor would know what it was charged: because the
//     record says so, or because the record allows for it in advance.
//   - The record is what the store keeps of a domain: limits, usage, cooldowns. It holds
//     no leases, since a lease id says itself what a successor must know of the lease. A save
//     writes what has changed; package internal/record says in which form.
//   - The ownership lease is the time during which an owner may grant. It ends permit
//     after the send time of the last store call that succeeded.
//   - The overlap is the time during which a predecessor may still grant, because it
//     does not know of its successor yet.
//
// # The life of a call
//
//  1. Asked. Broker.Acquire makes the route: the pools to try, in order. A call with a
//     request id that was granted a lease before gets that lease again. Otherwise each
//     pool of the route is asked once. If none has room, the call joins the queue of the
//     first pool that will have room, and when its time is over all pools are asked once
//     more.
//  2. Held until durable. The engine has granted a lease. If the lease is not durable,
//     its answer is held, and upkeep saves a record as soon as the rate of saves allows. If
//     that fails, the lease ends as unused and the call fails with ErrStore.
//  3. Answered. The caller gets the lease with its signed id.
//  4. Taken back. If the caller has gone, or if the server may not pass the key on
//     (TakeBack), the lease ends as unused. After that, only Report and Release end it.
//
// # Who calls what
//
// The server calls Broker, Broker calls an owner, and an owner calls the engine through
// do: it takes the lock, reads the clock, makes the calls on the engine, serves those in
// the queue who can now be served, sets the timer, releases the lock, and delivers the
// engine's events. One timer for each owner does the same when time alone brings room.
//
// Each owner has one goroutine, upkeep. While it runs, nothing else calls the store for its
// domain. It saves the record when something has changed or a call is held, and it renews the
// ownership lease while somebody asks for leases. It does not hold the lock while it calls
// the store. New starts it after the claim, the recovery and a first save; Stop ends it and
// saves the last record.
//
// # The lock
//
// Each owner has one lock. It protects exactly the fields of type locked. The methods of
// locked and of the types inside it never lock, never block and never call the store.
// Only do and look give access to a locked, and both take the lock. No other field of an owner
// changes after newOwner, except keeper and log, which are used by begin, then by upkeep, then
// by halt. Under the lock a save copies what has changed; it is encoded outside.
//
// # Where to find what
//
//	broker.go       the domains and their pools, start and stop
//	acquire.go      Acquire: route, fallbacks, request ids, the answer
//	report.go       Report, Release, TakeBack
//	owner.go        the owner: claim, recovery, lock, clock, timer, end
//	locked.go       what the lock protects: grants, service of the queue
//	call.go         calls that wait: queue, held answers, callers who leave
//	ownership.go    the ownership lease, and what the store's answers mean for it
//	saves.go        when a record is due, and which leases are durable
//	upkeep.go       the goroutine that saves and renews
//	keeper.go       which version of the record is stored, and saves of the next
//	leaseid.go      what a lease id says
//	signer.go       how lease ids are signed and checked
//	signingkeys.go  the signing keys: rotation, record, secrecy
//	store.go        Store, and Memory
//	inspect.go      views for operators and metrics, by pages
//	watch.go        what has changed since a watcher was last told
//	errors.go       every error, and when it is returned
package broker
