package pool

import "github.com/keybroker/keybroker/internal/provider"

// Caps bound what one holder may have of a pool at one time. 0 is no bound. They are
// looked at when somebody asks, and an ask that waits counts as if it had been served: so
// nobody reaches the head of a line who may not have what it waits for.
type Caps struct {
	Leases  int   // open, or waited for
	Waiters int   // calls in line
	Tokens  int64 // input and output, reserved by open leases or waited for
}

// holderKey names a holder: an identity is a holder of its own in each pool.
type holderKey struct {
	pool *pool
	name string
}

// holder is somebody who has leases of a pool, or waits for one.
type holder struct {
	pool    *pool
	name    string
	uses    int // leases, also lapsed ones, and places in queues
	open    int
	waiting int
	tokens  int64 // of what is open, and what is waited for
}

func (dom *Domain) hold(p *pool, name string) *holder {
	k := holderKey{p, name}
	h := dom.holders[k]
	if h == nil {
		h = &holder{pool: p, name: name}
		dom.holders[k] = h
		dom.names[name]++
	}
	h.uses++
	return h
}

func (dom *Domain) letGo(h *holder) {
	if h.uses--; h.uses > 0 {
		return
	}
	delete(dom.holders, holderKey{h.pool, h.name})
	if dom.names[h.name]--; dom.names[h.name] == 0 {
		delete(dom.names, h.name)
	}
}

// overCaps returns an error if an ask is more than its holder may have.
func (dom *Domain) overCaps(p *pool, ask *Ask) error {
	c := &ask.Caps
	var none holder
	h := dom.holders[holderKey{p, ask.Holder}]
	if h == nil {
		h = &none
	}
	switch {
	case c.Leases > 0 && h.open+h.waiting >= c.Leases:
		return &HolderLimitError{"leases, open or waited for", int64(c.Leases)}
	case c.Tokens > 0 && h.tokens+tokens(&ask.Amounts) > c.Tokens:
		return &HolderLimitError{"tokens reserved at one time", c.Tokens}
	}
	return nil
}

func (dom *Domain) tokensOf(p *pool, name string) int64 {
	if h := dom.holders[holderKey{p, name}]; h != nil {
		return h.tokens
	}
	return 0
}

// tokens are the input and output of a reservation.
func tokens(a *provider.Amounts) int64 {
	return min(a[provider.InputTokens], mostTokens) + min(a[provider.OutputTokens], mostTokens)
}

// mostTokens of a kind are counted of one lease, so that the sum over a million leases
// fits an int64.
const mostTokens = 1 << 40
