package server_test

// Which pools are tried, in which order, and where a caller waits.

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/internal/provider"
)

// chain is a pool of one slot with two fallbacks of one slot each.
func chain() []broker.DomainConfig {
	first, second, third := onePool("first", key("k", slots(1))), onePool("second", key("k", slots(1))), onePool("third", key("k", slots(1)))
	first.Pools[0].Fallback = []string{"second", "third"}
	second.Pools[0].Fallback = []string{"first"} // used only when second is the one that is asked for
	return []broker.DomainConfig{first, second, third}
}

func TestFallbacksAreTriedAtOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := begin(t, chain()...).as("alice")
		for _, want := range []string{"first", "second", "third"} {
			got := <-alice.ask(t.Context(), waitFor("first", 30*time.Second))
			require.NoError(t, got.err)
			assert.Equal(t, want, got.lease.GetPool())
			assert.Equal(t, keyValue(want, "k"), got.lease.GetApiKey())
			assert.Zero(t, got.after)
		}
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "first"})
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
		assert.Contains(t, err.Error(), `"first"`, "the error is about the pool that was asked for")
		_, err = alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "third"})
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
	})
}

func TestFallbackTakesWhatIsTooLargeForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small, large := onePool("small", key("k", limits(10, 100, 100))), onePool("large", key("k", limits(10, 1000, 1000)))
		small.Pools[0].Fallback = []string{"large"}
		alice := begin(t, small, large).as("alice")
		assert.Equal(t, "large", alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "small", InputTokens: 500}).GetPool())
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "small", InputTokens: 5000})
		requireFailure(t, err, codes.FailedPrecondition, "ASK_TOO_LARGE")
	})
}

func TestCallerWaitsInTheNamedPoolOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, chain()...)
		alice, bob := w.as("alice"), w.as("bob")
		ids := map[string]string{}
		for _, p := range []string{"first", "second", "third"} {
			ids[p] = alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: p}).GetLeaseId()
		}
		waiting := bob.ask(t.Context(), waitFor("first", 30*time.Second))
		synctest.Wait()
		for p, want := range map[string]int32{"first": 1, "second": 0, "third": 0} {
			assert.Equal(t, want, alice.look(p).GetSummary().GetWaiters(), p)
		}
		time.Sleep(time.Second)
		alice.release(ids["second"], false)
		time.Sleep(time.Second)
		alice.release(ids["first"], false)
		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, "first", got.lease.GetPool())
		assert.Equal(t, 2*time.Second, got.after, "served by the pool that it waits in")
	})
}

func TestAtTheEndOfTheWaitTheChainIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, chain()...)
		alice, bob := w.as("alice"), w.as("bob")
		ids := map[string]string{}
		for _, p := range []string{"first", "second", "third"} {
			ids[p] = alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: p}).GetLeaseId()
		}
		waiting := bob.ask(t.Context(), waitFor("first", 10*time.Second))
		time.Sleep(time.Second)
		alice.release(ids["third"], false)
		got := <-waiting
		require.NoError(t, got.err)
		assert.Equal(t, "third", got.lease.GetPool())
		assert.Equal(t, 10*time.Second, got.after)
		assert.Equal(t, 10*time.Second, got.lease.GetWaited().AsDuration())
		assert.Equal(t, 12*time.Second, got.lease.GetStartWithin().AsDuration())
		assert.Zero(t, alice.look("first").GetSummary().GetWaiters())
	})
}

func TestModelAloneTriesThePoolsThatServeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claude, any, gpt := onePool("claude", key("k", slots(1))), onePool("any", key("k", slots(1))), onePool("gpt", key("k", slots(1)))
		claude.Pools[0].Models, gpt.Pools[0].Models = []string{"claude-x"}, []string{"gpt-x"}
		gpt.Dialect, _ = provider.Lookup("openai")
		alice := begin(t, gpt, claude, any).as("alice")
		r := &keybrokerv1.AcquireKeyRequest{Model: "claude-x"}
		assert.Equal(t, "claude", alice.lease(r).GetPool())
		assert.Equal(t, "any", alice.lease(r).GetPool(), "a pool without a list serves every model")
		_, err := alice.AcquireKey(alice.ctx(), r)
		requireFailure(t, err, codes.ResourceExhausted, "KEYS_EXHAUSTED")
		assert.Equal(t, "gpt", alice.lease(&keybrokerv1.AcquireKeyRequest{Model: "gpt-x"}).GetPool())
	})
}
