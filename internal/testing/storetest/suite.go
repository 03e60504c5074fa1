// Package storetest tests the contract of broker.Store: Run tests any store, and RunDurable
// a store that outlives its process. Faulty is a store that fails on demand, for tests of
// code that uses a store.
package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
)

// patience is how long to wait for an event that has no deadline of its own.
const patience = time.Minute

// Run tests a store. open is called for each subtest, and may return the same store every
// time, because each subtest uses names of its own.
func Run(t *testing.T, open func(t *testing.T) broker.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, broker.Store)
	}{
		{"epochs rise, for each name", epochsRise},
		{"nothing was saved", nothingSaved},
		{"a record comes back as it was", roundTrip},
		{"a save changes the chunks that it names", changes},
		{"many chunks, and large ones", manyChunks},
		{"a change beyond the bounds", bounds},
		{"a late save is refused", late},
		{"memory is not shared", noAlias},
		{"an owner who was followed is fenced", fenced},
		{"so is one who never claimed", neverClaimed},
		{"a claim between load and save", claimBetween},
		{"names do not meddle with each other", namesApart},
		{"a watch hears of later claims", watchHears},
		{"a watch ends with its context", watchEnds},
		{"a context that has ended", cancelled},
		{"claims at once", claimsAtOnce},
		{"savers at once", saversAtOnce},
		{"any sequence, with faults", likeModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// fresh returns a name that no other test and no earlier run against the same store has
// used.
func fresh(about string) string { return fmt.Sprintf("%s-%016x", about, rand.Uint64()) } // #nosec G404 -- a name that no other test has

func claim(t require.TestingT, s broker.Store, name string) uint64 {
	epoch, err := s.Claim(context.Background(), name)
	require.NoError(t, err)
	require.NotZero(t, epoch)
	return epoch
}

func load(t require.TestingT, s broker.Store, name string) broker.Record {
	record, err := s.Load(context.Background(), name)
	require.NoError(t, err)
	return record
}

func get(t require.TestingT, s broker.Store, name string) []byte {
	all, err := Get(context.Background(), s, name)
	require.NoError(t, err)
	return all
}

func epochsRise(t *testing.T, s broker.Store) {
	a, b := fresh("a"), fresh("b")
	var last uint64
	for range 5 {
		epoch := claim(t, s, a)
		require.Greater(t, epoch, last)
		last = epoch
	}
	ofB := claim(t, s, b)
	require.NoError(t, s.Renew(t.Context(), a, last), "a claim of another name takes nothing away")
	require.NoError(t, s.Renew(t.Context(), b, ofB))
}

func nothingSaved(t *testing.T, s broker.Store) {
	name := fresh("nothing")
	assert.Zero(t, load(t, s, name))
	claim(t, s, name)
	assert.Zero(t, load(t, s, name))
}

func noAlias(t *testing.T, s broker.Store) {
	name := fresh("alias")
	epoch := claim(t, s, name)
	record := []byte("saved")
	require.NoError(t, Put(t.Context(), s, name, epoch, record))
	copy(record, "XXXXX")
	loaded := load(t, s, name)
	require.Equal(t, "saved", string(loaded.Chunks[broker.SoleChunk]))
	copy(loaded.Chunks[broker.SoleChunk], "YYYYY")
	loaded.Chunks["other"] = nil
	require.Equal(t, "saved", string(get(t, s, name)))
}

func fenced(t *testing.T, s broker.Store) {
	name := fresh("fenced")
	first := claim(t, s, name)
	require.NoError(t, Put(t.Context(), s, name, first, []byte("first")))
	second := claim(t, s, name)
	require.ErrorIs(t, Put(t.Context(), s, name, first, []byte("late")), broker.ErrFenced)
	require.ErrorIs(t, s.Renew(t.Context(), name, first), broker.ErrFenced)
	require.Equal(t, "first", string(get(t, s, name)))
	require.NoError(t, s.Renew(t.Context(), name, second))
	require.NoError(t, Put(t.Context(), s, name, second, []byte("second")))
	require.ErrorIs(t, Put(t.Context(), s, name, first, []byte("late")), broker.ErrFenced)
	_, err := s.Save(t.Context(), name, first, 1, broker.Change{})
	require.ErrorIs(t, err, broker.ErrFenced, "whatever version it has seen")
	require.Equal(t, "second", string(get(t, s, name)))
}

func neverClaimed(t *testing.T, s broker.Store) {
	name := fresh("never")
	for _, claimed := range []bool{false, true} {
		var epoch uint64
		if claimed {
			epoch = claim(t, s, name)
		}
		for _, other := range []uint64{0, epoch + 1, ^uint64(0)} {
			require.ErrorIs(t, Put(t.Context(), s, name, other, []byte("x")), broker.ErrFenced)
			require.ErrorIs(t, s.Renew(t.Context(), name, other), broker.ErrFenced)
		}
		require.Zero(t, load(t, s, name))
	}
}

func claimBetween(t *testing.T, s broker.Store) {
	name := fresh("between")
	first := claim(t, s, name)
	require.NoError(t, Put(t.Context(), s, name, first, []byte("1")))
	seen := get(t, s, name)
	second := claim(t, s, name)
	require.ErrorIs(t, Put(t.Context(), s, name, first, append(seen, '2')), broker.ErrFenced)
	require.NoError(t, Put(t.Context(), s, name, second, append(get(t, s, name), '3')))
	require.Equal(t, "13", string(get(t, s, name)))
}

func namesApart(t *testing.T, s broker.Store) {
	base := fresh("apart")
	names := []string{base, base + "/", base + "/a", base + "\x00", "ü " + base, strings.Repeat("n", 1024-len(base)) + base}
	epochs := map[string]uint64{}
	for _, name := range names {
		epochs[name] = claim(t, s, name)
		require.NoError(t, Put(t.Context(), s, name, epochs[name], []byte(name)))
	}
	for _, name := range names {
		require.Equal(t, name, string(get(t, s, name)))
		require.NoError(t, s.Renew(t.Context(), name, epochs[name]))
	}
}

// hears waits until a watch sends an epoch. It may send earlier ones first.
func hears(t *testing.T, c <-chan uint64, epoch uint64) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case got, open := <-c:
			require.True(t, open, "the watch has ended")
			require.LessOrEqual(t, got, epoch)
			if got == epoch {
				return
			}
		case <-limit:
			require.Fail(t, "the watch has not told of the claim", "epoch %d", epoch)
		}
	}
}

