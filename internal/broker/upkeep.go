package broker

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// upkeep saves records and renews the ownership lease when each is due, until the context
// ends. Then it closes the owner and turns away all who wait. recheck makes it look
// again what is due. claims tells it of successors at once; without claims, it learns of
// them when the store refuses a call.
func (o *owner) upkeep(ctx context.Context, claims <-chan uint64, recheck <-chan struct{}) {
	defer close(o.stopped)
	defer o.do(func(l *locked, now pool.Time) { l.turnAway(now, ErrDraining) })
	defer o.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		save, renew := o.due()
		switch {
		case save <= 0:
			_ = o.save(context.WithoutCancel(ctx), false) // answered has taken in the error
			continue
		case renew <= 0:
			o.renew(context.WithoutCancel(ctx))
			continue
		}
		timer.Reset(min(save, renew))
		select {
		case <-ctx.Done():
		case epoch, ok := <-claims:
			if !ok {
				claims = nil
			} else if epoch > o.epoch {
				o.do(func(l *locked, now pool.Time) { l.fence(now) })
			}
		case <-recheck:
		case <-timer.C:
		}
	}
}

// due is in how long the next save and the next renewal are due. An owner that was fenced
// does not call the store any more.
func (o *owner) due() (save, renew time.Duration) {
	o.look(func(l *locked, now pool.Time) {
		saveAt, renewAt := pool.Never, pool.Never
		if !l.ownership.fenced {
			saveAt, renewAt = l.saves.due(now, l.engine.Dirty()), l.renewAt()
			if l.trouble.save != nil {
				saveAt = l.trouble.at.Add(retryEvery)
			}
		}
		save, renew = saveAt.Sub(now), renewAt.Sub(now)
	})
	return save, renew
}

// save saves what has changed and answers the calls that were held for it. last says that the
// owner grants nothing after it, so that the record is exact. Under the lock the state is only
// copied. It is encoded before the deadline that judges the store begins, and before the time
// from which the ownership lease counts.
func (o *owner) save(ctx context.Context, last bool) error {
	var state *pool.State
	var longest time.Duration
	var held []*call
	o.look(func(l *locked, now pool.Time) {
		var refreshAt pool.Time
		state, refreshAt = l.engine.State(now, last)
		longest, held = l.saves.longest, l.saves.begin(now, refreshAt)
	})
	var change Change
	change.Put, change.Drop = o.log.Change(state, longest)
	sent := o.now()
	ctx, cancel := context.WithTimeout(ctx, permit)
	defer cancel()
	err := o.keeper.save(ctx, change)
	if err == nil {
		o.log.Saved()
	}
	o.answered(sent, err, func(l *locked, now pool.Time) (changed bool) {
		if l.trouble.save = err; err == nil {
			l.engine.Saved()
			l.saves.recorded = longest
		}
		for _, c := range held {
			l.resolve(now, c, err)
		}
		return len(held) > 0
	})
	return err
}

// renew renews the ownership lease.
func (o *owner) renew(ctx context.Context) {
	var sent pool.Time
	o.look(func(l *locked, now pool.Time) { sent, l.ownership.used = now, false })
	ctx, cancel := context.WithTimeout(ctx, permit)
	defer cancel()
	err := o.store.Renew(ctx, o.cfg.Name, o.epoch)
	o.answered(sent, err, func(l *locked, _ pool.Time) bool {
		l.trouble.renew = err
		return false
	})
}
