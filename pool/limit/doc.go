// Package limit keeps the books of one rate limit: how much is used, whether more
// fits, and when it will.
//
// A [Bucket] is one limit of one quota group. Beside what is charged, which the
// provider forgets as time passes, it holds amounts whose moment of counting is
// not known yet: open calls, and tokens that count while an answer is written.
// What fits must fit beside both.
//
// Four counters know how a provider forgets, each whole in a file of its own:
//
//	token_bucket.go    refills all the time, at limit ÷ window
//	sliding_window.go  counts the last window, at any moment
//	fixed_window.go    counts from one reset to the next
//	slots.go           counts open calls only
//
// The package knows time and amounts. It knows nothing of leases, keys, holders or
// queues, and does not judge whose statement to believe: its caller does. It reads
// no clock. Moments that are passed to a bucket must not go back, and amounts are
// 0 or more unless a method says otherwise.
//
// The rule behind all arithmetic: a request may reach the provider up to delta
// after its grant, so what is granted in any span may arrive in a span shorter by
// delta, and must still fit there.
//
//	bucket.go     charge, hold, refund, fit
//	headroom.go   what is kept unused after an unexplained refusal
//	header.go     what a provider's header says about what is used
//	history.go    how much was charged since a moment, for header.go
//	mark.go       how far grants may run ahead of what is saved, and the most that was held
//	snapshot.go   what a successor needs to go on
//	time.go       moments, and products that do not overflow
package limit
