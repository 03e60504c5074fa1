package bolt

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/bbolt"

	"github.com/keybroker/keybroker/internal/failpoint"
)

// The buckets and their keys. A name has an epoch since its first claim, and a manifest since
// its first save.
var (
	metaBucket      = []byte("meta")
	epochsBucket    = []byte("epochs")    // name → epoch, 8 bytes
	manifestsBucket = []byte("manifests") // name → manifest
	chunksBucket    = []byte("chunks")    // size of the name in 2 bytes, name, id → chunk

	schemaKey = []byte("schema") // version, 8 bytes
	sealKey   = []byte("seal")   // count and sum, 8 bytes each
)

// version returns the schema version of a file, 0 for a new one.
func version(tx *bbolt.Tx) (uint64, error) {
	b := tx.Bucket(metaBucket)
	if b == nil {
		return 0, nil
	}
	v := b.Get(schemaKey)
	if len(v) != 8 {
		return 0, corrupt("its schema version has %d bytes", len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// chunkKey is the key of a chunk in its bucket.
func chunkKey(name, id string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
	return append(append(b, name...), id...)
}

// splitChunkKey returns the name and the id of a chunk's key, and whether it is one.
func splitChunkKey(key []byte) (name, id string, ok bool) {
	if len(key) < 2 {
		return "", "", false
	}
	n := 2 + int(binary.BigEndian.Uint16(key))
	if len(key) <= n {
		return "", "", false
	}
	return string(key[2:n]), string(key[n:]), true
}

// read reads all entries of the file and checks them against their manifests and the seal.
func (d *disk) read(tx *bbolt.Tx) error {
	m, epochs, manifests, chunks := tx.Bucket(metaBucket), tx.Bucket(epochsBucket), tx.Bucket(manifestsBucket), tx.Bucket(chunksBucket)
	if epochs == nil || manifests == nil || chunks == nil {
		return corrupt("a bucket is missing")
	}
	err := epochs.ForEach(func(name, v []byte) error {
		if len(v) != 8 {
			return corrupt("an epoch has %d bytes", len(v))
		}
		d.names[string(name)] = entry{epoch: binary.BigEndian.Uint64(v)}
		return nil
	})
	if err != nil {
		return err
	}
	stated := map[string]manifest{}
	err = manifests.ForEach(func(name, v []byte) error {
		e, claimed := d.names[string(name)]
		m, ok := parseManifest(v)
		if !claimed || !ok {
			return corrupt("a manifest without an epoch, or with %d bytes", len(v))
		}
		stated[string(name)] = m
		e.version, e.savedBy, e.chunks = m.version, m.savedBy, map[string]chunk{}
		d.names[string(name)] = e
		return nil
	})
	if err != nil {
		return err
	}
	err = chunks.ForEach(func(key, v []byte) error {
		name, id, ok := splitChunkKey(key)
		e := d.names[name]
		if !ok || e.chunks == nil || v == nil {
			return corrupt("a chunk without a manifest")
		}
		e.add(id, newChunk(id, bytes.Clone(v)))
		d.names[name] = e
		return nil
	})
	if err != nil {
		return err
	}
	for name, e := range d.names {
		if e.manifest != stated[name] {
			return corrupt("the chunks of a record are not those that its manifest names")
		}
		d.seal.count++
		d.seal.sum += e.digest(name)
	}
	if v := m.Get(sealKey); !bytes.Equal(v, d.seal.bytes()) {
		return corrupt("its content does not match its checksum")
	}
	return nil
}

func (s seal) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.count), s.sum)
}

func putSeal(tx *bbolt.Tx, s seal) error { return tx.Bucket(metaBucket).Put(sealKey, s.bytes()) }

// write replaces entries in the file and returns the seal that goes with them. Without an
// error the entries are durable. It leaves d.names and d.seal to the caller.
func (d *disk) write(changed map[string]entry) (next seal, err error) {
	next = d.seal
	err = d.db.Update(func(tx *bbolt.Tx) error {
		for name, e := range changed {
			was, known := d.names[name]
			if known {
				next.sum -= was.digest(name)
			} else {
				next.count++
			}
			next.sum += e.digest(name)
			if err := replace(tx, name, was, e); err != nil {
				return err
			}
		}
		return putSeal(tx, next)
	})
	return next, err
}

// replace writes what differs between two entries of a name. It fails if the epoch or the
// manifest in the file is not the one that the decision was based on.
func replace(tx *bbolt.Tx, name string, was, is entry) error {
	epochs, manifests, key := tx.Bucket(epochsBucket), tx.Bucket(manifestsBucket), []byte(name)
	var stored uint64
	if v := epochs.Get(key); v != nil {
		stored = binary.BigEndian.Uint64(v)
	}
	if stored != was.epoch {
		return corrupt("the epoch of %q was changed from %d to %d by another program", name, was.epoch, stored)
	}
	if m, _ := parseManifest(manifests.Get(key)); m != was.manifest {
		return corrupt("the record of %q was changed from version %d to %d by another program", name, was.version, m.version)
	}
	if is.epoch != was.epoch {
		if err := epochs.Put(key, binary.BigEndian.AppendUint64(nil, is.epoch)); err != nil {
			return err
		}
	}
	if is.manifest == was.manifest {
		return nil
	}
	if err := replaceChunks(tx.Bucket(chunksBucket), name, was.chunks, is.chunks); err != nil {
		return err
	}
	failpoint.At("chunks-written")
	return manifests.Put(key, is.manifest.bytes())
}

// replaceChunks writes what differs between the chunks of two records of a name.
func replaceChunks(chunks *bbolt.Bucket, name string, was, is map[string]chunk) error {
	for id := range was {
		if _, stays := is[id]; stays {
			continue
		}
		if err := chunks.Delete(chunkKey(name, id)); err != nil {
			return err
		}
	}
	for id, c := range is {
		if w, ok := was[id]; ok && w.sum == c.sum && bytes.Equal(w.data, c.data) {
			continue
		}
		if err := chunks.Put(chunkKey(name, id), c.data); err != nil {
			return err
		}
	}
	return nil
}
