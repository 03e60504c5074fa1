package broker

import (
	"bytes"
	"context"
	"errors"
	"sync"
)

// Store keeps, under a name, who owns it and one small record. Owners are ordered
// by their epochs: what an earlier one still tries is refused. Implementations are
// safe for concurrent use; internal/testing/storetest says in full how they behave.
//
// Other errors than ErrFenced, the context's among them, leave open whether the
// call had its effect, at once or later. A call returns when its context ends. No
// epoch is 0. Names are not empty and have at most 1 KiB, records at most 1 MiB;
// the caller and the store share no memory.
type Store interface {
	// Claim takes ownership of a name. The epoch is larger than that of every
	// claim before. From then on, no earlier owner can save or renew.
	Claim(ctx context.Context, name string) (epoch uint64, err error)
	// Load gives the record that was saved last, by whichever owner; nil if none
	// was, which an empty record is not.
	Load(ctx context.Context, name string) (record []byte, err error)
	// Save puts a record in place of the last, and returns when it is durable. The
	// error is ErrFenced, and nothing has changed, if epoch is not that of the
	// latest claim.
	Save(ctx context.Context, name string, epoch uint64, record []byte) error
	// Renew confirms that epoch is that of the latest claim, which was so at some
	// moment after the call began; else the error is ErrFenced.
	Renew(ctx context.Context, name string, epoch uint64) error
	// Watch gives the epochs of later claims as they are made; of several that
	// come quickly, perhaps only the last. The channel is closed when the
	// context ends. What was claimed before the call returns may be told too.
	Watch(ctx context.Context, name string) (<-chan uint64, error)
}

// ErrFenced is returned to an owner that another has followed.
var ErrFenced = errors.New("another owner has taken over")

// Memory is a Store that lasts as long as the process. Its zero value is empty.
type Memory struct {
	mu    sync.Mutex
	names map[string]*entry
}

type entry struct {
	epoch    uint64
	record   []byte
	watchers map[chan uint64]struct{}
}

// entry finds a name's, under the lock.
func (m *Memory) entry(name string) *entry {
	if m.names == nil {
		m.names = map[string]*entry{}
	}
	e := m.names[name]
	if e == nil {
		e = &entry{watchers: map[chan uint64]struct{}{}}
		m.names[name] = e
	}
	return e
}

// Claim implements Store.
func (m *Memory) Claim(ctx context.Context, name string) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(name)
	e.epoch++
	for c := range e.watchers {
		Latest(c, e.epoch)
	}
	return e.epoch, nil
}

// Latest puts an epoch into a channel of capacity 1, in place of one that nobody
// has taken. Only one goroutine at a time may do so.
func Latest(c chan uint64, epoch uint64) {
	select {
	case <-c:
	default:
	}
	c <- epoch
}

// Load implements Store.
func (m *Memory) Load(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.entry(name).record), nil
}

// Save implements Store.
func (m *Memory) Save(ctx context.Context, name string, epoch uint64, record []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(name)
	if e.epoch != epoch || epoch == 0 {
		return ErrFenced
	}
	e.record = append([]byte{}, record...) // not nil, also if empty
	return nil
}

// Renew implements Store.
func (m *Memory) Renew(ctx context.Context, name string, epoch uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entry(name).epoch != epoch || epoch == 0 {
		return ErrFenced
	}
	return nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, name string) (<-chan uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, c := m.entry(name), make(chan uint64, 1)
	e.watchers[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(e.watchers, c)
		close(c)
	})
	return c, nil
}
