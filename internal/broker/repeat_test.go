package broker_test

// Repeated requests: one request, one lease.

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

// A repetition that comes just as the first call is served, before anybody has
// looked at the clock, is the same request still.
func TestRepetitionAtTheMomentOfServiceGetsOneLease(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := onePool("a", 1, 10) // the next fits after 62 s
				cfg.MaxWait = 5 * time.Minute
				b := open(t, cfg)
				_, err := b.Acquire(t.Context(), ask("alice"))
				require.NoError(t, err)
				r := waiting("bob", 4*time.Minute)
				r.Request = "r1"
				ids := make(chan string, 2)
				call := func() {
					l, err := b.Acquire(t.Context(), r)
					if err != nil {
						assert.ErrorIs(t, err, broker.ErrSuperseded)
					}
					ids <- l.ID
				}
				go call()
				time.Sleep(62 * time.Second)
				go call()
				got := map[string]bool{<-ids: true, <-ids: true}
				delete(got, "")
				assert.Len(t, got, 1, "one request, so many leases")
			})
		})
	}
}
