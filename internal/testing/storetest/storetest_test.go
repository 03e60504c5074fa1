package storetest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/testing/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) broker.Store { return &broker.Memory{} })
}

// Without faults, Faulty passes every call on.
func TestFaultyWithoutFaults(t *testing.T) {
	storetest.Run(t, func(*testing.T) broker.Store { return storetest.NewFaulty(&broker.Memory{}) })
}

func TestFaultyBeforeAndAfter(t *testing.T) {
	var memory broker.Memory
	f := storetest.NewFaulty(&memory)
	epoch, err := f.Claim(t.Context(), "a")
	require.NoError(t, err)
	own := errors.New("disk on fire")
	f.Next(storetest.Save, storetest.Fault{}, storetest.Fault{After: true, Err: own})

	require.ErrorIs(t, storetest.Put(t.Context(), f, "a", epoch, []byte("1")), storetest.ErrInjected)
	record, err := storetest.Get(t.Context(), f, "a")
	require.NoError(t, err)
	assert.Nil(t, record)

	require.ErrorIs(t, storetest.Put(t.Context(), f, "a", epoch, []byte("2")), own)
	record, err = storetest.Get(t.Context(), f, "a")
	require.NoError(t, err)
	assert.Equal(t, "2", string(record))
	assert.Zero(t, f.Written())

	require.NoError(t, storetest.Put(t.Context(), f, "a", epoch, []byte("3")))
	assert.Equal(t, 3, f.Calls(storetest.Save))
	assert.Equal(t, len(broker.SoleChunk)+1, f.Written())

	f.Next(storetest.Claim, storetest.Fault{After: true})
	_, err = f.Claim(t.Context(), "a")
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.ErrorIs(t, f.Renew(t.Context(), "a", epoch), broker.ErrFenced)

	f.Always(storetest.Renew, &storetest.Fault{Err: own})
	for range 3 {
		require.ErrorIs(t, f.Renew(t.Context(), "a", epoch), own)
	}
	f.Always(storetest.Renew, nil)
	require.ErrorIs(t, f.Renew(t.Context(), "a", epoch), broker.ErrFenced)
}

func TestFaultyStalls(t *testing.T) {
	f := storetest.NewFaulty(&broker.Memory{})
	release := make(chan struct{})
	f.Always(storetest.Claim, &storetest.Fault{Until: release})
	ctx, cancel := context.WithCancel(t.Context())
	failed, served := make(chan error, 1), make(chan error, 1)
	go func() { _, err := f.Claim(ctx, "a"); failed <- err }()
	go func() { _, err := f.Claim(t.Context(), "b"); served <- err }()
	stalled := func(n int) func() bool { return func() bool { return f.Stalled() == n } }
	require.Eventually(t, stalled(2), time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Eventually(t, stalled(1), time.Minute, time.Millisecond)
	close(release)
	require.NoError(t, <-served)
	require.NoError(t, f.Renew(t.Context(), "b", 1))
	require.ErrorIs(t, f.Renew(t.Context(), "a", 1), broker.ErrFenced, "it has had no effect")
}