func watchHears(t *testing.T, s broker.Store) {
	name, other := fresh("watch"), fresh("other")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	claim(t, s, name)
	one, err := s.Watch(ctx, name)
	require.NoError(t, err)
	two, err := s.Watch(ctx, name)
	require.NoError(t, err)
	claim(t, s, other)
	epoch := claim(t, s, name)
	hears(t, one, epoch)
	require.NoError(t, Put(ctx, s, name, epoch, []byte("x")))
	for range 10 { // nobody receives meanwhile
		epoch = claim(t, s, name)
	}
	hears(t, one, epoch)
	hears(t, two, epoch)
}

func watchEnds(t *testing.T, s broker.Store) {
	name := fresh("ends")
	claim(t, s, name)
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	var watches []<-chan uint64
	for range 20 {
		c, err := s.Watch(ctx, name)
		require.NoError(t, err)
		watches = append(watches, c)
	}
	claim(t, s, name)
	cancel()
	for _, c := range watches {
		for open, limit := true, time.After(patience); open; {
			select {
			case _, open = <-c:
			case <-limit:
				require.Fail(t, "the watch goes on")
			}
		}
	}
	claim(t, s, name) // must not send to a closed channel
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+2 }, patience, time.Millisecond)
}

func cancelled(t *testing.T, s broker.Store) {
	name := fresh("cancelled")
	epoch := claim(t, s, name)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Claim(ctx, name)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.Load(ctx, name)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.Save(ctx, name, epoch, 0, broker.Change{})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.Renew(ctx, name, epoch), context.Canceled)
	if c, err := s.Watch(ctx, name); err == nil { // without an error, the channel must be closed
		select {
		case _, open := <-c:
			require.False(t, open)
		case <-time.After(patience):
			require.Fail(t, "the watch goes on")
		}
	}
	require.Greater(t, claim(t, s, name), epoch, "the store goes on")
}
