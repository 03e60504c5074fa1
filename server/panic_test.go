package server_test

// A handler that panics: the answer is constant, and nothing tells its value.

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/server"
)

func TestPanicTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		value := canary.Key("panic")
		calls := 0
		w := beginWith(t, server.Options{Keys: func(string, string) secret.Value {
			if calls++; calls == 1 {
				panic(value)
			}
			return secret.New(canary.Key("after-panic"))
		}}, onePool("a", key("k", slots(2))))
		alice := w.as("alice")
		_, err := alice.AcquireKey(alice.ctx(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		requireFailure(t, err, codes.Internal, "INTERNAL")
		assert.Equal(t, "internal error", status.Convert(err).Message())

		assert.Contains(t, w.logs.String(), `"handler panicked","type":"string"`)
		assert.Contains(t, w.logs.String(), "panic_test.go", "the stack helps whoever has to find it")
		assert.NotContains(t, w.logs.String(), value)
		assert.Equal(t, codes.Internal, w.calls.list()[0].code)
		alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"}) // and the server goes on
	})
}
