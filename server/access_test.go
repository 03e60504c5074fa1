package server_test

// Who may do what. Two tables say it all: who somebody is, by what they show and over
// which wire; and what happens to whom in each call. Every combination is tried.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	keybrokerv1 "github.com/keybroker/keybroker/gen/keybroker/v1"
	"github.com/keybroker/keybroker/internal/access"
	"github.com/keybroker/keybroker/internal/broker"
	"github.com/keybroker/keybroker/server"
)

// whoIs says as whom somebody passes over each wire: in plaintext by the open policy
// and by rules, over TLS with tokens alone, with certificates alone, and with both.
// "-" cannot be tried, and "cut" does not get as far as a call.
const whoIs = `
                           open    rules   tokens  certs   both
spiffe-certificate         -       -       nobody  known   known
dns-certificate            -       -       nobody  known   known
token                      nobody  known   known   cut     known
second-token               nobody  known   known   cut     known
token-after-BEARER         nobody  known   known   cut     known
unknown-token              nobody  nobody  nobody  cut     nobody
token-without-scheme       nobody  nobody  nobody  cut     nobody
token-as-basic             nobody  nobody  nobody  cut     nobody
token-after-two-spaces     nobody  nobody  nobody  cut     nobody
bearer-of-nothing          nobody  nobody  nobody  cut     nobody
empty-authorization        nobody  nobody  nobody  cut     nobody
two-tokens                 nobody  nobody  nobody  cut     nobody
the-same-token-twice       nobody  nobody  nobody  cut     nobody
certificate-without-names  -       -       nobody  nobody  nobody
certificate-and-token      -       -       known   nobody  known
certificate-and-bad-token  -       -       nobody  nobody  nobody
nothing                    local   local   nobody  cut     nobody
`

// whatHappens says what each call comes to. Pool a is the one that a buyer may acquire
// from, a viewer look at and an operator change; b is another; ghost is none. The chief
// may do everything everywhere.
const whatHappens = `
                    listener  nobody  stranger  buyer    viewer  operator  chief
AcquireKey/a        keys      nobody  never     yes      never   never     yes
AcquireKey/b        keys      nobody  never     hidden   never   never     yes
AcquireKey/ghost    keys      nobody  never     hidden   never   never     absent
ReportUsage/a       keys      nobody  never     unknown  never   never     unknown
ReleaseKey/a        keys      nobody  never     unknown  never   never     unknown
ListPools/a         admin     nobody  never     never    yes     never     yes
GetPool/a           admin     nobody  never     never    yes     never     yes
GetPool/b           admin     nobody  never     never    hidden  never     yes
GetPool/ghost       admin     nobody  never     never    hidden  never     absent
ListLeases/a        admin     nobody  never     never    yes     never     yes
ListLeases/b        admin     nobody  never     never    hidden  never     yes
ListLeases/ghost    admin     nobody  never     never    hidden  never     absent
WatchPool/a         admin     nobody  never     never    yes     never     yes
WatchPool/b         admin     nobody  never     never    hidden  never     yes
WatchPool/ghost     admin     nobody  never     never    hidden  never     absent
RestoreKey/a        admin     nobody  never     never    never   yes       yes
RestoreKey/b        admin     nobody  never     never    never   hidden    yes
RestoreKey/ghost    admin     nobody  never     never    never   hidden    absent
Reflection/a        admin     nobody  never     yes      yes     yes       yes
ReflectionAlpha/a   admin     nobody  never     yes      yes     yes       yes
HealthCheck/a       both      yes     yes       yes      yes     yes       yes
HealthList/a        both      yes     yes       yes      yes     yes       yes
HealthWatch/a       both      unheard yes       yes      yes     yes       yes
`

// outcome is a code, and the reason in its ErrorInfo.
type outcome struct {
	code   codes.Code
	reason string
}

var outcomes = map[string]outcome{
	"yes":       {codes.OK, ""},
	"nobody":    {codes.Unauthenticated, "UNAUTHENTICATED"},
	"never":     {codes.PermissionDenied, "FORBIDDEN"},                 // on no pool
	"hidden":    {codes.PermissionDenied, "POOL_UNKNOWN_OR_FORBIDDEN"}, // not on this one, if there is one
	"absent":    {codes.NotFound, "POOL_UNKNOWN_OR_FORBIDDEN"},         // for those who may look at any
	"unknown":   {codes.NotFound, "LEASE_UNKNOWN"},
	"elsewhere": {codes.Unimplemented, ""},        // on the other listener
	"stale":     {codes.Unavailable, "RECONNECT"}, // who may have a better certificate by now
	"unheard":   {codes.Unimplemented, ""},        // by strangers
	"cut":       {codes.Unavailable, ""},
}

