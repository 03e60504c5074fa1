package server_test

// Real TLS, in memory and on virtual time: who gets in, who does not, and what becomes
// of those who are in when the certificates change.

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/certs"
	"github.com/keybroker/keybroker/server"
)

// beginTLS serves one pool, a, for everybody who can prove a name; by tokens too, if
// there are some.
func beginTLS(t *testing.T, source *certs.Source, tokens map[string][]string, slot int64) *world {
	t.Helper()
	return beginWith(t, server.Options{
		Certificates: source,
		Policy:       always(policy(t, tokens, allow(access.Acquire|access.Inspect, []string{"*"}, "dns:**", "token:*"))),
	}, onePool("a", key("k", slots(slot))))
}

// get leases a key, tells how that went, and gives it back.
func (c *caller) get(ctx context.Context, options ...grpc.CallOption) error {
	l, err := c.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"}, options...)
	if err == nil {
		_, err = c.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: l.GetLeaseId(), Unused: true})
	}
	return err
}

// serial is the certificate that the server showed on the connection of a call.
func (c *caller) serial(ctx context.Context) string {
	var p peer.Peer
	require.NoError(c, c.get(ctx, grpc.Peer(&p)))
	return p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].SerialNumber.String()
}

func TestClientCertificates(t *testing.T) {
	const client, forServers = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	show := func(list ...tls.Certificate) []tls.Certificate { return list }
	for _, c := range []struct {
		name               string
		shows              func(ours, other *authority) []tls.Certificate
		required, optional string // outcomes
		withToken          string // where certificates are optional
	}{
		{"good", func(ours, _ *authority) []tls.Certificate { return show(ours.client("a.internal")) }, "yes", "yes", "yes"},
		{"none", func(_, _ *authority) []tls.Certificate { return nil }, "cut", "nobody", "yes"},
		{"expired", func(ours, _ *authority) []tls.Certificate {
			return show(ours.issue(client, named("a.internal"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }))
		}, "cut", "cut", "cut"},
		{"not valid yet", func(ours, _ *authority) []tls.Certificate {
			return show(ours.issue(client, named("a.internal"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }))
		}, "cut", "cut", "cut"},
		{"of another authority", func(_, other *authority) []tls.Certificate { return show(other.client("a.internal")) }, "cut", "cut", "cut"},
		{"of another authority, which it brings along", func(_, other *authority) []tls.Certificate {
			c := other.client("a.internal")
			c.Certificate = append(c.Certificate, other.cert.Raw)
			return show(c)
		}, "cut", "cut", "cut"},
		{"for servers", func(ours, _ *authority) []tls.Certificate { return show(ours.issue(forServers, named("a.internal"))) }, "cut", "cut", "cut"},
		{"signed by itself", func(ours, _ *authority) []tls.Certificate {
			return show((&authority{T: ours.T}).issue(client, named("a.internal")))
		}, "cut", "cut", "cut"},
		{"signed with another client's key", func(ours, _ *authority) []tls.Certificate {
			below := ours.client("a.internal")
			return show((&authority{ours.T, below.Leaf, keyOf(below)}).client("b.internal"))
		}, "cut", "cut", "cut"},
		{"of an authority itself", func(ours, _ *authority) []tls.Certificate {
			return show(ours.issue(client, named("a.internal"), func(c *x509.Certificate) { c.IsCA = true }))
		}, "nobody", "nobody", "yes"},
		{"without a name", func(ours, _ *authority) []tls.Certificate { return show(ours.issue(client)) }, "nobody", "nobody", "yes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, other := newAuthority(t), newAuthority(t)
				f := newFiles(t, ours.server(), ours)
				token, _ := access.NewToken()
				required, optional := beginTLS(t, f.open(), nil, 9), beginTLS(t, f.open(), map[string][]string{"ci": {token}}, 9)
				shows := c.shows(ours, other)
				for _, try := range []struct {
					w             *world
					authorization []string
					want          string
				}{
					{required, nil, c.required}, {optional, nil, c.optional}, {optional, []string{"Bearer " + token}, c.withToken},
				} {
					err := ours.over(try.w, shows...).get(bearer(t.Context(), try.authorization...))
					assert.Equal(t, outcomes[try.want], outcomeOf(err), "%v", err)
				}
			})
		})
	}
}

// keyOf gives a certificate's key.
func keyOf(c tls.Certificate) *ecdsa.PrivateKey { return c.PrivateKey.(*ecdsa.PrivateKey) }

func TestOldTLSIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		w := beginTLS(t, newFiles(t, ca.server(), ca).open(), nil, 9)
		for version, want := range map[uint16]codes.Code{tls.VersionTLS12: codes.Unavailable, tls.VersionTLS13: codes.OK} {
			config := ca.dialer(ca.client("a.internal"))
			config.MaxVersion = version
			err := w.dial(w.main, credentials.NewTLS(config), "").get(t.Context())
			assert.Equal(t, want, status.Code(err), "%s: %v", tls.VersionName(version), err)
		}
		assert.Equal(t, codes.Unavailable, status.Code(w.as("plain").get(t.Context())), "plaintext")
	})
}

