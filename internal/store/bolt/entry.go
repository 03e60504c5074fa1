package bolt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"

	"github.com/keybroker/keybroker/internal/broker"
)

// entry is what the file holds for a name: the epoch of the latest claim, and the record.
type entry struct {
	epoch    uint64
	manifest                  // of the record
	chunks   map[string]chunk // by id; never changed in place
}

// chunk is a chunk and its checksum.
type chunk struct {
	data []byte // never changed
	sum  uint64
}

// manifest says which chunks make up a record. It is written in the same transaction as they
// are. A record whose chunks do not add up to its manifest is damaged.
type manifest struct {
	version uint64 // 0 if no record was saved
	savedBy uint64 // the epoch of the owner who saved it; 0 if that is not known
	count   uint64 // of the chunks
	sum     uint64 // of their checksums
}

// manifestSize is that of a manifest in the file.
const manifestSize = 32

func (m manifest) bytes() []byte {
	b := make([]byte, 0, manifestSize)
	for _, n := range []uint64{m.version, m.savedBy, m.count, m.sum} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// parseManifest reads a manifest. It returns false if it is none.
func parseManifest(b []byte) (m manifest, ok bool) {
	if len(b) != manifestSize {
		return m, false
	}
	m.version, m.savedBy = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	m.count, m.sum = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	return m, m.version > 0
}

// newChunk adds the checksum to the data of a chunk.
func newChunk(id string, data []byte) chunk {
	h := sha256.New()
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(id))))
	_, _ = h.Write([]byte(id))
	_, _ = h.Write(data)
	return chunk{data, binary.BigEndian.Uint64(h.Sum(nil))}
}

// with returns the entry after a save by the owner with an epoch.
func (e entry) with(change *broker.Change, epoch uint64) entry {
	e.chunks = maps.Clone(e.chunks)
	if e.chunks == nil {
		e.chunks = make(map[string]chunk, len(change.Put))
	}
	for _, id := range change.Drop {
		e.remove(id)
	}
	for id, data := range change.Put {
		e.remove(id)
		e.add(id, newChunk(id, data))
	}
	e.version++
	e.savedBy = epoch
	return e
}

func (e *entry) add(id string, c chunk) {
	e.chunks[id] = c
	e.count++
	e.sum += c.sum
}

func (e *entry) remove(id string) {
	if c, ok := e.chunks[id]; ok {
		delete(e.chunks, id)
		e.count--
		e.sum -= c.sum
	}
}

// record returns a copy of the record.
func (e entry) record() broker.Record {
	r := broker.Record{Version: e.version, Epoch: e.savedBy}
	if e.version > 0 {
		r.Chunks = make(map[string][]byte, len(e.chunks))
	}
	for id, c := range e.chunks {
		r.Chunks[id] = bytes.Clone(c.data)
	}
	return r
}

// digest is what the entry of a name adds to the sum of the seal.
func (e entry) digest(name string) uint64 {
	h := sha256.New()
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, e.epoch))
	_, _ = h.Write(e.manifest.bytes())
	_, _ = h.Write([]byte(name))
	return binary.BigEndian.Uint64(h.Sum(nil))
}
