//go:build unix

package bolt

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/keybroker/keybroker/internal/broker"
)

// schema1 is a file that the last program of schema version 1 has written: a domain "a" that
// was stopped in order after 30 leases, the signing keys, a name that was only claimed, and one
// with an empty record.
func schema1(t *testing.T) []byte {
	packed, err := os.ReadFile("testdata/schema1.db.gz")
	require.NoError(t, err)
	r, err := gzip.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

func TestSchema1IsReadAndWrittenAnew(t *testing.T) {
	path := file(t)
	require.NoError(t, os.WriteFile(path, schema1(t), 0o600))
	for range 2 { // the second time it is a file of today's schema
		s := start(t, path)
		require.NoError(t, s.disk.db.View(func(tx *bbolt.Tx) error {
			v, err := version(tx)
			require.NoError(t, err)
			require.EqualValues(t, 2, v)
			require.Nil(t, tx.Bucket([]byte("records")))
			return nil
		}))
		for name, want := range map[string]string{"a": `{"version":1,"max_ttl":480000000000,`, "signing keys": `{"version":1,"keys":[{"id":1,`, "empty": "", "claimed": ""} {
			require.NoError(t, s.Renew(t.Context(), name, 1), name)
			r, err := s.Load(t.Context(), name)
			require.NoError(t, err)
			if name == "claimed" {
				require.Zero(t, r)
				continue
			}
			require.EqualValues(t, 1, r.Version)
			require.Zero(t, r.Epoch, "nobody knows")
			require.Len(t, r.Chunks, 1)
			require.True(t, bytes.HasPrefix(r.Chunks[broker.SoleChunk], []byte(want)), name)
		}
		require.NoError(t, s.Close())
	}
	s := start(t, path)
	next, err := s.Save(t.Context(), "a", 1, 1, broker.Change{Put: map[string][]byte{"new": {1}}, Drop: []string{broker.SoleChunk}})
	require.NoError(t, err)
	require.EqualValues(t, 2, next)
	require.NoError(t, s.Close())
	r, err := start(t, path).Load(context.Background(), "a")
	require.NoError(t, err)
	require.Equal(t, broker.Record{Version: 2, Epoch: 1, Chunks: map[string][]byte{"new": {1}}}, r)
}

// A migration that was released does not change, whatever becomes of the functions that today's
// files are written with.
func TestWhatTheMigrationsWrite(t *testing.T) {
	path := file(t)
	require.NoError(t, os.WriteFile(path, schema1(t), 0o600))
	d := &disk{}
	require.NoError(t, d.open(path))
	defer func() { require.NoError(t, d.close()) }()
	require.NoError(t, d.db.Update(from1to2))
	all := sha256.New()
	require.NoError(t, d.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(bucket []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				_, err := fmt.Fprintf(all, "%q %q %q\n", bucket, k, v)
				return err
			})
		})
	}))
	require.Equal(t, "4ddb6198c8fd3297bceae031f3a79c84f9e3dc2e929012a69b4f28dcc04002b1", hex.EncodeToString(all.Sum(nil)))
}

// The migration must not give a damaged file a checksum that is good.
func TestDamagedSchema1IsRefused(t *testing.T) {
	data := schema1(t)
	path, child := inChild(t, func() string { return file(t) })
	if !child {
		return
	}
	good := func() map[string]broker.Record {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		s := start(t, path)
		defer func() { require.NoError(t, s.Close()) }()
		return records(t, s)
	}()
	seed := rand.Uint64()
	random, refused := rand.New(rand.NewPCG(seed, 0)), 0
	const variants = 300
	for range variants {
		damaged := bytes.Clone(data)
		damaged[random.IntN(7*4096)] ^= 1 << random.IntN(8)
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		s, err := Open(path)
		if err != nil {
			refused++
			continue
		}
		require.Equal(t, good, records(t, s), "seed %d", seed)
		require.NoError(t, s.Close())
	}
	t.Logf("%d of %d variants refused", refused, variants)
	require.Positive(t, refused)
}

func records(t *testing.T, s *Store) map[string]broker.Record {
	all := map[string]broker.Record{}
	for _, name := range []string{"a", "signing keys", "empty", "claimed"} {
		r, err := s.Load(t.Context(), name)
		require.NoError(t, err)
		all[name] = r
	}
	return all
}
