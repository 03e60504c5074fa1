package pool_test

// Reports on leases of an owner before: they can only make things tighter.

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// fromBefore gives a story and a lease that the owner before had granted.
func fromBefore(t *testing.T, limits []pool.Limit, more ...func(*pool.Ask)) (*story, *pool.PredecessorLease) {
	cfg := setup{Keys: one(limits)}
	before := kept(t, cfg)
	g := before.lease("h", more...)
	s := succeeds(t, cfg, before.state(false), after)
	s.now += 2 * sec
	return s, &pool.PredecessorLease{
		Epoch: 1, Lease: g.Lease, Key: pool.Hash("a"), Class: pool.Hash(g.Class), Holder: "h", TTL: after.TTL,
		Count: g.Count, Reserved: g.Reserved,
	}
}

func (s *story) old(o *pool.PredecessorLease, answer provider.Signal, used provider.Amounts, final bool) pool.Time {
	s.Helper()
	expires, err := s.ReportPredecessor(s.now, o, answer, used, final)
	require.NoError(s, err)
	return expires
}

func (s *story) ended(o *pool.PredecessorLease, used provider.Amounts) {
	s.Helper()
	_, err := s.ReportPredecessor(s.now, o, limited(time.Hour), used, true)
	require.ErrorIs(s, err, pool.ErrLeaseEnded)
}

func read(n int64) provider.Amounts {
	used := unknown
	used[provider.InputTokens] = n
	return used
}

func TestOldOverUseIsChargedOnce(t *testing.T) {
	s, o := fromBefore(t, limits(plenty, 1000, plenty), input(100))
	s.now += 2 * minute
	s.old(o, fine, read(130), false)
	s.old(o, fine, read(130), false)
	s.old(o, fine, read(120), false)
	assert.EqualValues(t, 30, s.input().Used, "once")
	s.old(o, fine, read(150), true)
	s.ended(o, read(900))
	assert.EqualValues(t, 50, s.input().Used)
	s.lease("h")
}

// A report cannot put others in debt for longer than what the provider may have
// let through.
func TestOldOverUseIsBounded(t *testing.T) {
	s, o := fromBefore(t, limits(plenty, 1000, plenty), input(100))
	s.old(o, fine, read(1e15), true)
	assert.LessOrEqual(t, s.input().Used, int64(1000+1000+6*1000))
}

func TestNothingOldComesBack(t *testing.T) {
	s, o := fromBefore(t, append(perDay(1000, provider.Refilling), slots(1)), input(100))
	used := s.limit(3).Used
	for _, final := range []bool{false, true} {
		s.old(o, fine, provider.Amounts{}, final)
		assert.Equal(t, used, s.limit(3).Used, "nothing comes back")
		s.refused("h")
	}
}

func TestOldRefusalsCount(t *testing.T) {
	s, o := fromBefore(t, rpm(60))
	s.now += 2 * minute
	s.old(o, limited(30*time.Second), unknown, false)
	s.old(o, limited(90*time.Second), unknown, true)
	assert.Equal(t, s.now+30*sec, s.refused("h").RetryAt)
}

func TestOldRefusalOfTheKeyCounts(t *testing.T) {
	s, o := fromBefore(t, rpm(60))
	s.old(o, invalid, unknown, true)
	assert.Equal(t, pool.Suspect, s.health(0))
}

// A call that goes on keeps its slot, and what it may still use, but nobody else's.
func TestOldCallsLinger(t *testing.T) {
	s, o := fromBefore(t, append(limits(plenty, plenty, 100), slots(2)), output(40))
	s.now += 20 * sec
	used := unknown
	used[provider.OutputTokens] = 10
	assert.Equal(t, s.now+5*minute, s.old(o, fine, used, false))
	s.now += 15 * sec
	assert.EqualValues(t, 30, s.limit(2).Held)
	used[provider.OutputTokens] = 15
	s.old(o, fine, used, false)
	assert.EqualValues(t, 25, s.limit(2).Held)
	s.now += 30 * sec
	assert.EqualValues(t, 0, s.limit(2).Held)
	s.now = s.now - 30*sec + 5*minute - 1
	assert.EqualValues(t, 1, s.limit(3).Held)
	s.now++
	assert.EqualValues(t, 0, s.limit(3).Held)
}

func TestOldLeasesAreForgotten(t *testing.T) {
	s, o := fromBefore(t, rpm(60))
	s.now += 5*minute + 1
	s.ended(o, unknown)
	assert.Zero(t, s.Summary(s.now, "").Open)
}

func TestOldLeaseOfAnUnknownKey(t *testing.T) {
	s, o := fromBefore(t, rpm(60))
	o.Key++
	s.ended(o, unknown)
}
