package pool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// A key that has another value is a new credential of the same account.
func TestRenewedKeyIsNotItsAccount(t *testing.T) {
	day := pool.Limit{Dimension: provider.Requests, Window: 24 * time.Hour, Amount: 10, Kind: provider.Refilling}
	s := begin(t, setup{
		Groups: []pool.Group{{Name: "org", Limits: append(rpm(plenty), day)}},
		Keys:   []pool.Key{{ID: "a", Group: "org"}, {ID: "b", Group: "org"}},
	})
	old := s.lease("h", without("b"))
	refused := s.lease("h", without("b"))
	for range 6 {
		s.lease("h")
	}
	s.ends(refused, "h", invalid, unknown)
	s.refused("h", without("b")) // a cools down
	s.now = sec
	require.True(t, s.Renewed(s.now, "a"))
	assert.False(t, s.Renewed(s.now, "none"))
	s.lease("h", without("b")) // accepted, as far as anybody knows
	s.ends(old, "h", invalid, unknown)
	s.lease("h", without("b")) // that was said of the old value
	s.refused("h")             // and the ten of the day are out, as before
}

func TestCooldownOfTheAccountOutlivesANewValue(t *testing.T) {
	s := begin(t, setup{Keys: one(rpm(10))})
	s.ends(s.lease("h"), "h", limited(10*time.Minute), unknown)
	s.Renewed(s.now, "a")
	s.now = 9 * minute
	s.refused("h")
	s.now = 10*minute + sec
	s.lease("h")
}

// What several calls with one request id were given ends when the last of them takes it
// back, and not when one whose answer is out has it.
func TestTakeBack(t *testing.T) {
	s := begin(t, setup{StartWithin: time.Second, Keys: []pool.Key{{ID: "a", Limits: append(rpm(plenty), slots(1))}}})
	g := s.lease("h", request("x"))
	require.Equal(t, g.Lease, s.lease("h", request("x")).Lease)
	s.TakeBack(s.now, g.Lease, "h")
	s.refused("other")
	s.TakeBack(s.now, g.Lease, "somebody else")
	s.refused("other")
	s.TakeBack(s.now, g.Lease, "h")
	s.lease("other")
	s.TakeBack(s.now, g.Lease, "h") // it has ended
}
