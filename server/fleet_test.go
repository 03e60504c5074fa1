package server_test

// Many callers at once on a small pool: whatever they do, in the end nothing is held
// and nobody is left.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

func TestFleetLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("one", slots(2)), key("two", slots(1))), onePool("b", key("k", slots(2))))
		var inUse, most, served atomic.Int64
		var fleet sync.WaitGroup
		end := time.Now().Add(2 * time.Second)
		for i := range 50 {
			c := w.as(fmt.Sprintf("service-%d", i%10))
			fleet.Go(func() {
				for time.Now().Before(end) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(500))*time.Millisecond)
					c.once(ctx, &inUse, &most, &served)
					cancel()
				}
			})
		}
		fleet.Wait()
		operator := w.as("operator")
		assert.EqualValues(t, 5, most.Load(), "as many leases at a time as there are slots, and no more")
		assert.Greater(t, served.Load(), int64(100), "five slots serve some 1000 leases of 10 ms in two seconds")
		time.Sleep(leaseTTL) // a lease whose answer crossed with the caller's deadline ends by its ttl
		operator.idle("a")
		operator.idle("b")
		for _, p := range []string{"a", "a", "a", "b", "b"} {
			operator.lease(&keybrokerv1.AcquireKeyRequest{Pool: p})
		}
	})
}

const leaseTTL = 2 * time.Second

// once makes one call and ends its lease in one of the ways there are.
func (c *caller) once(ctx context.Context, inUse, most, served *atomic.Int64) {
	r := waitFor([]string{"a", "b"}[rand.IntN(2)], time.Duration(1+rand.IntN(200))*time.Millisecond)
	r.Ttl = durationpb.New(leaseTTL)
	l, err := c.AcquireKey(c.in(ctx), r)
	switch status.Code(err) {
	case codes.OK:
	case codes.ResourceExhausted, codes.DeadlineExceeded:
		return
	default:
		assert.NoError(c, err)
		return
	}
	n := inUse.Add(1)
	for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
	}
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	inUse.Add(-1)
	served.Add(1)
	switch rand.IntN(3) {
	case 0:
		_, err = c.ReleaseKey(c.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId(), Unused: true})
	case 1:
		_, err = c.ReleaseKey(c.ctx(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId()})
	default:
		report := &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 200, Usage: &keybrokerv1.Usage{OutputTokens: new(int64(1))}}
		_, err = c.ReportUsage(c.ctx(), report)
		assert.NoError(c, err)
		report.Final = true
		_, err = c.ReportUsage(c.ctx(), report)
	}
	assert.NoError(c, err)
}

// A bubble fails if goroutines are left in it when its test has ended.
func TestStoppedServerLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, onePool("a", key("k", slots(1))))
		var fleet sync.WaitGroup
		for i := range 20 {
			c := w.as(fmt.Sprint(i))
			fleet.Go(func() { <-c.ask(t.Context(), waitFor("a", time.Minute)) })
		}
		operator := w.as("operator")
		operator.watch(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a"})
		synctest.Wait()
		assert.EqualValues(t, 19, operator.look("a").GetSummary().GetWaiters())
		w.stop(5 * time.Second)
		fleet.Wait()
	})
}
