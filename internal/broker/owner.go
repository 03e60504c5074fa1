package broker

import (
	"sync"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// owner is the one that calls a pool's engine: it has the lock, the clock, the
// timer, and the channels on which waiters hear.
type owner struct {
	cfg    PoolConfig
	number uint16
	epoch  uint64
	origin time.Time // Time 0 of the engine

	mu       sync.Mutex
	engine   *pool.Pool
	refused  int64
	timer    *time.Timer
	wake     pool.Time // when the timer is due
	waits    map[*pool.Waiter]*wait
	requests map[requestKey]*pool.Waiter // waiters whose ask may be repeated
	watchers map[chan struct{}]struct{}
	closing  chan struct{} // closed when nobody is let in any more
}

type requestKey struct{ holder, request string }

// wait is a call that stands in line. It hears exactly once.
type wait struct {
	done chan answer // of capacity 1
}

type answer struct {
	grant pool.Grant
	err   error
}

func newOwner(cfg PoolConfig, number int, epoch uint64) (*owner, error) {
	engine, err := pool.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	o := &owner{
		cfg: cfg, number: uint16(number), epoch: epoch, origin: time.Now(),
		engine: engine, wake: pool.Never,
		waits:    map[*pool.Waiter]*wait{},
		requests: map[requestKey]*pool.Waiter{},
		watchers: map[chan struct{}]struct{}{},
		closing:  make(chan struct{}),
	}
	o.timer = time.AfterFunc(time.Hour, o.ring)
	o.timer.Stop()
	return o, nil
}

// now is the engine's time: monotonic, so that a step of the wall clock does
// not move it.
func (o *owner) now() pool.Time { return pool.Time(time.Since(o.origin)) }

// do runs one call on the engine, tells those who were served by it, and sets
// the timer.
func (o *owner) do(f func(now pool.Time, e *pool.Pool)) {
	notices := o.locked(f)
	if o.cfg.Notify != nil {
		for _, n := range notices {
			o.cfg.Notify(n)
		}
	}
}

func (o *owner) locked(f func(now pool.Time, e *pool.Pool)) []pool.Notice {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	f(now, o.engine)
	o.settle(now)
	return o.engine.Notices()
}

// settle follows every call on the engine, under the lock.
func (o *owner) settle(now pool.Time) {
	served, wake := o.engine.Next(now)
	for _, w := range served {
		o.tell(w, answer{grant: w.Grant})
	}
	if wake < o.wake || o.wake <= now {
		if o.wake = wake; wake == pool.Never || o.closed() {
			o.timer.Stop()
		} else {
			o.timer.Reset(max(wake.Sub(now), 0))
		}
	}
	for c := range o.watchers {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last change
		}
	}
}

func (o *owner) ring() { o.do(func(pool.Time, *pool.Pool) {}) }

// tell gives a waiter its answer and forgets it.
func (o *owner) tell(w *pool.Waiter, a answer) {
	o.waits[w].done <- a
	o.forget(w)
}

func (o *owner) forget(w *pool.Waiter) {
	delete(o.waits, w)
	if w.Ask.Request != "" {
		delete(o.requests, requestKey{w.Ask.Holder, w.Ask.Request})
	}
}

// line puts an ask in line. An ask that is repeated while it waits takes over
// the place, and the call that had it hears ErrSuperseded.
func (o *owner) line(ask pool.Ask) (w *pool.Waiter, mine *wait, err error) {
	mine = &wait{done: make(chan answer, 1)}
	o.do(func(now pool.Time, e *pool.Pool) {
		if o.closed() {
			err = ErrDraining
			return
		}
		k := requestKey{ask.Holder, ask.Request}
		if ask.Request != "" {
			if g, ok := o.granted(now, ask); ok {
				mine.done <- answer{grant: g}
				return
			}
			if w = o.requests[k]; w != nil {
				o.waits[w].done <- answer{err: ErrSuperseded}
				o.waits[w] = mine
				return
			}
		}
		if w, err = e.Wait(now, ask); err != nil {
			return
		}
		o.waits[w] = mine
		if ask.Request != "" {
			o.requests[k] = w
		}
	})
	return w, mine, err
}

// granted finds the lease that an ask with a request id has been given already;
// whoever is due in line is served first, since it may be the same ask.
func (o *owner) granted(now pool.Time, ask pool.Ask) (pool.Grant, bool) {
	o.settle(now)
	return o.engine.Repeated(now, ask)
}

// supersede sends away the call that waits with a request id which has been
// served elsewhere.
func (o *owner) supersede(k requestKey) {
	o.do(func(_ pool.Time, e *pool.Pool) {
		if w := o.requests[k]; w != nil {
			e.Cancel(w)
			o.tell(w, answer{err: ErrSuperseded})
		}
	})
}

// leave takes a call out of the line, unless it has heard meanwhile, or another
// call has taken over its place.
func (o *owner) leave(w *pool.Waiter, mine *wait) {
	o.do(func(_ pool.Time, e *pool.Pool) {
		if o.waits[w] == mine {
			e.Cancel(w)
			o.forget(w)
		}
	})
}

// closed reports whether close has been called.
func (o *owner) closed() bool {
	select {
	case <-o.closing:
		return true
	default:
		return false
	}
}

// close lets nobody in any more and sends away those who wait.
func (o *owner) close() {
	o.do(func(_ pool.Time, e *pool.Pool) {
		if o.closed() {
			return
		}
		close(o.closing)
		o.timer.Stop()
		for w := range o.waits {
			e.Cancel(w)
			o.tell(w, answer{err: ErrDraining})
		}
	})
}
