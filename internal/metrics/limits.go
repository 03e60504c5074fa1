package metrics

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/pool"
)

// A pool may have as many limits as it has groups, times classes of models, times
// what each counts. There are callers who can add to the classes.
const (
	// maxLimits bounds those of a pool that have series; each has three. It is so many
	// that a pool has 2000 at most.
	maxLimits = 2000 / 3
	// A look is good for lookFactor times as long as it took, so looking takes at most 1 %
	// of the time. A look takes long where there is much: what was seen is good for some 40 ms
	// for a hundred keys and half a second for thousands. The pool is looked at page by
	// page, and gives keys in between. With as many accounts as a pool can have, a look
	// takes a fifth of a second and is good for twenty.
	lookFactor = 100
	// maxAge bounds that, for a look that took long because there was much to do.
	maxAge = time.Minute
)

// poolLimits are what of a pool's limits has series.
type poolLimits struct {
	limits  []limit
	places  map[limitName]int // in limits
	leftOut int
}

// limit is a limit of a group and a class of models, under its labels. Limits of a
// single key within a group are not told: there may be thousands.
type limit struct {
	limitName
	amount, used, remaining int64
}

type limitName struct{ group, class, dimension, window string }

// limitCache looks at pools no more often than is good for them.
type limitCache struct {
	look look // nil: there is nothing to see
	mu   sync.Mutex
	seen map[string]*seen // by pool
}

// seen is what was seen of a pool. The lock is held while looking, so that those
// who scrape at the same time share one look.
type seen struct {
	mu     sync.Mutex
	limits *poolLimits
	until  time.Time // good
}

// look gives a page of a pool's quotas.
type look func(name string, q pool.Query) (pool.Page, error)

func newLimitCache(look look) *limitCache {
	return &limitCache{look: look, seen: map[string]*seen{}}
}

// of gives the limits of a pool, nil if it has gone. It is given for pools that exist
// only, so that it does not grow.
func (c *limitCache) of(name string) *poolLimits {
	if c.look == nil {
		return nil
	}
	c.mu.Lock()
	s := c.seen[name]
	if s == nil {
		s = &seen{}
		c.seen[name] = s
	}
	c.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	began := time.Now()
	if began.Before(s.until) {
		return s.limits
	}
	limits, err := c.read(name)
	if errors.Is(err, pool.ErrCursor) { // another configuration came between two pages
		limits, err = c.read(name)
	}
	took := time.Since(began)
	s.limits, s.until = limits, began.Add(took+min(lookFactor*took, maxAge))
	if err != nil {
		s.limits = nil
	}
	return s.limits
}

// read reads the limits of a pool page by page.
func (c *limitCache) read(name string) (*poolLimits, error) {
	p := &poolLimits{places: map[limitName]int{}}
	for q := (pool.Query{From: pool.Cursor{Quotas: true}}); ; {
		page, err := c.look(name, q)
		if err != nil {
			return nil, err
		}
		p.add(page.Quotas)
		if q.From = page.Next; q.From == (pool.Cursor{}) {
			return p, nil
		}
	}
}

// add takes limits in the order of the configuration, in which classes come in the
// order in which they were first asked for, so that the same ones are left out each
// time. Of limits that only their names tell apart, it takes the tightest.
func (p *poolLimits) add(quotas []pool.QuotaState) {
	for _, q := range quotas {
		if q.Key != "" {
			continue
		}
		group, class := label(q.Group), label(q.Class)
		for _, l := range q.Limits {
			next := limit{
				limitName{group, class, strings.ReplaceAll(l.Dimension.String(), " ", "_"), window(l.Window)},
				l.Limit, l.Used, l.Remaining,
			}
			i, ok := p.places[next.limitName]
			switch {
			case ok && next.remaining < p.limits[i].remaining:
				p.limits[i] = next
			case ok:
			case len(p.limits) == maxLimits:
				p.leftOut++
			default:
				p.places[next.limitName] = len(p.limits)
				p.limits = append(p.limits, next)
			}
		}
	}
}

// window gives "1m" for a minute, "24h" for a day, and nothing for what is limited
// at one time.
func window(d time.Duration) string {
	if d == 0 {
		return ""
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
