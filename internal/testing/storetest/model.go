package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/keybroker/keybroker/internal/broker"
)

// world is a state that a name may be in. After a call whose outcome is unknown, several
// are possible.
type world struct {
	owner  uint64 // the epoch of the latest claim; 0 if nobody has claimed or nobody knows the epoch
	record string // "" if there is none
}

// model has every state that agrees with what the store has answered.
type model struct {
	worlds map[world]bool
	last   uint64 // the largest epoch given out
}

// claims returns the worlds after a claim. epoch is 0 if the answer was lost.
func (m *model) claims(epoch uint64) map[world]bool {
	next := map[world]bool{}
	for w := range m.worlds {
		next[world{epoch, w.record}] = true
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

// saved returns the worlds after a save with this epoch that had its effect.
func (m *model) saved(epoch uint64, record string) map[world]bool {
	next := map[world]bool{}
	for w := range m.owned(epoch, true) {
		next[world{w.owner, record}] = true
	}
	return next
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
			model: model{worlds: map[world]bool{{}: true}}, epochs: []uint64{0, ^uint64(0)},
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": run.claim, "save": run.save, "load": run.load, "renew": run.renew,
		})
	})
}

// sequence is one run against the model.
type sequence struct {
	store  *Faulty
	name   string
	model  model
	epochs []uint64 // of the owners, and two that no owner ever has
	saves  int
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

func (q *sequence) save(t *rapid.T) {
	epoch := q.epoch(t)
	q.saves++
	record := fmt.Sprintf("record %d of %d", q.saves, epoch)
	switch err := q.store.Save(q.fault(t, Save), q.name, epoch, []byte(record)); {
	case err == nil:
		q.model.become(t, q.model.saved(epoch, record), "save by %d", epoch)
	case errors.Is(err, broker.ErrFenced):
		q.model.become(t, q.model.owned(epoch, false), "%d fenced at a save", epoch)
	default:
		q.model.and(q.model.saved(epoch, record))
	}
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
	record, err := q.store.Load(q.fault(t, Load), q.name)
	if err != nil {
		return
	}
	next := map[world]bool{}
	for w := range q.model.worlds {
		if w.record == string(record) {
			next[w] = true
		}
	}
	q.model.become(t, next, "the record %q", record)
}
