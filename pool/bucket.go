package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool/limit"
)

// Time is a moment on the owner's monotonic clock; see limit.Time.
type Time = limit.Time

// Never is later than every moment.
const Never = limit.Never

// Limit is a limit as it is configured; see limit.Limit.
type Limit = limit.Limit

// LimitState is a bucket at one moment, for people to look at.
type LimitState = limit.Status

// bucket is the books of one limit, together with what single holders have said of it
// and nobody else has confirmed.
type bucket struct {
	// Every grant looks at these, so they come first.
	origin *dispute // about whether there is such a limit; nil if that is known
	word   *dispute // about the stated books; nil if they bind all, or there are none

	limit.Bucket

	raise    *raise           // nil if there is none
	debts    map[string]*debt // by holder
	inferred bool             // the length of its window was inferred from answers
}

// newBuckets makes full buckets of a unit, side by side in memory, since an ask goes through
// all of them.
func (dom *Domain) newBuckets(now Time, u unit, limits ...Limit) []*bucket {
	side := make([]bucket, len(limits))
	out := make([]*bucket, len(limits))
	for i, l := range limits {
		side[i].Init(now, l, dom.terms(l.Dimension))
		if dom.keeps { // nothing of it is saved yet
			dom.keep(u, &side[i])
		}
		out[i] = &side[i]
	}
	return out
}

// newLearned makes the bucket of a limit of an account that no configuration names. age is
// how long ago its reset may have been stated.
func (dom *Domain) newLearned(now Time, a *account, l Limit, age time.Duration) *bucket {
	t := dom.terms(l.Dimension)
	t.Learned, t.ResetAge = true, age
	b := &bucket{}
	b.Init(now, l, t)
	if dom.keeps {
		dom.keep(a, b)
	}
	return b
}

func (dom *Domain) terms(d provider.Dimension) limit.Terms {
	return limit.Terms{
		Delta:  dom.delta,
		Holds:  dom.cfg.Dialect.Held[d],
		Clamps: dom.cfg.Dialect.Counts && d == provider.OutputTokens,
	}
}

// tightest joins limits. Of two for the same dimension and window the lower one is
// taken, since both apply.
func tightest(lists ...[]Limit) []Limit {
	var out []Limit
next:
	for _, l := range concat(lists...) {
		for i := range out {
			if out[i].Dimension == l.Dimension && out[i].Window == l.Window && out[i].Name == l.Name {
				out[i].Amount = min(out[i].Amount, l.Amount)
				continue next
			}
		}
		out = append(out, l)
	}
	return out
}

// concat returns a new slice with the elements of all lists.
func concat[T any](lists ...[]T) []T {
	var all []T
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
