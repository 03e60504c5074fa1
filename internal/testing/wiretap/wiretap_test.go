package wiretap

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
)

func TestMain(m *testing.M) { os.Exit(canary.Main(m, nil)) }

// What the canary hears has all but the key.
func TestText(t *testing.T) {
	const other = "not-a-key"
	m := &keybrokerv1.AcquireKeyResponse{ApiKey: canary.Key("wiretap"), KeyId: other}
	assert.Contains(t, text(m, nil), other)
	canary.Text("an answer without its key", text(m, nil))
	assert.True(t, m.GetApiKey() == canary.Key("wiretap"), "the caller gets it")
	assert.Contains(t, text(&keybrokerv1.GetPoolResponse{Pool: &keybrokerv1.Pool{Keys: []*keybrokerv1.Key{{Id: other}}}}, nil), other)
	s, err := status.New(codes.Internal, "x").WithDetails(&errdetails.ErrorInfo{Metadata: map[string]string{"key": other}})
	require.NoError(t, err)
	assert.Contains(t, text(nil, s.Err()), other)
	assert.Contains(t, plain(metadata.Pairs("x", other)), other)
}
