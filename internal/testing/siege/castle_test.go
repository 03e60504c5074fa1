//go:build long

package siege

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/internal/testing/canary"
	"github.com/keybroker/keybroker/internal/testing/wiretap"
)

var binary string

func TestMain(m *testing.M) {
	if attacker() {
		return
	}
	code := canary.Main(m, compile)
	_ = os.RemoveAll(filepath.Dir(binary))
	os.Exit(code)
}

// attacker is what another process of this test does. Honest clients must not be in it:
// they would wait for their own attackers, and not for the broker.
func attacker() bool {
	for _, a := range attacks {
		if a.name == os.Getenv("SIEGE_ATTACK") {
			n, _ := strconv.Atoi(os.Getenv("SIEGE"))
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			defer stop()
			c := enemy(os.Getenv("SIEGE_DIR"))
			c.address = os.Getenv("SIEGE_ADDRESS")
			a.run(ctx, c, n)
			return true
		}
	}
	return false
}

// attack has another process attack until the context ends.
func (c *castle) attack(ctx context.Context, t *testing.T, name string, n int) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "SIEGE_ATTACK="+name, "SIEGE="+strconv.Itoa(n), "SIEGE_DIR="+c.dir, "SIEGE_ADDRESS="+c.address)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil || bytes.Contains(out, []byte("panic")) {
		t.Errorf("the attacker gave up: %v\n%s", err, out)
	}
}

func compile() {
	dir, err := os.MkdirTemp("", "siege")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "keybroker")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/keybroker") // as it is shipped: it is its memory that counts
	cmd.Dir = filepath.Join("..", "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
}

// castle is a broker with TLS, rules and an audit log; clients have certificates or
// tokens, so that anybody can finish a handshake.
type castle struct {
	dir               string
	address, metrics  string
	pid               int
	overheard         []grpc.DialOption // of honest clients
	service, stranger *tls.Config       // with a certificate, and without
}

func build(t *testing.T) *castle {
	dir := canary.Dir(t, "broker.yaml", "*.key", ".new-*") // the last are keys on their way
	_, err := certs.Develop(dir, nil, []string{"spiffe://example.org/service"}, time.Now())
	require.NoError(t, err)
	at := func(name string) string { return filepath.Join(dir, name) }
	keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
	require.NoError(t, err)
	for _, path := range keys {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		canary.Also(string(text))
	}
	token, hash := access.NewToken()
	canary.Also(token)
	require.NoError(t, os.WriteFile(at("broker.yaml"), fmt.Appendf(nil, `
server:
  listen: 127.0.0.1:0
  metrics_listen: 127.0.0.1:0
  tls: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt}
access:
  tokens: [{name: t, sha256: [%s]}]
  rules: [{identities: ["spiffe://example.org/service"], pools: [p], verbs: [acquire], max_leases: 0}]
audit: {path: audit.jsonl}
store: {type: memory}
providers:
  - name: p
    type: anthropic
    flat_limits: true
    lease: {start_within: 100ms, default_ttl: 1s}
    keys: [{id: k, key: sk-cnry7f3a-siege, rpm_limit: 1000000000, itpm_limit: 1000000000, otpm_limit: 1000000000}]
`, hash), 0o600))
	_, err = os.Stat(binary) // go test takes note of it: a result of another binary is not taken for this one's
	require.NoError(t, err)
	cmd := exec.Command(binary, "serve", "--config", at("broker.yaml"), "--log-level", "debug")
	logs, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := enemy(dir)
	c.pid, c.overheard = cmd.Process.Pid, wiretap.Options()
	log := io.TeeReader(logs, canary.Writer("the broker's log"))
	lines := bufio.NewScanner(log)
	for c.address == "" && lines.Scan() {
		if strings.Contains(lines.Text(), "broker listens") {
			c.address, c.metrics = field(lines.Text(), "address="), field(lines.Text(), "metrics=")
		}
	}
	require.NotEmpty(t, c.address, "it does not listen")
	go func() { _, _ = io.Copy(io.Discard, log) }()
	return c
}

// enemy knows where the broker's CA and a client's certificate are.
func enemy(dir string) *castle {
	at := func(name string) string { return filepath.Join(dir, name) }
	client := func(cert, key string) *tls.Config {
		s, err := certs.Open(certs.Files{CA: at("ca.crt"), Cert: cert, Key: key})
		if err != nil {
			panic(err)
		}
		c := s.ClientConfig()
		c.ServerName = "localhost"
		return c
	}
	return &castle{dir: dir, service: client(at("service.crt"), at("service.key")), stranger: client("", "")}
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, name)
	value, _, _ := strings.Cut(rest, " ")
	return value
}

// memory is what the process has in memory, in MiB.
func (c *castle) memory() float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kib) / 1024
}

// dial connects as the good client does, from an address of its own.
func (c *castle) dial(from net.IP) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+c.address, append(c.overheard, grpc.WithTransportCredentials(credentials.NewTLS(c.service)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			d := net.Dialer{}
			if from != nil {
				d.LocalAddr = &net.TCPAddr{IP: from}
			}
			return d.DialContext(ctx, "tcp", addr)
		}))...)
	if err != nil {
		panic(err)
	}
	return conn
}

// account is how honest clients fared.
type account struct {
	mu                   sync.Mutex
	calls, dials         []time.Duration
	failures             []error
	memory               float64
	connections, refused int
}

// honest calls over a connection that is there, and over new ones, until the context
// ends.
func (c *castle) honest(ctx context.Context) *account {
	a := &account{}
	call := func(client keybrokerv1.KeyBrokerServiceClient, to *[]time.Duration) {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := client.AcquireKey(limit, &keybrokerv1.AcquireKeyRequest{Pool: "p", InputTokens: 10, MaxOutputTokens: 10})
		a.mu.Lock()
		defer a.mu.Unlock()
		*to = append(*to, time.Since(start))
		if err != nil {
			a.failures = append(a.failures, err)
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		conn := c.dial(nil)
		defer conn.Close()
		for client := keybrokerv1.NewKeyBrokerServiceClient(conn); ctx.Err() == nil; pause(ctx, time.Millisecond) {
			call(client, &a.calls)
		}
	})
	all.Go(func() {
		for i := byte(0); ctx.Err() == nil; i++ {
			pause(ctx, 100*time.Millisecond)
			conn := c.dial(net.IPv4(127, 0, 200, 1+i%200))
			call(keybrokerv1.NewKeyBrokerServiceClient(conn), &a.dials)
			_ = conn.Close()
		}
	})
	all.Go(func() {
		for ; ctx.Err() == nil; pause(ctx, 200*time.Millisecond) {
			a.look(c)
		}
	})
	all.Wait()
	return a
}

func (a *account) first() error {
	if len(a.failures) == 0 {
		return nil
	}
	return a.failures[0]
}

// look takes note of the memory, and of what the broker says itself.
func (a *account) look(c *castle) {
	resp, err := http.Get("http://" + c.metrics + "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	canary.Text("metrics", string(body))
	value := func(name string) int {
		_, rest, _ := strings.Cut(string(body), "\n"+name+" ")
		text, _, _ := strings.Cut(rest, "\n")
		f, _ := strconv.ParseFloat(text, 64)
		return int(f)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.memory = max(a.memory, c.memory())
	a.connections, a.refused = max(a.connections, value("keybroker_connections")), value("keybroker_connections_refused_total")
}

// callHeaders are those of a call, as they are on the wire.
func callHeaders(path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", path}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return b.Bytes()
}
