package storetest

import (
	"context"
	"errors"
	"sync"

	"github.com/keybroker/keybroker/internal/broker"
)

// Op is a method of broker.Store.
type Op int

// The methods of broker.Store.
const (
	Claim Op = iota
	Load
	Save
	Renew
	Watch
)

// ErrInjected is the error of a call whose Fault names no other.
var ErrInjected = errors.New("injected fault")

// Fault is what goes wrong with one call.
type Fault struct {
	// After makes the fault occur after the call has had its effect, which its caller
	// cannot know. Otherwise the call has no effect.
	After bool
	// Err is what the call returns; ErrInjected if Err and Until are both nil.
	Err error
	// Until, if not nil, stalls the call until the channel is closed. Then the call goes
	// on, and fails only if Err is set. If its context ends first, the call returns the
	// context's error and has no further effect.
	Until <-chan struct{}
}

// Faulty is a store with the faults that a test orders. It is safe for concurrent use.
type Faulty struct {
	store broker.Store

	mu      sync.Mutex
	next    map[Op][]Fault
	always  map[Op]*Fault
	calls   map[Op]int
	stalled int
	written int
}

// NewFaulty wraps a store. It has no faults until some are ordered.
func NewFaulty(store broker.Store) *Faulty {
	return &Faulty{store: store, next: map[Op][]Fault{}, always: map[Op]*Fault{}, calls: map[Op]int{}}
}

// Next orders faults for the next calls of a method, one for each call, after those that
// were ordered before.
func (f *Faulty) Next(op Op, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[op] = append(f.next[op], faults...)
}

// Always orders a fault for every call of a method for which Next has ordered none. Nil
// ends that.
func (f *Faulty) Always(op Op, fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always[op] = fault
}

// Calls returns how many calls of a method have begun.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Written returns how many bytes the saves that succeeded have put.
func (f *Faulty) Written() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// Size is about how many bytes a store has to write for a change.
func Size(c *broker.Change) (n int) {
	for id, chunk := range c.Put {
		n += len(id) + len(chunk)
	}
	return n
}

// Stalled returns how many calls are stalled now.
func (f *Faulty) Stalled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stalled
}

// begin counts a call and returns its fault, or nil.
func (f *Faulty) begin(op Op) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	if queue := f.next[op]; len(queue) > 0 {
		f.next[op] = queue[1:]
		return &queue[0]
	}
	return f.always[op]
}

// do runs a call with its fault.
func (f *Faulty) do(ctx context.Context, op Op, call func() error) error {
	fault := f.begin(op)
	if fault == nil {
		return call()
	}
	if fault.After {
		if err := call(); err != nil {
			return err
		}
	}
	if fault.Until != nil {
		if err := f.stall(ctx, fault.Until); err != nil {
			return err
		}
	}
	switch {
	case fault.Err != nil:
		return fault.Err
	case fault.Until == nil:
		return ErrInjected
	case fault.After:
		return nil
	default:
		return call()
	}
}

func (f *Faulty) stall(ctx context.Context, until <-chan struct{}) error {
	f.count(&f.stalled, 1)
	defer f.count(&f.stalled, -1)
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Faulty) count(what *int, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*what += n
}

// Claim implements broker.Store.
func (f *Faulty) Claim(ctx context.Context, name string) (epoch uint64, err error) {
	err = f.do(ctx, Claim, func() (err error) { epoch, err = f.store.Claim(ctx, name); return err })
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Load implements broker.Store.
func (f *Faulty) Load(ctx context.Context, name string) (record broker.Record, err error) {
	err = f.do(ctx, Load, func() (err error) { record, err = f.store.Load(ctx, name); return err })
	if err != nil {
		return broker.Record{}, err
	}
	return record, nil
}

// Save implements broker.Store.
func (f *Faulty) Save(ctx context.Context, name string, epoch, version uint64, change broker.Change) (next uint64, err error) {
	err = f.do(ctx, Save, func() (err error) { next, err = f.store.Save(ctx, name, epoch, version, change); return err })
	if err != nil {
		return 0, err
	}
	f.count(&f.written, Size(&change))
	return next, nil
}

// Renew implements broker.Store.
func (f *Faulty) Renew(ctx context.Context, name string, epoch uint64) error {
	return f.do(ctx, Renew, func() error { return f.store.Renew(ctx, name, epoch) })
}

// Watch implements broker.Store.
func (f *Faulty) Watch(ctx context.Context, name string) (c <-chan uint64, err error) {
	err = f.do(ctx, Watch, func() (err error) { c, err = f.store.Watch(ctx, name); return err })
	if err != nil {
		return nil, err
	}
	return c, nil
}
