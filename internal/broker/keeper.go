package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

const (
	// permit is how long an owner may grant after it sent the last word to the store
	// that was answered. An owner that follows counts on it.
	permit = 2 * time.Second
	// renewEvery is how often it sends one, while it is asked for leases.
	renewEvery = 500 * time.Millisecond
	// saveEvery is how often at most what has changed is saved, if nobody waits for
	// it, and retryWord how soon after a failure the store is asked again.
	saveEvery = time.Second
	retryWord = 250 * time.Millisecond
	// Whoever waits for a save has one at once, so many times in a row, and so many
	// times a second in the long run.
	promptSaves   = 20
	promptSeconds = 2
)

// keeper is the part of an owner that makes sure it is remembered: it saves what
// has changed, keeps the permit to grant, and gives out what had to be saved
// first. Its fields are under the owner's lock.
type keeper struct {
	store Store

	held    []held        // answers that wait for a save
	wanted  chan struct{} // of capacity 1: the keeper is to look again
	heard   chan struct{} // closed, and replaced, at each answer of the store
	permit  pool.Time     // grants end then
	used    bool          // somebody has asked for one since it was renewed
	fenced  bool          // another owner has followed
	alone   pool.Time     // from then on, the owner before us surely grants nothing
	saved   pool.Time     // when the last save began
	again   pool.Time     // when to save for the sake of time
	prompt  float64       // saves that may follow one another
	promptT pool.Time     // as of then

	unsaved error     // of the last save, nil if it succeeded
	silent  error     // of the last renewal, likewise
	tried   pool.Time // when the last of either failed
	stored  bool      // what Stored was told last: that there was trouble

	longest time.Duration // that a lease may live without a report, as far as anybody has asked
	written time.Duration // as the store has it

	stop context.CancelFunc
	done chan struct{} // closed when keep has ended
}

// held is an answer that may be given once it has been saved.
type held struct {
	wait   *wait
	grant  pool.Grant
	holder string
	repeat bool // by a request id the same lease may be asked for again
}

// may reports why nothing can be granted now; nil if it can.
func (o *owner) may(now pool.Time) error {
	if !o.used {
		o.used = true
		o.want() // from now on the permit is renewed
	}
	return o.blocked(now)
}

func (o *owner) blocked(now pool.Time) error {
	switch {
	case o.closed():
		return ErrDraining
	case o.fenced:
		return ErrNotOwner
	case now >= o.permit:
		return ErrStore
	}
	return nil
}

// permitted is may after the store has been asked, if it has not been for so long
// that the permit has ended.
func (o *owner) permitted(ctx context.Context) error {
	o.mu.Lock()
	err, heard, trouble := o.may(o.now()), o.heard, o.unsaved != nil || o.silent != nil
	o.mu.Unlock()
	if !errors.Is(err, ErrStore) || trouble { // then it is being asked all the time
		return err
	}
	o.want()
	select {
	case <-heard:
	case <-ctx.Done():
		return ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.may(o.now())
}

// uncovered reports whether a lease must be written down before it is given out. So
// must one that lives longer than any before: whoever follows waits for its end.
func (o *owner) uncovered(g *pool.Grant, ttl time.Duration) bool {
	o.longest = max(o.longest, ttl)
	return !g.Durable || ttl > o.written
}

// hold keeps an answer back until the next save. It is called under the lock.
func (o *owner) hold(h held) {
	o.held = append(o.held, h)
	o.want()
}

// want wakes the keeper.
func (o *owner) want() {
	select {
	case o.wanted <- struct{}{}:
	default:
	}
}

// drop takes back what somebody waits for who goes away. It reports whether there
// was anything.
func (o *owner) drop(w *wait) bool {
	w.gone = true // for a save that is under way
	i := slices.IndexFunc(o.held, func(h held) bool { return h.wait == w })
	if i < 0 {
		return false
	}
	h := o.held[i]
	o.held = slices.Delete(o.held, i, i+1)
	if !h.repeat {
		o.undo(h)
	}
	return true
}

// undo ends a lease that was never given out.
func (o *owner) undo(h held) { _ = o.engine.Release(o.now(), h.grant.Lease, h.holder, true) }

// keep saves and renews until it is stopped. claims may be nil: the permit ends soon
// after another's claim, too.
func (o *owner) keep(ctx context.Context, claims <-chan uint64) {
	defer close(o.done)
	defer o.do(func(pool.Time, *pool.Pool) { o.dismiss(ErrDraining) })
	defer o.close()
	for {
		t := time.NewTimer(o.untilWord())
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case epoch, ok := <-claims:
			if !ok {
				claims = nil
			} else if epoch > o.epoch {
				o.do(func(pool.Time, *pool.Pool) { o.fence() })
			}
		case <-o.wanted:
		case <-t.C:
		}
		t.Stop()
		switch save, renew := o.due(); {
		case save:
			_ = o.save(context.WithoutCancel(ctx), false)
		case renew:
			o.renew(context.WithoutCancel(ctx))
		}
	}
}

