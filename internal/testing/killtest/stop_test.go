package killtest

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// alone is one client, and a broker with the daily pool and that of a minute.
func alone(t *testing.T) (c *client, config, address, state string) {
	f, err := os.Create(filepath.Join(t.TempDir(), "grants.jsonl"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	address = freeAddress(t)
	config, state = configure(t, address, calm)
	return &client{&fleet{t: t, list: newList(f), changed: make(chan struct{})}, rand.New(rand.NewPCG(1, 2)), daily, "one", 0}, config, address, state
}

var calm = []limit{
	{daily, "d1", "requests", "rpd_limit", 500, day, false},
	{minute, "m1", "requests", "rpm_limit", 60, time.Minute, true},
	{minute, "m1", "most", "tpm_limit", 60_000, time.Minute, true},
}

// take gets n leases, and uses them. A broker whose disk is slow, or was full until now,
// refuses some at first.
func (c *client) take(b *child, pool string, n int) {
	for begun := time.Now(); n > 0; {
		x, err := c.acquire(b, &keybrokerv1.AcquireKeyRequest{Pool: pool, InputTokens: 1, MaxOutputTokens: 1})
		if err == nil {
			c.finish(b, x)
			n--
			continue
		}
		require.Equal(c.t, codes.Unavailable, status.Code(err), err)
		require.Less(c.t, time.Since(begun), patience)
		pause(c.t.Context(), 20*time.Millisecond)
	}
}

func (c *client) finish(b *child, x *lease) {
	ctx, cancel := timeout()
	defer cancel()
	x.Used, x.Arrived, x.Ended, x.Settled = true, x.Received, c.list.now(), true
	_, err := b.client.ReportUsage(as(ctx, x.Holder), &keybrokerv1.ReportUsageRequest{LeaseId: x.ID, StatusCode: 200, Usage: usage(1, 1), Final: true})
	require.NoError(c.t, err)
}

// burst takes what there is in a pool at once, and gives how many and the refusal. While the
// disk is slow it goes on asking.
func (c *client) burst(b *child, pool string) (n int, err error) {
	for begun := time.Now(); ; {
		got, err := c.untilRefused(b, pool)
		n += got
		if status.Code(err) != codes.Unavailable || time.Since(begun) > patience {
			return n, err
		}
		pause(c.t.Context(), 20*time.Millisecond)
	}
}

// untilRefused takes from a pool until an ask is refused, for whatever reason.
func (c *client) untilRefused(b *child, pool string) (n int, err error) {
	for ; ; n++ {
		x, err := c.acquire(b, &keybrokerv1.AcquireKeyRequest{Pool: pool, InputTokens: 1, MaxOutputTokens: 1})
		if err != nil {
			return n, err
		}
		c.finish(b, x)
	}
}

func (c *client) check(limits []limit) {
	for i := range limits {
		assert.Empty(c.t, limits[i].judge(c.list.leases, nil).bad)
	}
}

func TestCleanStopKeepsAmounts(t *testing.T) {
	t.Parallel()
	c, config, address, _ := alone(t)
	b := serving(t, config, address)
	c.take(b, daily, 150)
	c.take(b, minute, 30)
	clean := b.stop(t)
	b = serving(t, config, address)
	if !clean { // the disk was too slow, so it was a crash: less may be left, and never more
		assert.LessOrEqual(t, drain(t, c, b), 350)
		c.check(calm)
		return
	}
	n, err := c.burst(b, minute)
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	assert.GreaterOrEqual(t, n, 29, "the other half, but for what refills while a request may be on its way")
	assert.Equal(t, 350, drain(t, c, b), "nothing is lost")
	b.stop(t)

	b = serving(t, config, address)
	_, err = c.burst(b, daily)
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	c.check(calm)
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	c, config, address, _ := alone(t)
	b := serving(t, config, address)
	second := start(t, config, address, "", "--listen", freeAddress(t))
	<-second.exited
	assert.Equal(t, 1, second.cmd.ProcessState.ExitCode())
	assert.Contains(t, second.log.String(), "another keybroker uses this file; stop the other one")
	c.take(b, daily, 30)
}

func TestLostState(t *testing.T) {
	t.Parallel()
	c, config, address, state := alone(t)
	b := serving(t, config, address)
	c.take(b, daily, 30)
	b.end(syscall.SIGTERM)
	data, err := os.ReadFile(state)
	require.NoError(t, err)
	for i := range data[:len(data)/2] {
		data[i] ^= 0x55
	}
	require.NoError(t, os.WriteFile(state, data, 0o600))
	for _, args := range [][]string{nil, {"--state-lost"}} {
		b = start(t, config, address, "", args...)
		<-b.exited
		assert.Equal(t, 1, b.cmd.ProcessState.ExitCode())
		assert.Contains(t, b.log.String(), "the file is damaged")
		assert.Regexp(t, "move the file away.* --state-lost", b.log.String())
	}

	require.NoError(t, os.Rename(state, state+".bad"))
	b = serving(t, config, address, "--state-lost")
	n, err := c.burst(b, daily)
	assert.Zero(t, n)
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	for n = 0; n == 0; pause(t.Context(), 20*time.Millisecond) {
		require.Less(t, time.Since(b.spawned), patience)
		n, err = c.burst(b, minute)
		assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	}
	assert.LessOrEqual(t, float64(n), time.Since(b.spawned).Seconds(), "it began empty, and refills one a second")
	b.end(syscall.SIGKILL)

	b = serving(t, config, address) // it is on record now
	_, err = c.burst(b, daily)
	assert.Equal(t, codes.ResourceExhausted, status.Code(err), err)
}
