package access_test

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/keybroker/keybroker/internal/access"
)

func uris(t *testing.T, texts ...string) (all []*url.URL) {
	for _, text := range texts {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		all = append(all, u)
	}
	return all
}

func TestCertificateNamesItsHolder(t *testing.T) {
	long := "spiffe://example.org/" + strings.Repeat("a", 2048)
	for _, c := range []struct {
		name string
		uris []string
		dns  []string
		cn   string
		ca   bool
		want string
		err  error
	}{
		{name: "SPIFFE ID", uris: []string{"spiffe://example.org/ns/prod/sa/invoices"}, want: "spiffe://example.org/ns/prod/sa/invoices"},
		{name: "before a DNS name", uris: []string{"spiffe://example.org/a"}, dns: []string{"b"}, want: "spiffe://example.org/a"},
		{name: "DNS name", dns: []string{"invoices.internal"}, want: "dns:invoices.internal"},
		{name: "the first of them, in lower case", dns: []string{"Invoices.Internal.", "other"}, want: "dns:invoices.internal"},
		{name: "never a common name", cn: "invoices.internal", err: access.ErrNoName},
		{name: "nothing", err: access.ErrNoName},
		{name: "two URIs", uris: []string{"spiffe://example.org/a", "spiffe://example.org/b"}, err: access.ErrBadName},
		{name: "a URI of another kind does not make way for a DNS name", uris: []string{"https://example.org/a"}, dns: []string{"a"}, err: access.ErrBadName},
		{name: "a CA", dns: []string{"a"}, ca: true, err: access.ErrBadName},
		{name: "without a path", uris: []string{"spiffe://example.org"}, err: access.ErrBadName},
		{name: "a slash at the end", uris: []string{"spiffe://example.org/a/"}, err: access.ErrBadName},
		{name: "an empty segment", uris: []string{"spiffe://example.org/a//b"}, err: access.ErrBadName},
		{name: "dots", uris: []string{"spiffe://example.org/a/../b"}, err: access.ErrBadName},
		{name: "a query", uris: []string{"spiffe://example.org/a?b"}, err: access.ErrBadName},
		{name: "an empty query", uris: []string{"spiffe://example.org/a?"}, err: access.ErrBadName},
		{name: "a fragment", uris: []string{"spiffe://example.org/a#b"}, err: access.ErrBadName},
		{name: "a user", uris: []string{"spiffe://u@example.org/a"}, err: access.ErrBadName},
		{name: "a port", uris: []string{"spiffe://example.org:1/a"}, err: access.ErrBadName},
		{name: "escapes", uris: []string{"spiffe://example.org/a%2fb"}, err: access.ErrBadName},
		{name: "a star", uris: []string{"spiffe://example.org/*"}, err: access.ErrBadName},
		{name: "a new line", uris: []string{"spiffe://example.org/a%0ab"}, err: access.ErrBadName},
		{name: "capitals in the domain", uris: []string{"spiffe://Example.org/a"}, err: access.ErrBadName},
		{name: "too long", uris: []string{long}, err: access.ErrBadName},
		{name: "no path, opaque", uris: []string{"spiffe:example.org"}, err: access.ErrBadName},
		{name: "a wildcard", dns: []string{"*.internal"}, err: access.ErrBadName},
		{name: "another kind's mark", dns: []string{"token:admin"}, err: access.ErrBadName},
		{name: "white space", dns: []string{"a b"}, err: access.ErrBadName},
		{name: "an empty name", dns: []string{""}, err: access.ErrBadName},
		{name: "a name too long", dns: []string{strings.Repeat("a.", 130) + "a"}, err: access.ErrBadName},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf := &x509.Certificate{URIs: uris(t, c.uris...), DNSNames: c.dns, IsCA: c.ca}
			leaf.Subject.CommonName = c.cn
			got, err := access.FromCertificate(leaf)
			assert.Equal(t, c.want, got)
			require.ErrorIs(t, err, c.err)
		})
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern  string
		yes, not []string
	}{
		{"spiffe://example.org/invoices", []string{"spiffe://example.org/invoices"},
			[]string{"spiffe://example.org/invoices/x", "spiffe://exampleXorg/invoices", "spiffe://example.org/invoice", "x spiffe://example.org/invoices"}},
		{"spiffe://example.org/*/invoices", []string{"spiffe://example.org/prod/invoices"},
			[]string{"spiffe://example.org/prod/eu/invoices", "spiffe://example.org/invoices"}},
		{"spiffe://example.org/**", []string{"spiffe://example.org/a", "spiffe://example.org/a/b"},
			[]string{"spiffe://example.org.evil/a", "spiffe://other.org/a", "dns:example.org"}},
		{"spiffe://*/a", []string{"spiffe://example.org/a"}, []string{"spiffe://example.org/b/a"}},
		{"dns:*.internal", []string{"dns:a.internal"}, []string{"dns:a.b.internal", "dns:internal", "dns:a.internal.evil"}},
		{"dns:**.internal", []string{"dns:a.internal", "dns:a.b.internal"}, []string{"dns:internal"}},
		{"token:ci-*", []string{"token:ci-1"}, []string{"token:ci", "dns:ci-1", "token:x-ci-1"}},
		{"local", []string{"local"}, []string{"dns:local", "token:local", "spiffe://local/local", "local/x"}},
	} {
		t.Run(c.pattern, func(t *testing.T) {
			p, err := access.New(nil, []access.Rule{{Identities: []string{c.pattern}, Pools: []string{"a"}, Verbs: access.Acquire}})
			require.NoError(t, err)
			for _, i := range c.yes {
				assert.True(t, p.Rights(i).May(access.Acquire, "a"), i)
			}
			for _, i := range append(c.not, "") {
				assert.False(t, p.Rights(i).Has(access.Acquire), i)
			}
		})
	}
	for _, bad := range []string{"", "*", "**", "alice", "spiffe://", "spiffe://a", "spiffe://a/", "SPIFFE://a/b", "dns:", "dns:A", "token:", "token:a b", "Local", "local/x", "spiffe://a/b c", "spiffe://a/(b)"} {
		assert.Error(t, access.CheckIdentity(bad), bad)
	}
	for _, bad := range []string{"", "a b", "a/b", "(a)"} {
		assert.Error(t, access.CheckPool(bad), bad)
	}
}

