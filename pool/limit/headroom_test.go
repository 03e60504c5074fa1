package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/provider"
)

func TestHeadroomWearsOffTheSameHoweverOftenOneLooks(t *testing.T) {
	for _, limit := range []int64{2, 31, 33, 1000, 1 << 60} {
		often := headroom{amount: limit / 2}
		for step := 1; step <= 40; step++ {
			now := Time(step) * Time(headroomWear)
			once := headroom{amount: limit / 2}
			require.Equal(t, often.left(now, limit), once.left(now, limit), "limit %d after %v", limit, time.Duration(now))
		}
		require.Zero(t, often.amount)
	}
}

func TestHeadroomFollowsALowerLimit(t *testing.T) {
	for _, kind := range []provider.Kind{provider.Sliding, provider.Refilling} {
		var b Bucket
		b.Init(0, Limit{Window: time.Minute, Amount: 1000, Kind: kind}, Terms{})
		b.Tighten(0, 1000, 8)
		require.EqualValues(t, 750, b.Headroom(0))
		b.SetLimit(0, 100)
		require.EqualValues(t, 75, b.Headroom(0), "three quarters, as of every limit")
		n := 0
		for ; b.Fits(0, 1); n++ {
			b.Charge(0, 1)
		}
		require.Equal(t, 25, n)
		require.Zero(t, b.Headroom(Time(time.Hour)), "it wears off as soon")
	}
}
