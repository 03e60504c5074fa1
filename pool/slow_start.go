package pool

import (
	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// While some limit of an account is not known, only so many leases may be open at once:
// few at first, twice as many after each window of good answers, half as many after a
// refusal, and from then on one more after each window.
const (
	firstWindow = 4
	maxWindow   = 1 << 20
)

// slowStart bounds the open leases of an account while a limit is not known, or after
// the provider has refused calls for being too many at one time.
type slowStart struct {
	missing   []provider.Dimension // limits that the provider has, and nobody has told us
	window    int                  // leases that may be open at once
	capped    bool                 // the provider has refused calls for being too many at one time
	steady    bool                 // there was a refusal: grow by one, not twofold
	clean     int                  // good answers since the window last changed
	refusedAt Time                 // a refusal of an older lease says nothing new
	narrow    *dispute             // about the window; nil if there is none
	wide      int                  // the window before that
	granted   provider.Amounts     // since no lease was open: what a header may not have counted
}

func (s *slowStart) active() bool { return len(s.missing) > 0 || s.capped }

// full reports whether as many leases are open as may be.
func (a *account) full() bool { return a.slowStart.active() && a.open >= a.slowStart.window }

// limited takes note of a rate-limit refusal: fewer may be open at once. A refusal of
// what was granted before the last one is the same piece of news.
func (dom *Domain) limited(now Time, a *account, l *lease) {
	s := &a.slowStart
	if l.granted < s.refusedAt || !dom.believes(now, l) {
		return
	}
	dom.narrows(now, a, l, max(1, s.window/2))
}

// narrows lets fewer be open at once, on a holder's word.
func (dom *Domain) narrows(now Time, a *account, l *lease, window int) {
	s := &a.slowStart
	if s.narrow == nil {
		s.narrow, s.wide = &dispute{kind: figure}, s.window
	}
	s.window = window
	s.clean, s.steady, s.refusedAt = 0, true, now
	if !s.active() {
		s.narrow = nil
		return
	}
	dom.refused(now, s.narrow, l, &figureStated)
	a.disputed = true
}

// widen takes back what another holder has contradicted.
func (s *slowStart) widen() { s.window, s.narrow = max(s.window, s.wide), nil }

// crowded takes note of a refusal for too many calls at one time: there may be one less
// than now.
func (dom *Domain) crowded(now Time, a *account, l *lease) {
	s := &a.slowStart
	if l.granted < s.refusedAt && s.capped || !dom.believes(now, l) {
		return
	}
	if !s.active() {
		s.window = maxWindow
	}
	s.capped = true
	dom.narrows(now, a, l, max(1, min(s.window, a.open-1)))
}

// answered takes note of a good answer. It returns whether more leases may be open than
// before.
func (s *slowStart) answered() (wider bool) {
	if !s.active() {
		return false
	}
	if s.clean++; s.clean < s.window {
		return false
	}
	s.clean = 0
	if s.steady {
		s.window++
	} else {
		s.window = min(2*s.window, maxWindow)
	}
	return true
}

// note adds a grant of n requests of the given amounts to what a first header may not
// have counted. idle says that no lease was open.
func (s *slowStart) note(ask *provider.Amounts, idle bool) {
	if len(s.missing) == 0 {
		return
	}
	if idle {
		s.granted = provider.Amounts{}
	}
	s.add(ask)
}

// add takes in what a first header may not have counted.
func (s *slowStart) add(amounts *provider.Amounts) {
	for d, n := range amounts {
		s.granted[d] = min(s.granted[d], limit.Longest) + min(n, limit.Longest)
	}
}

// noteGranted notes the open leases of the accounts of which a limit has ceased to be known.
// While all were known, none was noted.
func (c *reconfiguration) noteGranted() {
	if len(c.missing) == 0 {
		return
	}
	for l := c.dom.order.next; l != &c.dom.order; l = l.next {
		if c.missing[l.account] {
			amounts := l.reserved
			amounts.Raise(&l.used)
			l.account.slowStart.add(&amounts)
		}
	}
}