func outcomeOf(err error) outcome {
	return outcome{status.Code(err), detail[*errdetails.ErrorInfo](err).GetReason()}
}

// table reads one of those above: cells by row and column.
func table(text string) (cells map[string]map[string]string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	columns := strings.Fields(lines[0])
	cells = map[string]map[string]string{}
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		row := map[string]string{}
		for i, c := range columns {
			row[c] = words[i+1]
		}
		cells[words[0]] = row
	}
	return cells
}

// rpcs are all there are. A stream is waited for until its first message.
var rpcs = map[string]func(c *caller, ctx context.Context, pool string) error{
	"AcquireKey": func(c *caller, ctx context.Context, pool string) error {
		l, err := c.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: pool})
		assert.Equal(c, err == nil, l.GetApiKey() != "")
		return err
	},
	"ReportUsage": func(c *caller, ctx context.Context, _ string) error {
		_, err := c.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: "forged", StatusCode: 200})
		return err
	},
	"ReleaseKey": func(c *caller, ctx context.Context, _ string) error {
		_, err := c.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: "forged"})
		return err
	},
	"ListPools": func(c *caller, ctx context.Context, _ string) error {
		_, err := c.operator.ListPools(ctx, &keybrokerv1.ListPoolsRequest{})
		return err
	},
	"GetPool": func(c *caller, ctx context.Context, pool string) error {
		_, err := c.operator.GetPool(ctx, &keybrokerv1.GetPoolRequest{Pool: pool})
		return err
	},
	"ListLeases": func(c *caller, ctx context.Context, pool string) error {
		_, err := c.operator.ListLeases(ctx, &keybrokerv1.ListLeasesRequest{Pool: pool})
		return err
	},
	"RestoreKey": func(c *caller, ctx context.Context, pool string) error {
		_, err := c.operator.RestoreKey(ctx, &keybrokerv1.RestoreKeyRequest{Pool: pool, KeyId: "k"})
		return err
	},
	"WatchPool": func(c *caller, ctx context.Context, pool string) error {
		stream, err := c.operator.WatchPool(ctx, &keybrokerv1.WatchPoolRequest{Pool: pool})
		return first(stream, err)
	},
	"Reflection": func(c *caller, ctx context.Context, _ string) error {
		stream, err := reflectionpb.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
		if err == nil {
			_ = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		}
		return first(stream, err)
	},
	"ReflectionAlpha": func(c *caller, ctx context.Context, _ string) error {
		stream, err := reflectionalpha.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
		if err == nil {
			//lint:ignore SA1019 it is deprecated, and served for older tools
			_ = stream.Send(&reflectionalpha.ServerReflectionRequest{MessageRequest: &reflectionalpha.ServerReflectionRequest_ListServices{}})
		}
		return first(stream, err)
	},
	"HealthCheck": func(c *caller, ctx context.Context, _ string) error {
		_, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	},
	"HealthList": func(c *caller, ctx context.Context, _ string) error {
		_, err := healthpb.NewHealthClient(c.conn).List(ctx, &healthpb.HealthListRequest{})
		return err
	},
	"HealthWatch": func(c *caller, ctx context.Context, _ string) error {
		stream, err := healthpb.NewHealthClient(c.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		return first(stream, err)
	},
}

