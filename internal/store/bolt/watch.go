package bolt

import (
	"context"

	"github.com/keybroker/keybroker/internal/broker"
)

// watches are, for each name, the channels of those who watch it.
type watches map[string]map[chan uint64]struct{}

// tell sends an epoch to those who watch a name, if it is later than before.
func (w watches) tell(name string, before, epoch uint64) {
	if epoch <= before {
		return
	}
	for c := range w[name] {
		broker.Latest(c, epoch)
	}
}

// Watch implements broker.Store.
func (s *Store) Watch(ctx context.Context, name string) (<-chan uint64, error) {
	if err := s.usable(ctx, name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan uint64, 1)
	if s.watches[name] == nil {
		s.watches[name] = map[chan uint64]struct{}{}
	}
	s.watches[name][c] = struct{}{}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.watches[name], c); len(s.watches[name]) == 0 {
			delete(s.watches, name)
		}
		close(c)
	})
	return c, nil
}