// A session that is taken up again would not be checked against the authorities of
// the moment.
func TestSessionsAreNotTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		w := beginTLS(t, newFiles(t, ca.server(), ca).open(), nil, 9)
		config := ca.dialer(ca.client("a.internal"))
		config.NextProtos, config.ClientSessionCache = []string{"h2"}, tls.NewLRUClientSessionCache(9)
		for range 3 {
			inner, err := w.main.DialContext(t.Context())
			require.NoError(t, err)
			conn := tls.Client(inner, config)
			_, err = io.ReadFull(conn, make([]byte, 9)) // HTTP/2 begins, so all of TLS's own has come
			require.NoError(t, err)
			assert.False(t, conn.ConnectionState().DidResume)
			require.NoError(t, conn.Close())
		}
	})
}

func TestAuthorityThatIsTakenAwayTakesItsClientsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newAuthority(t), newAuthority(t)
		f := newFiles(t, one.server(), one, two)
		source := f.open()
		w := beginTLS(t, source, nil, 1)
		theirs := one.dialer(two.client("bob.internal")) // the server's is of the first
		alice, bob := one.over(w, one.client("alice.internal")), w.dial(w.main, credentials.NewTLS(theirs), "")
		held, err := bob.AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		waiting := alice.ask(t.Context(), waitFor("a", 30*time.Second))
		watching := alice.watch(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a", MinInterval: durationpb.New(time.Second)})
		require.NoError(t, (<-watching).err)
		time.Sleep(2 * time.Second)

		f.trust(two)
		reload(t, source)
		assert.Equal(t, outcomes["stale"], outcomeOf(alice.get(t.Context())), "on the connection that she has")
		assert.EqualValues(t, 1, alice.dials.Load())
		assert.Equal(t, outcomes["cut"], outcomeOf(one.over(w, one.client("alice.internal")).get(t.Context())), "on a new one")
		_, err = bob.ReleaseKey(t.Context(), &keybrokerv1.ReleaseKeyRequest{LeaseId: held.GetLeaseId()})
		require.NoError(t, err, "the other's client goes on")
		assert.Equal(t, outcomes["stale"], outcomeOf((<-waiting).err), "she stood in line when it happened")
		last := arrival{}
		for last.err == nil {
			last = <-watching
		}
		assert.Equal(t, outcomes["stale"], outcomeOf(last.err), "and looked on")
		require.NoError(t, bob.get(t.Context()), "what she waited for is free")
		assert.EqualValues(t, 1, bob.dials.Load())

		f.trust(one, two)
		reload(t, source)
		require.NoError(t, alice.get(t.Context()), "trusted again")
		assert.EqualValues(t, 1, alice.dials.Load())
	})
}

// slow is a connection whose owner says nothing more until it is told to.
type slow struct {
	net.Conn
	writes int
	free   int           // writes that are not held up
	told   chan struct{} // closed
}

func (s *slow) Write(p []byte) (int, error) {
	if s.writes++; s.writes > s.free {
		<-s.told
	}
	return s.Conn.Write(p)
}

// Whoever is in the middle of a handshake when its authority is taken away is checked
// by the old ones, and must not be taken for checked by the new.
func TestAuthorityThatIsTakenAwayDuringAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newAuthority(t), newAuthority(t)
		f := newFiles(t, one.server(), one, two)
		source := f.open()
		w := beginTLS(t, source, nil, 9)
		told := make(chan struct{})
		conn, err := grpc.NewClient("passthrough:///broker", grpc.WithTransportCredentials(credentials.NewTLS(one.dialer(one.client("alice.internal")))),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				inner, err := w.main.DialContext(ctx)
				return &slow{Conn: inner, free: 1, told: told}, err // she says hello
			}))
		require.NoError(t, err)
		defer conn.Close()
		called := make(chan error, 1)
		go func() {
			_, err := keybrokerv1.NewKeyBrokerServiceClient(conn).AcquireKey(t.Context(), &keybrokerv1.AcquireKeyRequest{Pool: "a"})
			called <- err
		}()
		synctest.Wait()
		f.trust(two)
		reload(t, source)
		close(told)
		err = <-called
		assert.Equal(t, outcomes["stale"], outcomeOf(err), "%v", err)
	})
}

func TestCertificateThatExpiresWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		w := beginTLS(t, newFiles(t, ca.server(), ca).open(), nil, 9)
		short := ca.issue(x509.ExtKeyUsageClientAuth, named("a.internal"), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(5 * time.Minute) })
		alice := ca.over(w, short)
		require.NoError(t, alice.get(t.Context()))
		time.Sleep(5 * time.Minute)
		require.NoError(t, alice.get(t.Context()), "in its last moment")
		time.Sleep(time.Millisecond)
		assert.Equal(t, outcomes["stale"], outcomeOf(alice.get(t.Context())), "a millisecond late")
		assert.EqualValues(t, 1, alice.dials.Load(), "on the connection that was good")
		time.Sleep(time.Second)
		assert.Equal(t, outcomes["cut"], outcomeOf(ca.over(w, short).get(t.Context())))
	})
}

