package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// The buckets and their keys. A name has an epoch since its first claim, and a record since
// its first save.
var (
	metaBucket    = []byte("meta")
	epochsBucket  = []byte("epochs")  // name → epoch, 8 bytes
	recordsBucket = []byte("records") // name → record

	schemaKey = []byte("schema") // version, 8 bytes
	sealKey   = []byte("seal")   // count and sum, 8 bytes each
)

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
}

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

// read reads all entries of the file and checks them against its seal.
func (d *disk) read(tx *bbolt.Tx) error {
	m, epochs, records := tx.Bucket(metaBucket), tx.Bucket(epochsBucket), tx.Bucket(recordsBucket)
	if epochs == nil || records == nil {
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
	err = records.ForEach(func(name, v []byte) error {
		e, ok := d.names[string(name)]
		if !ok || v == nil {
			return corrupt("a record without an epoch")
		}
		e.record = bytes.Clone(v)
		d.names[string(name)] = e
		return nil
	})
	if err != nil {
		return err
	}
	for name, e := range d.names {
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

// replace writes what differs between two entries of a name. It fails if the epoch in the
// file is not the one that the decision was based on.
func replace(tx *bbolt.Tx, name string, was, is entry) error {
	epochs, key := tx.Bucket(epochsBucket), []byte(name)
	var stored uint64
	if v := epochs.Get(key); v != nil {
		stored = binary.BigEndian.Uint64(v)
	}
	if stored != was.epoch {
		return corrupt("the epoch of %q has changed from %d to %d behind our back", name, was.epoch, stored)
	}
	if is.epoch != was.epoch {
		if err := epochs.Put(key, binary.BigEndian.AppendUint64(nil, is.epoch)); err != nil {
			return err
		}
	}
	if is.record == nil || was.record != nil && bytes.Equal(is.record, was.record) {
		return nil
	}
	return tx.Bucket(recordsBucket).Put(key, is.record)
}
