package server

import (
	"container/list"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/internal/access"
)

// provenWithin is how long a connection may take to prove who is at its other end: by
// its certificate, or with a call that has a good token.
const provenWithin = 30 * time.Second

// guard bounds connections: all of them, and more narrowly those that have not
// proved who they are, since anybody can open such. Where there is no room, the
// oldest unproven one makes way: honest clients prove themselves in a moment, so that
// it is hardly ever theirs. A newcomer is refused only if all the others are proven;
// and of these one identity has a quarter at most, but on this machine, where all have
// one. Where it has more, an idle one goes before those that bring calls.
type guard struct {
	most         int // open at one time
	mostUnproven int // of these, unproven, from one host. Of all hosts together: half of most

	mu       sync.Mutex
	open     int
	unproven list.List             // of *guarded, oldest first
	byHost   map[string]*list.List // the same, by host
	proven   map[string]*list.List // of *guarded, by identity, next to go first
	refused  atomic.Int64          // and evicted
}

// newGuard takes 0 as no bound.
func newGuard(most, mostUnproven int) *guard {
	if most == 0 {
		most = math.MaxInt
	}
	if mostUnproven == 0 {
		mostUnproven = math.MaxInt
	}
	return &guard{most: most, mostUnproven: mostUnproven, byHost: map[string]*list.List{}, proven: map[string]*list.List{}}
}

// listen guards a listener.
func (g *guard) listen(l net.Listener) net.Listener { return &guardedListener{l, g} }

type guardedListener struct {
	net.Listener
	guard *guard
}

// Accept gives the next connection that there is room for.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c, evicted := l.guard.admit(conn)
		if evicted != nil {
			reset(evicted.Conn)
			_ = evicted.Close()
		}
		if c != nil {
			return c, nil
		}
		reset(conn)
		_ = conn.Close()
	}
}

// reset makes closing leave nothing behind.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// admit takes a connection in, and gives the one that has to go for it, if any.
func (g *guard) admit(conn net.Conn) (c, evicted *guarded) {
	host := hostOf(conn.RemoteAddr().String())
	g.mu.Lock()
	defer g.mu.Unlock()
	of := g.byHost[host]
	if of == nil {
		of = list.New()
		g.byHost[host] = of
	}
	switch {
	case of.Len() >= g.mostUnproven:
		evicted = of.Front().Value.(*guarded)
	case g.unproven.Len() >= g.most-g.most/2, g.open >= g.most && g.unproven.Len() > 0:
		evicted = g.unproven.Front().Value.(*guarded)
	case g.open >= g.most:
		g.refused.Add(1)
		g.forget(host)
		return nil, nil
	}
	if evicted != nil {
		g.refused.Add(1)
		evicted.leave()
		g.byHost[host] = of // should it have been the last of this host
	}
	c = &guarded{Conn: conn, guard: g, host: host}
	g.open++
	c.inAll, c.inHost = g.unproven.PushBack(c), of.PushBack(c)
	c.late = time.AfterFunc(provenWithin, func() { _ = c.Close() })
	return c, evicted
}

// forget drops a host without unproven connections.
func (g *guard) forget(host string) {
	if of := g.byHost[host]; of != nil && of.Len() == 0 {
		delete(g.byHost, host)
	}
}

// counts gives how many connections are open, how many of them unproven, and how
// many were refused or had to make way so far.
func (g *guard) counts() (open, unproven int, refused int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.unproven.Len(), g.refused.Load()
}

// guarded is a connection that is counted.
type guarded struct {
	net.Conn
	guard *guard
	host  string
	late  *time.Timer

	isProven atomic.Bool
	inUse    atomic.Bool // since it was last considered for going
	hanging  atomic.Bool
	// Under the guard's lock: its places among the unproven, and whether it has left.
	inAll, inHost *list.Element
	identity      string // and among the proven
	inIdentity    *list.Element
	left          bool
}

// proven says who is at the other end. It may be called of nil, and again: the first
// word counts. Of one that has too many connections, one has to go.
func (c *guarded) proven(identity string) {
	if c == nil || c.isProven.Load() {
		return
	}
	if evicted := c.prove(identity); evicted != nil {
		reset(evicted.Conn)
		_ = evicted.Conn.Close()
	}
}

// used takes note of a call. It may be called of nil.
func (c *guarded) used() {
	if c != nil && !c.inUse.Load() { // else it is only read, and by many
		c.inUse.Store(true)
	}
}

func (c *guarded) prove(identity string) (evicted *guarded) {
	g := c.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.left || !c.isProven.CompareAndSwap(false, true) {
		return nil
	}
	c.unqueue()
	if identity == access.Local {
		return nil
	}
	of := g.proven[identity]
	if of == nil {
		of = list.New()
		g.proven[identity] = of
	}
	c.identity, c.inIdentity = identity, of.PushBack(c)
	if of.Len() > max(g.most/4, 1) {
		evicted = idlest(of, c)
		evicted.leave()
		g.refused.Add(1)
	}
	return evicted
}

// idlest gives the oldest that has not been in use since it was last passed over,
// but not the newcomer.
func idlest(of *list.List, newcomer *guarded) *guarded {
	for {
		c := of.Front().Value.(*guarded)
		if !c.inUse.CompareAndSwap(true, false) && c != newcomer {
			return c
		}
		of.MoveToBack(of.Front())
	}
}

// unqueue takes it from among the unproven.
func (c *guarded) unqueue() {
	c.late.Stop()
	c.guard.unproven.Remove(c.inAll)
	c.guard.byHost[c.host].Remove(c.inHost)
	c.guard.forget(c.host)
}

// leave uncounts it, once.
func (c *guarded) leave() {
	if c.left {
		return
	}
	c.left = true
	c.guard.open--
	if !c.isProven.Load() {
		c.unqueue()
	} else if of := c.guard.proven[c.identity]; of != nil {
		if of.Remove(c.inIdentity); of.Len() == 0 {
			delete(c.guard.proven, c.identity)
		}
	}
}

// hangUp closes it when there has been time for an answer. It may be called of nil.
func (c *guarded) hangUp() {
	if c != nil && c.hanging.CompareAndSwap(false, true) {
		time.AfterFunc(answerTime, func() { _ = c.Close() })
	}
}

const answerTime = 20 * time.Millisecond

// Close closes and uncounts it.
func (c *guarded) Close() error {
	c.guard.mu.Lock()
	c.leave()
	c.guard.mu.Unlock()
	return c.Conn.Close()
}
