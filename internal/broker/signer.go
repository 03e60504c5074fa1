package broker

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"
)

// keepSigningKey is how long a key signs before a new one takes its place. No lease lives
// that long.
const keepSigningKey = 7 * 24 * time.Hour

// signer makes and checks lease ids. It is safe for concurrent use.
type signer struct{ keys atomic.Pointer[activeKeys] }

// activeKeys are signing keys ready for use. The newest signs; older, which may be nil, is
// only checked with.
type activeKeys struct{ newest, older *activeKey }

type activeKey struct {
	id   byte
	free sync.Pool // of *scratch, because making an HMAC takes longer than using it
}

// scratch is an HMAC with memory to work in. What is passed to a hash.Hash escapes, and
// would be allocated for each id.
type scratch struct {
	mac  hash.Hash
	name [1 + mostBytes]byte // the length of the name, the name, and the tag
	text [mostText]byte
	sum  [sha256.Size]byte
}

func newSigner(k signingKeys) *signer {
	s := &signer{}
	s.use(k)
	return s
}

// startSigner uses the signing keys on record, or makes the first ones, and rotates them
// until the context ends. lost makes new keys, so that all earlier ids are void.
func startSigner(ctx context.Context, store Store, lost bool) (*signer, error) {
	epoch, err := store.Claim(ctx, signingKeysName)
	if err != nil {
		return nil, fmt.Errorf("claim the signing keys: %w", err)
	}
	kept := &keeper{store: store, name: signingKeysName, epoch: epoch}
	record, err := kept.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the signing keys: %w", err)
	}
	keys, changed := newSigningKeys(time.Now()), true
	if record.Version > 0 && !lost {
		if keys, err = parseSigningKeys(record.Chunks[SoleChunk]); err != nil {
			if errors.Is(err, errSigningRecord) {
				err = fmt.Errorf("%w; start once with --state-lost, which makes new ones", err)
			}
			return nil, err
		}
		keys, changed = keys.rotate(time.Now(), keepSigningKey)
	}
	if changed {
		if err := kept.save(ctx, keys.change()); err != nil {
			return nil, fmt.Errorf("save the signing keys: %w", err)
		}
	}
	s := newSigner(keys)
	go s.rotate(ctx, kept, keys)
	return s, nil
}

// rotate makes a new key when the newest is old, and saves it before it signs. If it
// cannot be saved, the present keys stay in use, and rotate tries again the next day.
func (s *signer) rotate(ctx context.Context, kept *keeper, keys signingKeys) {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-day.C:
		}
		next, changed := keys.rotate(time.Now(), keepSigningKey)
		if changed && kept.save(ctx, next.change()) == nil {
			keys = next
			s.use(keys)
		}
	}
}

// use replaces the keys while ids are made and checked. The keys must be saved before, or
// what they sign is void after a restart.
func (s *signer) use(k signingKeys) {
	s.keys.Store(&activeKeys{newest: k.newest.activate(), older: k.older.activate()})
}

// id returns the id of a lease for its holder.
func (s *signer) id(n leaseName, holder string) string {
	k := s.keys.Load().newest
	w := k.free.Get().(*scratch)
	defer k.free.Put(w)
	b := append(w.name[:1], leaseIDVersion, k.id)
	b = n.encode(b)
	b = append(b, w.tag(len(b)-1, holder)...)
	text := w.text[:idEncoding.EncodedLen(len(b)-1)]
	idEncoding.Encode(text, b[1:])
	return string(text)
}

// parse reads an id. ok is false if it was not made for the holder with one of the keys in
// use.
func (s *signer) parse(id, holder string) (n leaseName, ok bool) {
	if len(id) < leastText || len(id) > mostText {
		return n, false
	}
	var text [mostText]byte
	var b [mostBytes]byte
	copy(text[:], id)
	size, err := idEncoding.Decode(b[:], text[:len(id)])
	if err != nil || idEncoding.EncodedLen(size) != len(id) || b[0] != leaseIDVersion { // Decode skips new lines
		return n, false
	}
	k := s.keys.Load().find(b[1])
	if k == nil {
		return n, false
	}
	w := k.free.Get().(*scratch)
	defer k.free.Put(w)
	name, tag := b[:size-tagSize], b[size-tagSize:size]
	copy(w.name[1:], name)
	if !hmac.Equal(tag, w.tag(len(name), holder)) {
		return n, false
	}
	ok = n.decode(name[2:])
	return n, ok
}

func (k *activeKeys) find(id byte) *activeKey {
	switch {
	case k.newest.id == id:
		return k.newest
	case k.older != nil && k.older.id == id:
		return k.older
	}
	return nil
}

// tag signs the first length bytes of the name, and the holder. The length is signed
// first, so that the boundary between name and holder cannot be moved.
func (w *scratch) tag(length int, holder string) []byte {
	w.name[0] = byte(length)
	w.mac.Reset()
	w.mac.Write(w.name[:1+length])
	for len(holder) > 0 { // in pieces, because []byte(holder) would allocate
		n := copy(w.text[:], holder)
		w.mac.Write(w.text[:n])
		holder = holder[n:]
	}
	return w.mac.Sum(w.sum[:0])[:tagSize]
}
