package killtest

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// moment is the time since the round began, on the monotonic clock of this process,
// which nobody kills.
type moment = time.Duration

// lease is what a client has received, and what became of it.
type lease struct {
	ID, Pool, Key, Holder string
	Child                 int // that has granted it
	In, Out               int64
	Sent, Received        moment
	Waited                time.Duration // in the queue, as the broker says
	StartBy, Expires      moment        // counted from Sent

	Used     bool   // its request was sent to the provider
	Arrived  moment // there
	Ended    moment // when the call was over
	UsedIn   int64
	UsedOut  int64
	Over     debt
	Returned bool // as unused, with the child that granted it
	Settled  bool // for what was used, with the child that granted it; or perhaps so
}

// debt is use beyond the reservation.
type debt struct {
	Sent, Acked moment // the report; Acked is 0 if there was none
	Child       int
}

// list is all that was granted in a round: in memory, and in a file as it comes in.
type list struct {
	mu     sync.Mutex
	leases []*lease
	file   *json.Encoder
	begun  time.Time
}

func newList(f *os.File) *list { return &list{file: json.NewEncoder(f), begun: time.Now()} }

func (l *list) now() moment { return time.Since(l.begun) }

// granted notes a lease as it is received.
func (l *list) granted(x *lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases = append(l.leases, x)
	return l.file.Encode(x)
}

func (l *list) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leases)
}

// reserved is what a lease counts for in a limit before anything is known.
func (l *limit) reserved(x *lease) int64 { return l.amountOf(x.In, x.Out) }

// used is what the provider counts of it, without what is over the reservation.
func (l *limit) used(x *lease) int64 {
	if l.counts == "most" { // whatever the answer uses
		return l.reserved(x)
	}
	return min(l.amountOf(x.UsedIn, x.UsedOut), l.reserved(x))
}

// over is what it has used beyond the reservation.
func (l *limit) over(x *lease) int64 {
	return max(0, l.amountOf(x.UsedIn, x.UsedOut)-l.reserved(x))
}

func (l *limit) amountOf(in, out int64) int64 {
	switch l.counts {
	case "input":
		return in
	case "output":
		return out
	case "sum":
		return in + out
	case "most":
		return max(in, out)
	}
	return 1
}

// booked is what a broker that forgets nothing must have charged for a lease: old
// leases give nothing back.
func (l *limit) booked(x *lease) int64 {
	switch {
	case x.Returned:
		return 0
	case x.Settled:
		return l.used(x)
	}
	return l.reserved(x)
}
