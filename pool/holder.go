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

// holder is somebody who has leases or waits for one.
type holder struct {
	name    string
	uses    int // leases, also lapsed ones, and places in queues
	open    int
	waiting int
	tokens  int64 // of what is open, and what is waited for
}

func (p *Pool) hold(name string) *holder {
	h := p.holders[name]
	if h == nil {
		h = &holder{name: name}
		p.holders[name] = h
	}
	h.uses++
	return h
}

func (p *Pool) letGo(h *holder) {
	if h.uses--; h.uses == 0 {
		delete(p.holders, h.name)
	}
}

// overCaps returns an error if an ask is more than its holder may have.
func (p *Pool) overCaps(ask *Ask) error {
	c := &ask.Caps
	var none holder
	h := p.holders[ask.Holder]
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

func (p *Pool) tokensOf(name string) int64 {
	if h := p.holders[name]; h != nil {
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
