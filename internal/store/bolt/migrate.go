package bolt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// migrations[v] brings a file from schema version v to v+1. A migration that was released must
// not change any more, so each has its own copy of what it needs of its time: the names of
// buckets, and how entries are written. What the program of today uses is nowhere in them.
var migrations = []func(*bbolt.Tx) error{empty1, from1to2}

// migrate applies the missing migrations in one transaction. It does not write to a file
// that needs none.
func migrate(db *bbolt.DB, isNew bool) error {
	var from uint64
	if err := db.View(func(tx *bbolt.Tx) (err error) {
		from, err = version(tx)
		return err
	}); err != nil {
		return err
	}
	switch to := uint64(len(migrations)); {
	case from == to:
		return nil
	case from > to:
		return fmt.Errorf("%w: it has schema version %d, and this keybroker knows versions up to %d", ErrNewer, from, to)
	case from == 0 && !isNew:
		return corrupt("it has no schema version")
	default:
		return db.Update(func(tx *bbolt.Tx) error {
			for _, m := range migrations[from:] {
				if err := m(tx); err != nil {
					return err
				}
			}
			return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, to))
		})
	}
}

// empty1 makes an empty file of schema version 1: name → epoch, and name → record.
func empty1(tx *bbolt.Tx) error {
	for _, name := range []string{"meta", "epochs", "records"} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte("meta")).Put([]byte("seal"), make([]byte, 16))
}

// from1to2 brings a file from schema version 1 to 2. In version 1 a record is one value, which
// becomes the sole chunk of a record. The content is checked against its seal first, since a
// new seal would hide that it is damaged.
func from1to2(tx *bbolt.Tx) error {
	epochs, records := tx.Bucket([]byte("epochs")), tx.Bucket([]byte("records"))
	if epochs == nil || records == nil {
		return corrupt("a bucket is missing")
	}
	manifests, err := tx.CreateBucket([]byte("manifests"))
	if err != nil {
		return err
	}
	chunks, err := tx.CreateBucket([]byte("chunks"))
	if err != nil {
		return err
	}
	var count, was, is uint64 // of the seals: names, and the sums of their digests
	recorded := 0
	err = epochs.ForEach(func(name, v []byte) error {
		if len(v) != 8 {
			return corrupt("an epoch has %d bytes", len(v))
		}
		epoch, record := binary.BigEndian.Uint64(v), records.Get(name)
		count++
		was += digest1(string(name), epoch, record)
		var manifest []byte
		if record != nil {
			recorded++
			manifest = manifest2(record)
			if err := manifests.Put(name, manifest); err != nil {
				return err
			}
			if err := chunks.Put(chunkKey2(name), bytes.Clone(record)); err != nil {
				return err
			}
		}
		is += digest2(string(name), epoch, manifest)
		return nil
	})
	switch {
	case err != nil:
		return err
	case !bytes.Equal(tx.Bucket([]byte("meta")).Get([]byte("seal")), numbers(count, was)), records.Stats().KeyN != recorded:
		return corrupt("its content does not match its checksum")
	}
	if err := tx.DeleteBucket([]byte("records")); err != nil {
		return err
	}
	return tx.Bucket([]byte("meta")).Put([]byte("seal"), numbers(count, is))
}

// numbers writes numbers of 8 bytes each.
func numbers(all ...uint64) (b []byte) {
	for _, n := range all {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// sum is the beginning of the SHA-256 of some texts in a row.
func sum(texts ...[]byte) uint64 {
	b := sha256.Sum256(bytes.Join(texts, nil))
	return binary.BigEndian.Uint64(b[:])
}

// digest1 is what a name, its epoch and its record added to the sum of the seal in schema
// version 1.
func digest1(name string, epoch uint64, record []byte) uint64 {
	has := make([]byte, 8)
	if record != nil {
		has[0] = 1
	}
	return sum(numbers(uint64(len(name)), epoch), has, []byte(name), record)
}

// sole2 is the id of the chunk of a record that has only one, in schema version 2.
const sole2 = "record"

// chunkKey2 is the key of that chunk: the size of the name in two bytes, the name, and the id.
func chunkKey2(name []byte) []byte {
	key := binary.BigEndian.AppendUint16(nil, uint16(len(name)))
	return append(append(key, name...), sole2...)
}

// manifest2 is the manifest of a record with that chunk, in schema version 2: the record's
// version, who has saved it, which is not known, and the count and checksum of the chunks.
func manifest2(chunk []byte) []byte {
	return numbers(1, 0, 1, sum(numbers(uint64(len(sole2))), []byte(sole2), chunk))
}

// digest2 is what a name, its epoch and its manifest add to the sum of the seal in schema version
// 2. A name without a record has a manifest of zeros there.
func digest2(name string, epoch uint64, manifest []byte) uint64 {
	if manifest == nil {
		manifest = numbers(0, 0, 0, 0)
	}
	return sum(numbers(epoch), manifest, []byte(name))
}
