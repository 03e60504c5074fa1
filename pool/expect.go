package pool

import "github.com/keybroker/keybroker/internal/provider"

// An ask says the most that its answer can use, and few answers come near that. Where
// the provider counts what is really used, to set all of it aside for each would leave
// most of a limit idle. So, for asks that Learn, it is what the holder's answers have
// used of late, and some more; and never more than the limit, since the provider does
// not refuse an ask that allows more. Who uses more than that owes it: the next grants
// wait.

const (
	// learnedFrom is how many answers are looked at, the latest. Of the largest of them,
	// 5/4 is set aside; twice as much while there are fewer, and all while there are
	// fewer than learnedLeast.
	learnedFrom  = 32
	learnedLeast = 4
	// maxLearned bounds the holders that are remembered for a class of models.
	maxLearned = 20_000
)

// learned is what is known of a class's holders. When half of maxLearned have had an
// answer, those who had none meanwhile are forgotten: who still calls stays known.
type learned struct{ recent, older map[string]*outputs }

func (k *learned) of(holder string) *outputs {
	if o := k.recent[holder]; o != nil {
		return o
	}
	return k.older[holder]
}

func (k *learned) note(holder string, n int64) {
	o := k.recent[holder]
	if o == nil {
		if k.recent == nil || len(k.recent) >= maxLearned/2 {
			k.recent, k.older = map[string]*outputs{}, k.recent
		}
		if o = k.older[holder]; o == nil {
			o = &outputs{}
		}
		delete(k.older, holder)
		k.recent[holder] = o
	}
	o.note(n)
}

// outputs are the latest that a holder's answers have used.
type outputs struct {
	last [learnedFrom]int64
	n    uint64
}

func (o *outputs) note(n int64) {
	o.last[o.n%learnedFrom] = n
	o.n++
}

// expect gives what to set aside for the next; no more than the most.
func (o *outputs) expect(most int64) int64 {
	if o == nil || o.n < learnedLeast {
		return most
	}
	top := int64(0)
	for _, n := range o.last {
		top = max(top, n)
	}
	if o.n < learnedFrom {
		return min(most, mulDivUp(top, 2, 1))
	}
	return min(most, mulDivUp(top, 5, 4))
}

// expects puts what is likely in the place of the most that an ask's answer can use.
func (p *Pool) expects(c *class, ask *Ask) {
	d := p.cfg.Dialect
	most := ask.Amounts[provider.OutputTokens]
	if !ask.Learn || !d.Counts || most <= 0 {
		return
	}
	less := most - min(c.learned.of(ask.Holder).expect(most), c.largest[provider.OutputTokens])
	ask.Amounts[provider.OutputTokens] -= less
	ask.Amounts[provider.Tokens] = max(0, ask.Amounts[provider.Tokens]-less)
}

// learnOutput takes note of what an answer has used. One without output teaches
// nothing: whoever says so of each would have nothing set aside.
func (p *Pool) learnOutput(l *lease, s *provider.Signal, used *provider.Amounts) {
	n := used[provider.OutputTokens]
	if !p.cfg.Dialect.Counts || n <= 0 || s.Class != provider.OK || l.refused != provider.OK { // an error is no answer
		return
	}
	sent := int64(max(l.count, 1))
	if used[provider.Requests] > 0 {
		sent = min(sent, used[provider.Requests])
	}
	l.account.class.learned.note(l.holder.name, mulDivUp(n, 1, sent))
}
