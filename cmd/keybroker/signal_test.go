package main

// Starting and stopping: in this process by the context's end, and as a real
// child by SIGTERM.

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
)

// address waits for the line that says where the broker listens.
func address(t *testing.T, log io.Reader) string {
	t.Helper()
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "broker listens" {
			return line.Address
		}
	}
	require.Fail(t, "the broker does not say where it listens")
	return ""
}

// connect gives both services of a broker.
func connect(t *testing.T, address string) (keybrokerv1.KeyBrokerServiceClient, keybrokerv1.AdminServiceClient) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return keybrokerv1.NewKeyBrokerServiceClient(conn), keybrokerv1.NewAdminServiceClient(conn)
}

func TestServeRunsUntilItsContextEnds(t *testing.T) {
	env, stdout, _ := around(nil)
	log, writer := io.Pipe()
	env.stderr = writer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, env, []string{"serve", "--config", file(t, onProvider("127.0.0.1:1")), "--listen", "127.0.0.1:0", "--log-format", "json"})
		writer.Close()
	}()
	keys, _ := connect(t, address(t, log))
	rest := make(chan string, 1)
	go func() { text, _ := io.ReadAll(log); rest <- string(text) }()
	l, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(t, err)
	assert.Equal(t, "sk-file", l.GetApiKey())

	cancel()
	assert.Equal(t, exitOK, <-code)
	text := <-rest
	assert.Contains(t, text, "broker stopped")
	assert.NotContains(t, text, "sk-file")
	assert.Empty(t, stdout.String())
	_, err = keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func TestSandboxRunsUntilItsContextEnds(t *testing.T) {
	env, _, stderr := around(nil)
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- run(ctx, env, []string{"sandbox", "--address", "127.0.0.1:0"}) }()
	require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "sandbox provider listens") }, 5*time.Second, 5*time.Millisecond)
	cancel()
	assert.Equal(t, exitOK, <-code)
}

func TestSIGTERMSendsWaitersAwayAndExitsCleanly(t *testing.T) {
	child := exec.Command(os.Args[0], "serve", "--config", file(t, onProvider("127.0.0.1:0")), "--log-format", "json")
	child.Env = append(os.Environ(), "RUN_KEYBROKER=1")
	log, err := child.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill() })
	keys, operator := connect(t, address(t, log))
	rest := make(chan string, 1)
	go func() { text, _ := io.ReadAll(log); rest <- string(text) }()

	_, err = keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(t, err)
	waiting := make(chan error, 20)
	for range cap(waiting) {
		go func() {
			_, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p", MaxWait: durationpb.New(30 * time.Second)})
			waiting <- err
		}()
	}
	require.Eventually(t, func() bool {
		r, err := operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: "p"})
		return err == nil && r.GetPool().GetSummary().GetWaiters() == 20
	}, 10*time.Second, 10*time.Millisecond)

	began := time.Now()
	require.NoError(t, child.Process.Signal(syscall.SIGTERM))
	for range cap(waiting) {
		assert.Equal(t, codes.Unavailable, status.Code(<-waiting))
	}
	text := <-rest
	assert.NoError(t, child.Wait(), "exit code 0")
	assert.Less(t, time.Since(began), 5*time.Second, "within the drain time")
	assert.Contains(t, text, "broker stopped")
	assert.NotContains(t, text, "sk-file")
}
