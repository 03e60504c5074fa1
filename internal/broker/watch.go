package broker

import (
	"context"
	"slices"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// Changes are what a watcher has not been told yet. Of the view, the summary and the warnings
// are whole; keys, quotas and queues are those that have changed.
type Changes struct {
	View
	// StartsOver says that the state begins anew: at first, and with another configuration.
	StartsOver bool
	// Complete says that all that the query selects has been told since the state last started
	// over.
	Complete bool

	GoneKeys   []string    // by id
	GoneQuotas []QuotaName // with pool.Query.OnlyLimited: those that are not limited any more
	GoneQueues []string    // by class: those that are empty now

	otherwise bool // the summary or the warnings have changed
}

// QuotaName names a quota. Key is empty unless it is of one key within the group.
type QuotaName struct{ Group, Class, Key string }

// watch is what one watcher has been told. It goes round and round the pool, a page at a time,
// so that the lock is held for no longer than a page takes.
type watch struct {
	pool  *ownedPool
	query pool.Query // of the next page; Since is when the round before began

	configured pool.Mark // the configuration that the watcher knows; 0 before the first look
	begun      pool.Mark // when this round began: what changes later is for the next
	last       pool.Mark // the last change when it last looked
	startsOver bool      // the next message does
	complete   bool      // a round has ended since it last started over

	count     pool.Count // of the available keys, which goes on from message to message
	counted   bool       // once since it last started over
	available int        // by the last count that ended

	glance glance
	queues map[string]pool.QueueState // by class

	// With OnlyLimited: what was limited, and what is not any more and has not been told. While
	// there is some of that, the round does not go on.
	keys       seen[string] // by id
	quotas     seen[QuotaName]
	goneKeys   []string
	goneQuotas []QuotaName
}

// seen are those that were limited when they were last looked at. The value says whether that
// was in this round.
type seen[N comparable] map[N]bool

// again takes note that one is limited. It returns whether it was before.
func (s seen[N]) again(n N) (known bool) {
	_, known = s[n]
	s[n] = true
	return known
}

// endRound removes and returns those that were not limited in this round, in no order.
func (s seen[N]) endRound() (gone []N) {
	for n, now := range s {
		if s[n] = false; !now {
			delete(s, n)
			gone = append(gone, n)
		}
	}
	return gone
}

// Watch calls f with what a query selects of the pool now, a page of it at first, and again
// after changes, at most once in the interval. It ends with the context's error, the first
// error of f, ErrUnknownPool, or ErrDraining when the broker closes.
func (b *Broker) Watch(ctx context.Context, name string, q pool.Query, interval time.Duration, f func(Changes) error) error {
	p := b.byName[name]
	if p == nil {
		return ErrUnknownPool
	}
	changed := make(chan struct{}, 1)
	p.look(func(l *locked, _ pool.Time) { l.watchers[changed] = struct{}{} })
	defer p.look(func(l *locked, _ pool.Time) { delete(l.watchers, changed) })
	w := &watch{pool: p, query: q}
	pause := time.NewTimer(interval)
	defer pause.Stop()
	for {
		if c := w.next(); !c.empty() {
			if err := f(c); err != nil {
				return err
			}
		}
		pause.Reset(interval)
		if err := until(ctx, p.owner, pause.C); err != nil {
			return err
		}
		if w.unfinished() {
			select {
			case <-changed:
			default:
			}
		} else if err := until(ctx, p.owner, changed); err != nil {
			return err
		}
	}
}

// goneBytes bounds what the names of those that are gone take in a message.
const goneBytes = 512 << 10

// leaves reports whether some that are gone have not been told.
func (w *watch) leaves() bool { return len(w.goneKeys)+len(w.goneQuotas) > 0 }

// tellGone takes as many of those that are gone as a message may have.
func (w *watch) tellGone(c *Changes) {
	left := goneBytes
	for ; len(w.goneKeys) > 0 && left > 0; w.goneKeys = w.goneKeys[1:] {
		c.GoneKeys = append(c.GoneKeys, w.goneKeys[0])
		left -= len(w.goneKeys[0]) + 8
	}
	for ; len(w.goneQuotas) > 0 && left > 0; w.goneQuotas = w.goneQuotas[1:] {
		q := w.goneQuotas[0]
		c.GoneQuotas = append(c.GoneQuotas, q)
		left -= len(q.Group) + len(q.Class) + len(q.Key) + 16
	}
}

// unfinished reports whether there may be something to tell even if nothing changes: the rest of
// a round, what changed during one, or something that is not limited any more.
func (w *watch) unfinished() bool {
	return w.query.From != pool.Cursor{} || w.query.Since < w.last || len(w.keys)+len(w.quotas) > 0 || w.leaves()
}

// glance is what each message tells whole.
type glance struct {
	pool.Summary
	refused  int64
	warnings []pool.Warning
}

// empty reports whether there is nothing to tell.
func (c *Changes) empty() bool {
	s := &c.Snapshot
	return !c.StartsOver && !c.otherwise && len(s.Keys)+len(s.Quotas)+len(s.Queues)+len(c.GoneKeys)+len(c.GoneQuotas)+len(c.GoneQueues) == 0
}

// next makes a message of the next page.
func (w *watch) next() Changes {
	c := Changes{View: w.look(), StartsOver: w.startsOver}
	w.startsOver = false
	if !w.leaves() {
		w.advance(&c.Snapshot)
	}
	w.tellGone(&c)
	c.Complete = w.complete
	w.queueChanges(&c)

	s := &c.Snapshot
	now := glance{s.Summary, c.Refused, s.Warnings}
	c.otherwise = now.Summary != w.glance.Summary || now.refused != w.glance.refused || !slices.Equal(now.warnings, w.glance.warnings)
	w.glance = now
	return c
}

// advance goes on with the round by a page, of which it leaves what has not been told.
func (w *watch) advance(s *pool.Snapshot) {
	if w.query.OnlyLimited {
		since := w.query.Since
		s.Keys = slices.DeleteFunc(s.Keys, func(k pool.KeyMetadata) bool {
			return w.keys.again(k.ID) && k.Changed <= since
		})
		s.Quotas = slices.DeleteFunc(s.Quotas, func(q pool.QuotaState) bool {
			return w.quotas.again(QuotaName{q.Group, q.Class, q.Key}) && q.Changed <= since
		})
	}
	if w.query.From = s.Next; s.Next == (pool.Cursor{}) {
		w.query.Since, w.complete = w.begun, true
		w.goneKeys, w.goneQuotas = w.keys.endRound(), w.quotas.endRound()
	}
}

// look looks at the next page. In a large pool the available keys are counted in several
// steps: at first all of them, later one for each message.
func (w *watch) look() (v View) {
	p, name := w.pool, w.pool.cfg.Name
	for done := false; !done; {
		p.look(func(l *locked, now pool.Time) {
			v = p.at(l, now)
			s := &v.Snapshot
			var counted bool
			s.Summary, counted = l.engine.Glance(now, name, &w.count)
			last, configured := l.engine.Mark()
			if configured != w.configured {
				w.begin(configured)
			}
			if counted {
				w.available, w.counted = s.Available, true
			}
			if s.Available = w.available; !w.counted {
				return
			}
			if !w.leaves() {
				s.Page = w.page(l, now, last)
			}
			s.Queues, s.Warnings = l.engine.Queues(now, name), p.warnings(l)
			done = true
		})
	}
	return v
}

// page returns the next page. last is the mark of the last change.
func (w *watch) page(l *locked, now pool.Time, last pool.Mark) pool.Page {
	q := w.query
	if w.last = last; q.From == (pool.Cursor{}) {
		w.begun = last
	}
	if q.OnlyLimited { // those that are not limited any more are to be noticed as well
		q.Since = 0
	}
	page, _ := l.engine.Page(now, w.pool.cfg.Name, q) // a cursor is good until another configuration
	return page
}

// begin begins anew.
func (w *watch) begin(configured pool.Mark) {
	w.query.From, w.query.Since = pool.Cursor{}, 0
	w.configured, w.startsOver, w.complete, w.counted = configured, true, false, false
	w.queues, w.keys, w.quotas = map[string]pool.QueueState{}, seen[string]{}, seen[QuotaName]{}
	w.goneKeys, w.goneQuotas = nil, nil
}

// queueChanges leaves those queues that have changed.
func (w *watch) queueChanges(c *Changes) {
	before := w.queues
	w.queues = map[string]pool.QueueState{}
	for _, q := range c.Snapshot.Queues {
		w.queues[q.Class] = q
	}
	c.Snapshot.Queues = slices.DeleteFunc(c.Snapshot.Queues, func(q pool.QueueState) bool { return q == before[q.Class] })
	for class := range before {
		if _, ok := w.queues[class]; !ok {
			c.GoneQueues = append(c.GoneQueues, class)
		}
	}
	slices.Sort(c.GoneQueues)
}

// until waits for c, unless the owner closes or the context ends.
func until[T any](ctx context.Context, o *owner, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-o.closing:
		return ErrDraining
	case <-ctx.Done():
	}
	select {
	case <-o.closing: // this may be why the context ended
		return ErrDraining
	default:
		return ctx.Err()
	}
}
