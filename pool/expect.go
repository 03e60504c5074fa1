package pool

// What to set aside for answers. An ask says the most that its answer can use, and few
// answers come near that. Where the provider counts what is really used, setting aside
// the most for each ask would leave most of a limit idle. So we set aside what the
// holder's answers to asks of that size have used of late, and some more; but never more
// than the limit, since the provider does not refuse an ask that allows more. Whoever
// uses more than that owes it: the next grants wait.

import (
	"math"
	"math/bits"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

const (
	// learnedFrom is how many of the latest answers are looked at. 5/4 of the largest of
	// them is set aside; with fewer answers twice the largest; with fewer than
	// learnedLeast the most that the ask allows.
	learnedFrom  = 32
	learnedLeast = 4
	// maxLearned bounds what is remembered, in a domain.
	maxLearned = 20_000
)

// topic is what answers teach something about: asks of one holder, of one class of
// models, for answers of one size. A short answer to an ask that wants no long one says
// nothing of asks that do.
type topic struct {
	holder string
	class  *class
	size   uint8
}

// sizeOf gives asks one size whose most lies between the same two powers of two.
func sizeOf(most int64) uint8 { return uint8(bits.Len64(uint64(max(most, 0)))) } // #nosec G115 -- 64 at most

// experience is what answers have taught. When half of maxLearned topics have had an
// answer, those that had none meanwhile are forgotten: whoever still calls stays known.
type experience struct{ recent, older map[topic]*outputs }

func (k *experience) of(t topic) *outputs {
	if o := k.recent[t]; o != nil {
		return o
	}
	return k.older[t]
}

func (k *experience) note(t topic, n int64) (o *outputs) {
	if o = k.recent[t]; o == nil {
		if k.recent == nil || len(k.recent) >= maxLearned/2 {
			k.recent, k.older = map[topic]*outputs{}, k.recent
		}
		if o = k.older[t]; o == nil {
			o = &outputs{}
		}
		delete(k.older, t)
		k.recent[t] = o
	}
	o.note(n)
	return o
}

// outputs are what a holder's latest answers have used.
type outputs struct {
	last [learnedFrom]int64
	n    uint64
}

func (o *outputs) note(n int64) {
	o.last[o.n%learnedFrom] = n
	o.n++
}

// expect returns what to set aside for the next answer, and at most most.
func (o *outputs) expect(most int64) int64 {
	if o == nil || o.n < learnedLeast {
		return most
	}
	top := int64(0)
	for _, n := range o.last {
		top = max(top, n)
	}
	if o.n < learnedFrom {
		return min(most, limit.MulDivUp(top, 2, 1))
	}
	return min(most, limit.MulDivUp(top, 5, 4))
}

// expects puts what an ask's answer will likely use in the place of the most that it can
// use. Called again for the same ask, it only lowers that further.
func (dom *Domain) expects(ch *choice, ask *Ask) {
	out := &ask.Amounts[provider.OutputTokens]
	if !dom.cfg.Dialect.Counts || *out <= 0 {
		return
	}
	if ask.most == 0 {
		ask.most = *out
	}
	likely := dom.experience.of(topic{ask.Holder, ch.class, sizeOf(ask.most)}).expect(ask.most)
	less := max(0, *out-min(likely, ch.bounds(&ask.Preference).clamp[provider.OutputTokens]))
	*out -= less
	ask.Amounts[provider.Tokens] = max(0, ask.Amounts[provider.Tokens]-less)
}

// learnOutput takes note of what an answer has used. An answer without output is ignored,
// or a client that reports 0 each time would reserve nothing.
func (dom *Domain) learnOutput(l *lease, s *provider.Signal, used *provider.Amounts) {
	n := used[provider.OutputTokens]
	if n >= 0 { // earlier reports may have stated more
		n = max(n, l.used[provider.OutputTokens])
	}
	if l.size == 0 || n <= 0 || s.Class != provider.OK || l.refused != provider.OK { // an error is no answer
		return
	}
	sent := int64(1)
	if l.count > 1 {
		if sent = used[provider.Requests]; sent <= 0 { // nobody knows of how many answers it is
			return
		}
	}
	t := topic{l.by.holder.name, l.account.class, l.size}
	before := dom.experience.of(t).expect(math.MaxInt64)
	after := dom.experience.note(t, limit.MulDivUp(n, 1, max(1, min(sent, int64(l.count))))).expect(math.MaxInt64)
	if after < before-before/4 {
		for _, p := range dom.pools {
			dom.reconsider(p.choices[t.class], t.holder)
		}
	}
}

// reconsider has a holder's waiters ask for no more than is likely now.
func (dom *Domain) reconsider(ch *choice, holder string) {
	q := &ch.queue
	t := q.turns.byName[holder]
	if t == nil {
		return
	}
	for w := range t.all {
		before := tokens(&w.Ask.Amounts)
		dom.expects(ch, &w.Ask)
		w.by.holder.tokens += tokens(&w.Ask.Amounts) - before
		q.lower(&w.Ask.Amounts)
		q.due = true
	}
}