// untilWord is how long the store need not hear from us.
func (o *owner) untilWord() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	save, renew := o.times(now)
	if at := min(save, renew); at < pool.Never {
		return max(at.Sub(now), 0)
	}
	return time.Hour
}

// due reports what the store is to hear now.
func (o *owner) due() (save, renew bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	saveAt, renewAt := o.times(now)
	save, renew = now >= saveAt, now >= renewAt
	if save && len(o.held) > 0 {
		o.prompt = max(o.prompt-1, 0)
	}
	return save, renew
}

// times is when the store is to hear the next word of each kind.
func (o *owner) times(now pool.Time) (save, renew pool.Time) {
	save, renew = pool.Never, pool.Never
	if o.fenced {
		return save, renew
	}
	if o.engine.Dirty() {
		save = o.saved.Add(saveEvery)
	}
	save = min(save, max(o.again, o.saved.Add(saveEvery)))
	if len(o.held) > 0 {
		o.prompt = min(promptSaves, o.prompt+promptSeconds*now.Sub(o.promptT).Seconds())
		o.promptT = now
		g := &o.held[0].grant // which must not be held for longer than it may be used
		turn := now.Add(time.Duration(max(0, 1-o.prompt) / promptSeconds * float64(time.Second)))
		save = min(save, turn, g.Granted.Add(g.StartBy.Sub(g.Granted)/2))
	}
	if o.unsaved != nil {
		save = o.tried.Add(retryWord)
	}
	if o.used || len(o.waits) > 0 || o.silent != nil {
		renew = o.permit.Add(renewEvery - permit)
	}
	if o.silent != nil {
		renew = max(renew, o.tried.Add(retryWord))
	}
	return save, renew
}

// save writes down what there is, and gives out what waited for that. With stopped
// it is the last time.
func (o *owner) save(ctx context.Context, stopped bool) error {
	o.mu.Lock()
	now := o.now()
	state, again := o.engine.State(now, stopped)
	held := o.held
	o.held, o.dirty, o.saved, o.again = nil, false, now, again
	r := record{MaxTTL: o.longest, State: state}
	o.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, permit)
	defer cancel()
	err := o.store.Save(ctx, o.cfg.Name, o.epoch, r.encode())
	o.hear(now, &o.unsaved, err, func() (changed bool) {
		if err == nil {
			o.engine.Saved()
			o.written = r.MaxTTL
		}
		for _, h := range held {
			o.give(h, err)
		}
		return len(held) > 0
	})
	return err
}

// give answers who has waited for a save.
func (o *owner) give(h held, err error) {
	switch {
	case errors.Is(err, ErrFenced):
		err = ErrNotOwner
	case errors.Is(err, ErrNotOwner), errors.Is(err, ErrDraining):
	case err == nil && o.now() >= h.grant.StartBy, err == nil && !o.engine.Cover(h.grant.Lease):
		err = ErrStore // too late to use it, or ended with another's wait
	case err != nil:
		err = ErrStore
	}
	if err != nil || h.wait.gone && !h.repeat {
		o.undo(h)
	}
	if err != nil {
		h.wait.done <- answer{err: err}
		return
	}
	h.wait.done <- answer{grant: h.grant}
}

// renew keeps the permit.
func (o *owner) renew(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, permit)
	defer cancel()
	o.mu.Lock()
	sent := o.now()
	o.used = false
	o.mu.Unlock()
	err := o.store.Renew(ctx, o.cfg.Name, o.epoch)
	o.hear(sent, &o.silent, err, func() bool { return false })
}

// hear takes in the store's answer to a word that was sent at a moment, and what
// follows from it. Those who wait are served if there was no permit before.
func (o *owner) hear(sent pool.Time, last *error, err error, then func() (changed bool)) {
	o.mu.Lock()
	now := o.now()
	blocked := o.blocked(now) != nil
	switch *last = err; {
	case err == nil:
		o.permit = max(o.permit, sent.Add(permit))
	case errors.Is(err, ErrFenced):
		o.fence()
	default:
		o.tried = now
	}
	if then() || blocked && o.blocked(now) == nil && len(o.waits) > 0 {
		o.settle(now)
	}
	trouble := errors.Join(o.unsaved, o.silent)
	tell := !o.fenced && (trouble != nil) != o.stored
	if tell {
		o.stored = trouble != nil
	}
	close(o.heard)
	o.heard = make(chan struct{})
	o.mu.Unlock()
	if tell && o.cfg.Stored != nil {
		o.cfg.Stored(trouble)
	}
}

// fence takes note that another owner has followed: nobody gets anything here.
func (o *owner) fence() {
	o.fenced = true
	o.dismiss(ErrNotOwner)
}

// dismiss sends all away who wait, also for a save.
func (o *owner) dismiss(err error) {
	o.sendAway(err)
	for _, h := range o.held {
		o.give(h, err)
	}
	o.held = nil
}

// waitAlone waits until the owner before us surely grants nothing any more: till then
// it may take a lease of its own for ended that we are about to renew.
func (o *owner) waitAlone() {
	o.mu.Lock()
	wait := o.alone.Sub(o.now())
	o.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
}
