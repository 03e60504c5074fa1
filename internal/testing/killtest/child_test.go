package killtest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) {
	code := canary.Main(m, build)
	_ = os.RemoveAll(filepath.Dir(binary))
	os.Exit(code)
}

func build() {
	dir, err := os.MkdirTemp("", "killtest")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "keybroker")
	cmd := exec.Command("go", "build", "-race", "-tags", "failpoints", "-o", binary, "./cmd/keybroker")
	cmd.Dir = filepath.Join("..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	if err := flag.Set("test.parallel", "6"); err != nil { // most of the time everybody waits
		panic(err)
	}
}

// child is one process of the broker.
type child struct {
	number  int
	cmd     *exec.Cmd
	log     *transcript
	exited  chan struct{}
	client  keybrokerv1.KeyBrokerServiceClient
	conn    *grpc.ClientConn
	spawned time.Time
}

// start runs the broker, until it listens or ends. One that ends since the disk did not
// save its first records in time is started again.
func start(t *testing.T, config, address, failpoint string, args ...string) *child {
	for begun := time.Now(); ; {
		c := startOnce(t, config, address, failpoint, args...)
		if c.client != nil || !c.slow() || time.Since(begun) > patience {
			return c
		}
	}
}

func startOnce(t *testing.T, config, address, failpoint string, args ...string) *child {
	c := &child{
		cmd: exec.Command(binary, append([]string{"serve", "--config", config, "--log-level", "debug"}, args...)...),
		log: &transcript{listens: make(chan struct{})}, exited: make(chan struct{}), spawned: time.Now(),
	}
	c.cmd.Stderr = io.MultiWriter(c.log, canary.Writer("a broker's log"))
	c.cmd.Stdout = canary.Writer("what a broker prints")
	_, err := os.Stat(binary) // go test takes note of it: a result of another binary is not taken for this one's
	require.NoError(t, err)
	c.cmd.Env = append(os.Environ(), "KEYBROKER_FAILPOINT="+failpoint)
	require.NoError(t, c.cmd.Start())
	go func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		close(c.exited)
	}()
	t.Cleanup(func() { c.end(syscall.SIGKILL) })
	select {
	case <-c.exited:
		return c
	case <-c.log.listens:
	}
	conn, err := grpc.NewClient(address, append(wiretap.Options(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	c.conn, c.client = conn, keybrokerv1.NewKeyBrokerServiceClient(conn)
	return c
}

// serving is start, where the child must come to listen.
func serving(t *testing.T, config, address string, args ...string) *child {
	c := start(t, config, address, "", args...)
	require.NotNil(t, c.client, c.log)
	return c
}

// end sends a signal and waits for the end.
func (c *child) end(s syscall.Signal) {
	_ = c.cmd.Process.Signal(s) // it may have ended already
	<-c.exited
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

// stop ends a child in order. It reports whether the last state was saved, which a slow disk
// may prevent: the broker waits for two seconds, twice.
func (c *child) stop(t *testing.T) (saved bool) {
	c.end(syscall.SIGTERM)
	if c.cmd.ProcessState.Success() {
		return true
	}
	assert.Equal(t, 1, c.cmd.ProcessState.ExitCode(), c.log)
	assert.Contains(t, c.log.String(), "the last state was not saved")
	return false
}

// slow reports whether a child has ended since a store call took longer than it waits.
func (c *child) slow() bool {
	return !c.killed() && strings.Contains(c.log.String(), context.DeadlineExceeded.Error())
}

// complaints are the lines of a child's log that should not be there. That its store does
// not answer is none of them, since a disk may be slow.
func (c *child) complaints() (lines []string) {
	for line := range strings.Lines(c.log.String()) {
		failed := strings.Contains(line, "level=ERROR") && !strings.Contains(line, "the store does not answer")
		if failed || strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic") {
			lines = append(lines, line)
		}
	}
	return lines
}

// saves are the moments at which a child had finished a save, by pool.
type saves map[string][]moment

// saves reads them from the log.
func (c *child) saves(begun time.Time) saves {
	all := saves{}
	for line := range strings.Lines(c.log.String()) {
		var pool, at string
		if _, err := fmt.Sscanf(line, "failpoint: saved %s %s", &pool, &at); err != nil {
			continue
		}
		if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
			all[pool] = append(all[pool], t.Sub(begun))
		}
	}
	return all
}

// has reports whether what a pool knew at a moment has been saved: the first save that was
// finished after it may have begun before, the second has not.
func (s saves) has(pool string, at moment) bool {
	after := 0
	for _, finished := range s[pool] {
		if finished > at {
			after++
		}
	}
	return after >= 2
}

// over reports whether it has ended.
func (c *child) over() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// killed reports whether it ended by SIGKILL, and not by itself.
func (c *child) killed() bool {
	s, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
}

// transcript keeps what a child writes, and tells when it listens.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	once    sync.Once
	listens chan struct{}
}

func (l *transcript) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(b)
	if bytes.Contains(l.text.Bytes(), []byte("broker listens")) {
		l.once.Do(func() { close(l.listens) })
	}
	return n, err
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// patience bounds every call, so that none hangs the test.
const patience = time.Minute

func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}
