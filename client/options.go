package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // whether a broker serves
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/keybroker/keybroker/internal/certs"
)

// Option changes how a client works.
type Option func(*options)

type options struct {
	tls       *tls.Config
	files     *certs.Files
	wantsTLS  bool
	plaintext bool
	token     string
	tokenFile string
	holder    string
	logger    *slog.Logger
	safeRate  float64
	hooks     Hooks
	dial      []grpc.DialOption
}

// WithTLS connects by TLS with a configuration of the caller's own: certificates,
// CAs, server name. Default: TLS with the system's CAs, unless the broker is on
// this machine.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls, o.wantsTLS = c, true } }

// WithTLSFiles connects by TLS and proves who we are by a certificate: PEM files, which
// are read again for each connection, so that those who change them need tell
// nobody. ca are the CAs of the broker; empty: the system's. cert and key may be empty
// where a token proves it.
func WithTLSFiles(ca, cert, key string) Option {
	return func(o *options) { o.files = &certs.Files{CA: ca, Cert: cert, Key: key} }
}

// WithPlaintext connects without TLS. That is the default for a broker on this
// machine, and it hands keys to whoever listens anywhere else.
func WithPlaintext() Option { return func(o *options) { o.plaintext = true } }

// WithToken authenticates with a bearer token. It is never sent in plaintext
// over a network.
func WithToken(token string) Option { return func(o *options) { o.token = token } }

// WithTokenFile authenticates with the bearer token in a file, which is read again at
// most once a second, so that those who change it need tell nobody. While it cannot be
// read, the token of before stays in use.
func WithTokenFile(path string) Option { return func(o *options) { o.tokenFile = path } }

// WithHolder names the caller, where nothing else proves who it is: leases and
// turns in line are by holder. Default: the host.
func WithHolder(name string) Option { return func(o *options) { o.holder = name } }

// WithSafeRate lets this process send so many requests a second for each pool and
// model while no broker can be reached, with the last key it leased. Nobody counts
// them, so it should be a small part of what the key allows divided by the number
// of processes. Default 0: without a broker, requests are refused.
func WithSafeRate(perSecond float64) Option { return func(o *options) { o.safeRate = perSecond } }

// WithLogger logs what goes wrong in the background: reports that could not be
// sent. No key is ever logged. Default: nothing is.
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// WithHooks has what happens told to hooks. Default: to none.
func WithHooks(h Hooks) Option { return func(o *options) { o.hooks = h } }

// WithDialOptions adds options of gRPC, such as the interceptors of a tracer:
//
//	client.WithDialOptions(grpc.WithStatsHandler(otelgrpc.NewClientHandler()))
//
// An interceptor sees the messages, and so the keys in AcquireKey's answers.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, opts...) }
}

// Any broker takes any call. A call that fails with UNAVAILABLE is tried up to four times,
// unless most calls fail. Asks carry a request id and reports are cumulative, so a repetition
// is harmless.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "keybroker.v1.KeyBrokerService"},
	"retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
	"methodConfig": [{
		"name": [{"service": "keybroker.v1.KeyBrokerService"}],
		"retryPolicy": {
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// reconnect makes gRPC look for a lost broker about once a second, so that it is found before
// held leases run out.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: 5 * time.Second,
}

func dial(target string, o *options) (*grpc.ClientConn, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	hosts, local, err := hostsOf(target)
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(reconnect),
	}
	target = hosts[0]
	if len(hosts) > 1 {
		list, err := listOf(hosts)
		if err != nil {
			return nil, err
		}
		opts = append(opts, grpc.WithResolvers(list))
		target = list.Scheme() + ":///list"
	}
	transport, err := o.transport(local)
	if err != nil {
		return nil, err
	}
	opts = append(opts, grpc.WithTransportCredentials(transport))
	switch {
	case o.tokenFile != "":
		opts = append(opts, grpc.WithPerRPCCredentials(&bearerFile{path: o.tokenFile, secure: !local, logger: o.logger}))
	case o.token != "":
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{o.token, !local}))
	}
	conn, err := grpc.NewClient(target, append(opts, o.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("keybroker: %w", err)
	}
	return conn, nil
}

