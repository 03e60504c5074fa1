package access

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Verb is a kind of call; several may be joined by |.
type Verb uint8

// The verbs.
const (
	Acquire Verb = 1 << iota // lease keys, report on them, release them
	Inspect                  // look at pools and leases
	Admin                    // change what the broker does
)

// Verbs are all of them, by name.
var Verbs = map[string]Verb{"acquire": Acquire, "inspect": Inspect, "admin": Admin}

// String gives the names.
func (v Verb) String() string {
	var names []string
	for _, name := range []string{"acquire", "inspect", "admin"} {
		if v&Verbs[name] != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// Token is a bearer token by its name, and by the hashes of one or two that are
// valid: the old one and the new, while it is changed.
type Token struct {
	Name   string
	Hashes []Hash
}

// Caps bound what an identity may have of each pool at one time; 0 is no bound.
type Caps struct {
	Leases, Waiters int
	Tokens          int64
}

// Rule allows some identities some verbs on some pools. In the patterns of both, *
// stands for any characters but a separator: "/" in a SPIFFE ID, "." in a DNS name;
// and ** for any at all.
type Rule struct {
	Identities []string
	Pools      []string
	Verbs      Verb
	Caps       Caps // for Acquire
}

// ErrUnknownToken is returned for a token that is not valid here.
var ErrUnknownToken = errors.New("the token is not valid here")

// Policy says who may do what. What no rule allows is denied. It is immutable and
// safe for concurrent use.
type Policy struct {
	rules  []rule
	tokens map[Hash]string
	rights sync.Map // of identities that have called and may do something, *Rights
	known  atomic.Int64
}

type rule struct {
	identities, pools []pattern
	verbs             Verb
	caps              Caps
}

// New makes a policy. The error is about a pattern that CheckIdentity or CheckPool
// refuses, or about two tokens with one hash.
func New(tokens []Token, rules []Rule) (*Policy, error) {
	p := &Policy{tokens: map[Hash]string{}}
	for _, t := range tokens {
		for _, h := range t.Hashes {
			if other, twice := p.tokens[h]; twice {
				return nil, fmt.Errorf("tokens %q and %q are the same", other, t.Name)
			}
			p.tokens[h] = t.Name
		}
	}
	for _, r := range rules {
		compiled := rule{verbs: r.Verbs, caps: r.Caps}
		for _, i := range r.Identities {
			if err := CheckIdentity(i); err != nil {
				return nil, fmt.Errorf("identity %q %w", i, err)
			}
			compiled.identities = append(compiled.identities, compile(i))
		}
		for _, pool := range r.Pools {
			if err := CheckPool(pool); err != nil {
				return nil, fmt.Errorf("pool %q %w", pool, err)
			}
			compiled.pools = append(compiled.pools, compile(pool))
		}
		p.rules = append(p.rules, compiled)
	}
	return p, nil
}

// Open is the policy in which Local may do everything.
func Open() *Policy {
	p, err := New(nil, []Rule{{Identities: []string{Local}, Pools: []string{"*"}, Verbs: Acquire | Inspect | Admin}})
	if err != nil {
		panic(err)
	}
	return p
}

var (
	spiffePattern = regexp.MustCompile(`^spiffe://[a-z0-9._*-]+(/[A-Za-z0-9._*-]+)+$`)
	dnsPattern    = regexp.MustCompile(`^dns:[a-z0-9._*-]+$`)
	tokenPattern  = regexp.MustCompile(`^token:[A-Za-z0-9._*-]+$`)
	poolPattern   = regexp.MustCompile(`^[A-Za-z0-9._*-]+$`)
)

// CheckIdentity reports why a text is no identity, and no pattern of some.
func CheckIdentity(pattern string) error {
	if pattern == Local || spiffePattern.MatchString(pattern) || dnsPattern.MatchString(pattern) || tokenPattern.MatchString(pattern) {
		return nil
	}
	return errors.New(`must be spiffe://domain/path, dns:name (in lower case), token:name or local; * stands for anything between separators, ** for anything`)
}

// CheckPool reports why a text is no name of a pool, and no pattern of some.
func CheckPool(pattern string) error {
	if poolPattern.MatchString(pattern) {
		return nil
	}
	return errors.New("must be a pool's name, in which * stands for anything")
}

// CheckTokenName reports why a text cannot name a token.
func CheckTokenName(name string) error {
	if tokenName.MatchString(name) {
		return nil
	}
	return errors.New("must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit")
}

// pattern stands for some texts.
type pattern struct {
	text string
	expr *regexp.Regexp // nil: for that text alone
}

func compile(text string) pattern {
	if !strings.Contains(text, "*") {
		return pattern{text: text}
	}
	one := `[^/]*`
	switch {
	case strings.HasPrefix(text, dnsPrefix):
		one = `[^.]*`
	case !strings.Contains(text, ":"): // a pool
		one = `.*`
	}
	e := regexp.QuoteMeta(text)
	e = strings.ReplaceAll(e, `\*\*`, "\x00")
	e = strings.ReplaceAll(e, `\*`, one)
	e = strings.ReplaceAll(e, "\x00", `.*`)
	return pattern{expr: regexp.MustCompile(`^(?:` + e + `)$`)}
}

func (p pattern) match(text string) bool {
	if p.expr == nil {
		return p.text == text
	}
	return p.expr.MatchString(text)
}

// Token gives the identity that a bearer token proves, or ErrUnknownToken.
func (p *Policy) Token(token string) (string, error) {
	if len(token) != tokenSize {
		return "", ErrUnknownToken
	}
	name, ok := p.tokens[HashToken(token)]
	if !ok {
		return "", ErrUnknownToken
	}
	return tokenPrefix + name, nil
}

// HasTokens reports whether anybody can prove an identity by a token.
func (p *Policy) HasTokens() bool { return len(p.tokens) > 0 }

// Rights gives what an identity may do.
func (p *Policy) Rights(identity string) *Rights {
	if r, ok := p.rights.Load(identity); ok {
		return r.(*Rights)
	}
	r := &Rights{}
	for i := range p.rules {
		if matches(p.rules[i].identities, identity) {
			r.rules = append(r.rules, &p.rules[i])
			r.verbs |= p.rules[i].verbs
		}
	}
	if len(r.rules) == 0 {
		return r
	}
	if p.known.Add(1) > maxKnown {
		p.rights.Clear()
		p.known.Store(1)
	}
	p.rights.Store(identity, r)
	return r
}

// maxKnown is how many identities are remembered.
const maxKnown = 50_000

// Rights are what one identity may do.
type Rights struct {
	rules []*rule
	verbs Verb
}

// Has reports whether it may do this on any pool at all.
func (r *Rights) Has(v Verb) bool { return r.verbs&v != 0 }

// May reports whether it may do this on the pool.
func (r *Rights) May(v Verb, pool string) bool { return r.find(v, pool) != nil }

// Caps gives the caps of the first rule that lets it acquire from the pool, if one
// does.
func (r *Rights) Caps(pool string) (Caps, bool) {
	if rule := r.find(Acquire, pool); rule != nil {
		return rule.caps, true
	}
	return Caps{}, false
}

func (r *Rights) find(v Verb, pool string) *rule {
	for _, rule := range r.rules {
		if rule.verbs&v != 0 && matches(rule.pools, pool) {
			return rule
		}
	}
	return nil
}

func matches(patterns []pattern, text string) bool {
	return slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(text) })
}
