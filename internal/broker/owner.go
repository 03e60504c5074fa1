package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keybroker/keybroker/internal/record"
	"github.com/keybroker/keybroker/pool"
)

// owner owns one domain. No field changes after newOwner, except locked, keeper and log. keeper
// and log are used by begin, then by upkeep, then by halt.
type owner struct {
	cfg        DomainConfig
	keyIDs     map[uint64]string // by their pool.Hash
	store      Store
	epoch      uint64      // of its claim
	keeper     keeper      // of its record
	log        *record.Log // of its record
	origin     time.Time   // Time 0 of the engine
	overlapEnd pool.Time   // the predecessor grants nothing from then on

	closing chan struct{} // closed by close
	lost    chan struct{} // closed by fence
	stop    context.CancelFunc
	stopped chan struct{} // closed when upkeep has ended

	mu     sync.Mutex
	locked locked // only do and look may use it, and newOwner before they are called
}

// past is how far before the start the engine's clock begins, so that the use of a window
// as long as a month can be restored at a time after Time 0.
const past = 62 * 24 * time.Hour

// newOwner claims a domain, continues where the record leaves off, and starts upkeep, which
// ends with the context or with halt.
func newOwner(ctx context.Context, store Store, cfg DomainConfig) (*owner, error) {
	engine, err := pool.New(cfg.engine())
	if err != nil {
		return nil, err
	}
	o := &owner{
		cfg: cfg, keyIDs: map[uint64]string{},
		store: store, origin: time.Now().Add(-past),
		closing: make(chan struct{}), lost: make(chan struct{}), stopped: make(chan struct{}),
	}
	for _, k := range cfg.Keys {
		o.keyIDs[pool.Hash(k.ID)] = k.ID
	}
	timer := time.AfterFunc(time.Hour, func() { o.do(func(*locked, pool.Time) {}) })
	timer.Stop()
	o.locked = locked{
		cfg: &o.cfg, engine: engine, timer: timer, wake: pool.Never,
		queue: map[*pool.Waiter]*call{}, byRequest: map[requestKey]*pool.Waiter{}, watchers: map[chan struct{}]struct{}{}, refused: map[string]int64{},
		saves:   saves{refreshAt: pool.Never, prompt: promptSaves, longest: cfg.longest(func(p *PoolConfig) time.Duration { return p.DefaultTTL })},
		recheck: make(chan struct{}, 1), heard: make(chan struct{}), lost: o.lost,
	}
	if err := o.begin(ctx); err != nil {
		return nil, err
	}
	ctx, o.stop = context.WithCancel(ctx)
	claims, _ := store.Watch(ctx, cfg.Name) // without it, a successor is noticed when the ownership lease ends
	go o.upkeep(ctx, claims, o.locked.recheck)
	return o, nil
}

// begin claims the domain, recovers its record and saves a record of its own. That one tells
// a successor that the predecessor's record lacks what this owner grants.
func (o *owner) begin(ctx context.Context) error {
	claimed := o.now()
	epoch, err := o.store.Claim(ctx, o.cfg.Name)
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	o.epoch = epoch
	o.keeper = keeper{store: o.store, name: o.cfg.Name, epoch: epoch}
	stored, err := o.keeper.load(ctx)
	if err != nil {
		return fmt.Errorf("load its record: %w", err)
	}
	o.log = record.NewLog(epoch, stored.Chunks)
	last, err := record.Decode(stored.Chunks)
	if err != nil && !o.cfg.StateLost {
		return err
	}
	o.look(func(l *locked, now pool.Time) {
		l.recover(now, last)
		l.ownership.until, o.overlapEnd = claimed.Add(permit), now.Add(permit)
		if last != nil && last.State.Stopped && !o.cfg.StateLost { // it grants nothing any more
			o.overlapEnd = now
		}
	})
	if err := o.save(ctx, false); err != nil {
		return fmt.Errorf("save its record: %w", err)
	}
	return nil
}

// now is the engine's time. It is monotonic: a step of the wall clock does not move it.
func (o *owner) now() pool.Time { return pool.Time(time.Since(o.origin)) }

// do calls f under the lock, then serves the calls that can be served now, and delivers
// the engine's events after it has released the lock.
func (o *owner) do(f func(l *locked, now pool.Time)) {
	var events []pool.Event
	o.look(func(l *locked, now pool.Time) {
		f(l, now)
		events = l.finish(now)
	})
	if o.cfg.OnEvent != nil {
		for _, e := range events {
			o.cfg.OnEvent(e)
		}
	}
}

// look calls f under the lock, and nothing after it. It is for an f that gives no room to
// the calls in the queue, or that calls settle itself.
func (o *owner) look(f func(l *locked, now pool.Time)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f(&o.locked, o.now())
}

// close makes all calls that wait, and all that come, fail with ErrDraining.
func (o *owner) close() {
	o.do(func(l *locked, _ pool.Time) {
		if !l.closed {
			l.closed = true
			close(o.closing)
			l.timer.Stop()
			l.emptyQueue(ErrDraining)
		}
	})
}

// ended returns why the owner grants nothing any more, for good, or nil.
func (o *owner) ended() error {
	select {
	case <-o.closing:
		return ErrDraining
	default:
	}
	select {
	case <-o.lost:
		return ErrNotOwner
	default:
		return nil
	}
}

// halt ends upkeep and saves the last record, in two attempts, unless a successor owns
// the domain. The caller has called close.
func (o *owner) halt(ctx context.Context) error {
	o.stop()
	<-o.stopped
	var fenced bool
	o.look(func(l *locked, _ pool.Time) { fenced = l.ownership.fenced })
	if fenced {
		return nil
	}
	err := o.save(ctx, true)
	if err != nil && ctx.Err() == nil {
		err = o.save(ctx, true)
	}
	return err
}