func TestDefaultIsToDeny(t *testing.T) {
	none, err := access.New(nil, nil)
	require.NoError(t, err)
	for _, v := range access.Verbs {
		assert.False(t, none.Rights(access.Local).Has(v))
		assert.False(t, none.Rights("").May(v, ""))
	}
	p, err := access.New(nil, []access.Rule{
		{Identities: []string{"dns:a"}, Pools: []string{"one", "test-*"}, Verbs: access.Acquire, Caps: access.Caps{Leases: 1}},
		{Identities: []string{"dns:*"}, Pools: []string{"*"}, Verbs: access.Inspect},
		{Identities: []string{"dns:a"}, Pools: []string{"*"}, Verbs: access.Acquire | access.Admin, Caps: access.Caps{Leases: 2}},
	})
	require.NoError(t, err)
	type ask struct {
		who  string
		verb access.Verb
		pool string
	}
	for _, yes := range []ask{
		{"dns:a", access.Acquire, "one"}, {"dns:a", access.Acquire, "other"}, {"dns:a", access.Admin, "one"},
		{"dns:a", access.Inspect, "one"}, {"dns:b", access.Inspect, "one"},
	} {
		assert.True(t, p.Rights(yes.who).May(yes.verb, yes.pool), yes)
	}
	for _, no := range []ask{{"dns:b", access.Acquire, "one"}, {"dns:b", access.Admin, "one"}, {"token:a", access.Inspect, "one"}} {
		assert.False(t, p.Rights(no.who).May(no.verb, no.pool), no)
	}
	a := p.Rights("dns:a")
	for pool, want := range map[string]int{"one": 1, "test-1": 1, "other": 2} { // of the first rule that allows it
		caps, ok := a.Caps(pool)
		assert.True(t, ok)
		assert.Equal(t, want, caps.Leases, pool)
	}
	_, ok := p.Rights("dns:b").Caps("one")
	assert.False(t, ok)
	assert.Same(t, a, p.Rights("dns:a"), "it is worked out once")
	assert.True(t, access.Open().Rights(access.Local).May(access.Admin, "any"))
	assert.False(t, access.Open().Rights("dns:a").Has(access.Inspect))
}

func TestTokens(t *testing.T) {
	token, hash := access.NewToken()
	other, otherHash := access.NewToken()
	unknown, _ := access.NewToken()
	assert.Regexp(t, `^kbt_[0-9a-f]{72}$`, token)
	assert.NotEqual(t, token, other)
	assert.Equal(t, hash, access.HashToken(token))
	assert.NotContains(t, fmt.Sprint(hash), token[4:20])
	parsed, err := access.ParseHash(hash.String())
	require.NoError(t, err)
	assert.Equal(t, hash, parsed)
	for _, bad := range []string{"", "abc", token, strings.Repeat("g", 64), hash.String() + "00"} {
		_, err := access.ParseHash(bad)
		assert.Error(t, err)
	}
	assert.True(t, access.LooksLikeToken(token))
	for _, no := range []string{"", token[1:], token + "0", "kbx_" + token[4:], token[:20] + "x" + token[21:], strings.Repeat("a", len(token))} {
		assert.False(t, access.LooksLikeToken(no), no)
	}

	p, err := access.New([]access.Token{{Name: "ci", Hashes: []access.Hash{hash, otherHash}}}, nil)
	require.NoError(t, err)
	assert.True(t, p.HasTokens())
	for _, valid := range []string{token, other} {
		who, err := p.Token(valid)
		require.NoError(t, err)
		assert.Equal(t, "token:ci", who)
	}
	for _, bad := range []string{"", unknown, token[:75], token + " ", strings.ToUpper(token), hash.String()} {
		who, err := p.Token(bad)
		require.ErrorIs(t, err, access.ErrUnknownToken)
		assert.Empty(t, who)
	}
	_, err = access.New([]access.Token{{Name: "a", Hashes: []access.Hash{hash}}, {Name: "b", Hashes: []access.Hash{hash}}}, nil)
	require.ErrorContains(t, err, `"a" and "b" are the same`)
	assert.NotContains(t, err.Error(), hash.String())
}

// Whatever a certificate says, an identity has one of the shapes that rules are
// written for, and cannot pass for one of another kind.
func FuzzFromCertificate(f *testing.F) {
	f.Add("spiffe://example.org/a", "a.internal")
	f.Add("", "token:admin")
	f.Add("https://x", "local")
	f.Fuzz(func(t *testing.T, uri, dns string) {
		leaf := &x509.Certificate{}
		if u, err := url.Parse(uri); err == nil && uri != "" {
			leaf.URIs = []*url.URL{u}
		}
		if dns != "" {
			leaf.DNSNames = []string{dns}
		}
		who, err := access.FromCertificate(leaf)
		if err != nil {
			require.Empty(t, who)
			return
		}
		require.NoError(t, access.CheckIdentity(who))
		require.NotContains(t, who, "*")
		require.Equal(t, len(leaf.URIs) == 1, strings.HasPrefix(who, "spiffe://"))
		require.NotEqual(t, access.Local, who)
	})
}