func first[M any](stream interface{ Recv() (M, error) }, err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// do makes a call of the table, as "GetPool/a".
func (c *caller) do(ctx context.Context, call string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends streams
	name, pool, _ := strings.Cut(call, "/")
	return rpcs[name](c, ctx, pool)
}

// classes are of what people may do.
var classes = []string{"stranger", "buyer", "viewer", "operator", "chief"}

// classRules gives each class its rights, whichever kind of identity somebody has.
func classRules(more ...access.Rule) []access.Rule {
	all := func(class string) []string {
		return []string{"spiffe://example.org/" + class, "dns:" + class + ".internal", "token:" + class}
	}
	const everything = access.Acquire | access.Inspect | access.Admin
	return append([]access.Rule{
		allow(access.Acquire, []string{"a"}, all("buyer")...),
		allow(access.Inspect, []string{"a"}, all("viewer")...),
		allow(access.Admin, []string{"a"}, all("operator")...),
		allow(everything, []string{"*"}, all("chief")...),
	}, more...)
}

// people have all that there is to show.
type people struct {
	ca     *authority
	tokens map[string][]string // by class, two each
}

func newPeople(t *testing.T) *people {
	p := &people{newAuthority(t), map[string][]string{}}
	for _, class := range classes {
		old, _ := access.NewToken()
		young, _ := access.NewToken()
		p.tokens[class] = []string{old, young}
	}
	return p
}

// show gives the certificate and the authorizations of somebody of a class.
func (p *people) show(who, class string) (certificates []tls.Certificate, authorizations []string) {
	token, second := p.tokens[class][0], p.tokens[class][1]
	unknown, _ := access.NewToken()
	spiffe := func() []tls.Certificate { return []tls.Certificate{p.ca.client("spiffe://example.org/" + class)} }
	switch who {
	case "spiffe-certificate":
		return spiffe(), nil
	case "dns-certificate":
		return []tls.Certificate{p.ca.client(class + ".internal")}, nil
	case "certificate-without-names":
		return []tls.Certificate{p.ca.issue(x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.Subject.CommonName = class + ".internal" })}, nil
	case "certificate-and-token":
		return spiffe(), []string{"Bearer " + token}
	case "certificate-and-bad-token":
		return spiffe(), []string{"Bearer " + unknown}
	case "nothing":
		return nil, nil
	}
	return nil, map[string][]string{
		"token":                  {"Bearer " + token},
		"second-token":           {"Bearer " + second},
		"token-after-BEARER":     {"BEARER " + token},
		"unknown-token":          {"Bearer " + unknown},
		"token-without-scheme":   {token},
		"token-as-basic":         {"Basic " + token},
		"token-after-two-spaces": {"Bearer  " + token},
		"bearer-of-nothing":      {"Bearer"},
		"empty-authorization":    {""},
		"two-tokens":             {"Bearer " + token, "Bearer " + second},
		"the-same-token-twice":   {"Bearer " + token, "Bearer " + token},
	}[who]
}

// serve begins a world with one kind of wire.
func (p *people) serve(t *testing.T, wire string, split bool) *world {
	o := server.Options{SplitAdmin: split}
	local := allow(access.Acquire, []string{"a"}, access.Local)
	switch wire {
	case "open":
	case "rules":
		o.Policy = always(policy(t, p.tokens, classRules(local)...))
	case "tokens":
		o.Policy, o.Certificates = always(policy(t, p.tokens, classRules()...)), newFiles(t, p.ca.server()).open()
	case "certs":
		o.Policy, o.Certificates = always(policy(t, nil, classRules()...)), newFiles(t, p.ca.server(), p.ca).open()
	case "both":
		o.Policy, o.Certificates = always(policy(t, p.tokens, classRules()...)), newFiles(t, p.ca.server(), p.ca).open()
	}
	return beginWith(t, o, onePool("a", key("k", slots(plenty))), onePool("b", key("k", slots(plenty))))
}

// come connects to a listener over a kind of wire.
func (p *people) come(w *world, wire string, l *bufconn.Listener, certificates []tls.Certificate) *caller {
	if wire == "open" || wire == "rules" {
		return w.dial(l, insecure.NewCredentials(), "")
	}
	return w.dial(l, credentials.NewTLS(p.ca.dialer(certificates...)), "")
}

// standing is the column of whatHappens for somebody of whoIs.
func standing(passes, class, wire string) string {
	switch {
	case passes == "known":
		return class
	case passes == "local" && wire == "open":
		return "chief"
	case passes == "local":
		return "buyer"
	}
	return "nobody"
}

