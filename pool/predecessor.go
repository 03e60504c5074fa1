package pool

import (
	"time"

	"github.com/keybroker/keybroker/internal/provider"
)

// PredecessorLease is a lease that a predecessor has granted, as its id tells.
type PredecessorLease struct {
	Epoch    uint64
	Lease    LeaseID
	Key      uint64 // the Hash of its id
	Class    uint64 // the Hash of its name
	Holder   string
	TTL      time.Duration
	Count    int
	Reserved provider.Amounts
}

// Hash names something in a few bytes: FNV-1a, written out because one is made for each
// lease and hash/fnv would allocate.
func Hash(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}

// foreignID marks the numbers of a predecessor's leases among those of ours.
const foreignID = 1 << 63

// maxPredecessorLeases bounds how many are remembered.
const maxPredecessorLeases = 100_000

// predecessors is what is known of the leases that owners before us have granted.
type predecessors struct {
	leases map[predecessorID]*predecessorLease
	hashed map[uint64]*key
	since  Time // none of them was granted earlier, as far as we know
	until  Time // from then on, none is heard of for the first time
	end    Time // then all that were heard of have ended
}

type predecessorID struct {
	epoch uint64
	lease LeaseID
}

// predecessorLease is one that has been reported here.
type predecessorLease struct {
	lease
	ended   bool
	until   Time
	orphans map[*bucket]*orphan // what it holds, once it is known to continue
}

// ReportPredecessor takes in what the provider answered to a lease of a predecessor. It can only
// tighten: use beyond what was reserved is charged, and a refusal counts. What was
// reserved counts already, as far as anybody knows, so nothing comes back, and nothing
// that an answer says about limits is believed. expires is until when the lease is
// remembered. The error is ErrLeaseEnded: it has ended by a final report, or long ago,
// and nothing has changed. Until Overlap has passed the owner delays this call, or it would
// renew a lease that the predecessor has ended.
func (dom *Domain) ReportPredecessor(now Time, o *PredecessorLease, s provider.Signal, used provider.Amounts, final bool) (expires Time, err error) {
	now = dom.tick(now)
	l := dom.predecessorLease(now, o)
	if l == nil || l.ended || now >= l.until {
		return 0, ErrLeaseEnded
	}
	l.until = max(l.until, now.Add(o.TTL))
	dom.predecessors.end = max(dom.predecessors.end, l.until)
	l.ended = final
	dom.touch(l.account, l.key)
	if dom.chargeOveruse(now, l, used) {
		dom.noteCharged(l.key, l.account)
	}
	if s.Class != provider.OK {
		dom.blame(now, &l.lease, &s, final)
	}
	if !final {
		dom.continues(now, l)
	}
	return l.until, nil
}

// predecessorLease finds what is known of a lease, or begins with it; nil if it is too
// late for that, or if its key or class exists no more.
func (dom *Domain) predecessorLease(now Time, o *PredecessorLease) *predecessorLease {
	d := &dom.predecessors
	id := predecessorID{o.Epoch, o.Lease}
	if l := d.leases[id]; l != nil {
		return l
	}
	if now >= d.until || len(d.leases) >= maxPredecessorLeases {
		return nil
	}
	k := dom.keyHashed(o.Key)
	c := dom.classHashed(o.Class)
	if k == nil || c == nil {
		return nil
	}
	if d.leases == nil {
		d.leases = map[predecessorID]*predecessorLease{}
	}
	l := &predecessorLease{until: d.until, lease: lease{
		id: o.Lease | foreignID, granted: d.since, by: &instance{holder: &holder{holderKey: holderKey{name: o.Holder}}}, key: k, account: k.group.accounts[c.index],
		reserved: o.Reserved, count: int32(o.Count), ttl: o.TTL, ledger: &ledger{}, // #nosec G115 -- an id says no more
	}}
	d.leases[id] = l
	return l
}

func (dom *Domain) keyHashed(h uint64) *key {
	d := &dom.predecessors
	if d.hashed == nil {
		d.hashed = make(map[uint64]*key, len(dom.keys))
		for _, k := range dom.keys {
			d.hashed[Hash(k.id)] = k
		}
	}
	return d.hashed[h]
}

func (dom *Domain) classHashed(h uint64) *class {
	for _, c := range dom.inOrder {
		if Hash(c.name) == h {
			return c
		}
	}
	return nil
}

// chargeOveruse charges what was used beyond the reservation. It returns whether there
// was any.
func (dom *Domain) chargeOveruse(now Time, l *predecessorLease, used provider.Amounts) (over bool) {
	buckets := l.key.charges(l.account).buckets
	l.bound(now, buckets, &used)
	for _, b := range buckets {
		d := b.Dimension()
		if n := used[d] - max(l.used[d], l.reserved[d]); n > 0 && !b.Slots() {
			dom.owe(now, &l.lease, b, n)
			over = true
		}
	}
	l.used.Raise(&used)
	return over
}
