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
	"path/filepath"
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
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// address waits for the line that says where the broker listens.
func address(t *testing.T, log io.Reader) string {
	t.Helper()
	lines, ok := log.(*bufio.Reader)
	if !ok {
		lines = bufio.NewReader(log)
	}
	for {
		text, err := lines.ReadBytes('\n')
		require.NoError(t, err, "the broker does not say where it listens")
		var line struct{ Msg, Address string }
		if json.Unmarshal(text, &line) == nil && line.Msg == "broker listens" {
			return line.Address
		}
	}
}

// connect gives both services of a broker.
func connect(t *testing.T, address string) (keybrokerv1.KeyBrokerServiceClient, keybrokerv1.AdminServiceClient) {
	conn, err := grpc.NewClient(address, append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
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
		code <- run(ctx, env, []string{"serve", "--config", file(t, onProvider("127.0.0.1:1")), "--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"})
		writer.Close()
	}()
	heard := io.TeeReader(log, canary.Writer("the log"))
	keys, _ := connect(t, address(t, heard))
	rest := make(chan string, 1)
	go func() { text, _ := io.ReadAll(heard); rest <- string(text) }()
	l, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	require.NoError(t, err)
	assert.Equal(t, canary.Key("file"), l.GetApiKey())

	cancel()
	assert.Equal(t, exitOK, <-code)
	text := <-rest
	assert.Contains(t, text, "broker stopped")
	assert.NotContains(t, text, canary.Key("file"))
	assert.Empty(t, stdout.String())
	_, err = keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func TestSandboxRunsUntilItsContextEnds(t *testing.T) {
	env, _, stderr := around(nil)
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- run(ctx, env, []string{"sandbox", "--address", "127.0.0.1:0"}) }()
	require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "sandbox provider listens") }, time.Minute, 5*time.Millisecond)
	cancel()
	assert.Equal(t, exitOK, <-code)
}

func TestSIGHUPReadsKeysAndRulesAgain(t *testing.T) {
	dir := canary.Dir(t, "broker.yaml", "secret")
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) { require.NoError(t, os.WriteFile(at(name), []byte(text), 0o600)) }
	config := func(verbs string) string {
		return "server: {plaintext: true, listen: '127.0.0.1:0'}\nstore: {type: memory}\naudit: {path: audit.jsonl}\n" +
			"access: {rules: [{identities: [local], pools: [p], verbs: [" + verbs + "]}]}\n" +
			"providers: [{name: p, type: anthropic, flat_limits: true, keys: [{id: k, key_file: secret}]}]\n"
	}
	write("secret", canary.Key("before"))
	write("broker.yaml", config("acquire"))
	child := exec.Command(os.Args[0], "serve", "--config", at("broker.yaml"), "--log-format", "json", "--log-level", "debug")
	child.Env = append(os.Environ(), "RUN_KEYBROKER=1")
	pipe, err := child.StderrPipe()
	require.NoError(t, err)
	log := io.TeeReader(pipe, canary.Writer("a child's log"))
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill() })
	lines := bufio.NewReader(log)
	keys, operator := connect(t, address(t, lines))
	hangup := func(until string) (text string) { // gives what is logged
		require.NoError(t, child.Process.Signal(syscall.SIGHUP))
		for !strings.Contains(text, until) {
			line, err := lines.ReadString('\n')
			require.NoError(t, err, text)
			text += line
		}
		return text
	}
	lease := func() string {
		l, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p"})
		require.NoError(t, err)
		_, err = keys.ReleaseKey(t.Context(), &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId(), Unused: true})
		require.NoError(t, err)
		return l.GetApiKey()
	}
	inspect := func() codes.Code {
		_, err := operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: "p"})
		return status.Code(err)
	}
	assert.Equal(t, canary.Key("before"), lease())
	assert.Equal(t, codes.PermissionDenied, inspect())

	write("secret", canary.Key("after"))
	write("broker.yaml", config("acquire, inspect"))
	require.NoError(t, os.Rename(at("audit.jsonl"), at("audit.jsonl.1")))
	text := hangup("configuration read again")
	assert.Contains(t, text, "key has a new value")
	assert.Equal(t, canary.Key("after"), lease())
	assert.Equal(t, codes.OK, inspect())

	write("broker.yaml", config("steal"))
	text += hangup("reload failed")
	assert.Contains(t, text, "unknown verb")
	assert.Equal(t, canary.Key("after"), lease(), "as it was")
	assert.Equal(t, codes.OK, inspect())
	assert.NotContains(t, text, "sk-")

	var out, report screen
	env := &environment{getenv: os.LookupEnv, stdout: &out, stderr: &report}
	require.Equal(t, exitOK, run(t.Context(), env, []string{"audit", "--key", "k", "-o", "json", at("audit.jsonl"), at("audit.jsonl.1")}), report.String())
	assert.Contains(t, out.String(), `"leases": 3`)
}

func TestSIGTERMSendsWaitersAwayAndExitsCleanly(t *testing.T) {
	child := exec.Command(os.Args[0], "serve", "--config", file(t, onProvider("127.0.0.1:0")), "--log-format", "json", "--log-level", "debug")
	child.Env = append(os.Environ(), "RUN_KEYBROKER=1")
	pipe, err := child.StderrPipe()
	require.NoError(t, err)
	log := io.TeeReader(pipe, canary.Writer("a child's log"))
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
			_, err := keys.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "p", MaxWait: durationpb.New(10 * time.Minute)})
			waiting <- err
		}()
	}
	require.Eventually(t, func() bool {
		r, err := operator.GetPool(t.Context(), &keybrokerv1.GetPoolRequest{Pool: "p"})
		return err == nil && r.GetPool().GetSummary().GetWaiters() == 20
	}, time.Minute, 10*time.Millisecond)

	require.NoError(t, child.Process.Signal(syscall.SIGTERM))
	for range cap(waiting) {
		assert.Equal(t, codes.Unavailable, status.Code(<-waiting))
	}
	text := <-rest
	assert.NoError(t, child.Wait(), "exit code 0")
	assert.Contains(t, text, "broker stopped")
	assert.NotContains(t, text, canary.Key("file"))
}
