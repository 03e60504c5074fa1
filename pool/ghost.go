package pool

import "time"

// ghost is what leases of another owner hold: slots, and amounts that are not known
// yet. Nobody knows which of them have ended, so it is there until all have.
type ghost struct {
	group  *group
	bucket *bucket
	n      int64
	own    bool // of one lease that is known
	index  int32
}

func (g *ghost) place() *int32 { return &g.index }

// mostHeld is how long a lease may hold an amount without a report.
func (b *bucket) mostHeld(ttl time.Duration) time.Duration {
	if b.window == 0 {
		return ttl
	}
	return min(ttl, b.holdFor())
}

func (p *Pool) haunt(g *group, b *bucket, n int64, until Time) *ghost {
	b.held += n // beside the escrow: nobody is given any of it
	x := &ghost{group: g, bucket: b, n: n, index: -1}
	p.ghosts.push(x, int64(until))
	g.ghosts = append(g.ghosts, x)
	return x
}

// exorcise ends the ghosts whose time has come. What they held is charged, for it
// may have been used at the last moment; a slot is free.
func (p *Pool) exorcise(now Time) {
	for p.ghosts.len() > 0 {
		x, until := p.ghosts.min()
		if Time(until) > now {
			return
		}
		p.ghosts.remove(x)
		x.group.bury(x)
		x.bucket.meter.charge(Time(until), x.n) // however late it is now
		x.bucket.held -= x.n
		for _, a := range x.group.accounts {
			p.freed(now, a)
		}
	}
}

func (g *group) bury(x *ghost) {
	for i, y := range g.ghosts {
		if x == y {
			last := len(g.ghosts) - 1
			g.ghosts[i], g.ghosts[last] = g.ghosts[last], nil
			g.ghosts = g.ghosts[:last]
			return
		}
	}
}

// linger takes note that a call of before is still open, for as long again at most:
// its slot stays taken, and what it has not used yet stays held.
func (p *Pool) linger(now Time, l *oldLease) {
	g := l.account.group
	l.charged = ^uint32(0)
	l.buckets(func(_ uint32, b *bucket) {
		n := l.left(b.dimension)
		if b.window == 0 {
			n = l.reserved[b.dimension]
		}
		if !b.holds || n == 0 {
			return
		}
		until := now.Add(b.mostHeld(l.ttl))
		if x := l.ghosts[b]; x != nil {
			p.lasts(x, n, now, until)
			return
		}
		for _, x := range g.ghosts {
			if x.bucket == b && !x.own { // it was one of those
				one := min(n, x.n)
				x.n, b.held = x.n-one, b.held-one
				until = max(until, Time(p.ghosts.items[x.index].key))
				break
			}
		}
		x := p.haunt(g, b, n, until)
		x.own = true
		if l.ghosts == nil {
			l.ghosts = map[*bucket]*ghost{}
		}
		l.ghosts[b] = x
	})
	l.charged = 0
}

// lasts makes a ghost of one lease last longer, unless it has ended, and charges
// what it held and has used by now.
func (p *Pool) lasts(x *ghost, n int64, now, until Time) {
	if x.index < 0 {
		return
	}
	if b := x.bucket; b.window > 0 && x.n > n {
		b.charge(now, x.n-n)
		b.hold(n - x.n)
		x.n = n
	}
	p.ghosts.update(x, max(int64(until), p.ghosts.items[x.index].key))
}
