package bolt

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/internal/broker"
)

// request is a Claim or a Save on its way to the writer.
type request struct {
	name   string
	claim  bool
	epoch  uint64 // of the saver
	record []byte
	answer chan answer // of capacity 1
}

type answer struct {
	epoch uint64
	err   error
}

// maxBatch bounds the bytes of the records that share a transaction.
const maxBatch = 32 << 20

// call hands a request to the writer and waits for what became of it.
func (s *Store) call(ctx context.Context, r *request) (uint64, error) {
	if err := s.usable(ctx, r.name); err != nil {
		return 0, err
	}
	r.answer = make(chan answer, 1)
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return 0, fmt.Errorf("state file %s: the disk is slow: %w", s.path, ctx.Err())
	case <-s.closed:
		return 0, located(s.path, ErrClosed)
	}
	select {
	case a := <-r.answer:
		return a.epoch, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("state file %s: the disk is slow: %w", s.path, ctx.Err())
	}
}

// write serves requests until the store is closed.
func (s *Store) write() {
	defer close(s.closed)
	for {
		select {
		case r := <-s.requests:
			s.serve(s.waiting([]*request{r}))
		case <-s.closing:
			return
		}
	}
}

// waiting adds the requests of all others that wait now.
func (s *Store) waiting(batch []*request) []*request {
	for size := len(batch[0].record); size < maxBatch; {
		select {
		case r := <-s.requests:
			batch = append(batch, r)
			size += len(r.record)
		default:
			return batch
		}
	}
	return batch
}

// serve decides on a batch in the order of its requests, writes what has changed in
// one transaction, and answers. If that fails nobody hears what was decided, since
// one decision may rest on another that has not come about.
func (s *Store) serve(batch []*request) {
	answers, changed := make([]answer, len(batch)), map[string]entry{}
	err := s.reopen()
	if err == nil {
		for i, r := range batch {
			answers[i] = s.decide(r, changed)
		}
		if err = s.commit(changed); err != nil {
			err = located(s.path, err)
			s.fail(err)
		}
	}
	for i, r := range batch {
		if err != nil {
			answers[i] = answer{err: err}
		}
		r.answer <- answers[i]
	}
}

// decide gives a request's answer, given what those before it in the batch change.
func (s *Store) decide(r *request, changed map[string]entry) answer {
	e, ok := changed[r.name]
	if !ok {
		e = s.names[r.name]
	}
	switch {
	case r.claim:
		e.epoch++
	case r.epoch != e.epoch || r.epoch == 0:
		return answer{err: broker.ErrFenced}
	default:
		e.record = r.record
	}
	changed[r.name] = e
	return answer{epoch: e.epoch}
}

// commit makes changes durable first, and then shows them.
func (s *Store) commit(changed map[string]entry) error {
	if len(changed) == 0 {
		return nil
	}
	var next seal
	err := guard(func() (err error) {
		next, err = s.disk.write(changed)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, e := range changed {
		s.watches.tell(name, s.names[name].epoch, e.epoch)
		s.names[name] = e
	}
	s.disk.seal = next
	return nil
}

// fail gives up the open file after a write whose outcome nobody knows, and tries at
// once to find out.
func (s *Store) fail(err error) {
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	s.disk.abandon(err)
	s.disk = nil
	_ = s.reopen() // else the next request tries again
}

// reopen opens the file anew if a write has failed.
func (s *Store) reopen() error {
	if s.disk != nil {
		return nil
	}
	d, err := openDisk(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed = located(s.path, err)
		return s.failed
	}
	for name, e := range d.names {
		s.watches.tell(name, s.names[name].epoch, e.epoch)
	}
	s.disk, s.names, s.failed = d, d.names, nil
	return nil
}
