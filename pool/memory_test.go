package pool

// What is kept of those who are gone. A pool runs for months and sees new holders
// all the time, so whatever it keeps of each must go again.

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

// busy is a pool with that many leases of 1 s, and no room for more.
func busy(t *testing.T, rpm int64) (*Domain, Ask) {
	d, _ := provider.Lookup("anthropic")
	var limits []Limit
	for _, l := range d.Limited {
		limits = append(limits, Limit{Dimension: l, Window: time.Minute, Amount: rpm, Kind: provider.Refilling})
	}
	p, err := New(Config{Dialect: d, Flat: true, Pools: []Rules{{}}, Keys: []Key{{ID: "a", Limits: limits}}})
	require.NoError(t, err)
	a := Ask{Holder: "x", TTL: time.Second, Amounts: provider.Amounts{provider.Requests: 1}}
	for range rpm {
		_, err := p.Acquire(0, a)
		require.NoError(t, err)
	}
	return p, a
}

// only is what a pool chooses from whose limits count all models together.
func only(p *Domain) *choice { return p.pools[0].choices[p.classes[allModels]] }

func TestHoldersWhoWaitedOnceAreForgotten(t *testing.T) {
	p, a := busy(t, 600)
	q := &only(p).queue
	now, most := Time(0), 0
	for i := range 20_000 {
		a.Holder = fmt.Sprint("pod ", i)
		_, err := p.Wait(now, a)
		require.NoError(t, err)
		now = now.Add(100 * time.Millisecond)
		p.Next(now)
		most = max(most, len(q.turns.byName))
	}
	require.Zero(t, q.len)
	assert.Less(t, most, 1500, "what 20,000 holders leave behind")
}

func TestLapsedLeasesAreForgotten(t *testing.T) {
	p, _ := busy(t, 100)
	p.Next(Time(time.Second))
	require.Len(t, p.leases, 100, "there may be late reports")
	assert.Zero(t, p.Summary(Time(time.Second), "").Open)
	assert.Len(t, p.holders, 1)
	_, wake := p.Next(Time(time.Second))
	assert.Equal(t, Time(2*time.Second+housekeeping), wake, "and nobody else need call")
	p.Next(wake)
	assert.Empty(t, p.leases)
	assert.Empty(t, p.holders)
	assert.Zero(t, p.due.len())
}

func TestALeaseThatNeverEndsNeedsNoCall(t *testing.T) {
	p, a := busy(t, 1)
	a.TTL = math.MaxInt64
	now := Time(2 * time.Minute)
	_, err := p.Acquire(now, a)
	require.NoError(t, err)
	_, wake := p.Next(now)
	assert.Equal(t, Never, wake)
}

// Waiters alike are looked at once, however many there are: what is known to have
// no room is not looked for again.
func TestWaitersOfAnExhaustedPoolCostLittle(t *testing.T) {
	p, a := busy(t, 1)
	for i := range 5000 {
		a.Holder = fmt.Sprint("pod ", i)
		_, err := p.Wait(0, a)
		require.NoError(t, err)
	}
	p.Next(0)
	q, tier := &only(p).queue, only(p).tiers[0]
	oldest := tier.oldest // where the next search that fails will be remembered
	for range 3 {
		q.due = true
		p.Next(0)
		assert.Equal(t, oldest, tier.oldest, "nothing is learned anew, so nothing was searched")
		visited := 0
		for _, e := range q.turns.heap.items {
			if e.v.cursor != e.v.first {
				visited++
			}
		}
		assert.Equal(t, 1, visited, "the first stands for all")
	}
}

func TestExpectationsAreBounded(t *testing.T) {
	p, a := busy(t, 100)
	c := only(p)
	l := &lease{account: &account{class: c.class}, count: 1, size: sizeOf(100)}
	answered := func(name string) {
		l.by = &instance{holder: &holder{holderKey: holderKey{name: name}}}
		p.learnOutput(l, &provider.Signal{}, &provider.Amounts{provider.OutputTokens: 10})
	}
	for range learnedLeast {
		answered("gone")
		answered("calls")
	}
	for i := range 2 * maxLearned {
		answered(fmt.Sprint("pod ", i))
		if i%1000 == 0 {
			answered("calls")
		}
		require.LessOrEqual(t, len(p.experience.recent)+len(p.experience.older), maxLearned)
	}
	for holder, want := range map[string]int64{"calls": 13, "gone": 100} {
		a.Holder, a.Amounts[provider.OutputTokens] = holder, 100
		p.expects(c, &a)
		assert.EqualValues(t, want, a.Amounts[provider.OutputTokens], holder)
	}
}
