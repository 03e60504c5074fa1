package storetest

import (
	"context"
	"errors"
	"sync"

	"github.com/keybroker/keybroker/internal/broker"
)

// Op is a method of broker.Store.
type Op int

// The methods, as Faulty names them.
const (
	Claim Op = iota
	Load
	Save
	Renew
	Watch
)

// ErrInjected is what a call fails with when a Fault names no other error.
var ErrInjected = errors.New("injected fault")

// Fault is what goes wrong with one call.
type Fault struct {
	// After lets the call take effect first, so that its caller cannot know; else
	// it has none.
	After bool
	// Err is what the caller hears; ErrInjected if it is nil and Until is too.
	Err error
	// Until, if not nil, stalls the call until it is closed; then it goes on, and
	// fails only if Err is set. If its context ends first, the caller hears that,
	// and nothing more happens.
	Until <-chan struct{}
}

// Faulty is a store with faults, as a test orders them. It is safe for concurrent
// use.
type Faulty struct {
	store broker.Store

	mu      sync.Mutex
	next    map[Op][]Fault
	always  map[Op]*Fault
	calls   map[Op]int
	stalled int
}

// NewFaulty wraps a store; there are no faults until some are ordered.
func NewFaulty(store broker.Store) *Faulty {
	return &Faulty{store: store, next: map[Op][]Fault{}, always: map[Op]*Fault{}, calls: map[Op]int{}}
}

// Next orders faults for the next calls of a method, one each, behind those that
// are ordered already.
func (f *Faulty) Next(op Op, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[op] = append(f.next[op], faults...)
}

// Always orders a fault for every call of a method for which Next has none. Nil
// ends it.
func (f *Faulty) Always(op Op, fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always[op] = fault
}

// Calls is how many calls of a method have begun.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Stalled is how many calls stall now.
func (f *Faulty) Stalled() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stalled
}

// begin counts a call and gives its fault, nil if it has none.
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
	f.count(1)
	defer f.count(-1)
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Faulty) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled += n
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
func (f *Faulty) Load(ctx context.Context, name string) (record []byte, err error) {
	err = f.do(ctx, Load, func() (err error) { record, err = f.store.Load(ctx, name); return err })
	if err != nil {
		return nil, err
	}
	return record, nil
}

// Save implements broker.Store.
func (f *Faulty) Save(ctx context.Context, name string, epoch uint64, record []byte) error {
	return f.do(ctx, Save, func() error { return f.store.Save(ctx, name, epoch, record) })
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
