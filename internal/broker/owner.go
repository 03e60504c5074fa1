package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// owner is the one that calls a pool's engine: it has the lock, the clock, the
// timer, and the channels on which waiters hear.
type owner struct {
	cfg    PoolConfig
	hash   uint64            // of its name
	keyIDs map[uint64]string // by their hashes
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
	dirty    bool          // the keeper has been told that something is to be saved
	// unchanged is set by a call that has changed nothing, for watchers.
	unchanged bool

	keeper
}

type requestKey struct{ holder, request string }

// wait is a call that stands in line. It hears exactly once.
type wait struct {
	done chan answer // of capacity 1
	gone bool        // nobody listens any more
}

type answer struct {
	grant pool.Grant
	err   error
}

// past is how long before its beginning an owner's clock starts: what is
// remembered of longer windows happened then.
const past = 62 * 24 * time.Hour

// newOwner claims a pool, and goes on where the last owner left off. From then on
// it is remembered what it grants, until close and, after that, halt.
func newOwner(ctx context.Context, store Store, cfg PoolConfig) (*owner, error) {
	engine, err := pool.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	o := &owner{
		cfg: cfg, hash: pool.Hash(cfg.Name), keyIDs: map[uint64]string{}, origin: time.Now().Add(-past),
		engine: engine, wake: pool.Never,
		waits:    map[*pool.Waiter]*wait{},
		requests: map[requestKey]*pool.Waiter{},
		watchers: map[chan struct{}]struct{}{},
		closing:  make(chan struct{}),
		keeper: keeper{
			store: store, again: pool.Never, prompt: promptSaves, longest: cfg.DefaultTTL,
			wanted: make(chan struct{}, 1), heard: make(chan struct{}), done: make(chan struct{}),
		},
	}
	for _, k := range cfg.Keys {
		o.keyIDs[pool.Hash(k.ID)] = k.ID
	}
	o.timer = time.AfterFunc(time.Hour, o.ring)
	o.timer.Stop()
	if err := o.begin(ctx); err != nil {
		return nil, err
	}
	ctx, o.stop = context.WithCancel(ctx)
	claims, _ := store.Watch(ctx, cfg.Name)
	go o.keep(ctx, claims)
	return o, nil
}

// begin claims the pool and recovers it. Before it returns, it is written down that
// we have begun: whoever follows knows that what we grant is not in the record of
// the owner before us.
func (o *owner) begin(ctx context.Context) error {
	claimed := o.now()
	epoch, err := o.store.Claim(ctx, o.cfg.Name)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	o.epoch = epoch
	b, err := o.store.Load(ctx, o.cfg.Name)
	if err != nil {
		return fmt.Errorf("load its record: %w", err)
	}
	last, err := decodeRecord(b)
	if err != nil && !o.cfg.StateLost {
		return err
	}
	now, r := o.now(), pool.Recovery{Overlap: permit, TTL: o.cfg.MaxTTL, Wall: time.Now()}
	var state *pool.State
	if last != nil {
		state = last.State
		if !o.cfg.StateLost {
			r.TTL = max(last.MaxTTL, o.cfg.DefaultTTL)
		}
	}
	o.engine.Recover(now, state, r)
	if o.cfg.StateLost { // what it says is used may be old
		o.engine.Forget(now, r)
	}
	if o.cfg.StateLost || last != nil { // leases of before may outlive us, too
		o.longest = r.TTL
	}
	o.permit, o.alone = claimed.Add(permit), now.Add(permit)
	if err := o.save(ctx, false); err != nil {
		return fmt.Errorf("save its record: %w", err)
	}
	return nil
}

// halt ends the keeper, after close, and writes down the amounts as they are.
func (o *owner) halt(ctx context.Context) error {
	o.stop()
	<-o.done
	o.mu.Lock()
	fenced := o.fenced
	o.mu.Unlock()
	if fenced { // the record is another's
		return nil
	}
	err := o.save(ctx, true)
	if err != nil && ctx.Err() == nil {
		err = o.save(ctx, true)
	}
	return err
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
	if dirty := o.engine.Dirty(); dirty != o.dirty {
		if o.dirty = dirty; dirty {
			o.want()
		}
	}
	return o.engine.Notices()
}

// settle follows every call on the engine, under the lock.
func (o *owner) settle(now pool.Time) {
	if len(o.waits) == 0 || o.blocked(now) == nil { // else they go on waiting
		o.next(now)
	}
	if o.unchanged {
		o.unchanged = false
		return
	}
	for c := range o.watchers {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last change
		}
	}
}

// next serves those who can be served, and sets the timer.
func (o *owner) next(now pool.Time) {
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
}

func (o *owner) ring() { o.do(func(pool.Time, *pool.Pool) {}) }

// tell gives a waiter its answer and forgets it.
func (o *owner) tell(w *pool.Waiter, a answer) {
	o.answer(o.waits[w], a, &w.Ask)
	o.forget(w)
}

// answer gives an answer, as soon as that may be.
func (o *owner) answer(w *wait, a answer, ask *pool.Ask) {
	if a.err == nil && o.uncovered(&a.grant, ask.TTL) {
		o.hold(held{w, a.grant, ask.Holder, ask.Request != ""})
		return
	}
	w.done <- a
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
		if err = o.may(now); err != nil {
			return
		}
		k := requestKey{ask.Holder, ask.Request}
		if ask.Request != "" {
			if g, ok := o.granted(now, ask); ok {
				o.answer(mine, answer{grant: g}, &ask)
				return
			}
			if w = o.requests[k]; w != nil {
				o.waits[w].done <- answer{err: ErrSuperseded}
				o.waits[w] = mine
				return
			}
		}
		if w, err = e.Wait(now, ask); err != nil {
			err = o.explain(now, err)
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
		switch {
		case o.drop(mine):
		case o.waits[w] == mine:
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
	o.do(func(pool.Time, *pool.Pool) {
		if o.closed() {
			return
		}
		close(o.closing)
		o.timer.Stop()
		o.sendAway(ErrDraining)
	})
}

// sendAway answers all who stand in line.
func (o *owner) sendAway(err error) {
	for w := range o.waits {
		o.engine.Cancel(w)
		o.tell(w, answer{err: err})
	}
}