// hostsOf splits a target into its hosts, each with a port, and reports whether all of
// them are on this machine.
func hostsOf(target string) (hosts []string, local bool, err error) {
	local = true
	for h := range strings.SplitSeq(target, ",") {
		h = strings.TrimSpace(h)
		if h == "" || strings.HasPrefix(h, "http://") || strings.HasPrefix(h, "https://") {
			return nil, false, fmt.Errorf("keybroker: target %q: use host:port, without http://", target)
		}
		hosts = append(hosts, withPort(h))
		local = local && isLoopback(h)
	}
	return hosts, local, nil
}

// listOf resolves to several hosts. Each proves its own name.
func listOf(hosts []string) (*manual.Resolver, error) {
	var addrs []resolver.Address
	for _, h := range hosts {
		if _, _, err := net.SplitHostPort(h); err != nil || strings.Contains(h, "/") {
			return nil, fmt.Errorf("keybroker: %q in a list of targets: use host:port", h)
		}
		addrs = append(addrs, resolver.Address{Addr: h, ServerName: h})
	}
	list := manual.NewBuilderWithScheme("keybroker")
	list.InitialState(resolver.State{Addresses: addrs})
	return list, nil
}

// transport returns TLS, unless plaintext was asked for, or the broker is on this machine and
// no TLS option was given.
func (o *options) transport(local bool) (credentials.TransportCredentials, error) {
	switch {
	case o.files != nil:
		wire, err := newFileWire(*o.files, o.logger)
		if err != nil {
			return nil, fmt.Errorf("keybroker: WithTLSFiles: %w", err)
		}
		return wire, nil
	case o.plaintext || local && o.tls == nil:
		return insecure.NewCredentials(), nil
	}
	return credentials.NewTLS(o.tls), nil
}

// defaultPort is where a broker listens.
const defaultPort = "7070"

// withPort adds the default port to a plain host.
func withPort(host string) string {
	if strings.Contains(host, "/") || strings.HasPrefix(host, "unix") {
		return host
	}
	if _, _, err := net.SplitHostPort(host); err == nil || strings.Count(host, ":") == 1 {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
}

// check refuses options that exclude each other, and values with which every call would fail.
func (o *options) check() error {
	for option, value := range map[string]string{"WithToken": o.token, "WithHolder": o.holder} {
		for _, c := range []byte(value) {
			if c < ' ' || c > '~' {
				return fmt.Errorf("keybroker: %s: a character that no header can carry (%#x); a token from a file often ends in a new line", option, c)
			}
		}
	}
	switch {
	case o.plaintext && (o.tls != nil || o.files != nil), o.tls != nil && o.files != nil:
		return errors.New("keybroker: WithTLS, WithTLSFiles and WithPlaintext exclude each other")
	case o.token != "" && o.tokenFile != "":
		return errors.New("keybroker: WithToken and WithTokenFile exclude each other")
	case o.wantsTLS && o.tls == nil:
		return errors.New("keybroker: WithTLS(nil): give a configuration; without this option, brokers elsewhere are reached by TLS with the system's CAs")
	}
	return nil
}

// isLoopback reports whether a target is surely on this machine.
func isLoopback(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	for _, scheme := range [...]string{"dns:///", "dns:", "passthrough:///"} { // not by another's name server
		if rest, ok := strings.CutPrefix(target, scheme); ok {
			target = rest
			break
		}
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// bearer is a token as gRPC's credentials.
type bearer struct {
	token  string
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// process tells this process from others of the same identity. The broker lets them take
// turns.
var process = rand.Text()

// outgoing adds to a call what names the caller.
func (o *options) outgoing(ctx context.Context) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "keybroker-instance", process)
	if o.holder == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "keybroker-holder", o.holder)
}
