package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/broker"
)

// world is a state that a name may be in. After a call whose outcome is unknown, several
// are possible.
type world struct {
	owner   uint64 // the epoch of the latest claim; 0 if nobody has claimed or nobody knows the epoch
	version uint64 // of the record; unknown after a save whose answer was lost
	chunks  string // all of them
}

// unknown stands for the version that a save made whose answer was lost; no save ever returns it.
const unknown = ^uint64(0)

// model has every state that agrees with what the store has answered.
type model struct {
	worlds map[world]bool
	last   uint64 // the largest epoch given out
}

// claims returns the worlds after a claim. epoch is 0 if the answer was lost.
func (m *model) claims(epoch uint64) map[world]bool {
	next := map[world]bool{}
	for w := range m.worlds {
		next[world{epoch, w.version, w.chunks}] = true
	}
	return next
}

// owned returns the worlds in which epoch is that of the latest claim; or, if yes is false,
// those in which it is not.
func (m *model) owned(epoch uint64, yes bool) map[world]bool {
	next := map[world]bool{}
	for w := range m.worlds {
		if (epoch != 0 && w.owner == epoch) == yes {
			next[w] = true
		}
	}
	return next
}

// saved returns the worlds after a save that had its effect and made the version next.
func (m *model) saved(epoch, version, next uint64, c *broker.Change) map[world]bool {
	worlds := map[world]bool{}
	for w := range m.owned(epoch, true) {
		if w.version == version {
			worlds[world{w.owner, next, changed(w.chunks, c)}] = true
		}
	}
	return worlds
}

// stale returns the worlds in which a save would be refused for its version.
func (m *model) stale(epoch, version uint64) map[world]bool {
	worlds := map[world]bool{}
	for w := range m.owned(epoch, true) {
		if w.version != version {
			worlds[w] = true
		}
	}
	return worlds
}

// changed returns the text of some chunks after a change.
func changed(text string, c *broker.Change) string {
	chunks := map[string][]byte{}
	for line := range strings.Lines(text) {
		id, data, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		chunks[id] = []byte(data)
	}
	for _, id := range c.Drop {
		delete(chunks, id)
	}
	maps.Copy(chunks, c.Put)
	return textOf(chunks)
}

// textOf returns chunks as a text, which can be compared.
func textOf(chunks map[string][]byte) string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(chunks)) {
		fmt.Fprintf(&b, "%s=%s\n", id, chunks[id])
	}
	return b.String()
}

// become replaces the possible worlds, of which there must be at least one.
func (m *model) become(t *rapid.T, worlds map[world]bool, what string, args ...any) {
	require.NotEmpty(t, worlds, "%s cannot be; there could be %v", fmt.Sprintf(what, args...), m.worlds)
	m.worlds = worlds
}

// and adds possible worlds.
func (m *model) and(worlds map[world]bool) { maps.Copy(m.worlds, worlds) }

// likeModel makes random calls of several owners, some of which fail with or without effect,
// and compares the answers with the model.
func likeModel(t *testing.T, s broker.Store) {
	rapid.Check(t, func(t *rapid.T) {
		run := sequence{
			store: NewFaulty(s), name: fresh("model"),
			model: model{worlds: map[world]bool{{}: true}}, epochs: []uint64{0, ^uint64(0)}, versions: []uint64{0},
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": run.claim, "save": run.save, "load": run.load, "renew": run.renew,
		})
	})
}

// sequence is one run against the model.
type sequence struct {
	store    *Faulty
	name     string
	model    model
	epochs   []uint64 // of the owners, and two that no owner ever has
	versions []uint64 // that somebody was told, the latest last
	saves    int
}

// fault orders a fault for the next call of a method, or none, and returns the context for
// that call.
func (q *sequence) fault(t *rapid.T, op Op) context.Context {
	switch rapid.IntRange(0, 7).Draw(t, "fault") {
	case 0:
		q.store.Next(op, Fault{})
	case 1:
		q.store.Next(op, Fault{After: true})
	case 2:
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		q.store.Next(op, Fault{Until: make(chan struct{}), After: rapid.Bool().Draw(t, "after")})
		return ctx
	}
	return context.Background()
}

func (q *sequence) claim(t *rapid.T) {
	epoch, err := q.store.Claim(q.fault(t, Claim), q.name)
	if err != nil {
		require.NotErrorIs(t, err, broker.ErrFenced)
		q.model.and(q.model.claims(0))
		return
	}
	require.Greater(t, epoch, q.model.last)
	q.model.last = epoch
	q.epochs = append(q.epochs, epoch)
	q.model.become(t, q.model.claims(epoch), "claim %d", epoch)
}

func (q *sequence) epoch(t *rapid.T) uint64 { return rapid.SampledFrom(q.epochs).Draw(t, "epoch") }

// change draws a change of some of a few chunks.
func (q *sequence) change(t *rapid.T) (c broker.Change) {
	c.Put = map[string][]byte{}
	for _, id := range []string{"a", "b", "c", "d"} {
		switch rapid.IntRange(0, 3).Draw(t, id) {
		case 0:
			c.Drop = append(c.Drop, id)
		case 1, 2:
			c.Put[id] = []byte(fmt.Sprint("save ", q.saves))
		}
	}
	return c
}

func (q *sequence) save(t *rapid.T) {
	epoch, version := q.epoch(t), q.versions[len(q.versions)-1]
	if rapid.IntRange(0, 3).Draw(t, "late") == 0 {
		version = rapid.SampledFrom(q.versions).Draw(t, "version")
	}
	q.saves++
	c := q.change(t)
	switch next, err := q.store.Save(q.fault(t, Save), q.name, epoch, version, c); {
	case err == nil:
		q.told(t, next)
		q.model.become(t, q.model.saved(epoch, version, next, &c), "save of version %d by %d", version, epoch)
	case errors.Is(err, broker.ErrFenced):
		q.model.become(t, q.model.owned(epoch, false), "%d fenced at a save", epoch)
	case errors.Is(err, broker.ErrStale):
		q.model.become(t, q.model.stale(epoch, version), "version %d stale", version)
	default:
		q.model.and(q.model.saved(epoch, version, unknown, &c))
	}
}

// told takes note of a version, which is larger than all before.
func (q *sequence) told(t *rapid.T, version uint64) {
	require.Greater(t, version, q.versions[len(q.versions)-1])
	require.Less(t, version, unknown)
	q.versions = append(q.versions, version)
}

func (q *sequence) renew(t *rapid.T) {
	epoch := q.epoch(t)
	switch err := q.store.Renew(q.fault(t, Renew), q.name, epoch); {
	case err == nil:
		q.model.become(t, q.model.owned(epoch, true), "renewal by %d", epoch)
	case errors.Is(err, broker.ErrFenced):
		q.model.become(t, q.model.owned(epoch, false), "%d fenced at a renewal", epoch)
	}
}

func (q *sequence) load(t *rapid.T) {
	r, err := q.store.Load(q.fault(t, Load), q.name)
	if err != nil {
		return
	}
	known := slices.Contains(q.versions, r.Version)
	if !known {
		q.told(t, r.Version)
	}
	next := map[world]bool{}
	for w := range q.model.worlds {
		if w.chunks == textOf(r.Chunks) && (w.version == r.Version || !known && w.version == unknown) {
			next[world{w.owner, r.Version, w.chunks}] = true
		}
	}
	q.model.become(t, next, "the record %v", r)
}
