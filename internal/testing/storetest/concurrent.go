package storetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

func claimsAtOnce(t *testing.T, s broker.Store) {
	name := fresh("claims")
	const claimers, each = 8, 5
	epochs := make([][]uint64, claimers)
	var all sync.WaitGroup
	for i := range epochs {
		all.Go(func() {
			for range each {
				epoch, err := s.Claim(t.Context(), name)
				if !assert.NoError(t, err) {
					return
				}
				epochs[i] = append(epochs[i], epoch)
			}
		})
	}
	all.Wait()
	seen, last := map[uint64]bool{}, uint64(0)
	for _, own := range epochs {
		require.Len(t, own, each)
		require.IsIncreasing(t, own)
		for _, epoch := range own {
			require.False(t, seen[epoch], "epoch %d was given twice", epoch)
			seen[epoch] = true
			last = max(last, epoch)
		}
	}
	require.NoError(t, s.Renew(t.Context(), name, last))
	require.Greater(t, claim(t, s, name), last)
}

// stamp returns a chunk that consists of an epoch and a number, repeated.
func stamp(epoch, number uint64) []byte {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, epoch), number)
	return bytes.Repeat(b, 100)
}

// stamped returns a change that makes all chunks of a record the same stamp, and one of them
// new.
func stamped(epoch, number uint64) (c broker.Change) {
	c.Put = map[string][]byte{fmt.Sprint("only ", number): stamp(epoch, number)}
	for i := range 5 {
		c.Put[fmt.Sprint(i)] = stamp(epoch, number)
	}
	for before := range number {
		c.Drop = append(c.Drop, fmt.Sprint("only ", before))
	}
	if number == 0 { // of the predecessor
		c.Drop = []string{"only 1", "only 2"}
	}
	return c
}

// readStamp returns the epoch and number of a record, and checks that all of it agrees.
func readStamp(t assert.TestingT, r broker.Record) (epoch, number uint64) {
	if r.Version == 0 {
		return 0, 0
	}
	epoch, number = binary.BigEndian.Uint64(r.Chunks["0"]), binary.BigEndian.Uint64(r.Chunks["0"][8:])
	assert.Equal(t, epoch, r.Epoch)
	assert.Equal(t, stamped(epoch, number).Put, r.Chunks, "a mix of records")
	return epoch, number
}

// accepted is what the last record that was saved without an error says.
type accepted struct{ epoch, number uint64 }

func saversAtOnce(t *testing.T, s broker.Store) {
	name := fresh("savers")
	var mu sync.Mutex
	var latest accepted
	var owners sync.WaitGroup
	for range 4 {
		owners.Go(func() {
			for range 5 {
				a, ok := own(t, s, name)
				mu.Lock()
				if ok && a.epoch > latest.epoch {
					latest = a
				}
				mu.Unlock()
			}
		})
	}
	done, reader := make(chan struct{}), sync.WaitGroup{}
	reader.Go(func() { inOrder(t, s, name, done) })
	owners.Wait()
	close(done)
	reader.Wait()
	epoch, number := readStamp(t, load(t, s, name))
	require.Equal(t, latest, accepted{epoch, number})
}

// own claims once and saves three times, or until it is fenced.
func own(t *testing.T, s broker.Store, name string) (last accepted, ok bool) {
	epoch, err := s.Claim(t.Context(), name)
	if !assert.NoError(t, err) {
		return last, false
	}
	r, err := s.Load(t.Context(), name)
	if !assert.NoError(t, err) {
		return last, false
	}
	for number := range uint64(3) {
		r.Version, err = s.Save(t.Context(), name, epoch, r.Version, stamped(epoch, number))
		if errors.Is(err, broker.ErrFenced) {
			break
		}
		if !assert.NoError(t, err) {
			break
		}
		last, ok = accepted{epoch, number}, true
	}
	return last, ok
}

// inOrder loads until done is closed, and checks that no record is older than the one loaded
// before.
func inOrder(t *testing.T, s broker.Store, name string, done <-chan struct{}) {
	var before accepted
	var version uint64
	for {
		select {
		case <-done:
			return
		default:
		}
		record, err := s.Load(t.Context(), name)
		if !assert.NoError(t, err) {
			return
		}
		epoch, number := readStamp(t, record)
		now := accepted{epoch, number}
		if !assert.GreaterOrEqual(t, record.Version, version) {
			return
		}
		version = record.Version
		if !assert.False(t, now.epoch < before.epoch || now.epoch == before.epoch && now.number < before.number, "%v after %v", now, before) {
			return
		}
		before = now
	}
}
