package broker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"sync"

	"github.com/keybroker/keybroker/pool"
)

// leaseName is what a lease id says: which lease of which pool, under which
// owner. The id is signed over that and its holder, so that nobody can guess
// one or use another's; it is derived and never stored.
type leaseName struct {
	pool  uint16 // its place in the configuration
	epoch uint64
	lease pool.LeaseID
}

const (
	leaseIDVersion = 1
	nameSize       = 1 + 2 + 8 + 8
	macSize        = 16
)

// signer makes and checks lease ids.
type signer struct{ macs sync.Pool } // of hash.Hash, since a new one costs more than its use

func newSigner() *signer {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return &signer{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

func (s *signer) id(n leaseName, holder string) string {
	b := append(make([]byte, 0, nameSize+sha256.Size), leaseIDVersion)
	b = binary.BigEndian.AppendUint16(b, n.pool)
	b = binary.BigEndian.AppendUint64(b, n.epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(n.lease))
	b = s.mac(b, b, holder)[:nameSize+macSize]
	return base64.RawURLEncoding.EncodeToString(b)
}

// mac appends the signature of name and holder to dst.
func (s *signer) mac(dst, name []byte, holder string) []byte {
	h := s.macs.Get().(hash.Hash)
	defer s.macs.Put(h)
	h.Reset()
	h.Write(name)
	h.Write([]byte(holder))
	return h.Sum(dst)
}

// parse reads an id that this signer has made for the holder.
func (s *signer) parse(id, holder string) (n leaseName, ok bool) {
	if len(id) != base64.RawURLEncoding.EncodedLen(nameSize+macSize) {
		return n, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(id) // which skips new lines
	if err != nil || len(b) != nameSize+macSize || b[0] != leaseIDVersion {
		return n, false
	}
	name, mac := b[:nameSize], b[nameSize:]
	if !hmac.Equal(mac, s.mac(nil, name, holder)[:macSize]) {
		return n, false
	}
	n.pool = binary.BigEndian.Uint16(name[1:])
	n.epoch = binary.BigEndian.Uint64(name[3:])
	n.lease = pool.LeaseID(binary.BigEndian.Uint64(name[11:]))
	return n, true
}
