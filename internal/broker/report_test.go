package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
)

func TestErrorOfAnAnswerHasNoOutput(t *testing.T) {
	for _, c := range []struct {
		status int
		output int64 // reported
		want   int64 // charged
	}{{500, provider.Unknown, 0}, {400, provider.Unknown, 0}, {200, provider.Unknown, 70}, {200, 30, 30}, {500, 30, 30}} {
		t.Run(fmt.Sprintf("%d with %d", c.status, c.output), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := begin(t, &broker.Memory{}, onePool("a", 10, 2))
				r := ask("alice")
				r.Demand = provider.Demand{InputTokens: 10, MaxOutputTokens: 70}
				l, err := p.Acquire(t.Context(), r)
				require.NoError(t, err)
				report := broker.Report{Response: provider.Response{Status: c.status}, Usage: provider.NoUsage, Final: true}
				report.Usage.Output = c.output
				_, _, err = p.Report(t.Context(), "alice", l.ID, report)
				require.NoError(t, err)
				output := p.state().Quotas[0].Limits[2]
				assert.EqualValues(t, c.want, output.Used)
				assert.Zero(t, output.Held)
			})
		})
	}
}

// Leases outlive their owner. A successor knows their ids, settles each once, and gives
// nothing back for them.
func TestLeasesOutliveTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &broker.Memory{}
		cfg := daily(6000, 1000)
		p := begin(t, store, cfg)
		l, err := p.Acquire(t.Context(), ask("h"))
		require.NoError(t, err)
		unused, err := p.Acquire(t.Context(), ask("h"))
		require.NoError(t, err)
		p.crash()
		p = begin(t, store, cfg)
		_, _, err = p.Report(t.Context(), "somebody else", l.ID, broker.Report{Final: true})
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		_, err = p.Release(t.Context(), "h", "A"+l.ID, true)
		require.ErrorIs(t, err, broker.ErrUnknownLease)
		ttl, settled, err := p.Report(t.Context(), "h", l.ID, broker.Report{Response: provider.Response{Status: 200}})
		require.NoError(t, err)
		assert.False(t, settled)
		assert.Positive(t, ttl)
		_, settled, err = p.Report(t.Context(), "h", l.ID, broker.Report{Response: provider.Response{Status: 200}, Final: true})
		require.NoError(t, err)
		assert.False(t, settled)
		_, settled, err = p.Report(t.Context(), "h", l.ID, broker.Report{Final: true})
		require.NoError(t, err)
		assert.True(t, settled)
		before := p.used()
		settled, err = p.Release(t.Context(), "h", unused.ID, true)
		require.NoError(t, err)
		assert.False(t, settled)
		assert.Equal(t, before, p.used(), "nothing comes back")
		p.crash()
	})
}

// A report on a lease of a predecessor waits until that one grants nothing any more: not at all
// if it has stopped, and no longer than the caller does.
func TestReportsWaitForTheOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		stop    bool
		patient time.Duration
		waits   time.Duration
		err     error
	}{
		"stopped":           {true, time.Minute, 0, nil},
		"crashed":           {false, time.Minute, 2 * time.Second, nil},
		"a caller in haste": {false, 100 * time.Millisecond, 100 * time.Millisecond, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &broker.Memory{}
				cfg := daily(6000, 1000)
				p := begin(t, store, cfg)
				l, err := p.Acquire(t.Context(), ask("h"))
				require.NoError(t, err)
				if c.stop {
					require.NoError(t, p.Stop(t.Context()))
				} else {
					p.crash()
				}
				p = begin(t, store, cfg)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.patient)
				defer cancel()
				_, settled, err := p.Report(ctx, "h", l.ID, broker.Report{Response: provider.Response{Status: 200}})
				assert.ErrorIs(t, err, c.err)
				assert.False(t, settled)
				assert.Equal(t, c.waits, time.Since(start))
				_, err = p.Release(ctx, "h", l.ID, false)
				assert.ErrorIs(t, err, c.err)
				p.crash()
			})
		})
	}
}