func TestWhoMayDoWhat(t *testing.T) {
	who, what := table(whoIs), table(whatHappens)
	for _, wire := range []string{"open", "rules", "tokens", "certs", "both"} {
		for _, split := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,split=%v", wire, split), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPeople(t)
					w := p.serve(t, wire, split)
					listeners := map[string]*bufconn.Listener{"keys": w.main}
					if split {
						listeners["admin"] = w.admin
					}
					for somebody, passes := range who {
						if passes[wire] == "-" {
							continue
						}
						some := classes
						if passes[wire] != "known" {
							some = []string{"chief"} // who would have most to win
						}
						for _, class := range some {
							certificates, authorizations := p.show(somebody, class)
							for listener, l := range listeners {
								c := p.come(w, wire, l, certificates)
								for call, row := range what {
									want := row[standing(passes[wire], class, wire)]
									switch {
									case passes[wire] == "cut":
										want = "cut"
									case want == "nobody": // wherever it knocks
									case split && row["listener"] != "both" && row["listener"] != listener:
										want = "elsewhere"
									}
									err := c.do(bearer(t.Context(), authorizations...), call)
									assert.Equal(t, outcomes[want], outcomeOf(err), "%s of %s, %s on %s: %v", somebody, class, call, listener, err)
								}
								c.conn.Close()
							}
						}
					}
					if wire != "certs" {
						assert.Equal(t, slices.Sorted(maps.Keys(server.Verbs)), called(w), "the table has every method")
					}
				})
			})
		}
	}
}

// called lists the methods that were called so far.
func called(w *world) []string {
	names := map[string]bool{}
	for _, c := range w.calls.list() {
		names[c.method] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Who may look at one pool does not learn from it which others there are.
func TestFallbacksAreForThoseWhoMayLookAtThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t)
		a := onePool("a", key("k", slots(1)))
		a.Pools[0].Fallback = []string{"b"}
		w := beginWith(t, server.Options{Policy: always(policy(t, p.tokens, classRules()...))}, a, onePool("b", key("k", slots(1))))
		c := w.as("")
		for class, want := range map[string][]string{"viewer": nil, "chief": {"b"}} {
			r, err := c.operator.GetPool(bearer(t.Context(), "Bearer "+p.tokens[class][0]), &keybrokerv1.GetPoolRequest{Pool: "a"})
			require.NoError(t, err)
			assert.ElementsMatch(t, want, r.GetPool().GetFallback(), class)
		}
	})
}

// A lease in a pool that its holder has lost lives to its time, and no longer.
func TestReportRenewsNothingThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t)
		of := func(pool string) *access.Policy {
			return policy(t, p.tokens, allow(access.Acquire, []string{pool}, "token:buyer"))
		}
		var now atomic.Pointer[access.Policy]
		now.Store(of("a"))
		w := beginWith(t, server.Options{Policy: now.Load}, onePool("a", key("k", slots(1))), onePool("b", key("k", slots(1))))
		c, ctx := w.as(""), bearer(t.Context(), "Bearer "+p.tokens["buyer"][0])
		l, err := c.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		report := func() time.Duration {
			r, err := c.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: l.GetLeaseId(), StatusCode: 200})
			require.NoError(t, err)
			return r.GetTtl().AsDuration()
		}
		time.Sleep(time.Minute)
		assert.Equal(t, 2*time.Minute, report())
		now.Store(of("b"))
		time.Sleep(time.Minute)
		assert.Equal(t, time.Minute, report())
		time.Sleep(time.Minute + time.Second)
		assert.Zero(t, w.state("a").Summary.Open)
	})
}

// Whoever may not look at pools learns from no answer which there are.
func TestForbiddenPoolLooksLikeNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t)
		w := p.serve(t, "both", false)
		for _, class := range []string{"stranger", "buyer", "viewer", "operator"} {
			certificates, _ := p.show("spiffe-certificate", class)
			c := p.come(w, "both", w.main, certificates)
			for _, rpc := range []string{"AcquireKey", "GetPool", "ListLeases", "WatchPool", "RestoreKey"} {
				forbidden, none := c.do(t.Context(), rpc+"/b"), c.do(t.Context(), rpc+"/ghost")
				require.Error(t, none)
				assert.Equal(t, status.Convert(none).Proto().String(), status.Convert(forbidden).Proto().String(), "%s, %s", class, rpc)
			}
		}
		buyer := p.come(w, "both", w.main, []tls.Certificate{p.ca.client("buyer.internal")})
		for name, r := range map[string]*keybrokerv1.AcquireKeyRequest{ // a pool is looked for before the ask is
			"too long a ttl":      {Ttl: waitFor("", 1000*time.Hour).GetMaxWait()},
			"too large":           {InputTokens: plenty + 1},
			"excluding a key":     {ExcludeKeyIds: []string{"k"}},
			"waiting":             waitFor("", time.Minute),
			"repeatable":          {RequestId: "r"},
			"an unheard-of model": {Model: "unheard-of"},
		} {
			r.Pool = "b"
			_, forbidden := buyer.AcquireKey(t.Context(), r)
			r.Pool = "ghost"
			_, none := buyer.AcquireKey(t.Context(), r)
			require.Error(t, none, name)
			assert.Equal(t, status.Convert(none).Proto().String(), status.Convert(forbidden).Proto().String(), name)
		}
	})
}

