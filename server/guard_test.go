package server

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/access"
)

// visitor is a connection from somewhere, which remembers that it was closed.
type visitor struct {
	net.Conn
	host   string
	closed atomic.Bool
}

func (v *visitor) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(v.host), Port: 1} }
func (v *visitor) Close() error         { v.closed.Store(true); return nil }

// admits lets somebody in, as Accept does.
func admits(g *guard, host string) *guarded {
	c, evicted := g.admit(&visitor{host: host})
	if evicted != nil {
		_ = evicted.Close()
	}
	return c
}

func gone(c *guarded) bool { return c.Conn.(*visitor).closed.Load() }

func TestOldestUnprovenMakesWay(t *testing.T) {
	g := newGuard(6, 2)
	a1, a2 := admits(g, "10.0.0.1"), admits(g, "10.0.0.1")
	a1.proven(access.Local)
	a3, a4 := admits(g, "10.0.0.1"), admits(g, "10.0.0.1")
	assert.True(t, gone(a2), "two of a host, and the oldest goes")
	assert.False(t, gone(a1), "proven ones never")
	b1 := admits(g, "10.0.0.2")
	assert.False(t, gone(a3), "half of all, and no more")
	b2 := admits(g, "10.0.0.2")
	assert.True(t, gone(a3), "the oldest of all hosts")
	for _, c := range []*guarded{a4, b1, b2} {
		c.proven(access.Local)
	}
	admits(g, "10.0.0.3").proven(access.Local)
	last := admits(g, "10.0.0.3")
	require.NotNil(t, last)
	newcomer := admits(g, "10.0.0.4")
	require.NotNil(t, newcomer)
	assert.True(t, gone(last), "there is an unproven one")
	newcomer.proven(access.Local)
	assert.Nil(t, admits(g, "10.0.0.5"), "all are proven")
	require.NoError(t, b1.Close())
	require.NoError(t, b1.Close(), "counts once")
	assert.NotNil(t, admits(g, "10.0.0.5"))
	open, unproven, refused := g.counts()
	assert.Equal(t, []int{6, 1, 4}, []int{open, unproven, int(refused)})
}

func TestIdentityHasAQuarter(t *testing.T) {
	g := newGuard(8, 8)
	var a []*guarded
	for range 3 {
		c := admits(g, "10.0.0.1")
		c.proven("dns:a")
		a = append(a, c)
	}
	b := admits(g, "10.0.0.1")
	b.proven("dns:b")
	assert.Equal(t, []bool{true, false, false, false}, []bool{gone(a[0]), gone(a[1]), gone(a[2]), gone(b)})
	require.NoError(t, a[1].Close())
	c := admits(g, "10.0.0.1")
	c.proven("dns:a")
	c.proven("dns:b") // the first word counts
	assert.False(t, gone(a[2]))
	for range 5 {
		admits(g, "10.0.0.2").proven(access.Local)
	}
	open, _, _ := g.counts()
	assert.Equal(t, 8, open)
	for _, x := range []*guarded{a[0], a[2], b, c} {
		_ = x.Close()
	}
	assert.Empty(t, g.proven)
}

func TestIdleConnectionsGoBeforeBusyOnes(t *testing.T) {
	g := newGuard(16, 16)
	first := admits(g, "10.0.0.1")
	first.proven("dns:a")
	for range 100 {
		first.used()
		flood := admits(g, "10.0.0.1")
		flood.proven("dns:a")
		require.False(t, gone(flood), "a newcomer")
	}
	assert.False(t, gone(first))
	assert.Equal(t, 4, g.proven["dns:a"].Len())
}

func TestUnprovenHaveHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(0, 0)
		slow, quick := admits(g, "10.0.0.1"), admits(g, "10.0.0.1")
		time.Sleep(provenWithin - 1)
		quick.proven(access.Local)
		assert.False(t, gone(slow))
		time.Sleep(time.Hour)
		assert.True(t, gone(slow))
		assert.False(t, gone(quick))
		var nobody *guarded
		nobody.used()
		nobody.proven(access.Local)
	})
}

// Whatever comes and goes, the counts are those of a plain recount, and the bounds hold.
func TestGuardCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most, each := rapid.IntRange(1, 8).Draw(t, "most"), rapid.IntRange(1, 4).Draw(t, "each")
		g := newGuard(most, each)
		var all []*guarded
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch i := rapid.IntRange(0, 99).Draw(t, "which"); rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				if c := admits(g, rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}).Draw(t, "host")); c != nil {
					all = append(all, c)
				}
			case 1:
				if len(all) > 0 {
					all[i%len(all)].proven(rapid.SampledFrom([]string{"dns:a", "dns:b", access.Local}).Draw(t, "who"))
				}
			case 2:
				if len(all) > 0 {
					_ = all[i%len(all)].Close()
				}
			}
			open, unproven, hosts, whose := 0, 0, map[string]int{}, map[string]int{}
			for _, c := range all {
				if !gone(c) {
					open++
					if !c.isProven.Load() {
						unproven++
						hosts[c.host]++
					} else if c.identity != "" {
						whose[c.identity]++
					}
				}
			}
			o, u, _ := g.counts()
			require.Equal(t, []int{open, unproven, len(hosts)}, []int{o, u, len(g.byHost)})
			require.Len(t, g.proven, len(whose))
			for _, n := range whose {
				require.LessOrEqual(t, n, max(most/4, 1))
			}
			require.LessOrEqual(t, open, most)
			require.LessOrEqual(t, unproven, most-most/2)
			for _, n := range hosts {
				require.LessOrEqual(t, n, each)
			}
		}
	})
}
