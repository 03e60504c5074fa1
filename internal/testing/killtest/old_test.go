package killtest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// probe asks until the broker answers by itself, and gives how long that took from
// its start.
func (r *round) probe() time.Duration {
	ctx, cancel := timeout()
	defer cancel()
	_, err := r.child.client.ReleaseKey(as(ctx, "prober"), &keybrokerv1.ReleaseKeyRequest{LeaseId: "none"})
	assert.Equal(r.t, codes.NotFound, status.Code(err), err)
	return time.Since(r.child.spawned)
}

// oldLeases settles leases of predecessors with a child that has just come up. The first
// report on each is taken, the second changes nothing, and forged leases are not known.
func (r *round) oldLeases(old []*lease) {
	for i, x := range old {
		call := r.settle(x)
		before := time.Since(r.child.spawned) < maxTTL // any lease of before may still be open
		first, err := call(r.child, x.ID, x.Holder)
		before = before && time.Since(r.child.spawned) < maxTTL
		if !assert.NoError(r.t, err, "a lease of child %d, told to child %d", x.Child, r.child.number) {
			return
		}
		if before && x.Child != r.child.number {
			assert.False(r.t, first, "nobody has settled it before")
		}
		second, err := call(r.child, x.ID, x.Holder)
		assert.NoError(r.t, err)
		assert.True(r.t, second, "already settled")
		r.old += 2
		if i > 3 {
			continue
		}
		other := "A"
		if strings.HasSuffix(x.ID, other) {
			other = "B"
		}
		middle := len(x.ID) / 2
		for _, forged := range []string{x.ID[:len(x.ID)-1] + other, x.ID[:middle] + flip(x.ID[middle]) + x.ID[middle+1:], x.ID[1:]} {
			_, err = call(r.child, forged, x.Holder)
			assert.Equal(r.t, codes.NotFound, status.Code(err), err)
		}
		_, err = call(r.child, x.ID, "somebody else")
		assert.Equal(r.t, codes.NotFound, status.Code(err), err)
	}
}

func flip(b byte) string {
	if b == 'x' {
		return "y"
	}
	return "x"
}

// settle is what is to be said of a kept lease: that it was used, or was not.
func (r *round) settle(x *lease) func(c *child, id, holder string) (settled bool, err error) {
	if x.Used {
		return func(c *child, id, holder string) (bool, error) {
			ctx, cancel := timeout()
			defer cancel()
			a, err := c.client.ReportUsage(as(ctx, holder), &keybrokerv1.ReportUsageRequest{
				LeaseId: id, StatusCode: 200, Usage: usage(x.UsedIn, x.UsedOut), Final: true,
			})
			return a.GetAlreadySettled(), err
		}
	}
	return func(c *child, id, holder string) (bool, error) {
		ctx, cancel := timeout()
		defer cancel()
		a, err := c.client.ReleaseKey(as(ctx, holder), &keybrokerv1.ReleaseKeyRequest{LeaseId: id, Unused: true})
		return a.GetAlreadySettled(), err
	}
}

// exhaust takes what is left of the daily limits, and gives what nobody was granted.
func (r *round) exhaust() int64 {
	c := &client{fleet: r.fleet, pool: daily, holder: "the last", r: r.rand}
	drain(r.t, c, r.child)
	left := int64(0)
	for _, l := range of(daily) {
		left += l.amount
		for _, x := range r.fleet.list.leases {
			if x.Pool == l.pool && x.Key == l.key {
				left -= l.booked(x)
			}
		}
	}
	return left
}

// drain asks until it is refused for good, and uses all that it gets.
func drain(t *testing.T, c *client, b *child) (got int) {
	for end := time.Now().Add(patience); ; {
		x, err := c.acquire(b, &keybrokerv1.AcquireKeyRequest{Pool: c.pool, InputTokens: 1, MaxOutputTokens: 1})
		if err == nil {
			got++
			c.finish(b, x)
			continue
		}
		retry := retryAfter(err)
		exhausted := status.Code(err) == codes.ResourceExhausted
		switch {
		case exhausted && retry > time.Minute:
			return got
		case !exhausted && !assert.Equal(t, codes.Unavailable, status.Code(err), err), // a slow disk
			!assert.Less(t, time.Now(), end, "still refused for the moment: %v", err):
			return got
		}
		pause(context.Background(), min(retry, 50*time.Millisecond))
	}
}
