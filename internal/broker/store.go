package broker

import (
	"bytes"
	"context"
	"sync"
)

// Store keeps, for each name, the epoch of the latest claim and one small record. A Save or
// Renew with an earlier epoch is refused. Implementations are safe for concurrent use;
// internal/testing/storetest tests the whole contract.
//
// An error other than ErrFenced, the context's included, leaves open whether the call has
// had its effect or will have it later. A call returns when its context ends. No epoch is
// 0. Names have 1 to 1024 bytes, records up to 1 MiB. The caller and the store share no
// memory.
type Store interface {
	// Claim takes ownership of a name. The epoch is larger than those of all earlier
	// claims, whose owners can neither save nor renew from then on.
	Claim(ctx context.Context, name string) (epoch uint64, err error)
	// Load returns the record that was saved last, by whichever owner. It returns nil if
	// none was saved; an empty record is not nil.
	Load(ctx context.Context, name string) (record []byte, err error)
	// Save replaces the record, and returns when the new one is durable. If epoch is not
	// that of the latest claim, it changes nothing and returns ErrFenced.
	Save(ctx context.Context, name string, epoch uint64, record []byte) error
	// Renew confirms that at some moment since the call began, epoch was that of the
	// latest claim. Otherwise it returns ErrFenced.
	Renew(ctx context.Context, name string, epoch uint64) error
	// Watch sends the epochs of later claims as they are made; of several claims in quick
	// succession, perhaps only the last. Claims made before Watch returns may be sent too.
	// The channel is closed when the context ends.
	Watch(ctx context.Context, name string) (<-chan uint64, error)
}

// Memory is a Store that lasts as long as the process. The zero value is an empty store.
type Memory struct {
	mu    sync.Mutex
	names map[string]*entry
}

type entry struct {
	epoch    uint64
	record   []byte
	watchers map[chan uint64]struct{}
}

// lockedEntry returns what is stored of a name. The caller holds the lock.
func (m *Memory) lockedEntry(name string) *entry {
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
	e := m.lockedEntry(name)
	e.epoch++
	for c := range e.watchers {
		Latest(c, e.epoch)
	}
	return e.epoch, nil
}

// Latest sends an epoch to a channel of capacity 1, in place of one that nobody has
// received. Only one goroutine at a time may send to the channel.
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
	return bytes.Clone(m.lockedEntry(name).record), nil
}

// Save implements Store.
func (m *Memory) Save(ctx context.Context, name string, epoch uint64, record []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.lockedEntry(name)
	if e.epoch != epoch || epoch == 0 {
		return ErrFenced
	}
	e.record = append([]byte{}, record...) // not nil, even if it is empty
	return nil
}

// Renew implements Store.
func (m *Memory) Renew(ctx context.Context, name string, epoch uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lockedEntry(name).epoch != epoch || epoch == 0 {
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
	e, c := m.lockedEntry(name), make(chan uint64, 1)
	e.watchers[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(e.watchers, c)
		close(c)
	})
	return c, nil
}