// chained are pools that serve one model, each with one slot: alpha falls back to the
// others.
func chained() []broker.DomainConfig {
	var pools []broker.DomainConfig
	for _, name := range []string{"alpha", "beta", "gamma"} {
		p := onePool(name, key("k", slots(1)))
		p.Pools[0].Models = []string{"m"}
		pools = append(pools, p)
	}
	pools[0].Pools[0].Fallback = []string{"beta", "gamma"}
	return pools
}

func TestAsksReachAllowedPoolsOnly(t *testing.T) {
	for _, c := range []struct {
		name    string
		allowed []string
		ask     *keybrokerv1.AcquireKeyRequest
		want    []string // where its leases come from, one after the other
		end     outcome
	}{
		{"a model, served by what is allowed", []string{"beta"}, &keybrokerv1.AcquireKeyRequest{Model: "m"},
			[]string{"beta"}, outcome{codes.ResourceExhausted, "KEYS_EXHAUSTED"}},
		{"a model, by two of three", []string{"alpha", "gamma"}, &keybrokerv1.AcquireKeyRequest{Model: "m"},
			[]string{"alpha", "gamma"}, outcome{codes.ResourceExhausted, "KEYS_EXHAUSTED"}},
		{"a model that nothing allowed serves", []string{"other"}, &keybrokerv1.AcquireKeyRequest{Model: "m"},
			nil, outcomes["hidden"]},
		{"a model that nothing serves", []string{"alpha"}, &keybrokerv1.AcquireKeyRequest{Model: "n"},
			nil, outcomes["hidden"]},
		{"a chain that skips what is forbidden", []string{"alpha", "gamma"}, &keybrokerv1.AcquireKeyRequest{Pool: "alpha", Model: "m"},
			[]string{"alpha", "gamma"}, outcome{codes.ResourceExhausted, "KEYS_EXHAUSTED"}},
		{"a chain of which only the first is allowed", []string{"alpha"}, &keybrokerv1.AcquireKeyRequest{Pool: "alpha", Model: "m"},
			[]string{"alpha"}, outcome{codes.ResourceExhausted, "KEYS_EXHAUSTED"}},
		{"a chain that begins with what is forbidden", []string{"beta", "gamma"}, &keybrokerv1.AcquireKeyRequest{Pool: "alpha", Model: "m"},
			nil, outcomes["hidden"]},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := beginWith(t, server.Options{Policy: always(policy(t, nil, allow(access.Acquire, c.allowed, access.Local)))}, chained()...)
				alice := w.as("alice")
				for _, from := range c.want {
					assert.Equal(t, from, alice.lease(c.ask).GetPool())
				}
				_, err := alice.AcquireKey(t.Context(), c.ask)
				require.Equal(t, c.end, outcomeOf(err), "%v", err)
				for _, p := range []string{"alpha", "beta", "gamma"} {
					if !slices.Contains(c.allowed, p) {
						assert.NotContains(t, status.Convert(err).Proto().String(), p, "what is forbidden is not named")
					}
				}
			})
		})
	}
}

func TestListPoolsShowsWhatMayBeLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for pattern, want := range map[string][]string{
			"beta": {"beta"}, "*": {"alpha", "beta", "gamma"}, "*m*": {"gamma"}, "none-*": nil,
		} {
			w := beginWith(t, server.Options{Policy: always(policy(t, nil,
				allow(access.Inspect, []string{pattern}, access.Local), allow(access.Acquire|access.Admin, []string{"*"}, access.Local)))}, chained()...)
			r, err := w.as("viewer").operator.ListPools(t.Context(), &keybrokerv1.ListPoolsRequest{})
			require.NoError(t, err)
			var got []string
			for _, p := range r.GetPools() {
				got = append(got, p.GetName())
			}
			assert.Equal(t, want, got, pattern)
		}
	})
}

