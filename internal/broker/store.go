package broker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"sync"
)

// Store keeps, for each name, the epoch of the latest claim and one record, which consists of
// chunks. A Save or Renew with an earlier epoch is refused. Implementations are safe for
// concurrent use; internal/testing/storetest tests the whole contract.
//
// Each save makes a new version of the record, and names the version that it changes. A save
// that comes late, after another one, names a version that is not there any more, and is
// refused.
//
// An error other than ErrFenced and ErrStale, the context's included, leaves open whether the
// call has had its effect or will have it later. After such a Save the owner loads the record
// before it saves again, since it does not know which version is stored. A call returns when
// its context ends. No epoch is 0. Names have 1 to 1024 bytes. The caller and the store share
// no memory.
type Store interface {
	// Claim takes ownership of a name. The epoch is larger than those of all earlier
	// claims, whose owners can neither save nor renew from then on.
	Claim(ctx context.Context, name string) (epoch uint64, err error)
	// Load returns the record that was saved last, by whichever owner: all chunks of one
	// version. Its Version is 0 if none was saved.
	Load(ctx context.Context, name string) (Record, error)
	// Save changes the record, all of it or nothing, and returns the version that it made
	// when that is durable. It returns ErrFenced if epoch is not that of the latest claim,
	// else ErrStale if the record has another version than the one given, and then it has
	// changed nothing and will not. A change that breaks a bound is an error, too.
	Save(ctx context.Context, name string, epoch, version uint64, change Change) (next uint64, err error)
	// Renew confirms that at some moment since the call began, epoch was that of the
	// latest claim. Otherwise it returns ErrFenced.
	Renew(ctx context.Context, name string, epoch uint64) error
	// Watch sends the epochs of later claims as they are made; of several claims in quick
	// succession, perhaps only the last. Claims made before Watch returns may be sent too.
	// The channel is closed when the context ends.
	Watch(ctx context.Context, name string) (<-chan uint64, error)
}

// Record is what a store keeps of a name.
type Record struct {
	Version uint64            // larger than those of all earlier records of the name
	Epoch   uint64            // of the owner who saved it; 0 if that is not known
	Chunks  map[string][]byte // by id
}

// Change is what a save changes. Chunks that it does not name stay. What it both drops and
// puts is there afterwards.
type Change struct {
	Put  map[string][]byte // chunks that are new, or replace those with the same id
	Drop []string          // ids of chunks that go, if they are there
}

// Bounds of what every store takes.
const (
	MaxChunk   = 256 << 10 // bytes of a chunk
	MaxChunkID = 64        // bytes of the id of a chunk, which has 1 at least
)

// Check returns an error if a change breaks a bound.
func (c *Change) Check() error {
	for id, chunk := range c.Put {
		if id == "" || len(id) > MaxChunkID {
			return fmt.Errorf("the id of a chunk has %d bytes; 1 to %d are allowed", len(id), MaxChunkID)
		}
		if len(chunk) > MaxChunk {
			return fmt.Errorf("chunk %q has %d bytes; %d are allowed", id, len(chunk), MaxChunk)
		}
	}
	return nil
}

// SoleChunk is the id of the chunk of a record that has only one. Records that were saved
// before there were chunks are loaded so.
const SoleChunk = "record"

// Memory is a Store that lasts as long as the process. The zero value is an empty store.
type Memory struct {
	mu    sync.Mutex
	names map[string]*entry
}

type entry struct {
	epoch    uint64
	record   Record
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
func (m *Memory) Load(ctx context.Context, name string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lockedEntry(name).record.clone(), nil
}

// clone returns a record that shares no memory with r.
func (r Record) clone() Record {
	r.Chunks = maps.Clone(r.Chunks)
	for id, c := range r.Chunks {
		r.Chunks[id] = bytes.Clone(c)
	}
	return r
}

// Save implements Store.
func (m *Memory) Save(ctx context.Context, name string, epoch, version uint64, change Change) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := change.Check(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.lockedEntry(name)
	switch {
	case e.epoch != epoch || epoch == 0:
		return 0, ErrFenced
	case e.record.Version != version:
		return 0, ErrStale
	}
	r := &e.record
	r.Version, r.Epoch = version+1, epoch
	if r.Chunks == nil {
		r.Chunks = map[string][]byte{}
	}
	for _, id := range change.Drop {
		delete(r.Chunks, id)
	}
	for id, c := range change.Put {
		r.Chunks[id] = bytes.Clone(c)
	}
	return r.Version, nil
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
