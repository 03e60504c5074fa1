package client

import (
	"context"
	"time"
)

// Hooks hear what a client does, for metrics and traces. A hook that is nil is not
// called; the others are called with the context of the request that they are about,
// on any goroutine, and hold the request up for as long as they take. No hook is
// ever given a key. Calls to the broker are traced by gRPC's own means: see
// [WithDialOptions].
type Hooks struct {
	// Acquired hears of every Acquire, a Transport's too.
	Acquired func(context.Context, Acquired)
	// Answered hears of every request that a Transport has sent, when the headers of
	// its answer are there, or of an error its body's beginning.
	Answered func(context.Context, Answered)
	// Finished hears, after Answered, of every answer when the broker is told the
	// last of it: when it has been read to its end or closed, and of an error at once.
	Finished func(context.Context, Finished)
}

// Labels say what an event is about.
type Labels struct {
	Pool     string // that the key is from; without a key, the one that was asked for
	Model    string // that was asked for
	Provider string // its type, such as "anthropic"; empty without a key
	KeyID    string // the key's name, not the key; empty without one
}

// Acquired is an Acquire that has come to its end.
type Acquired struct {
	Labels
	Took time.Duration
	// Shared is whether the lease is part of one for several requests. Most of
	// those are given out without a word to the broker.
	Shared bool
	Err    error // as Acquire returns it
}

// Answered is a request that has been sent, and its answer.
type Answered struct {
	Labels
	Attempt int // from 1
	Status  int // 0 if no answer came
	// Outcome is what the answer says of the key, in the words of docs/providers.md:
	// "ok", "rate_limited", "auth_invalid", "overloaded", …; "no_answer" if none
	// came.
	Outcome string
	Took    time.Duration // from sending to the answer's headers
	Err     error         // of the base transport
}

// Finished is an answer that has come to its end.
type Finished struct {
	Labels
	Status   int
	Usage    Usage         // as reported: what is nil is not known
	Complete bool          // whether it was read to its end
	Took     time.Duration // from sending on
}

// acquired tells the hook of an Acquire.
func (h *Hooks) acquired(ctx context.Context, r *Request, l *Lease, began time.Time, err error) {
	e := Acquired{Labels: Labels{Pool: r.Pool, Model: r.Model}, Took: time.Since(began), Err: err}
	if l != nil {
		e.Labels, e.Shared = l.labels(r.Model), l.grant.shared()
	}
	h.Acquired(ctx, e)
}

func (l *Lease) labels(model string) Labels {
	return Labels{Pool: l.Pool(), Model: model, Provider: l.Provider(), KeyID: l.KeyID()}
}