// pretences are what somebody might add to a call to pass for the chief.
var pretences = metadata.Pairs(
	server.HolderHeader, "spiffe://example.org/chief",
	"x-forwarded-client-cert", `URI=spiffe://example.org/chief;DNS=chief.internal`,
	"x-forwarded-for", "127.0.0.1", "x-real-ip", "127.0.0.1", "x-forwarded-user", "chief.internal",
	"keybroker-identity", "spiffe://example.org/chief", "identity", "token:chief", "peer", "local", "proxy-authorization", "Bearer x",
	"x-authorization", "Bearer x", "cookie", "token=chief", "grpc-authority", "chief.internal", "host", "chief.internal",
)

func TestNobodyPassesForSomebodyElse(t *testing.T) {
	for _, c := range []struct{ name, wire, who, want string }{
		{"SPIFFE ID", "both", "spiffe-certificate", "spiffe://example.org/buyer"},
		{"DNS name", "certs", "dns-certificate", "dns:buyer.internal"},
		{"token", "tokens", "token", "token:buyer"},
		{"token on this machine", "rules", "second-token", "token:buyer"},
		{"nothing but a name", "rules", "nothing", "local/spiffe://example.org/chief"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeople(t)
				w := p.serve(t, c.wire, false)
				certificates, authorizations := p.show(c.who, "buyer")
				creds := insecure.NewCredentials()
				options := []grpc.DialOption{grpc.WithAuthority("chief.internal")}
				if c.wire != "rules" {
					config := p.ca.dialer(certificates...)
					config.ServerName = "chief.internal" // and so the authority, too
					creds, options = credentials.NewTLS(config), nil
				}
				ctx := bearer(metadata.NewOutgoingContext(t.Context(), pretences.Copy()), authorizations...)
				buyer := w.dial(w.main, creds, "", options...)
				_, err := buyer.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
				require.NoError(t, err)
				assert.Equal(t, outcomes["hidden"], outcomeOf(buyer.do(ctx, "AcquireKey/b")))
				assert.Equal(t, outcomes["never"], outcomeOf(buyer.do(ctx, "GetPool/a")))
				assert.Contains(t, w.logs.String(), fmt.Sprintf(`"holder":%q`, c.want))
				assert.NotContains(t, w.logs.String(), `"holder":"spiffe://example.org/chief"`)
			})
		})
	}
}

// A lease is its holder's alone, and holders of one name but different kinds are not
// the same.
func TestLeaseIsItsHoldersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		tokens := map[string][]string{}
		for _, name := range []string{"a", "b"} {
			text, _ := access.NewToken()
			tokens[name] = []string{text}
		}
		rights := allow(access.Acquire, []string{"a"}, "token:*", "dns:*", "spiffe://*/**", access.Local)
		o := server.Options{Policy: always(policy(t, tokens, rights, allow(access.Inspect, []string{"*"}, "token:a")))}
		o.Certificates = newFiles(t, ca.server(), ca).open()
		w := beginWith(t, o, onePool("a", key("k", slots(100))))
		by := func(name string) (*caller, context.Context) {
			switch kind, rest, _ := strings.Cut(name, ":"); kind {
			case "token":
				return w.dial(w.main, credentials.NewTLS(ca.dialer()), "token:x"), bearer(t.Context(), "Bearer "+tokens[rest][0])
			case "dns":
				return w.dial(w.main, credentials.NewTLS(ca.dialer(ca.client(rest))), "token:x"), t.Context()
			}
			return w.dial(w.main, credentials.NewTLS(ca.dialer(ca.client(name))), "token:x"), t.Context()
		}
		everybody := []string{"token:a", "token:b", "dns:a", "dns:token", "spiffe://token/a", "spiffe://example.org/a"}
		for _, owner := range everybody {
			c, ctx := by(owner)
			lease, err := c.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
			require.NoError(t, err)
			for _, other := range everybody {
				if other == owner {
					continue
				}
				thief, theirs := by(other)
				requireNotTheirs(t, thief, pretend(theirs, owner), lease.GetLeaseId())
			}
			r, err := c.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: lease.GetLeaseId()})
			require.NoError(t, err)
			assert.False(t, r.GetAlreadySettled(), "nobody had ended it before")
		}
	})
}

