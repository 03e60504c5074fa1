package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Caps bound what one holder may have of a pool at one time. 0 is no bound. They come with each
// ask. An ask that waits counts as if it had been served, so that no ask reaches the head of a
// line that its holder may not have.
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

// holder is an identity that has leases of a pool, or waits for one. It may have several
// instances, the processes that ask in its name: fifty pods of one service account are one
// holder in turns and caps.
type holder struct {
	holderKey
	tokens    int64 // of what is open, and what is waited for
	uses      int32 // leases, also lapsed ones, and places in queues
	open      int32
	waiting   int32
	instances map[string]*instance // those other than first
	first     instance             // the one that came first
}

// instance is one process of a holder.
type instance struct {
	holder *holder
	name   string
	uses   int32
}

// hold finds or makes an instance of a holder, for as long as letGo is not called as often.
func (dom *Domain) hold(p *pool, name, instanceName string) *instance {
	k := holderKey{p, name}
	h := dom.holders[k]
	if h == nil {
		h = &holder{holderKey: k}
		h.first = instance{holder: h, name: instanceName}
		dom.holders[k] = h
	}
	i := &h.first
	if i.name != instanceName {
		if i = h.instances[instanceName]; i == nil {
			if h.instances == nil {
				h.instances = map[string]*instance{}
			}
			i = &instance{holder: h, name: instanceName}
			h.instances[instanceName] = i
		}
	}
	return i.hold()
}

// hold keeps an instance of a holder until letGo is called once more.
func (i *instance) hold() *instance {
	i.uses++
	i.holder.uses++
	return i
}

func (dom *Domain) letGo(i *instance) {
	h := i.holder
	if i.uses--; i.uses == 0 && i != &h.first {
		delete(h.instances, i.name)
	}
	if h.uses--; h.uses == 0 {
		delete(dom.holders, h.holderKey)
	}
}

// sole reports whether a holder is the only identity that has leases or waits for one, or
// has had an answer within a time.
func (dom *Domain) sole(now Time, name string, within time.Duration) bool {
	for k, h := range dom.holders { // the first of another name decides
		if k.name != name && h.open+h.waiting > 0 {
			return false
		}
	}
	for other, st := range dom.speakers.known {
		if other != name && now.Sub(st.heardAt) <= within {
			return false
		}
	}
	return true
}

// overCaps returns an error if an ask is more than its holder may have.
func (dom *Domain) overCaps(p *pool, ask *Ask) error {
	c := &ask.Caps
	if *c == (Caps{}) {
		return nil
	}
	var none holder
	h := dom.holders[holderKey{p, ask.Holder}]
	if h == nil {
		h = &none
	}
	switch {
	case c.Leases > 0 && int(h.open+h.waiting) >= c.Leases:
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