// Tokens come and go without a restart, and with them whether a connection must show
// a certificate.
func TestFirstTokenOpensTheDoorToThoseWithoutCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		token, _ := access.NewToken()
		rule := allow(access.Acquire, []string{"a"}, "token:ci", "dns:a.internal")
		without := policy(t, nil, rule)
		with := policy(t, map[string][]string{"ci": {token}}, rule)
		var now atomic.Pointer[access.Policy]
		now.Store(without)
		w := beginWith(t, server.Options{Certificates: newFiles(t, ca.server(), ca).open(), Policy: now.Load},
			onePool("a", key("k", slots(9))))
		ctx := bearer(t.Context(), "Bearer "+token)
		for _, c := range []struct {
			policy *access.Policy
			want   string
		}{{without, "cut"}, {with, "yes"}, {without, "cut"}} {
			now.Store(c.policy)
			assert.Equal(t, outcomes[c.want], outcomeOf(ca.over(w).get(ctx)))
			assert.NoError(t, ca.over(w, ca.client("a.internal")).get(t.Context()), "a certificate is always good")
		}
	})
}

func TestServerCertificateIsReplacedUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		f := newFiles(t, ca.server(), ca)
		source := f.open()
		w := beginTLS(t, source, nil, 100)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		calls := make(chan error)
		var clients sync.WaitGroup
		var services []*caller
		for range 8 {
			c := ca.over(w, ca.client("service.internal"))
			services = append(services, c)
			clients.Go(func() {
				for ctx.Err() == nil {
					select {
					case calls <- c.get(t.Context()):
					case <-ctx.Done():
					}
				}
			})
		}
		for range 20 {
			for range 2 * len(services) {
				require.NoError(t, <-calls)
			}
			next := ca.server()
			f.install(next)
			reload(t, source)
			assert.Equal(t, next.Leaf.SerialNumber.String(), ca.over(w, ca.client("new.internal")).serial(t.Context()), "a new connection sees the new one")
		}
		stop()
		clients.Wait()
		for _, c := range services {
			assert.EqualValues(t, 1, c.dials.Load(), "an old connection goes on")
		}
	})
}

// A connection is replaced in time, so that what it has proved is proved anew; nobody
// notices but those who stay on the line.
func TestConnectionsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		w := beginTLS(t, newFiles(t, ca.server(), ca).open(), nil, 9)
		alice, watcher := ca.over(w, ca.client("alice.internal")), ca.over(w, ca.client("watcher.internal"))
		began := time.Now()
		stream, err := watcher.operator.WatchPool(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a", MinInterval: durationpb.New(time.Second)})
		require.NoError(t, err)
		ended := make(chan time.Duration, 1)
		go func() {
			for {
				if _, err := stream.Recv(); err != nil {
					assert.Equal(t, codes.Unavailable, status.Code(err))
					ended <- time.Since(began)
					return
				}
			}
		}()
		const age, grace = 15 * time.Minute, 2 * time.Minute
		const earliest, latest = age - age/10, age + age/10
		for time.Since(began) <= latest+grace {
			require.NoError(t, alice.get(t.Context()))
			switch after := time.Since(began); {
			case after < earliest:
				assert.EqualValues(t, 1, alice.dials.Load(), after)
			case after > latest+10*time.Second:
				assert.EqualValues(t, 2, alice.dials.Load(), after)
			}
			time.Sleep(10 * time.Second)
		}
		after := <-ended
		assert.GreaterOrEqual(t, after, earliest+grace)
		assert.LessOrEqual(t, after, latest+grace+10*time.Second, "it may have connected some seconds later")
	})
}

// Whoever connects and proves nothing does not stay; a probe makes a new connection.
func TestConnectionThatProvesNothingIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		token, _ := access.NewToken()
		w := beginTLS(t, newFiles(t, ca.server(), ca).open(), map[string][]string{"ci": {token}}, 9)
		nobody, somebody, late := ca.over(w), ca.over(w, ca.client("a.internal")), ca.over(w)
		for _, c := range []*caller{nobody, somebody, late} {
			require.NoError(t, c.do(t.Context(), "HealthCheck/a"))
		}
		time.Sleep(29 * time.Second)
		require.NoError(t, late.get(bearer(t.Context(), "Bearer "+token)))
		synctest.Wait()
		assert.Equal(t, server.Stats{Connections: 3, Unproven: 1}, w.server.Stats())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, server.Stats{Connections: 2}, w.server.Stats())
		require.NoError(t, nobody.do(t.Context(), "HealthCheck/a"))
		assert.EqualValues(t, 2, nobody.dials.Load())
	})
}
