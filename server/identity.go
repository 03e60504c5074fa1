package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/audit"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/pool"
)

// HolderHeader is the request metadata by which a client on this machine names
// itself, where plaintext proves nothing. It keeps such holders apart, not out: all
// have the rights of access.Local, and a name that nobody else can have.
const HolderHeader = "keybroker-holder"

// InstanceHeader is the request metadata by which a client says which process of its
// identity it is: any text of printable ASCII, up to 256 bytes. It is optional. Fifty pods
// of one service account are one holder, and as fifty instances they take turns in it.
const InstanceHeader = "keybroker-instance"

// caller is who makes a call.
type caller struct {
	identity string // what rules are about
	holder   string // what leases belong to: the identity, or a part of it that is local
	peer     string // address
	rights   *access.Rights
	refused  error // why it is nobody
}

type callerKey struct{}

// callerOf gives who makes the call. Every call has one, by arrive.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	if c == nil {
		return &caller{holder: "unknown", rights: &access.Rights{}, refused: errNoCredentials}
	}
	return c
}

var (
	errNoCredentials = errors.New("no credentials: give a client certificate, or a token as authorization: Bearer")
	errTwoTokens     = errors.New("more than one authorization")
	errNotBearer     = errors.New("authorization must be: Bearer, a space, and a token")
)

// arrive finds out who calls, before any of a message is read: what strangers send is
// not even kept. Those whom we know pass, and authorise looks at what they may do.
func (o *Options) arrive(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
	defer func() {
		if p := recover(); p != nil { // it would end the process
			err = o.panicked(ctx, p)
		}
	}()
	c := o.caller(ctx)
	ctx = context.WithValue(ctx, callerKey{}, c)
	if c.refused == nil {
		return ctx, nil
	}
	if err = permit(info.FullMethodName, c); err == nil || errors.Is(err, noWatch) {
		return ctx, err
	}
	method := info.FullMethodName
	if _, known := verbs[method]; !known { // anybody may write anything there
		method = "unknown"
	}
	o.note(ctx, audit.Denied, method, err, "")
	o.finished(ctx, method, err, 0)
	return nil, err
}

// caller tells who makes a call over gRPC.
func (o *Options) caller(ctx context.Context) *caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = &peer.Peer{Addr: &net.TCPAddr{}}
	}
	c := o.known(proofOf(p), metadata.ValueFromIncomingContext(ctx, "authorization"))
	if c.identity == access.Local {
		c.holder = access.Local + "/" + localName(ctx, c.peer)
	}
	return c
}

// known goes by a token, or else by what the connection proves. A token that is not
// good is refused even so: whoever sends one means to be known by it.
func (o *Options) known(proof *proof, authorization []string) *caller {
	policy := o.Policy()
	c := &caller{peer: proof.peer, rights: &access.Rights{}}
	switch given := authorization; {
	case len(given) > 1:
		c.refused = errTwoTokens
	case len(given) == 1:
		scheme, token, _ := strings.Cut(given[0], " ")
		if !strings.EqualFold(scheme, "bearer") {
			c.refused = errNotBearer
			break
		}
		c.identity, c.refused = policy.Token(token)
	default:
		c.identity, c.refused = proof.who(time.Now())
	}
	if c.refused != nil {
		c.holder = "unknown"
		return c
	}
	c.rights, c.holder = policy.Rights(c.identity), c.identity
	if c.rights.Has(anyVerb) {
		proof.conn.used()
		proof.conn.proven(c.identity)
	}
	return c
}

// may reports why the caller may not do this on a pool; nil if it may.
func (c *caller) may(v access.Verb, pool string) error {
	switch {
	case c.refused != nil:
		return &unauthenticated{c.refused}
	case !c.rights.May(v, pool):
		return broker.ErrUnknownPool // it is not to know whether there is one
	}
	return nil
}

// mayAcquire is what the broker asks of each pool.
func (c *caller) mayAcquire(name string) (caps pool.Caps, ok bool) {
	rule, ok := c.rights.Caps(name)
	return pool.Caps{Leases: rule.Leases, Waiters: rule.Waiters, Tokens: rule.Tokens}, ok
}

// localName is the name that a local caller gives, or else the host it calls from.
func localName(ctx context.Context, peer string) string {
	if names := metadata.ValueFromIncomingContext(ctx, HolderHeader); len(names) > 0 && printable(names[0]) {
		return names[0]
	}
	return hostOf(peer)
}

// hostOf cuts the port off an address.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// instanceOf returns the instance that a call comes from, empty if it does not say.
func instanceOf(ctx context.Context) (string, error) {
	names := metadata.ValueFromIncomingContext(ctx, InstanceHeader)
	if len(names) == 0 {
		return "", nil
	}
	if !printable(names[0]) {
		return "", invalidf("metadata "+InstanceHeader, "must be 1 to %d bytes of printable ASCII", maxName)
	}
	return names[0], nil
}

func printable(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, c := range []byte(name) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// unauthenticated is a call by nobody.
type unauthenticated struct{ reason error }

func (e *unauthenticated) Error() string { return "not authenticated: " + e.reason.Error() }

// Unwrap gives the reason.
func (e *unauthenticated) Unwrap() error { return e.reason }

// forbidden is a call that no rule allows.
type forbidden struct {
	identity string
	verb     access.Verb
}

func (e *forbidden) Error() string {
	return fmt.Sprintf("%s may not %s here", e.identity, e.verb)
}
