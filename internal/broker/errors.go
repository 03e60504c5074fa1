package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/pool"
)

var (
	// ErrUnknownPool is returned for a pool that does not exist or that the holder may
	// not use, and for a model that no pool serves to the holder.
	ErrUnknownPool = errors.New("no such pool")

	// ErrUnknownKey is returned for a key that the pool does not have.
	ErrUnknownKey = errors.New("no such key")

	// ErrUnknownLease is returned for a lease id that was not made for this holder with
	// one of the signing keys in use, whose pool does not exist, or that a successor of
	// this broker granted.
	ErrUnknownLease = errors.New("no such lease")

	// ErrTTL is returned for a time to live that the pool does not allow.
	ErrTTL = errors.New("not what the pool allows")

	// ErrSuperseded is returned to a waiting call when the same holder repeats it with
	// the same request id. The later call takes its place in the queue.
	ErrSuperseded = errors.New("superseded by a call with the same request id")

	// ErrDraining is returned by Acquire and Watch after Close.
	ErrDraining = errors.New("broker is shutting down")

	// ErrStore is returned while a lease cannot be made durable, or while the store does
	// not confirm that this broker owns the domain.
	ErrStore = errors.New("the store cannot be reached, and nothing is granted that might be forgotten")

	// ErrNotOwner is returned by Acquire and Watch after another broker has claimed the domain.
	ErrNotOwner = errors.New("another broker owns the domain of the pool")

	// ErrFenced is returned by a Store to an owner whose claim is not the latest.
	ErrFenced = errors.New("another owner has taken over")

	// ErrStale is returned by a Store for a save that was to change another version of the
	// record than the one that is stored.
	ErrStale = errors.New("the record has changed since it was read")
)

// ExhaustedError says which pool has no room, and when to ask it again.
type ExhaustedError struct {
	*pool.ExhaustedError
	Pool  string
	Retry time.Duration // from now; 0 if asking again is of no use
}

// Unwrap returns the engine's error.
func (e *ExhaustedError) Unwrap() error { return e.ExhaustedError }

// TooLargeError says for which pool the ask is too large.
type TooLargeError struct {
	*pool.TooLargeError
	Pool string
}

// Unwrap returns the engine's error.
func (e *TooLargeError) Unwrap() error { return e.TooLargeError }

// explain adds the pool to an error of the engine, and turns the engine's time into a
// time from now.
func explain(now pool.Time, ask *pool.Ask, err error) error {
	var exhausted *pool.ExhaustedError
	var large *pool.TooLargeError
	switch name := ask.Pool; {
	case errors.As(err, &exhausted):
		e := &ExhaustedError{ExhaustedError: exhausted, Pool: name}
		if exhausted.RetryAt != pool.Never {
			e.Retry = max(exhausted.RetryAt.Sub(now), time.Millisecond)
		}
		return e
	case errors.As(err, &large):
		return &TooLargeError{large, name}
	case errors.Is(err, pool.ErrHolderLimit):
		return fmt.Errorf("pool %q: %w", name, err)
	case errors.Is(err, pool.ErrModelNotServed):
		return fmt.Errorf("%w: pool %q, model %q", err, name, ask.Model)
	}
	return err
}
