package bolt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/keybroker/keybroker/internal/broker"
)

// recordsBucket was in schema version 1: name → record.
var recordsBucket = []byte("records")

// migrations[v] brings a file from schema version v to v+1. A migration that was released
// must not change any more.
var migrations = []func(*bbolt.Tx) error{
	func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{metaBucket, epochsBucket, recordsBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return putSeal(tx, seal{})
	},
	chunked,
}

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

// chunked brings a file from schema version 1 to 2. In version 1 a record is one value, which
// becomes the sole chunk of a record. The content is checked against its seal first, since a
// new seal would hide that it is damaged.
func chunked(tx *bbolt.Tx) error {
	epochs, records := tx.Bucket(epochsBucket), tx.Bucket(recordsBucket)
	if epochs == nil || records == nil {
		return corrupt("a bucket is missing")
	}
	manifests, err := tx.CreateBucket(manifestsBucket)
	if err != nil {
		return err
	}
	chunks, err := tx.CreateBucket(chunksBucket)
	if err != nil {
		return err
	}
	var was, is seal
	recorded := 0
	err = epochs.ForEach(func(name, v []byte) error {
		if len(v) != 8 {
			return corrupt("an epoch has %d bytes", len(v))
		}
		e, record := entry{epoch: binary.BigEndian.Uint64(v)}, records.Get(name)
		was.count++
		was.sum += digest1(string(name), e.epoch, record)
		if record != nil {
			recorded++
			e = e.with(&broker.Change{Put: map[string][]byte{broker.SoleChunk: bytes.Clone(record)}}, 0)
			if err := manifests.Put(name, e.manifest.bytes()); err != nil {
				return err
			}
			if err := replaceChunks(chunks, string(name), nil, e.chunks); err != nil {
				return err
			}
		}
		is.count++
		is.sum += e.digest(string(name))
		return nil
	})
	switch {
	case err != nil:
		return err
	case !bytes.Equal(tx.Bucket(metaBucket).Get(sealKey), was.bytes()), records.Stats().KeyN != recorded:
		return corrupt("its content does not match its checksum")
	}
	if err := tx.DeleteBucket(recordsBucket); err != nil {
		return err
	}
	return putSeal(tx, is)
}

// digest1 is what a name, its epoch and its record added to the sum of the seal in schema
// version 1.
func digest1(name string, epoch uint64, record []byte) uint64 {
	h := sha256.New()
	var b [24]byte
	binary.BigEndian.PutUint64(b[:], uint64(len(name)))
	binary.BigEndian.PutUint64(b[8:], epoch)
	if record != nil {
		b[16] = 1
	}
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte(name))
	_, _ = h.Write(record)
	return binary.BigEndian.Uint64(h.Sum(nil))
}
