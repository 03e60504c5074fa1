package broker

import (
	"context"
	"sync"
)

// Store is what the owner of a pool needs to be remembered. Implementations are
// safe for concurrent use.
type Store interface {
	// Claim takes ownership of a pool. The epoch is larger than that of every
	// claim before, and orders the owners.
	Claim(ctx context.Context, pool string) (epoch uint64, err error)
}

// Memory is a Store that lasts as long as the process.
type Memory struct {
	mu     sync.Mutex
	epochs map[string]uint64
}

// Claim implements Store. It never fails.
func (m *Memory) Claim(_ context.Context, pool string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epochs == nil {
		m.epochs = map[string]uint64{}
	}
	m.epochs[pool]++
	return m.epochs[pool], nil
}
