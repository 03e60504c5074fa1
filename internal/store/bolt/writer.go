package bolt

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/internal/broker"
)

// request is a Claim or a Save on its way to the writer, or a Load or Renew that needs the file
// opened again.
type request struct {
	name   string
	claim  bool
	reopen bool
	epoch  uint64 // of the saver
	seen   uint64 // the version that the save changes
	change broker.Change
	size   int         // of the chunks in bytes
	answer chan answer // of capacity 1
}

type answer struct {
	n   uint64 // the epoch of a claim, or the version that a save made
	err error
}

// maxBatch is the size in bytes at which a batch of chunks takes no further request.
const maxBatch = 32 << 20

// call passes a request to the writer and waits for the answer.
func (s *Store) call(ctx context.Context, r *request) (uint64, error) {
	if err := s.usable(ctx, r.name); err != nil {
		return 0, err
	}
	r.answer = make(chan answer, 1)
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return 0, s.unanswered(ctx)
	case <-s.closed:
		return 0, located(s.path, ErrClosed)
	}
	select {
	case a := <-r.answer:
		return a.n, a.err
	case <-ctx.Done():
		return 0, s.unanswered(ctx)
	}
}

// unanswered is the error of a call whose context has ended. The disk may be why, if it was for
// want of time.
func (s *Store) unanswered(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: the disk is slow; check its health and what else writes to it", err)
	}
	return fmt.Errorf("state file %s: %w", s.path, err)
}

// write is the writer. It serves requests until the store is closed.
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

// waiting adds all requests that wait now to a batch, up to maxBatch.
func (s *Store) waiting(batch []*request) []*request {
	for size := batch[0].size; size < maxBatch; {
		select {
		case r := <-s.requests:
			batch = append(batch, r)
			size += r.size
		default:
			return batch
		}
	}
	return batch
}

// serve decides on the requests of a batch in their order, writes the changes in one
// transaction, and answers. If the write fails, all requests get its error, because each
// decision may depend on an earlier one of the batch.
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

// decide returns the answer to a request and adds its change to changed, which has the
// changes of the earlier requests of the batch.
func (s *Store) decide(r *request, changed map[string]entry) answer {
	e, ok := changed[r.name]
	if !ok {
		e = s.names[r.name]
	}
	switch {
	case r.reopen:
		return answer{}
	case r.claim:
		e.epoch++
	case r.epoch != e.epoch || r.epoch == 0:
		return answer{err: broker.ErrFenced}
	case r.seen != e.version:
		return answer{err: broker.ErrStale}
	default:
		e = e.with(&r.change, r.epoch)
	}
	changed[r.name] = e
	if r.claim {
		return answer{n: e.epoch}
	}
	return answer{n: e.version}
}

// commit makes changes durable, and after that visible to Load, Renew and Watch.
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

// fail abandons the open file after a write whose outcome is unknown, and tries to open it
// again at once.
func (s *Store) fail(err error) {
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	s.disk.abandon(err)
	s.disk = nil
	_ = s.reopen() // if this fails, the next request tries again
}

// reopen opens and checks the file again if a write has failed.
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
