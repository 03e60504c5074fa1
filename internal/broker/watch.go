package broker

import (
	"cmp"
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

	GoneKeys   []string    // with pool.Query.OnlyLimited: those that are not limited any more, by id
	GoneQuotas []QuotaName // those of classes that were forgotten and, with OnlyLimited, those that are not limited any more
	GoneQueues []string    // by class: those that are empty now

	summaryChanged bool // the summary, the count of refusals or the warnings have
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
	startsOver bool      // the next message says that the state starts over
	complete   bool      // a round has ended since it last started over

	count     pool.Count // of the available keys, which goes on from message to message
	began     pool.Mark  // the last change when that count began
	counted   pool.Mark  // the last change when the last count began that has ended; 0 before one has, since it last started over
	available int        // by that count

	glance  glance
	queues  map[string]pool.QueueState // by class
	classes map[string]string          // those of which quotas were told, with the group of one of them

	// With OnlyLimited: the keys, by id, and the quotas that were limited.
	keys   seen[string]
	quotas seen[QuotaName]

	// What is gone and has not been told. While there is any, the round does not go on.
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
// error of f, ErrUnknownPool, ErrDraining when the broker closes, or ErrNotOwner when a successor
// has claimed the domain.
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
		if err := p.ended(); err != nil {
			return err
		}
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
// a round, what changed during a round or a count, or something that is not limited any more.
func (w *watch) unfinished() bool {
	return w.query.From != pool.Cursor{} || min(w.query.Since, w.counted) < w.last || len(w.keys)+len(w.quotas) > 0 || w.leaves()
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
	return !c.StartsOver && !c.summaryChanged && len(s.Keys)+len(s.Quotas)+len(s.Queues)+len(c.GoneKeys)+len(c.GoneQuotas)+len(c.GoneQueues) == 0
}

// next makes a message of the next page.
func (w *watch) next() Changes {
	v, goesOn := w.look()
	c := Changes{View: v, StartsOver: w.startsOver}
	w.startsOver = false
	if goesOn {
		w.advance(&c.Snapshot)
	}
	w.tellGone(&c)
	c.Complete = w.complete
	w.queueChanges(&c)

	s := &c.Snapshot
	now := glance{s.Summary, c.Refused, s.Warnings}
	c.summaryChanged = now.Summary != w.glance.Summary || now.refused != w.glance.refused || !slices.Equal(now.warnings, w.glance.warnings)
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
	} else {
		for i := range s.Quotas {
			w.classes[s.Quotas[i].Class] = s.Quotas[i].Group
		}
	}
	if w.query.From = s.Next; s.Next == (pool.Cursor{}) {
		w.query.Since, w.complete = w.begun, true
		w.goneKeys, w.goneQuotas = append(w.goneKeys, w.keys.endRound()...), append(w.goneQuotas, w.quotas.endRound()...)
	}
}

// look looks at the next page, if the round goes on. In a large pool the available keys are
// counted in several steps: at first all of them, later one for each message.
func (w *watch) look() (v View, goesOn bool) {
	p, name := w.pool, w.pool.cfg.Name
	for done := false; !done; {
		p.look(func(l *locked, now pool.Time) {
			v = p.at(l, now)
			s := &v.Snapshot
			if w.count == (pool.Count{}) {
				w.began, _ = l.engine.Mark()
			}
			var counted bool
			s.Summary, counted = l.engine.Glance(now, name, &w.count)
			last, configured := l.engine.Mark()
			if configured != w.configured {
				w.begin(configured)
			}
			w.last = last
			if counted {
				w.available, w.counted = s.Available, w.began
			}
			if s.Available = w.available; w.counted == 0 {
				return
			}
			if goesOn = !w.leaves(); goesOn {
				w.forget(l, now)
				s.Page = w.page(l, now)
			}
			s.Queues, s.Warnings = l.engine.Queues(now, name), p.warnings(l)
			done = true
		})
	}
	return v, goesOn
}

// page returns the next page. If the class of models was forgotten at which the page before had
// ended, the round starts over: what it has told already may be told again.
func (w *watch) page(l *locked, now pool.Time) pool.Page {
	q := w.query
	if q.OnlyLimited { // those that are not limited any more are to be noticed as well
		q.Since = 0
	}
	if q.From != (pool.Cursor{}) {
		if page, err := l.engine.Page(now, w.pool.cfg.Name, q); err == nil {
			return page
		}
	}
	q.From, w.begun = pool.Cursor{}, w.last
	page, _ := l.engine.Page(now, w.pool.cfg.Name, q) // only a cursor can be wrong
	return page
}

// forget takes note of the quotas of classes that were forgotten. With OnlyLimited it is enough
// that they are not limited any more.
func (w *watch) forget(l *locked, now pool.Time) {
	for class, group := range w.classes {
		q := pool.Query{Group: group, Class: class, Size: 1}
		if page, _ := l.engine.Page(now, w.pool.cfg.Name, q); len(page.Quotas) == 0 {
			delete(w.classes, class)
			w.goneQuotas = append(w.goneQuotas, w.pool.quotasOf(class, w.query.Group)...)
		}
	}
}

// quotasOf names the quotas that the pool has for a class of models, in one group or in all.
func (p *ownedPool) quotasOf(class, group string) (all []QuotaName) {
	add := func(of, key string) {
		if p.draws(of) && (group == "" || of == group) {
			all = append(all, QuotaName{of, class, key})
		}
	}
	for _, g := range p.owner.cfg.Groups {
		add(g.Name, "")
	}
	for _, k := range p.owner.cfg.Keys {
		switch {
		case k.Group == "": // it is a group of its own
			add(k.ID, "")
		case len(k.Limits) > 0:
			add(k.Group, k.ID)
		}
	}
	return all
}

// begin begins anew.
func (w *watch) begin(configured pool.Mark) {
	w.query.From, w.query.Since = pool.Cursor{}, 0
	w.configured, w.startsOver, w.complete, w.counted = configured, true, false, 0
	w.queues, w.classes = map[string]pool.QueueState{}, map[string]string{}
	w.keys, w.quotas = seen[string]{}, seen[QuotaName]{}
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

// until waits for c, unless the owner ends or the context does.
func until[T any](ctx context.Context, o *owner, c <-chan T) error {
	select {
	case <-c:
		return nil
	case <-o.closing:
	case <-o.lost:
	case <-ctx.Done():
	}
	return cmp.Or(o.ended(), ctx.Err()) // the former may be why the context ended
}
