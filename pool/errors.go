package pool

import (
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/internal/provider"
)

var (
	// ErrAllKeysExhausted is returned when no key of the pool has room for an
	// ask now. It comes as an *ExhaustedError; another pool may have room.
	ErrAllKeysExhausted = errors.New("all keys exhausted")

	// ErrTooLarge is returned for an ask above every configured limit: it will
	// never fit, however long one waits. It comes as a *TooLargeError.
	ErrTooLarge = errors.New("ask exceeds every limit")

	// ErrNoPool is returned for a pool that the domain does not have.
	ErrNoPool = errors.New("no such pool")

	// ErrNoKey is returned for a key or quota group that an ask demands and the pool does
	// not have.
	ErrNoKey = errors.New("the pool has no such key or quota group")

	// ErrModelRequired is returned for an ask without a model in a pool that
	// counts by model.
	ErrModelRequired = errors.New("model required: the pool's limits are per model")

	// ErrModelNotServed is returned for a model that the pool does not list.
	ErrModelNotServed = errors.New("the pool does not serve this model")

	// ErrLeaseEnded is returned for a lease that was granted but has ended.
	ErrLeaseEnded = errors.New("lease has ended")

	// ErrNotHolder is returned for a lease that somebody else holds.
	ErrNotHolder = errors.New("lease belongs to another holder")

	// ErrHolderLimit is returned when the holder has as much as it may have at one
	// time. It comes as a *HolderLimitError; what it has must end first.
	ErrHolderLimit = errors.New("holder has all that it may have")

	// ErrQueueFull is returned when a queue takes no more waiters.
	ErrQueueFull = errors.New("queue is full")

	// ErrCursor is returned for a cursor whose key, group or class the pool does
	// not have any more, or not near where it was.
	ErrCursor = errors.New("it names what the pool does not have, or not any more")
)

// ExhaustedError says when it is worth asking again.
type ExhaustedError struct {
	// RetryAt is the earliest moment at which this ask would fit if nobody else
	// asked. After an earlier, smaller ask has failed it may be that one's
	// moment, which is sooner. Never: not before an operator acts.
	RetryAt Time
	// Dimension binds: it has room last. NumDimensions: what binds is no limit
	// but a cooldown, a reservation, or keys that are out of use or excluded.
	Dimension provider.Dimension
	// NoUsableKey says that every key is out of use or excluded by the caller.
	NoUsableKey bool
}

func (e *ExhaustedError) Error() string {
	switch {
	case e.NoUsableKey:
		return "all keys exhausted: none is usable"
	case e.Dimension < provider.NumDimensions:
		return fmt.Sprintf("all keys exhausted: no %s left", e.Dimension)
	}
	return "all keys exhausted: none may be leased yet"
}

// Unwrap gives ErrAllKeysExhausted.
func (e *ExhaustedError) Unwrap() error { return ErrAllKeysExhausted }

// TooLargeError says which limit is in the way.
type TooLargeError struct {
	Dimension provider.Dimension
	// Limit is the largest that any of the pool's keys has. An ask that is
	// within it exceeds other limits of that key.
	Limit int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("ask exceeds the limits of every key: the largest for %s is %d", e.Dimension, e.Limit)
}

// Unwrap gives ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// HolderLimitError says which of its caps a holder has reached.
type HolderLimitError struct {
	What  string
	Limit int64
}

func (e *HolderLimitError) Error() string {
	return fmt.Sprintf("this caller has all it may have here: %d %s", e.Limit, e.What)
}

// Unwrap gives ErrHolderLimit.
func (e *HolderLimitError) Unwrap() error { return ErrHolderLimit }
