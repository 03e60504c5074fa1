package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
