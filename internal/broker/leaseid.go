package broker

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// leaseName is what a lease id says: which lease of which owner it is, and all that a
// successor must know of it. Ids are derived from it and never stored. They are signed
// together with the holder, so that nobody can guess an id or use another holder's.
type leaseName struct {
	pool       uint64 // the pool.Hash of its name
	epoch      uint64 // of the owner that granted it
	lease      pool.LeaseID
	key, class uint64 // the pool.Hash of the key's id and of the class's name
	ttl        time.Duration
	count      int // how many requests it is good for
	reserved   provider.Amounts
}

// nameOf returns the name of a lease that this owner granted.
func (p *ownedPool) nameOf(g *pool.Grant) leaseName {
	return leaseName{
		pool: p.hash, epoch: p.epoch, lease: g.Lease, key: pool.Hash(g.Key), class: pool.Hash(g.Class),
		ttl: g.Expires.Sub(g.Granted), count: g.Count, reserved: g.Reserved,
	}
}

// asPredecessors describes the lease to an engine that has not granted it.
func (n *leaseName) asPredecessors(holder string) *pool.PredecessorLease {
	return &pool.PredecessorLease{
		Epoch: n.epoch, Lease: n.lease, Key: n.key, Class: n.class, Holder: holder,
		TTL: n.ttl, Count: n.count, Reserved: n.reserved,
	}
}

// An id is this, in base64:
//
//	version, signing key           one byte each
//	pool, key, class               8 bytes each
//	epoch, lease, ttl, count       uvarints
//	reserved, by dimension         uvarints
//	tag                            16 bytes
//
// The tag is computed over everything before it and the holder. A change of the format needs
// a new version, because ids outlive the program that made them. A new dimension does not: it
// comes last, and an id that ends before it reserves none of it.
const leaseIDVersion = 2

// The largest values that an id can say. A larger value is cut, which is on the safe side:
// a successor charges what was used beyond the reservation that it knows of.
const (
	maxLeaseAmount = 1<<56 - 1 // as nanoseconds, about two years
	maxLeaseCount  = math.MaxInt32
)

// Sizes of ids in bytes and, as text, in characters.
const (
	tagSize   = 16
	leastName = 2 + 3*8 + 4
	mostName  = 2 + 3*8 + 2*binary.MaxVarintLen64 + 8 + binary.MaxVarintLen32 + 8*int(provider.NumDimensions)
	mostBytes = mostName + tagSize
	leastText = ((leastName+tagSize)*8 + 5) / 6
	mostText  = (mostBytes*8 + 5) / 6
)

const _ = byte(mostName) // the length of a name fits into the byte that is signed with it

var idEncoding = base64.RawURLEncoding.Strict()

func (n *leaseName) encode(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, n.pool)
	b = binary.BigEndian.AppendUint64(b, n.key)
	b = binary.BigEndian.AppendUint64(b, n.class)
	b = binary.AppendUvarint(b, n.epoch)
	b = binary.AppendUvarint(b, uint64(n.lease))
	b = binary.AppendUvarint(b, clamp(int64(n.ttl), maxLeaseAmount))
	b = binary.AppendUvarint(b, clamp(int64(n.count), maxLeaseCount))
	for _, a := range n.reserved {
		b = binary.AppendUvarint(b, clamp(a, maxLeaseAmount))
	}
	return b
}

func clamp(n, most int64) uint64 { return uint64(min(max(n, 0), most)) }

// decode reads what encode writes, and reports false for anything else. b is at least as
// long as the three hashes.
func (n *leaseName) decode(b []byte) bool {
	n.pool = binary.BigEndian.Uint64(b)
	n.key = binary.BigEndian.Uint64(b[8:])
	n.class = binary.BigEndian.Uint64(b[16:])
	r := uvarints{b: b[24:]}
	n.epoch = r.next(math.MaxUint64)
	n.lease = pool.LeaseID(r.next(math.MaxUint64))
	n.ttl = time.Duration(r.next(maxLeaseAmount))
	n.count = int(r.next(maxLeaseCount))
	for d := range n.reserved {
		if len(r.b) > 0 {
			n.reserved[d] = int64(r.next(maxLeaseAmount))
		}
	}
	return !r.bad && len(r.b) == 0
}

// uvarints reads numbers, and accepts each only in its shortest encoding.
type uvarints struct {
	b   []byte
	bad bool
}

func (r *uvarints) next(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 || v > most {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}