// pretend gives the name of another holder.
func pretend(ctx context.Context, holder string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, server.HolderHeader, holder)
}

func requireNotTheirs(t *testing.T, thief *caller, ctx context.Context, id string) {
	t.Helper()
	_, err := thief.ReportUsage(ctx, &keybrokerv1.ReportUsageRequest{LeaseId: id, StatusCode: 401, Final: true})
	requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
	_, err = thief.ReleaseKey(ctx, &keybrokerv1.ReleaseKeyRequest{LeaseId: id, Unused: true})
	requireFailure(t, err, codes.NotFound, "LEASE_UNKNOWN")
}

// In plaintext a name is only a name: it makes nobody somebody that can be proved.
func TestLocalNameIsNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text, _ := access.NewToken()
		w := beginWith(t, server.Options{Policy: always(policy(t, map[string][]string{"a": {text}},
			allow(access.Acquire, []string{"a"}, access.Local, "token:a"), allow(access.Inspect|access.Admin, []string{"a"}, "token:a", "spiffe://example.org/chief")))},
			onePool("a", key("k", slots(10))))
		token := w.as("")
		ctx := bearer(t.Context(), "Bearer "+text)
		lease, err := token.AcquireKey(ctx, &keybrokerv1.AcquireKeyRequest{Pool: "a"})
		require.NoError(t, err)
		want := []string{"token:a"}
		for _, name := range []string{"spiffe://example.org/chief", "token:a", "local", "/token:a", "dns:a", "../token:a", "unknown"} {
			liar := w.as(name)
			requireNotTheirs(t, liar, liar.ctx(), lease.GetLeaseId())
			liar.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
			assert.Equal(t, outcomes["never"], outcomeOf(liar.do(liar.ctx(), "GetPool/a")))
			assert.Equal(t, outcomes["never"], outcomeOf(liar.do(liar.ctx(), "RestoreKey/a")))
			want = append(want, "local/"+name)
		}
		r, err := token.operator.ListLeases(ctx, &keybrokerv1.ListLeasesRequest{Pool: "a"})
		require.NoError(t, err)
		var got []string
		for _, l := range r.GetLeases() {
			got = append(got, l.GetHolder())
		}
		assert.Equal(t, want, got)
	})
}

// What is taken away is gone at the next moment, on connections and in calls that
// there are already.
func TestRightsAreThoseOfTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		everything := policy(t, nil, allow(access.Acquire|access.Inspect, []string{"*"}, access.Local))
		other := policy(t, nil, allow(access.Acquire|access.Inspect, []string{"b"}, access.Local))
		nothing := policy(t, nil)
		for _, c := range []struct {
			name string
			next *access.Policy
			want string // for those whose call goes on, or who call anew
			anew string
		}{
			{"other pools", other, "hidden", "hidden"}, {"nothing", nothing, "hidden", "never"},
		} {
			var now atomic.Pointer[access.Policy]
			now.Store(everything)
			w := beginWith(t, server.Options{Policy: now.Load}, onePool("a", key("k", slots(1))), onePool("b", key("k", slots(1))))
			alice := w.as("alice")
			held := alice.lease(&keybrokerv1.AcquireKeyRequest{Pool: "a"})
			waiting := alice.ask(t.Context(), waitFor("a", time.Minute))
			watching := alice.watch(t.Context(), &keybrokerv1.WatchPoolRequest{Pool: "a"})
			require.NoError(t, (<-watching).err)
			time.Sleep(2 * time.Second)
			now.Store(c.next)
			_, err := w.broker.Release(t.Context(), "local/alice", held.GetLeaseId(), true) // she may not do that herself any more
			require.NoError(t, err)
			assert.Equal(t, outcomes[c.want], outcomeOf((<-waiting).err), c.name)
			last := arrival{}
			for last.err == nil {
				last = <-watching
			}
			assert.Equal(t, outcomes[c.want], outcomeOf(last.err), "%s: %v", c.name, last.err)
			assert.Equal(t, outcomes[c.anew], outcomeOf(alice.do(alice.ctx(), "AcquireKey/a")), c.name)
			assert.Zero(t, w.state("a").Summary.Open, "nothing stays held")
			now.Store(everything)
			require.NoError(t, alice.do(alice.ctx(), "AcquireKey/a"), "and is given back as fast")
		}
	})
}
