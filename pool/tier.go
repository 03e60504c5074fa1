package pool

import "github.com/keybroker/keybroker/internal/provider"

// tier is the candidates of one priority: those that may have room, in the strategy's
// hands, and those that had none when they were last asked.
type tier struct {
	choice   *choice
	priority int
	ready    KeySelector
	full     heap[*Candidate] // by the moment at which they may have room
	negative [4]negative
	oldest   int // entry of negative to overwrite next
	scratch  []*Candidate
}

// setAside takes a candidate out of the strategy's hands until it may have room.
func (t *tier) setAside(c *Candidate, ask *provider.Amounts, f *fit) {
	c.blocked, c.why = *ask, *f
	if c.full {
		t.full.update(c, int64(f.at))
		return
	}
	c.full = true
	t.ready.Remove(c)
	t.full.push(c, int64(f.at))
}

func (t *tier) wake(now Time, c *Candidate) {
	c.full = false
	t.full.remove(c)
	t.ready.Add(now, c)
}

// wakeDue wakes the candidates that may have room by now.
func (t *tier) wakeDue(now Time) {
	for t.full.len() > 0 {
		c, at := t.full.min()
		if Time(at) > now {
			return
		}
		t.wake(now, c)
	}
}

// blocks reports whether what blocked a full candidate blocks this ask too.
func (c *Candidate) blocks(ask *provider.Amounts) bool {
	switch c.why.by {
	case unconditional:
		return true
	case several:
		return ask.Covers(&c.blocked)
	}
	return ask[c.why.by] >= c.blocked[c.why.by]
}

// negative is a negative cache entry: what a search without success came to. Until its
// moment, unless room comes free, an ask at least as large fails too.
type negative struct {
	ask      provider.Amounts
	fit      fit      // where there is room first
	account  *account // and whose room it is
	reserved bool     // valid while no reservation has been removed
}

// sooner takes the better of two entries for the same ask.
func (n *negative) sooner(m *negative) {
	if n.account == nil || m.fit.before(&n.fit) || n.fit.never && !m.fit.never {
		n.fit, n.account = m.fit, m.account
	}
}

// knownFull returns what is known without a search, if it is known that no tier has room.
// Without keys there is never any.
func (ch *choice) knownFull(now Time, ask *provider.Amounts) (n negative, ok bool) {
	for _, t := range ch.tiers {
		m := t.recall(now, ask)
		if m == nil {
			return n, false
		}
		n.sooner(m)
	}
	if len(ch.tiers) == 0 {
		n.fit = fit{at: Never, by: unconditional}
	}
	return n, true
}

// recall finds an entry for the ask, nil if there is none.
func (t *tier) recall(now Time, ask *provider.Amounts) *negative {
	for i := range t.negative {
		if n := &t.negative[i]; now < n.fit.at && ask.Covers(&n.ask) {
			return n
		}
	}
	return nil
}

func (t *tier) remember(n negative) {
	t.negative[t.oldest] = n
	t.oldest = (t.oldest + 1) % len(t.negative)
}

// refresh corrects the entries when an account may have more room than it had.
func (t *tier) refresh(dom *Domain, a *account) {
	now := dom.now
	for i := range t.negative {
		n := &t.negative[i]
		if now >= n.fit.at {
			continue
		}
		if f := dom.fit(a, &n.ask, anybody); f.at < n.fit.at {
			n.fit, n.account = f, a
		}
	}
}

// forgetReserved drops the entries that are valid only with the reservations there are.
func (t *tier) forgetReserved() {
	for i := range t.negative {
		if t.negative[i].reserved {
			t.negative[i] = negative{}
		}
	}
}
