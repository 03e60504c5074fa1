package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// Old is a lease that an owner before us has granted, as its id tells.
type Old struct {
	Epoch    uint64
	Lease    LeaseID
	Key      uint64 // the Hash of its id
	Class    uint64 // the Hash of its name
	Holder   string
	TTL      time.Duration
	Count    int
	Reserved provider.Amounts
}

// Hash names something in a few bytes: FNV-1a, written out because each lease has
// one made and hash/fnv would allocate.
func Hash(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// theirs tells the numbers of old leases from those of ours.
const theirs = 1 << 63

// maxOld bounds the old leases that are remembered.
const maxOld = 100_000

type oldID struct {
	epoch uint64
	lease LeaseID
}

// oldLease is one that has been reported here.
type oldLease struct {
	lease
	ended  bool
	until  Time
	ghosts map[*bucket]*ghost // what it holds, once it is known to go on
}

// ReportOld takes in what the provider answered to a lease of an owner before us.
// It can only make things tighter: use beyond what was reserved is charged, and a
// refusal counts. What was reserved counts already, as far as anybody knows, so
// nothing comes back, and nothing that an answer says of limits is believed. expires
// is until when it is remembered. The error is ErrLeaseEnded: it has ended by a
// final report, or long ago, and nothing has changed. While the other may still
// grant (Overlap), our owner waits with this call: it would renew what the other
// takes for ended.
func (p *Pool) ReportOld(now Time, o *Old, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	now = p.tick(now)
	l := p.oldLease(now, o)
	if l == nil || l.ended || now >= l.until {
		return 0, ErrLeaseEnded
	}
	l.until = max(l.until, now.Add(o.TTL))
	p.oldEnd = max(p.oldEnd, l.until)
	l.ended = final
	if l.overuse(now, used) {
		p.dirty = true
	}
	if s.Class != provider.OK {
		p.judge(now, &l.lease, &s, final)
	}
	if !final {
		p.linger(now, l)
	}
	return l.until, nil
}

// oldLease finds what is known of an old lease, or begins with it; nil if it is
// too late for that, or of nothing that is still there.
func (p *Pool) oldLease(now Time, o *Old) *oldLease {
	id := oldID{o.Epoch, o.Lease}
	if l := p.old[id]; l != nil {
		return l
	}
	if now >= p.oldUntil || len(p.old) >= maxOld {
		return nil
	}
	k := p.keyHashed(o.Key)
	c := p.classHashed(o.Class)
	if k == nil || c == nil {
		return nil
	}
	if p.old == nil {
		p.old = map[oldID]*oldLease{}
	}
	l := &oldLease{until: p.oldUntil, lease: lease{
		id: o.Lease | theirs, granted: p.oldSince, holder: &holder{name: o.Holder}, key: k, account: k.group.accounts[c.index],
		reserved: o.Reserved, count: o.Count, ttl: o.TTL,
	}}
	p.old[id] = l
	return l
}

func (p *Pool) keyHashed(h uint64) *key {
	if p.hashed == nil {
		p.hashed = make(map[uint64]*key, len(p.keys))
		for _, k := range p.keys {
			p.hashed[Hash(k.id)] = k
		}
	}
	return p.hashed[h]
}

func (p *Pool) classHashed(h uint64) *class {
	for _, c := range p.inOrder {
		if Hash(c.name) == h {
			return c
		}
	}
	return nil
}

// overuse charges what was used beyond the reservation.
func (l *oldLease) overuse(now Time, used provider.Amounts) (over bool) {
	l.charged = ^uint32(0)
	l.bound(now, &used)
	l.buckets(func(_ uint32, b *bucket) {
		d := b.dimension
		if n := used[d] - max(l.used[d], l.reserved[d]); n > 0 && b.window > 0 {
			b.charge(now, n)
			over = true
		}
	})
	l.charged = 0
	l.used.Raise(&used)
	return over
}
