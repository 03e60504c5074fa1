package broker

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/internal/provider"
	"github.com/keybroker/keybroker/pool"
)

// leaseName is what a lease id says: which lease of which owner, and all that an
// owner who never granted it must know of it. The id is signed over that and its
// holder, so that nobody can guess one or use another's; it is derived and never
// stored.
type leaseName struct {
	pool       uint64 // the pool.Hash of its name, since places in a configuration change
	epoch      uint64
	lease      pool.LeaseID
	key, class uint64 // as is the pool
	ttl        time.Duration
	count      int // requests it is good for
	reserved   provider.Amounts
}

// An id is this, in base64:
//
//	version, signing key           a byte each
//	pool, key, class               8 bytes each
//	epoch, lease, ttl, count       uvarints
//	reserved, by dimension         uvarints
//	tag                            16 bytes
//
// The tag is over all before it, and the holder. Whoever changes any of it, or the
// dimensions, takes a new version: ids outlive the program that made them.
const leaseIDVersion = 2

// What an id may say. More is cut to it, which is on the safe side: what is used
// beyond the reservation that we know of is charged.
const (
	maxLeaseAmount = 1<<56 - 1 // as a time, two years
	maxLeaseCount  = math.MaxInt32
)

const (
	tagSize   = 16
	leastName = 2 + 3*8 + 4 + int(provider.NumDimensions)
	mostName  = 2 + 3*8 + 2*binary.MaxVarintLen64 + 8 + binary.MaxVarintLen32 + 8*int(provider.NumDimensions)
	mostBytes = mostName + tagSize
	leastText = ((leastName+tagSize)*8 + 5) / 6
	mostText  = (mostBytes*8 + 5) / 6
)

var idEncoding = base64.RawURLEncoding.Strict()

// signer makes and checks lease ids. It is safe for concurrent use.
type signer struct{ keys atomic.Pointer[keysAtWork] }

type keysAtWork struct{ newest, older *keyAtWork } // older may be nil

type keyAtWork struct {
	id   byte
	pads sync.Pool // of *pad, since a new HMAC costs more than its use
}

// pad is an HMAC with room to work in: what is given to a hash would otherwise be
// allocated each time.
type pad struct {
	mac  hash.Hash
	name [1 + mostBytes]byte // the length of a name, the name, the tag
	text [mostText]byte
	sum  [sha256.Size]byte
}

func newSigner(k signingKeys) *signer {
	s := &signer{}
	s.use(k)
	return s
}

// use swaps the keys, while ids are made and checked. They must be on record: else
// what they sign is worth nothing after a restart.
func (s *signer) use(k signingKeys) {
	s.keys.Store(&keysAtWork{newest: k.newest.atWork(), older: k.older.atWork()})
}

func (s *signer) id(n leaseName, holder string) string {
	k := s.keys.Load().newest
	p := k.pads.Get().(*pad)
	defer k.pads.Put(p)
	b := append(p.name[:1], leaseIDVersion, k.id)
	b = n.encode(b)
	b = append(b, p.tag(len(b)-1, holder)...)
	text := p.text[:idEncoding.EncodedLen(len(b)-1)]
	idEncoding.Encode(text, b[1:])
	return string(text)
}

// parse reads an id that has been made for the holder with one of our keys.
func (s *signer) parse(id, holder string) (n leaseName, ok bool) {
	if len(id) < leastText || len(id) > mostText {
		return n, false
	}
	var text [mostText]byte
	var b [mostBytes]byte
	copy(text[:], id)
	size, err := idEncoding.Decode(b[:], text[:len(id)])
	if err != nil || idEncoding.EncodedLen(size) != len(id) || b[0] != leaseIDVersion { // new lines are skipped
		return n, false
	}
	k := s.keys.Load().find(b[1])
	if k == nil {
		return n, false
	}
	p := k.pads.Get().(*pad)
	defer k.pads.Put(p)
	name, tag := b[:size-tagSize], b[size-tagSize:size]
	copy(p.name[1:], name)
	if !hmac.Equal(tag, p.tag(len(name), holder)) {
		return n, false
	}
	ok = n.decode(name[2:])
	return n, ok
}

func (k *keysAtWork) find(id byte) *keyAtWork {
	switch {
	case k.newest.id == id:
		return k.newest
	case k.older != nil && k.older.id == id:
		return k.older
	}
	return nil
}

// tag signs the name on the pad, of some length, and the holder. The length comes
// first, so that the boundary between the two cannot be moved.
func (p *pad) tag(length int, holder string) []byte {
	p.name[0] = byte(length)
	p.mac.Reset()
	p.mac.Write(p.name[:1+length])
	for len(holder) > 0 { // by way of the pad, as a conversion would allocate
		n := copy(p.text[:], holder)
		p.mac.Write(p.text[:n])
		holder = holder[n:]
	}
	return p.mac.Sum(p.sum[:0])[:tagSize]
}

const _ = byte(mostName) // its length fits

func (n *leaseName) encode(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, n.pool)
	b = binary.BigEndian.AppendUint64(b, n.key)
	b = binary.BigEndian.AppendUint64(b, n.class)
	b = binary.AppendUvarint(b, n.epoch)
	b = binary.AppendUvarint(b, uint64(n.lease))
	b = binary.AppendUvarint(b, within(int64(n.ttl), maxLeaseAmount))
	b = binary.AppendUvarint(b, within(int64(n.count), maxLeaseCount))
	for _, a := range n.reserved {
		b = binary.AppendUvarint(b, within(a, maxLeaseAmount))
	}
	return b
}

func within(n, most int64) uint64 { return uint64(min(max(n, 0), most)) }

// decode reads what encode writes, and nothing else; b is at least as long as the
// hashes.
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
		n.reserved[d] = int64(r.next(maxLeaseAmount))
	}
	return !r.bad && len(r.b) == 0
}

// uvarints reads numbers, each in its shortest spelling.
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

// old is the lease, for an owner that has not granted it.
func (n *leaseName) old(holder string) *pool.Old {
	return &pool.Old{
		Epoch: n.epoch, Lease: n.lease, Key: n.key, Class: n.class, Holder: holder,
		TTL: n.ttl, Count: n.count, Reserved: n.reserved,
	}
}
