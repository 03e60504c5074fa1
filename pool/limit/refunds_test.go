package limit

// A refund is bounded by the lowest backlog since its charge, of which a bucket
// keeps only a few. This holds the short memory against one that forgets nothing.

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/provider"
)

// spent is a charge of so many seconds, less what was refunded.
type spent struct {
	at Time
	n  int64
}

// ledger is a bucket of 60 a minute beside everything it was ever told.
type ledger struct {
	b   *Bucket
	now Time
	all []spent
}

func newLedger() *ledger {
	return &ledger{b: newTestBucket(0, Limit{Dimension: provider.InputTokens, Window: time.Minute, Amount: 60, Kind: provider.Refilling}, false, 0)}
}

func (l *ledger) charge(n int64) {
	l.b.Charge(l.now, n)
	l.all = append(l.all, spent{l.now, n})
}

func (l *ledger) refund(i int, n int64) {
	l.b.Refund(l.now, l.all[i].at, n)
	l.all[i].n -= n
}

// exact is the backlog if what was refunded had never been charged.
func (l *ledger) exact() time.Duration {
	var fullAt Time
	for _, c := range l.all {
		fullAt = max(fullAt, c.at).Add(time.Duration(c.n) * time.Second)
	}
	return max(fullAt.Sub(l.now), 0)
}

func (l *ledger) kept() time.Duration { return l.b.tokens.backlog(l.now) }

func TestRefundsNeverExceedTheExactOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger()
		for range rapid.SampledFrom([]int{5, 20, 60, 150}).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				l.now += Time(rapid.Int64Range(0, 20).Draw(t, "tenths")) * Time(100*time.Millisecond)
			case 1:
				l.charge(rapid.Int64Range(0, 9).Draw(t, "n"))
			case 2:
				if len(l.all) > 0 {
					i := rapid.IntRange(0, len(l.all)-1).Draw(t, "of")
					l.refund(i, rapid.Int64Range(0, l.all[i].n).Draw(t, "back"))
				}
			}
			if l.kept() < l.exact() {
				t.Fatalf("refunded more than was there: %v are left, exactly %v", l.kept(), l.exact())
			}
		}
	})
}

// Under a load that keeps the bucket busy, what the short memory withholds is
// small: under 4 % of the limit on average.
func TestRefundsFallLittleShortOfTheExactOnes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := newLedger()
	var short time.Duration
	const rounds = 3000
	for i := range rounds {
		l.now += Time(r.Int64N(int64(2 * time.Second)))
		for l.b.Fits(l.now, 10) {
			l.charge(r.Int64N(4))
		}
		if at := len(l.all) - 1 - r.IntN(min(40, len(l.all))); l.all[at].n > 0 {
			l.refund(at, 1+r.Int64N(l.all[at].n))
		}
		require.GreaterOrEqual(t, l.kept(), l.exact(), "round %d", i)
		short += l.kept() - l.exact()
	}
	part := float64(short) / rounds / float64(time.Minute)
	t.Logf("withheld %.2f %% of the limit", 100*part)
	assert.Less(t, part, 0.04)
}
